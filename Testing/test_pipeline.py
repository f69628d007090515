"""The one path from series to result, against a head whose blood volume is known."""

from dataclasses import replace

import numpy as np
import pytest
from nibabel.affines import apply_affine

from dsc_phantom import gamma_variate, graded_head, no_bolus
from PerfusionCBVLib import Cancelled, DynamicSeries, Settings, compute_maps
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import GeometryError, QualityError, TimingError, UsageError
from PerfusionCBVLib.settings import CLASSICAL_METHODS

LEAKAGE_PER_S = 0.05


@pytest.fixture(scope="module")
def head():
    return graded_head()


@pytest.fixture(scope="module")
def leaking():
    return graded_head(leakage_per_s=LEAKAGE_PER_S)


@pytest.fixture(scope="module")
def automatic(leaking):
    return compute_maps(leaking.series, Settings(method="bsw"))


def rcbv(head, method, **options):
    return compute_maps(head.series, Settings(method=method), **options).maps["rcbv"].values


def tissue_means(values, head):
    grey = head.volume == 2
    return [float(np.nanmean(values[region])) for region in (head.white, grey, head.lesion)]


@pytest.mark.parametrize("method", ["integral", "bsw", "bidirectional"])
def test_three_times_the_reference_stays_three(head, method):
    values = rcbv(head, method, reference=head.white)
    assert tissue_means(values, head) == pytest.approx([1.0, 2.0, 3.0], rel=0.02)


@pytest.mark.parametrize(
    ("leakage_per_s", "side"),
    [(LEAKAGE_PER_S, -1), (-LEAKAGE_PER_S, 1)],
    ids=["T1 leakage lowers", "T2* leakage raises"],
)
def test_leakage_biases_the_integral_and_not_bsw(leakage_per_s, side):
    head = graded_head(leakage_per_s=leakage_per_s)
    integral = tissue_means(rcbv(head, "integral", reference=head.white), head)[2]
    corrected = tissue_means(rcbv(head, "bsw", reference=head.white), head)[2]
    assert side * (integral - 3.0) > 0.3
    assert corrected == pytest.approx(3.0, rel=0.03)


def test_k2_map_is_the_leakage_rate(leaking, automatic):
    k2 = automatic.maps["k2"]
    assert k2.unit == "1/s"
    # The model's reference is the mean curve of all voxels that don't leak, not white matter's.
    expected = LEAKAGE_PER_S / leaking.volume[(leaking.volume > 0) & ~leaking.lesion].mean()
    assert np.nanmean(k2.values[leaking.lesion]) == pytest.approx(expected, rel=0.1)
    assert np.nanmean(k2.values[leaking.white]) == pytest.approx(0.0, abs=0.002)


def test_reference_region_is_white_matter_away_from_the_lesion(leaking, automatic):
    assert automatic.reference.sum() >= 20
    assert np.mean(leaking.white[automatic.reference]) > 0.9
    assert not (automatic.reference & leaking.lesion).any()
    assert automatic.provenance["reference"]["side"] == "right"  # the lesion is on the left
    assert float(np.nanmean(automatic.maps["rcbv"].values[automatic.reference])) == pytest.approx(1.0, abs=1e-5)


def test_automatic_map_is_the_true_volume(leaking, automatic):
    assert tissue_means(automatic.maps["rcbv"].values, leaking) == pytest.approx([1.0, 2.0, 3.0], rel=0.06)


def test_values_exist_in_the_brain_only_and_status_says_why(automatic):
    values = automatic.maps["rcbv"].values
    assert np.isnan(values[~automatic.mask]).all()
    valid = (automatic.status == Status.VALID) | (automatic.status == Status.SATURATED)
    np.testing.assert_array_equal(np.isfinite(values), valid)


def test_map_follows_the_anatomy_whatever_the_voxel_order(leaking, automatic):
    """The same head stored mirrored and turned gives the same value at every place in the world."""
    series = leaking.series
    flipped = series.affine @ np.array([[0, 1, 0, 0], [-1, 0, 0, 63], [0, 0, -1, 7], [0, 0, 0, 1.0]])
    turned = replace(series, signal=np.ascontiguousarray(series.signal.swapaxes(0, 1)[::-1, :, ::-1]), affine=flipped)
    # Where a voxel of the turned series lies: checked, so that the test itself is not mirrored.
    voxel = (5, 50, 2)
    place = apply_affine(np.linalg.inv(series.affine) @ flipped, voxel).round().astype(int)
    np.testing.assert_array_equal(turned.signal[voxel], series.signal[tuple(place)])

    again = compute_maps(turned, Settings(method="bsw"))
    back = again.maps["rcbv"].values[::-1, :, ::-1].swapaxes(0, 1)
    np.testing.assert_allclose(back, automatic.maps["rcbv"].values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", ["brain", "none"])
def test_other_normalisations(head, normalize):
    result = compute_maps(head.series, Settings(method="bsw", normalize=normalize))
    map_ = result.maps["rcbv"]
    if normalize == "brain":
        assert map_.unit == "{ratio}"
        assert np.nanmean(map_.values) == pytest.approx(1.0, abs=1e-5)
    else:
        # Area of a gamma-variate of peak 6 1/s, numerically, in white matter.
        fine_s = np.linspace(0, 75, 7501)
        area = np.trapezoid(6 * gamma_variate(fine_s, 20, 9, 3), fine_s)
        assert (map_.unit, result.reference) == ("1", None)
        assert np.nanmean(map_.values[head.white]) == pytest.approx(area, rel=0.05)


def test_every_classical_method_ranks_the_tissues(head):
    for method in CLASSICAL_METHODS:
        white, grey, lesion = tissue_means(rcbv(head, method, reference=head.white), head)
        assert white < grey < lesion, method


def test_bidirectional_differs_from_bsw_where_contrast_washes_out(leaking):
    one, both = (rcbv(leaking, method, reference=leaking.white) for method in ("bsw", "bidirectional"))
    assert np.nanmax(np.abs(one - both)[leaking.lesion]) > 1e-3


@pytest.mark.parametrize("kind", ["resting-state", "drift", "DCE rise"])
def test_series_without_a_bolus_is_refused(head, kind):
    times_s, curve = no_bolus(kind, 3)
    g = np.random.default_rng(0)
    still = head.series.signal[..., :5].mean(axis=-1, keepdims=True)
    signal = still * (curve / curve.mean()) + g.standard_normal((*still.shape[:3], curve.size)) * 4
    series = DynamicSeries(
        np.abs(signal).astype(np.float32), head.series.affine, times_s - times_s[0], head.series.acquisition
    )
    with pytest.raises(QualityError, match="bolus"):
        compute_maps(series, Settings(method="bsw"))


@pytest.mark.parametrize("method", CLASSICAL_METHODS)
def test_without_an_echo_time_nothing_is_guessed(head, method):
    series = replace(head.series, acquisition=replace(head.series.acquisition, echo_time_s=None))
    with pytest.raises(TimingError, match="--echo-time"):
        compute_maps(series, Settings(method=method))


def test_cancelling_passes_through_from_every_step(head):
    steps = []
    compute_maps(head.series, Settings(method="bsw"), progress=lambda _, message: steps.append(message))
    assert len(set(steps)) >= 4

    for stop in range(len(steps)):
        count = iter(range(len(steps) + 1))

        def progress(fraction, message, count=count, stop=stop):
            if next(count) == stop:
                raise Cancelled("stopped")

        if stop in (0, len(steps) // 2, len(steps) - 1):
            with pytest.raises(Cancelled):
                compute_maps(head.series, Settings(method="bsw"), progress=progress)


def test_progress_never_goes_back(head):
    fractions = []
    compute_maps(head.series, Settings(method="bsw"), progress=lambda fraction, _: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0.0
    assert fractions[-1] <= 1.0


def test_reference_and_normalisation_contradict_each_other(head):
    with pytest.raises(UsageError, match="reference"):
        compute_maps(head.series, Settings(method="bsw", normalize="none"), reference=head.white)


def test_empty_or_foreign_masks_are_refused(head):
    with pytest.raises(GeometryError):
        compute_maps(head.series, Settings(method="bsw"), mask=np.zeros(head.white.shape, bool))
    with pytest.raises(GeometryError):
        compute_maps(head.series, Settings(method="bsw"), reference=head.white[1:])


def test_provenance_holds_what_is_needed_to_repeat_the_map(automatic):
    provenance = automatic.provenance
    assert provenance["settings"]["method"] == "bsw"
    assert provenance["acquisition"]["echo_time_s"]["value"] == 0.03
    start, stop = provenance["bolus"]["integration_frames"]
    assert start < 18 < stop  # the curve's top lies near frame 18
    assert provenance["reference"]["voxels"] == int(automatic.reference.sum())
    assert provenance["reference"]["volume_ml"] == pytest.approx(
        automatic.reference.sum() * 3.4 * 3.4 * 6 / 1000, rel=1e-3
    )
    assert set(provenance["timings_s"]) >= {"check", "bsw", "reference"}


def test_signal_recovers_wholly_but_where_t1_leakage_lifts_it(leaking, automatic):
    psr = automatic.maps["psr"]
    assert psr.unit == "%"
    np.testing.assert_array_equal(np.isfinite(psr.values) & ~automatic.mask, False)
    # From the phantom's formula, without noise: what is left of ΔR2* at the end against its largest value.
    times_s = leaking.series.times_s
    reference = 6 * gamma_variate(times_s, 20, 9, 3)
    running = np.concatenate([[0], np.cumsum((reference[1:] + reference[:-1]) / 2 * np.diff(times_s))])
    signal = np.exp(-0.03 * (3.0 * reference - LEAKAGE_PER_S * running))
    expected = 100 * (signal[-10:].mean() - signal.min()) / (1 - signal.min())
    assert expected > 105
    assert np.nanmedian(psr.values[leaking.lesion]) == pytest.approx(expected, abs=1.5)
    assert np.nanmedian(psr.values[leaking.white]) == pytest.approx(100.0, abs=2.0)
