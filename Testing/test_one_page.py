"""The page for the referrer: right slices, right numbers, one sheet, no name that was not asked for."""

from dataclasses import replace

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Finding, Settings, compute_maps
from PerfusionCBVLib.errors import GeometryError, PerfusionError
from PerfusionCBVLib.measures.measurement import KEY_MEASURES, Measurement
from PerfusionCBVLib.one_page import NOTICE, Reading, key_slices, page_html, write_page
from PerfusionCBVLib.pictures import REGION_COLOURS, reading_picture
from PerfusionCBVLib.series import ParameterMap


@pytest.fixture(scope="module")
def result():
    head = graded_head(shape=(40, 46, 6), frames=40)
    return compute_maps(replace(head.series, name="Petrenko^Olena", source="/home/petrenko"), Settings(method="bsw"))


@pytest.fixture
def tumour(result):
    """Large in slice 2, hot in slice 4 and hotter still in slice 1, where only one voxel is left of it."""
    inside = np.zeros(result.mask.shape, bool)
    inside[15:23, 18:26, 2] = True
    inside[15:20, 18:24, 4] = True
    inside[15, 18, 1] = True
    return inside


@pytest.fixture
def hot(result, tumour):
    values = np.where(result.mask, np.float32(1), np.float32(np.nan))
    values[15:20, 18:24, 4] = 4
    values[15, 18, 1] = 9
    rcbv = ParameterMap("rcbv", values, result.affine, "{ratio}", "Relative cerebral blood volume")
    return replace(result, maps={**result.maps, "rcbv": rcbv})


def measured(name, value, *, region="Tumour", error=None, unit="{ratio}"):
    return Measurement(region, name, name.replace("_", " "), value, unit, error)


def test_the_largest_section_and_the_hottest_slice_are_shown(hot, tumour):
    found = {title: view.numbers for title, view in key_slices(hot, {"Tumour": tumour})}
    assert found == {"Largest section": (3,), "Highest rCBV": (5,)}  # one voxel of 9 in slice 1 does not count


def test_a_slice_that_is_both_is_shown_once(hot, tumour):
    largest_only = tumour.copy()
    largest_only[..., 4] = False
    assert [view.numbers for _, view in key_slices(hot, {"Tumour": largest_only})] == [(3,)]


def test_slices_are_counted_as_the_series_counts_them_when_it_is_stored_upside_down(hot, tumour):
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] = tumour.shape[2] - 1
    affine = hot.affine @ turned
    upside_down = replace(
        hot,
        series=replace(hot.series, affine=affine, signal=hot.series.signal[:, :, ::-1]),
        maps={name: replace(m, values=m.values[..., ::-1], affine=affine) for name, m in hot.maps.items()},
        baseline=hot.baseline[..., ::-1],
        mask=hot.mask[..., ::-1],
    )
    found = {title: view.numbers for title, view in key_slices(upside_down, {"Tumour": tumour[..., ::-1]})}
    assert found == {"Largest section": (6 - 2,), "Highest rCBV": (6 - 4,)}


def test_without_a_region_slices_from_the_middle_are_shown(hot):
    numbers = [view.numbers[0] for _, view in key_slices(hot, {})]
    assert len(set(numbers)) == 2
    assert all(2 <= number <= 5 for number in numbers)


def test_the_outline_lies_around_the_region(hot, tumour):
    _, view = key_slices(hot, {"Tumour": tumour})[0]
    plain = np.array(reading_picture(hot, view, {}))
    marked = np.array(reading_picture(hot, view, {"Tumour": tumour}))
    changed = (plain != marked).any(axis=-1)
    assert (marked[changed] == REGION_COLOURS[0]).all()
    rows, columns = np.nonzero(changed[:, : plain.shape[1] // 3])
    pixels_per_voxel = (rows.max() - rows.min() + 1) / 8  # 8 × 8 voxels
    assert (columns.max() - columns.min() + 1) / 8 == pytest.approx(pixels_per_voxel, rel=0.1)
    within = changed[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
    assert not within.any()  # an edge, not a filled area


def test_numbers_stand_with_unit_and_standard_error(hot, tumour):
    measurements = [measured("rcbv_mean", 3.9123, error=0.31), measured("psr_mean", np.nan, unit="%")]
    page = page_html(Reading(hot, {"Tumour": tumour}, measurements))
    assert "<td>rcbv mean (ratio)</td><td>3.91 ± 0.31</td>" in page
    assert "<td>psr mean (%)</td><td>no value</td>" in page


def test_a_measure_of_one_region_does_not_move_to_another(hot):
    measurements = [measured("rcbv_mean", 1.5, region="A"), measured("rcbv_p95", 2.5, region="B")]
    page = page_html(Reading(hot, {}, measurements))
    assert "<td>rcbv mean (ratio)</td><td>1.5</td><td>no value</td>" in page
    assert "<td>rcbv p95 (ratio)</td><td>no value</td><td>2.5</td>" in page


def test_no_name_is_on_the_page_unless_asked_for(hot):
    assert "petrenko" not in page_html(Reading(hot)).lower()
    assert "<strong>Patient</strong> Petrenko" in page_html(Reading(hot, identity={"Patient": "Petrenko"}))


def test_what_users_wrote_can_not_become_markup(hot, tumour):
    page = page_html(
        Reading(hot, {"<b>": tumour}, [measured("m", 1.0, region="<b>")], {"Patient": "<script>alert(1)</script>"})
    )
    assert "<script>" not in page
    assert "<b>" not in page


def test_method_version_series_and_limits_are_named(hot):
    page = page_html(Reading(hot))
    facts = hot.provenance
    for text in (NOTICE, "Boxerman-Schmainda-Weisskoff", facts["version"], "method bsw", "factor"):
        assert text in page
    assert "network" not in page.lower()


def test_a_networks_page_says_what_it_learned_from_and_which_weights(result):
    network = compute_maps(result.series, Settings(method="anchored-unet"))
    page = page_html(Reading(network))
    assert "simulated patients only" in page
    assert network.provenance["network"]["weights_sha256"][:12] in page


def test_grave_findings_come_first_and_the_rest_is_counted(hot):
    findings = tuple(Finding(f"f{i}", "info" if i < 3 else "warning", f"message {i}.") for i in range(9))
    page = page_html(Reading(replace(hot, findings=findings)))
    assert "message 3." in page
    assert "message 0." not in page
    assert "2 more in the full report" in page


def test_a_region_on_another_grid_is_refused(hot):
    with pytest.raises(GeometryError, match=r"Tumour has \(3, 3, 3\) voxels"):
        Reading(hot, {"Tumour": np.ones((3, 3, 3), bool)})


def test_another_ending_is_refused_and_nothing_is_written(hot, tmp_path):
    with pytest.raises(PerfusionError, match=r"neither \.pdf nor \.html"):
        write_page(Reading(hot), tmp_path / "page.docx")
    assert not [*tmp_path.iterdir()]


def test_the_pdf_is_one_sheet_however_much_there_is_to_say(hot, tumour, tmp_path):
    pytest.importorskip(
        "weasyprint", reason="WeasyPrint is not installed: pip install '.[report]'", exc_type=(ImportError, OSError)
    )
    pypdf = pytest.importorskip("pypdf")
    findings = tuple(Finding(f"f{i}", "warning", f"message {i}. " * 12, "advice. " * 12) for i in range(9))
    measurements = [
        measured(name, 1.0, region=region, error=0.1) for region in "ABCDEF" for name in (*KEY_MEASURES, "k2_p10")
    ]
    full = Reading(replace(hot, findings=findings), {"Tumour": tumour}, measurements, {"Patient": "Діумін"})
    write_page(full, tmp_path / "full.pdf")
    pages = pypdf.PdfReader(tmp_path / "full.pdf").pages
    assert len(pages) == 1
    text = pages[0].extract_text()
    assert NOTICE in text
    assert "Діумін" in text
    assert "2 more regions" in text


def test_the_picture_is_no_wider_than_it_needs(hot, tumour):
    _, view = key_slices(hot, {"Tumour": tumour})[0]
    picture = reading_picture(hot, view, {"Tumour": tumour})
    assert picture.width < 700  # two tiles and the bar: a classical map has no second one beside it
