"""The report and its pictures, from a small result made by hand in which every interesting voxel is known."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from PerfusionCBVLib.charts import curve_chart, nice_ticks
from PerfusionCBVLib.colours import colour_table
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.pictures import (
    comparison_picture,
    rcbv_picture,
    rcbv_window,
    reference_picture,
    slice_view,
    write_pictures,
)
from PerfusionCBVLib.report import summary_rows, write_report
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import Acquisition, DynamicSeries, ParameterMap
from PerfusionCBVLib.timing import BolusTiming

SHAPE, FRAMES = (20, 24, 6), 20
RAS = np.diag([2.0, 2.0, 5.0, 1.0])
LPS = np.diag([-2.0, -2.0, 5.0, 1.0])
MARKER = (14, 9, 3)
MARKER_VALUE = 3.0
HOSTILE = '<script>alert("x")</script>&<b>'


def make_result(affine=RAS, *, network=False, **changes) -> MapResult:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:17, 3:21, 1:5] = True
    reference = np.zeros(SHAPE, dtype=bool)
    reference[5:8, 6:9, 2] = True
    rcbv = np.where(mask, 1.0, np.nan)
    rcbv[MARKER] = MARKER_VALUE
    maps = {"rcbv": ParameterMap("rcbv", rcbv, affine, "{ratio}", "Relative blood volume")}
    if network:
        maps["rcbv_classical"] = ParameterMap("rcbv_classical", rcbv - 0.5, affine, "{ratio}", "BSW")
        maps["k2"] = ParameterMap("k2", 0.01 * rcbv, affine, "1/s", "Leakage rate K2")
    times_s = 1.5 * np.arange(FRAMES)
    curve = np.where((times_s > 8) & (times_s < 18), 6.0, 0.0)
    baseline = np.where(mask, 200.0, 100.0)
    series = DynamicSeries(
        np.repeat(baseline[..., None], FRAMES, axis=-1),
        affine,
        times_s,
        Acquisition(echo_time_s=0.03, sources={"echo_time_s": "dsc.json: EchoTime"}),
        name="Patient 7",
    )
    result = MapResult(
        series=series,
        maps=maps,
        baseline=baseline.astype(np.float32),
        mask=mask,
        reference=reference,
        status=mask.astype(np.uint8),
        timing=BolusTiming(1, 5, 8, 12, 8.2, 12.0, 18.0, 0.3, 6.0),
        curves_per_s={"brain": curve, "leaking": 2 * curve},
        provenance={"settings": {"method": "bsw"}, "reference": {"kind": "nawm", "side": "left"}},
    )
    return replace(result, **changes)


def page(result, folder) -> str:
    return write_report(result, folder / "report.html", with_identifiers=True).read_text(encoding="utf-8")


def colour_of(value: float, table: str, high: float = 4.0) -> np.ndarray:
    return colour_table(table)[round(value / high * 255)]


def where_colour(picture: Image.Image, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.array(picture.convert("RGB"))
    pixels = pixels[:, : picture.width - 96]  # without the colour bar
    return np.nonzero((pixels == colour).all(axis=-1))


def embedded_pictures(html: str) -> list[Image.Image]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(item))) for item in data]


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    html = page(make_result(network=True), tmp_path)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|//|url\(|@import|<link|<script|<iframe", without_pictures)
    sources = re.findall(r'\bsrc="([^"]{0,22})', html)
    assert len(sources) == 5  # two colour tables, comparison, reference, K2
    assert set(sources) == {"data:image/png;base64,"}


def test_text_from_the_input_cannot_become_markup(tmp_path):
    base = make_result()
    result = replace(
        base,
        series=replace(base.series, name=HOSTILE, source=HOSTILE),
        findings=(Finding(HOSTILE, "warning", HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        curves_per_s={HOSTILE: np.zeros(FRAMES)},
        provenance={HOSTILE: {HOSTILE: HOSTILE}, "method": HOSTILE, "agreement": {"text": HOSTILE}},
    )
    result.maps["rcbv"] = ParameterMap("rcbv", result.maps["rcbv"].values, RAS, HOSTILE, HOSTILE)
    html = page(result, tmp_path)
    assert "<script" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;") > 8


def test_every_tag_is_closed(tmp_path):
    open_tags = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    parser = Parser()
    parser.feed(page(make_result(network=True), tmp_path))
    assert open_tags == []


def test_worst_findings_come_first_with_value_and_advice_above_the_maps(tmp_path):
    findings = (
        Finding("fact", "info", "An info."),
        Finding("short", "warning", "Baseline is short.", "Inject later.", 9, "frames"),
        Finding("bad", "error", "An error."),
    )
    base = make_result()
    provenance = {**base.provenance, "agreement": {"text": "They agree in 93 %."}}
    html = page(replace(base, findings=findings, provenance=provenance), tmp_path)
    top, rest = html.split("<h2>Blood volume map</h2>")
    places = [
        top.index(text) for text in ("Patient 7", "An error.", "Baseline is short.", "[9 frames]", "Inject later.")
    ]
    assert places == sorted(places)
    assert "They agree in 93 %." in top
    assert "An info." not in top
    assert all(finding.message in rest for finding in findings)
    assert "Research use only" in top


@pytest.mark.parametrize("table", ["perfusion", "uniform"])
def test_a_known_voxel_has_the_table_s_colour_over_its_whole_area(table):
    result = make_result()
    picture = rcbv_picture(result, table)
    rows, columns = where_colour(picture, colour_of(MARKER_VALUE, table))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert rows.size == height * width  # one full rectangle
    assert abs(height - width) <= 1  # 2 mm × 2 mm voxels


def test_the_picture_inside_the_page_is_the_map(tmp_path):
    first, second = embedded_pictures(page(make_result(), tmp_path))[:2]
    assert where_colour(first, colour_of(MARKER_VALUE, "perfusion"))[0].size > 50
    assert where_colour(second, colour_of(MARKER_VALUE, "uniform"))[0].size > 50


@pytest.mark.parametrize("affine", [RAS, LPS], ids=["RAS", "LPS"])
@pytest.mark.parametrize("voxel", [(14, 9, 3), (5, 16, 3)])
def test_the_patient_s_left_is_on_the_right_and_the_front_at_the_top(affine, voxel):
    result = make_result(affine)
    values = np.where(result.mask, 1.0, np.nan)
    values[voxel] = MARKER_VALUE
    result.maps["rcbv"] = ParameterMap("rcbv", values, affine, "{ratio}", "")
    view = slice_view(affine, result.mask, count=1)
    view = replace(view, slices=(3,), numbers=(4,))
    picture = rcbv_picture(result, "perfusion", view)
    rows, columns = where_colour(picture, colour_of(MARKER_VALUE, "perfusion"))
    brain_rows, brain_columns = where_colour(picture, colour_of(1.0, "perfusion"))
    # By the affine alone: +x is the patient's right, +y the front; compared with the brain's middle.
    x, y = (affine @ [*voxel, 1])[:2] - (affine @ [9.5, 11.5, 3, 1])[:2]
    assert (columns.mean() < brain_columns.mean()) == (x > 0)
    assert (rows.mean() < brain_rows.mean()) == (y > 0)
    assert view.edges == ("R", "L")


def test_slices_keep_the_numbers_that_the_series_gives_them():
    upward = slice_view(RAS, make_result().mask)
    downward = slice_view(RAS @ np.diag([1.0, 1.0, -1.0, 1.0]), make_result().mask)
    assert upward.numbers == (2, 3, 4, 5)
    assert downward.numbers == (5, 4, 3, 2)


def test_slices_lie_across_the_coarsest_axis_and_a_millimetre_is_as_long_across_as_down():
    affine = np.diag([6.0, 2.0, 1.0, 1.0])  # sagittal slices
    mask = np.zeros((8, 30, 30), dtype=bool)
    mask[2:6, 10:20, 10:20] = True
    view = slice_view(affine, mask)
    assert view.axis == 0
    assert view.edges == ("A", "P")
    assert view.spacing_mm == (1.0, 2.0)


def test_at_most_twelve_slices_are_shown_all_with_brain():
    mask = np.zeros((8, 8, 60), dtype=bool)
    mask[2:6, 2:6, 10:50] = True
    view = slice_view(RAS, mask)
    assert len(view.slices) == 12
    assert min(view.slices) >= 10
    assert max(view.slices) < 50
    assert set(np.diff(view.slices)) <= {3, 4}


def test_a_voxel_without_a_value_shows_the_baseline_image():
    result = make_result()
    result.maps["rcbv"].values[8:12, 8:12, :] = np.nan
    grey = where_colour(rcbv_picture(result, "perfusion"), np.array([255, 255, 255]))[0].size
    result.maps["rcbv"].values[8:12, 8:12, :] = 1.0
    covered = where_colour(rcbv_picture(result, "perfusion"), np.array([255, 255, 255]))[0].size
    assert grey > covered + 1000


def test_the_window_reaches_4_or_the_99th_percentile_of_either_map():
    result = make_result(network=True)
    assert rcbv_window(result) == (0.0, 4.0)
    hot = np.where(result.mask, 7.0, np.nan)
    result.maps["rcbv_classical"] = ParameterMap("rcbv_classical", hot, RAS, "{ratio}", "")
    assert rcbv_window(result) == (0.0, 7.0)


def test_without_a_reference_region_the_window_follows_the_data_and_other_units_are_not_subtracted():
    result = make_result(network=True)
    with_difference = comparison_picture(result).height
    small = np.where(result.mask, 0.02, np.nan)
    result.maps["rcbv_classical"] = ParameterMap("rcbv_classical", small, RAS, "1", "")
    assert rcbv_window(result) == (0.0, 4.0)
    assert comparison_picture(result).height < 0.75 * with_difference
    result.maps["rcbv"] = ParameterMap("rcbv", small, RAS, "1", "")
    assert rcbv_window(result)[1] == pytest.approx(0.02)


def test_comparison_shows_both_maps_in_one_window_and_network_minus_classical():
    picture = comparison_picture(make_result(network=True))
    third = picture.height / 3
    network = where_colour(picture, colour_of(MARKER_VALUE, "perfusion"))[0]
    classical = where_colour(picture, colour_of(MARKER_VALUE - 0.5, "perfusion"))[0]
    # +0.5 in a window of ±1 lies at three quarters of the table: on the red side.
    difference = where_colour(picture, colour_table("diverging")[round(0.75 * 255)])[0]
    assert network.size > 50
    assert network.max() < third
    assert third < classical.min() < classical.max() < 2 * third
    assert difference.min() > 2 * third - 30


def test_the_reference_region_is_outlined_and_its_inside_stays_visible():
    rows, columns = where_colour(reference_picture(make_result()), np.array([255, 210, 0]))
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert 0 < rows.size < 0.5 * box


def test_the_reference_is_named_with_its_size_and_side(tmp_path):
    html = page(make_result(), tmp_path)
    assert "0.2 ml, 9 voxels, the patient&#x27;s side: left." in html  # 9 × 20 mm³


def test_a_result_with_nothing_optional_gives_a_page(tmp_path):
    html = page(make_result(reference=None, curves_per_s={}, provenance={}, findings=()), tmp_path)
    assert "the echo time is unknown" in html
    assert "not relative to a region" in html
    assert "Network and classical map" not in html
    assert "Method: <strong>not stated</strong>" in html


def test_a_result_without_a_single_value_or_a_brain_still_gives_a_page(tmp_path):
    result = make_result(network=True, mask=np.zeros(SHAPE, dtype=bool), reference=None)
    assert "<h2>Summary</h2>" in page(result, tmp_path)


def test_pictures_are_written_as_files_and_nothing_else_is_left(tmp_path):
    written = write_pictures(make_result(network=True), tmp_path)
    assert [path.name for path in written] == ["rcbv.png", "comparison.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.png", "rcbv.png"]
    assert [path.name for path in write_pictures(make_result(), tmp_path)] == ["rcbv.png"]
    assert where_colour(Image.open(tmp_path / "rcbv.png"), colour_of(MARKER_VALUE, "perfusion"))[0].size > 50


def test_summary_gives_the_difference_and_concordance_of_the_two_maps():
    rows = {label: value for label, value, _ in summary_rows(make_result(network=True))}
    assert rows["Network − classical in brain, mean"] == "0.500"
    # Lin's coefficient for y = x − 0.5: 2 var / (2 var + 0.25), var of one voxel in n that is 2 higher.
    voxels = 14 * 18 * 4
    variance = 4 * (1 / voxels) * (1 - 1 / voxels)
    assert rows["Concordance (CCC) of network and classical in brain"] == f"{2 * variance / (2 * variance + 0.25):.3f}"
    assert rows["rCBV in the reference region, mean"] == "1.000"


def test_unknown_acquisition_values_are_called_unknown_and_known_ones_name_their_source(tmp_path):
    html = page(make_result(), tmp_path)
    assert "dsc.json: EchoTime" in html
    assert re.search(r"Repetition time TR</td><td[^>]*>unknown", html)


def test_curves_lie_where_the_axes_say():
    times_s = np.array([0.0, 10.0, 20.0])
    svg = curve_chart(times_s, {"brain": np.array([0.0, 10.0, 5.0])})
    curve = [
        tuple(map(float, pair))
        for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", re.search(r'"curve" d="([^"]+)', svg)[1])
    ]
    ticks = {float(v): float(y) - 4 for y, v in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)}
    for (_, y), value in zip(curve, (0.0, 10.0, 5.0), strict=True):
        expected = np.interp(value, sorted(ticks), [ticks[tick] for tick in sorted(ticks)])
        assert y == pytest.approx(expected, abs=0.2)
    assert curve[1][0] - curve[0][0] == pytest.approx(curve[2][0] - curve[1][0], abs=0.2)


def test_a_missing_sample_breaks_the_line_instead_of_being_bridged():
    svg = curve_chart(np.arange(4.0), {"brain": np.array([1.0, np.nan, 2.0, 3.0])})
    path = re.search(r'"curve" d="([^"]+)', svg)[1]
    assert path.count("M") == 2
    assert "nan" not in svg


@pytest.mark.parametrize(("low", "high"), [(0, 4), (-0.013, 0.013), (0, 88.5), (-1.24, 1.24)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 7
    assert low <= ticks[0] < ticks[-1] <= high
    np.testing.assert_allclose(steps, steps[0])
    assert f"{steps[0]:e}"[0] in "125"


def test_an_earlier_report_survives_a_failed_one(tmp_path):
    page(make_result(), tmp_path)
    before = (tmp_path / "report.html").read_text(encoding="utf-8")
    broken = make_result(curves_per_s={"brain": np.zeros(FRAMES - 1)})
    with pytest.raises(ValueError, match="zip"):
        write_report(broken, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_uncertainty_is_drawn_where_the_network_gives_it(tmp_path):
    result = make_result(network=True)
    assert "<h2>Uncertainty</h2>" not in page(result, tmp_path)
    deviation = np.where(result.mask, 0.2, np.nan)
    deviation[MARKER] = 0.4
    result.maps["uncertainty"] = ParameterMap("uncertainty", deviation, RAS, "{ratio}", "Standard deviation of rCBV")
    html = page(result, tmp_path)
    assert "Standard deviation of rCBV. Window 0 to 0.20 ratio" in html
    assert len(embedded_pictures(html)) == 6
