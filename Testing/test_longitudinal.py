"""Two dates of one simulated head whose tumour changed: the change is found and nothing else, scales are guarded."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from PerfusionCBVLib.alignment.comparison_output import write_comparison
from PerfusionCBVLib.alignment.longitudinal import compare, mean_over
from PerfusionCBVLib.alignment.region_shares import DrawnRegions
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.errors import QualityError, UsageError
from PerfusionCBVLib.measures.regions import DrawnRegion
from PerfusionCBVLib.output import require_own_folder
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.simulate.anatomy import TISSUES
from PerfusionCBVLib.stored import StoredResult
from registration_bench import two_dates

RCBV = {"csf": 0.2, "grey": 2.2, "white": 1.0}
BEFORE, AFTER = 2.5, 4.0


def result(picture, lesion_rcbv, *, kind="nawm", unit="{ratio}", factor=1.0, method="bsw", reference="white"):
    """A stored result with rCBV by tissue: no noise, so that what is measured can be known."""
    weights = np.array([RCBV.get(name, 1.0) for name in TISSUES])
    weights[[TISSUES.index(n) for n in ("enhancing", "infiltration", "necrosis")]] = lesion_rcbv
    rcbv = factor * np.tensordot(weights, picture.fractions, axes=1)
    rcbv = np.where(picture.brain, rcbv, np.nan).astype(np.float32)
    return StoredResult(
        origin="a folder",
        affine=picture.affine,
        maps={"rcbv": ParameterMap("rcbv", rcbv, picture.affine, unit, "rCBV")},
        baseline=picture.values,
        mask=picture.brain,
        reference=picture.fractions[TISSUES.index(reference)] > 0.98,
        status=picture.brain.astype(np.uint8),
        times_s=np.arange(3.0),
        curves_per_s={},
        findings=(),
        provenance={"version": "0", "settings": {"method": method}, "reference": {"kind": kind}},
    )


@pytest.fixture(scope="module")
def pictures():
    return two_dates()


@pytest.fixture(scope="module")
def lesion(pictures):
    """The tumour as drawn on the later date."""
    later = pictures[1]
    share = sum(later.fractions[TISSUES.index(n)] for n in ("enhancing", "infiltration", "necrosis"))
    return Volume(share > 0.9, later.affine, "tumour")


def drawn(volume, *, on_anatomy=False):
    """As a file with one label is read."""
    return DrawnRegions((DrawnRegion("tumour", volume.values, volume.affine),), on_anatomy, {"name": "a file"})


@pytest.fixture(scope="module")
def compared(pictures, lesion):
    return compare(result(pictures[0], BEFORE), result(pictures[1], AFTER), regions=drawn(lesion))


def value(comparison, region, name):
    return next(m.value for m in comparison.changes if (m.region, m.name) == (region, name))


def test_the_tumours_change_is_measured_on_the_native_maps(compared, lesion):
    assert value(compared, "tumour", "rcbv_mean_after") == pytest.approx(AFTER, rel=0.03)
    assert value(compared, "tumour", "rcbv_mean_before") == pytest.approx(BEFORE, rel=0.04)
    assert value(compared, "tumour", "rcbv_mean_change") == pytest.approx(AFTER - BEFORE, rel=0.05)
    assert value(compared, "tumour", "rcbv_mean_change_percent") == pytest.approx(60, abs=4)
    assert value(compared, "tumour", "volume") == pytest.approx(np.sum(lesion.values > 0) * lesion.voxel_ml, rel=1e-3)
    assert not [f for f in compared.findings if f.severity == "warning"]


def test_the_difference_map_shows_the_tumour_and_on_average_nothing_else(compared, lesion):
    difference = compared.difference.values
    assert np.nanmean(difference[lesion.values > 0]) == pytest.approx(AFTER - BEFORE, rel=0.08)
    healthy = np.isfinite(difference) & (np.abs(difference) < 10)
    far = np.abs(compared.later.values - 1.0) < 0.02
    assert abs(np.nanmean(difference[healthy & far])) < 0.1
    np.testing.assert_allclose(difference, compared.later.values - compared.earlier.values, atol=1e-6)


def test_carrying_over_one_reference_region_takes_out_a_wrong_scale(pictures, lesion, compared):
    off = result(pictures[0], BEFORE, unit="1", kind="none", factor=7.3)
    with pytest.raises(QualityError, match="no scale in common"):
        compare(off, result(pictures[1], AFTER))
    carried = compare(off, result(pictures[1], AFTER), regions=drawn(lesion), scale="later")
    for name in ("rcbv_mean_before", "rcbv_mean_after"):
        assert value(carried, "tumour", name) == pytest.approx(value(compared, "tumour", name), rel=0.05)
    assert carried.provenance["scale"]["earlier_divided_by"] == pytest.approx(7.3, rel=0.05)
    assert carried.difference.unit == "{ratio}"
    # The registration was found twice: the same, but for the order in which numbers were added.
    np.testing.assert_allclose(carried.registration.matrix, compared.registration.matrix, atol=1e-6)


def test_differing_references_and_methods_are_said(pictures, monkeypatch, compared):
    monkeypatch.setattr("PerfusionCBVLib.alignment.longitudinal.register", lambda *_: compared.registration)
    found = compare(result(pictures[0], BEFORE, kind="brain"), result(pictures[1], AFTER, method="integral"))
    assert {"reference-differs", "method-differs"} <= {f.code for f in found.findings}


def test_regions_of_an_anatomy_need_the_anatomy(pictures, lesion):
    with pytest.raises(UsageError, match="give it, too"):
        compare(result(pictures[0], BEFORE), result(pictures[1], AFTER), regions=drawn(lesion, on_anatomy=True))


def test_through_an_anatomy_the_two_registrations_are_put_together(pictures, lesion, monkeypatch, compared):
    """Region on the anatomy's grid, which here is the later series' space shifted by a known amount."""
    shift = np.eye(4)
    shift[:3, 3] = [11.0, -4.0, 6.0]
    anatomy = Volume(lesion.values, shift @ lesion.affine, "anatomy")
    to_anatomy = {
        "earlier DSC baseline": replace(compared.registration, matrix=shift @ compared.registration.matrix),
        "later DSC baseline": replace(compared.registration, matrix=shift),
    }
    monkeypatch.setattr("PerfusionCBVLib.alignment.longitudinal.register", lambda moving, *_: to_anatomy[moving.name])
    one, two = result(pictures[0], BEFORE), result(pictures[1], AFTER)
    found = compare(one, two, anatomy=anatomy, regions=drawn(anatomy, on_anatomy=True))
    np.testing.assert_allclose(found.registration.matrix, compared.registration.matrix, atol=1e-9)
    for name in ("volume", "rcbv_mean_before", "rcbv_mean_after"):
        assert value(found, "tumour", name) == pytest.approx(value(compared, "tumour", name), rel=1e-4)


def test_a_region_without_values_has_no_mean():
    assert np.isnan(mean_over(np.full((2, 2, 2), np.nan), np.ones((2, 2, 2))))
    assert mean_over(np.array([1.0, 3.0, np.nan]), np.array([0.5, 1.0, 1.0])) == pytest.approx(3.5 / 1.5)


def test_everything_is_written_and_no_other_result_is_overwritten(compared, tmp_path):
    names = {path.name for path in write_comparison(compared, tmp_path / "c")}
    assert names == {
        "earlier.nii.gz", "later.nii.gz", "difference.nii.gz", "changes.csv", "provenance.json", "comparison.png",
        "registration.png", "earlier_to_later.tfm",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "c").iterdir()} == names
    with (tmp_path / "c" / "changes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["value"]) == pytest.approx(compared.changes[1].value, rel=1e-5)
    record = json.loads((tmp_path / "c" / "provenance.json").read_text("utf-8"))
    assert record["scale"]["reference_region"] == "own"
    write_comparison(compared, tmp_path / "c")  # its own result may be replaced
    with pytest.raises(UsageError, match="another command"):
        require_own_folder(tmp_path / "c", "overlay")
