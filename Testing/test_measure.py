"""Measures of regions whose numbers are known, and of a head that is mapped."""

from dataclasses import replace

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Cancelled, ParameterMap, Settings, compute_maps
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import GeometryError, UsageError
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_region, measure_regions, rcbv_histogram
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.simulate import demo_parameters, simulate
from PerfusionCBVLib.simulate.anatomy import TISSUES

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SHAPE = (30, 30, 6)
NAWM = {"reference": {"kind": "nawm"}}
BLOB = np.zeros(SHAPE, bool)
BLOB[5:20, 8:22, 1:4] = True


@pytest.fixture(scope="module")
def head():
    return graded_head(leakage_per_s=0.05)


@pytest.fixture(scope="module")
def mapped(head):
    return compute_maps(head.series, Settings(method="bsw"), reference=head.white)


@pytest.fixture(scope="module")
def network(head):
    return compute_maps(head.series, Settings(method="anchored-unet"))


def some_map(name="rcbv", unit="{ratio}", seed=0):
    values = np.random.default_rng(seed).gamma(3.0, 0.6, SHAPE).astype(np.float32)
    return ParameterMap(name, values, AFFINE, unit, "")


def measured(share, *, maps=None, provenance=NAWM, settings=None, **options):
    found = measure_region(Region("tumour", share), maps or {"rcbv": some_map()}, provenance, settings, **options)
    return {row.name: row for row in found.measurements}, found


def value(rows, name):
    return rows[name].value


def test_measures_are_numpys_on_the_regions_voxels():
    rows, found = measured(BLOB)
    inside = some_map().values[BLOB].astype(float)
    assert value(rows, "rcbv_mean") == pytest.approx(inside.mean())
    assert value(rows, "rcbv_median") == pytest.approx(np.median(inside))
    assert value(rows, "rcbv_sd") == pytest.approx(inside.std(ddof=1))
    for percent in (10, 25, 75, 90, 95):
        expected = np.percentile(inside, percent, method="hazen")
        assert value(rows, f"rcbv_p{percent}") == pytest.approx(expected)
    assert value(rows, "volume") == pytest.approx(BLOB.sum() * 0.02)
    assert {row.region for row in found.measurements} == {"tumour"}
    assert {row.standard_error for row in found.measurements} == {None}


def test_fractional_burden_is_the_share_of_each_class_by_any_cut_offs():
    inside = some_map().values[BLOB]
    for low, high in ((1.0, 1.75), (0.7, 3.2)):
        rows, _ = measured(BLOB, settings=MeasureSettings(cut_offs=(low, high)))
        classes = [value(rows, f"ftb_{name}") for name in ("low", "middle", "high")]
        expected = [np.mean(inside <= low), np.mean((inside > low) & (inside < high)), np.mean(inside >= high)]
        np.testing.assert_allclose(classes, 100 * np.array(expected), rtol=1e-6)
        assert sum(classes) == pytest.approx(100.0)
        assert f"{low:g}" in rows["ftb_low"].title
        assert {rows[f"ftb_{name}"].unit for name in ("low", "middle", "high")} == {"%"}


def test_voxels_without_a_value_count_in_the_volume_only():
    rcbv = some_map()
    rcbv.values[5:9] = np.nan
    rows, found = measured(BLOB, maps={"rcbv": rcbv})
    left = rcbv.values[BLOB & np.isfinite(rcbv.values)]
    assert value(rows, "rcbv_mean") == pytest.approx(left.mean(dtype=float))
    assert value(rows, "voxels") == left.size
    assert value(rows, "voxels_without_value") == BLOB.sum() - left.size
    assert value(rows, "volume") == pytest.approx(BLOB.sum() * 0.02)
    assert sum(value(rows, f"ftb_{c}") for c in ("low", "middle", "high")) == pytest.approx(100)
    assert any("27% of the volume has no value" in note for note in found.notes)


def test_a_region_without_any_value_gives_nan_and_says_so():
    nothing = ParameterMap("rcbv", np.full(SHAPE, np.nan), AFFINE, "{ratio}", "")
    rows, found = measured(BLOB, maps={"rcbv": nothing, "k2": some_map("k2", "1/s")})
    names = [name for name in rows if name.startswith(("rcbv", "ftb"))]
    assert len(names) == 12
    assert all(np.isnan(value(rows, name)) for name in names)
    assert np.isfinite(value(rows, "k2_mean"))
    assert "No voxel has a value" in found.notes[0]
    assert found.histogram is None


def test_shares_of_voxels_weigh_as_if_the_voxels_were_cut():
    """A segment of half voxels on the map's grid is the same segment on a grid of half the voxel."""
    share = np.zeros(SHAPE, np.float32)
    share[5:20, 8:22, 1:4] = 1.0
    share[4, 8:22, 1:4] = 0.5
    rows, _ = measured(share)
    fine = ParameterMap(
        "rcbv", np.repeat(some_map().values, 2, axis=0), AFFINE @ np.diag([0.5, 1, 1, 1]), "{ratio}", ""
    )
    cut = np.zeros(fine.values.shape, bool)
    cut[9:40, 8:22, 1:4] = True
    expected, _ = measured(cut, maps={"rcbv": fine})
    for name in ("rcbv_mean", "volume", "ftb_low", "ftb_middle", "ftb_high"):
        assert value(rows, name) == pytest.approx(value(expected, name), rel=1e-5), name
    for name in ("rcbv_median", "rcbv_p90", "rcbv_sd"):
        assert value(rows, name) == pytest.approx(value(expected, name), rel=0.005), name


def test_histogram_counts_every_value_once_and_those_outside_apart():
    values = np.array([-0.2, 0.0, 0.05, 0.1, 5.99, 6.0, 40.0])
    found = rcbv_histogram(values, np.ones(7))
    assert found.percent[[0, 1, -1]] * 7 / 100 == pytest.approx([2, 1, 1])
    assert (found.below * 7 / 100, found.above * 7 / 100) == pytest.approx((1, 2))
    assert found.percent.sum() + found.below + found.above == pytest.approx(100)


def test_hot_spot_has_the_area_asked_for_or_a_note_says_why_there_is_none():
    rcbv = some_map()
    rcbv.values[...] = 1.0
    rcbv.values[10:16, 10:16, 2] = 5.0
    rows, found = measured(BLOB, maps={"rcbv": rcbv})
    assert value(rows, "rcbv_hot_spot") == pytest.approx(5.0)
    assert (rcbv.values[found.hot_spot] == 5.0).all()
    assert 40 / 4 <= found.hot_spot.sum() <= 30
    rows, found = measured(BLOB, maps={"rcbv": rcbv}, settings=MeasureSettings(hot_spot_area_mm2=300.0))
    assert 1.0 < value(rows, "rcbv_hot_spot") < 5.0
    rows, found = measured(BLOB, maps={"rcbv": rcbv}, settings=MeasureSettings(hot_spot_area_mm2=5000.0))
    assert np.isnan(value(rows, "rcbv_hot_spot"))
    assert any("5000 mm² fits into no slice" in note for note in found.notes)
    assert not found.hot_spot.any()


@pytest.mark.parametrize("kind", ["brain", "none"])
def test_classes_of_burden_need_white_matter_as_reference(kind):
    rows, found = measured(BLOB, provenance={"reference": {"kind": kind}})
    assert not [name for name in rows if name.startswith("ftb")]
    assert (found.histogram is None) == (kind == "none")
    assert any("burden" in note for note in found.notes)


def test_other_maps_are_measured_where_they_have_values():
    k2 = some_map("k2", "1/s", seed=4)
    k2.values[:10] = np.nan
    rows, _ = measured(BLOB, maps={"rcbv": some_map(), "k2": k2})
    left = k2.values[BLOB & np.isfinite(k2.values)].astype(float)
    assert (rows["k2_mean"].value, rows["k2_mean"].unit) == (pytest.approx(left.mean()), "1/s")
    assert value(rows, "k2_p90") == pytest.approx(np.percentile(left, 90, method="hazen"))
    assert value(rows, "k2_voxels") == left.size


def test_mean_error_holds_the_whole_shared_part():
    """Shared 0.1 of rCBV and nothing else: each measure of level scatters by a tenth, the ratio of two by √2 tenths."""
    rcbv = ParameterMap("rcbv", np.where(BLOB, 3.0, 1.5).astype(np.float32), AFFINE, "{ratio}", "")
    maps = {
        "rcbv": rcbv,
        "uncertainty": ParameterMap("uncertainty", 0.1 * rcbv.values, AFFINE, "{ratio}", ""),
        "k2": ParameterMap("k2", np.zeros(SHAPE), AFFINE, "1/s", ""),
    }
    provenance = NAWM | {"uncertainty": {"scale": 0.1, "leakage_s": 20.0}}
    across = np.zeros(SHAPE, bool)
    across[22:28, 8:22, 1:4] = True
    rows, _ = measured(BLOB, maps=maps, provenance=provenance, mirror=across)
    for name in ("rcbv_mean", "rcbv_median", "rcbv_p90", "rcbv_hot_spot"):
        assert rows[name].standard_error == pytest.approx(0.3, rel=0.3), name
    assert rows["rcbv_sd"].standard_error is None
    assert rows["rcbv_mirror"].standard_error == pytest.approx(0.15, rel=0.3)
    assert rows["rcbv_over_mirror"].standard_error == pytest.approx(0.2 * np.sqrt(2), rel=0.3)
    assert (rows["rcbv_mirror"].value, rows["rcbv_over_mirror"].value) == pytest.approx((1.5, 2.0))
    # A mirror image without any value takes nothing from the region's own numbers.
    rcbv.values[across] = np.nan
    alone, _ = measured(BLOB, maps=maps, provenance=provenance, mirror=across)
    assert np.isnan(value(alone, "rcbv_over_mirror"))
    assert alone["rcbv_over_mirror"].standard_error is None
    assert alone["rcbv_mean"] == rows["rcbv_mean"]


def test_without_knowledge_of_the_shared_part_there_is_no_error_but_a_note():
    maps = {"rcbv": some_map(), "uncertainty": some_map("uncertainty"), "k2": some_map("k2", "1/s")}
    rows, found = measured(BLOB, maps=maps)
    assert rows["rcbv_mean"].standard_error is None
    assert any("No standard errors" in note for note in found.notes)


def test_lesion_of_a_mapped_head_measures_three_times_its_white_matter(head, mapped):
    [lesion, white] = measure_regions([Region("lesion", head.lesion), Region("white", head.white)], mapped)
    rows = {row.name: row.value for row in lesion.measurements}
    assert rows["rcbv_mean"] == pytest.approx(3.0, rel=0.03)
    assert rows["ftb_high"] == pytest.approx(100.0)
    leaking = 0.05 / head.volume[(head.volume > 0) & ~head.lesion].mean()
    assert rows["k2_mean"] == pytest.approx(leaking, rel=0.1)
    rows = {row.name: row.value for row in white.measurements}
    assert rows["rcbv_mean"] == pytest.approx(1.0, abs=1e-5)
    # The head's signal comes back wholly where nothing leaks, and T1 leakage overshoots.
    assert rows["psr_median"] == pytest.approx(100.0, abs=4.0)


def test_mirror_image_of_the_lesion_is_white_matter_or_a_note_says_why_not(head, mapped):
    x = np.arange(head.lesion.shape[0])[:, None, None]
    across = Region("across", head.white & (x > 15) & (x < 32))
    [lesion, none] = measure_regions([Region("lesion", head.lesion), across], mapped, mirrors=True)
    rows = {row.name: row.value for row in lesion.measurements}
    true_side = head.volume[lesion.mirror].mean()
    assert rows["rcbv_mirror"] == pytest.approx(true_side, rel=0.03)
    assert rows["rcbv_over_mirror"] == pytest.approx(3.0 / true_side, rel=0.05)
    assert none.mirror is None
    assert any("across reaches across the midline" in note for note in none.notes)
    assert "rcbv_mirror" not in {row.name for row in none.measurements}


def test_a_note_says_where_the_bolus_reaches_the_noise(head, mapped):
    status = mapped.status.copy()
    [quiet] = measure_regions([Region("lesion", head.lesion)], mapped)
    assert not [note for note in quiet.notes if "noise" in note]
    hot = np.argwhere(quiet.hot_spot)[0]
    status[tuple(hot)] = Status.SATURATED
    [found] = measure_regions([Region("lesion", head.lesion)], replace(mapped, status=status))
    assert any("the hot spot included" in note for note in found.notes)
    status[head.lesion & ~quiet.hot_spot] = Status.SATURATED
    status[quiet.hot_spot] = Status.VALID
    [found] = measure_regions([Region("lesion", head.lesion)], replace(mapped, status=status))
    [note] = [note for note in found.notes if "noise" in note]
    assert "hot spot" not in note
    assert int(note.split("%")[0].split()[-1]) > 50


def test_network_map_has_standard_errors_that_hold_the_truth_of_the_lesion(head, network):
    [lesion] = measure_regions([Region("lesion", head.lesion)], network, mirrors=True)
    rows = {row.name: row for row in lesion.measurements}
    mean = rows["rcbv_mean"]
    single = float(np.median(network.maps["uncertainty"].values[head.lesion]))
    assert abs(mean.value - 3.0) < 2 * mean.standard_error
    assert 0.1 * single < mean.standard_error < 1.2 * single
    ratio = rows["rcbv_over_mirror"]
    assert ratio.standard_error / ratio.value > mean.standard_error / mean.value
    for name in ("rcbv_p90", "rcbv_hot_spot", "ftb_high"):
        assert rows[name].standard_error is not None


def test_uncertainty_holds_no_less_than_its_shared_parts(head, network):
    """The provenance's two numbers split the map: scale times rCBV, and a time times K2, the leakage's own error."""
    shared = network.provenance["uncertainty"]
    rcbv, sd, k2 = (network.maps[name].values for name in ("rcbv", "uncertainty", "k2"))
    inside = np.isfinite(rcbv)
    rest = sd**2 - (shared["scale"] * rcbv) ** 2 - (shared["leakage_s"] * k2) ** 2
    assert (rest[inside] > -1e-4).all()
    # Leakage on the classical map's scale, from maps with and without its correction; the card says which share of it.
    both = [
        compute_maps(head.series, Settings(method=name), reference=network.reference) for name in ("bsw", "integral")
    ]
    level = [one.provenance["reference"]["mean_before_normalisation"] for one in both]
    bsw, integral = (one.maps["rcbv"].values * lev for one, lev in zip(both, level, strict=True))
    share = read_card("anchored-unet")["measured"]["calibration"]["leakage"]
    leakage = (bsw - integral)[head.lesion] / level[0]
    np.testing.assert_allclose(shared["leakage_s"] / share * k2[head.lesion], leakage, atol=0.01)


def test_burden_of_a_simulated_tumour_is_within_3_points_of_the_truth_at_snr_50():
    """The demonstration patient; `measure_accuracy.py` says how many of other patients are."""
    drawn = demo_parameters()
    patient = simulate(replace(drawn, disturbance=replace(drawn.disturbance, snr=50.0)))
    result = compute_maps(patient.series, Settings(method="anchored-unet"))
    parts = [TISSUES.index(name) for name in ("necrosis", "enhancing", "infiltration")]
    inside = np.isin(patient.tissue, parts) & patient.brain & ~patient.vessel
    truth = ParameterMap("rcbv", patient.truth["rcbv"], patient.series.affine, "{ratio}", "")
    found, expected = (
        {row.name: row.value for row in measure_region(Region("tumour", inside), maps, NAWM).measurements}
        for maps in (result.maps, {"rcbv": truth})
    )
    for name in ("ftb_low", "ftb_middle", "ftb_high"):
        assert found[name] == pytest.approx(expected[name], abs=3.0)
        assert 1.0 < expected[name] < 90.0
    # The truth's own classes, counted without the library.
    rcbv = patient.truth["rcbv"][inside]
    assert expected["ftb_middle"] == pytest.approx(100 * np.mean((rcbv > 1) & (rcbv < 1.75)))


def test_cancelling_passes_through(head, mapped):
    def stop(*_):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        measure_regions([Region("lesion", head.lesion)], mapped, progress=stop)


def test_another_grid_is_refused():
    with pytest.raises(GeometryError, match="region tumour"):
        measured(BLOB[1:])
    with pytest.raises(GeometryError, match="mirror"):
        measured(BLOB, mirror=BLOB[1:])


@pytest.mark.parametrize("cut_offs", [(1.75, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, float("nan")), (1.0,)])
def test_impossible_settings_are_refused(cut_offs):
    with pytest.raises(UsageError, match="cut-offs"):
        MeasureSettings(cut_offs=cut_offs)
    with pytest.raises(UsageError, match="hot-spot area"):
        MeasureSettings(hot_spot_area_mm2=0)
