"""Measures as files: the same numbers in CSV and JSON, a histogram, and nothing half-written."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from PerfusionCBVLib import ParameterMap
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.measures.histogram_picture import LEFT, RIGHT, WIDTH, histogram_picture
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_region
from PerfusionCBVLib.measures.output import measures_as_text, write_measures
from PerfusionCBVLib.measures.regions import Region

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SETTINGS = MeasureSettings()
PROVENANCE = {"reference": {"kind": "nawm"}, "uncertainty": {"scale": 0.1, "leakage_s": 5.0}}


def measures(names=("Tumour, enhancing", "Ödem"), level=1.0):
    values = np.random.default_rng(0).gamma(3.0, 0.6 * level, (20, 20, 4)).astype(np.float32)
    maps = {
        "rcbv": ParameterMap("rcbv", values, AFFINE, "{ratio}", ""),
        "uncertainty": ParameterMap("uncertainty", 0.2 * values + 0.1, AFFINE, "{ratio}", ""),
        "k2": ParameterMap("k2", values / 100, AFFINE, "1/s", ""),
    }
    out = []
    for i, name in enumerate(names):
        inside = np.zeros(values.shape, bool)
        inside[2 + 8 * i : 9 + 8 * i, 3:15, 1:3] = True
        out.append(measure_region(Region(name, inside), maps, PROVENANCE, mirror=inside[::-1] if i == 0 else None))
    return out


def write(folder, measured=None, source=None):
    measured = measures() if measured is None else measured
    return write_measures(measured, folder, settings=SETTINGS, affine=AFFINE, source=source or {"maps": "here"})


def test_csv_and_json_hold_every_measurement(tmp_path):
    measured = measures()
    paths = write(tmp_path, measured)
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "measures.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    content = json.loads((tmp_path / "measures.json").read_text("utf-8"))
    wanted = [row for each in measured for row in each.measurements]
    listed = [{"region": each["name"], **row} for each in content["regions"] for row in each["measurements"]]
    assert len(rows) == len(listed) == len(wanted)
    for row, entry, measurement in zip(rows, listed, wanted, strict=True):
        assert row["region"] == entry["region"] == measurement.region
        assert row["unit"] == entry["unit"] == measurement.unit
        assert float(row["value"]) == pytest.approx(measurement.value, rel=1e-5)
        assert entry["value"] == pytest.approx(measurement.value, rel=1e-12)
        if measurement.standard_error is None:
            assert (row["standard_error"], entry["standard_error"]) == ("", None)
        else:
            assert float(row["standard_error"]) == pytest.approx(measurement.standard_error, rel=1e-5)
    assert content["settings"] == {"hot_spot_area_mm2": 40.0, "cut_offs": [1.0, 1.75]}
    assert content["intended_use"] == "research use only"
    assert content["source"] == {"maps": "here"}


def test_what_has_no_value_is_empty_and_null_and_no_number(tmp_path):
    [first, _] = measures()
    small = np.zeros(first.region.share.shape, bool)
    small[4, 5, 1] = True
    maps = {"rcbv": ParameterMap("rcbv", np.where(small, np.nan, 1.0), AFFINE, "{ratio}", "")}
    write(tmp_path, [measure_region(Region("nothing", small), maps, PROVENANCE)])
    text = (tmp_path / "measures.csv").read_text("utf-8")
    assert "nothing,rcbv_mean,Mean rCBV,,{ratio}," in text
    assert "nan" not in text
    [region] = json.loads((tmp_path / "measures.json").read_text("utf-8"))["regions"]
    assert {row["name"]: row["value"] for row in region["measurements"]}["rcbv_mean"] is None
    assert region["histogram"] is None
    assert not (tmp_path / "histogram.png").exists()
    assert "Mean rCBV" in measures_as_text([measure_region(Region("nothing", small), maps, PROVENANCE)])


def test_regions_that_were_found_are_written_on_the_maps_grid(tmp_path):
    measured = measures()
    write(tmp_path, measured)
    for name, expected in (("region_1_hot_spot", measured[0].hot_spot), ("region_1_mirror", measured[0].mirror)):
        image = nib.load(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj) > 0, expected)
        np.testing.assert_allclose(image.affine, AFFINE)
    assert not (tmp_path / "region_2_mirror.nii.gz").exists()


def test_a_second_run_replaces_the_first_and_keeps_foreign_files(tmp_path):
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    write(tmp_path, measures(("only one",)))
    names = {path.name for path in tmp_path.iterdir()}
    assert "region_2_hot_spot.nii.gz" not in names
    assert {"notes.txt", "measures.csv", "region_1_hot_spot.nii.gz"} <= names


def test_a_failure_leaves_the_earlier_measures_as_they_were(tmp_path, monkeypatch):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("PerfusionCBVLib.measures.output.write_json", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, measures(("other",), level=2.0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_foreign_file_of_the_listings_name_is_not_overwritten(tmp_path):
    (tmp_path / "measures.json").write_text('{"mine": 1}', "utf-8")
    with pytest.raises(UnreadableInputError, match=r"measures\.json"):
        write(tmp_path)
    assert (tmp_path / "measures.json").read_text("utf-8") == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["measures.json"]


def test_bars_of_the_histogram_are_as_high_as_the_shares(tmp_path):
    measured = measures(("one",))
    write(tmp_path, measured)
    picture = np.asarray(Image.open(tmp_path / "histogram.png").convert("RGB")).astype(int)
    bar = np.abs(picture - (0x1B, 0x5E, 0x9B)).sum(axis=2) < 30
    histogram = measured[0].histogram
    heights = []
    for middle in (histogram.edges[:-1] + histogram.edges[1:]) / 2:
        heights.append(bar[:, round(LEFT + middle / 6 * (WIDTH - LEFT - RIGHT))].sum())
    expected = histogram.percent / histogram.percent.max() * max(heights)
    clear = np.delete(np.arange(60), 17)  # the dashed line at 1.75 crosses this one
    np.testing.assert_allclose(np.array(heights)[clear], expected[clear], atol=2.5)
    assert max(heights) > 100


def test_a_histogram_of_nothing_is_no_picture():
    with pytest.raises(ValueError, match="no region"):
        histogram_picture([], (1.0, 1.75))


def test_text_names_each_region_with_value_error_and_unit():
    text = measures_as_text(measures())
    [mean] = [row for row in measures()[1].measurements if row.name == "rcbv_mean"]
    assert f"{mean.value:.3g} ± {mean.standard_error:.3g}" in text
    assert text.count("Fractional burden, rCBV ≥ 1.75") == 2
    assert "Ödem" in text
    assert " ml" in text
