"""Motion estimates and correction on a head that moves by known amounts while a bolus passes."""

import numpy as np
import pytest

from dsc_phantom import moving_head
from PerfusionCBVLib.errors import Cancelled, GeometryError
from PerfusionCBVLib.motion import MotionReport, correct_motion, estimate_displacement
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.timing import find_bolus

NO_TURN, NO_SHIFT = 0.0, (0.0, 0.0, 0.0)
MOVES = {
    6: ((1.0, 0.0, 0.0), NO_TURN),
    17: ((0.0, 3.0, 0.0), NO_TURN),  # on the upslope, near the peak
    33: ((3.0, 0.0, 0.0), NO_TURN),
    38: (NO_SHIFT, 3.0),
    44: ((0.0, 0.0, 3.0), NO_TURN),
    47: ((4.0, 2.0, -2.0), -4.0),
}
UNMOVED = [t for t in range(50) if t not in MOVES]


@pytest.fixture(scope="module")
def still():
    return moving_head()


@pytest.fixture(scope="module")
def moved():
    return moving_head(moves=MOVES)


@pytest.fixture(scope="module")
def corrected(moved):
    series, brain = moved
    return correct_motion(series, brain, timing_of(series, brain))


@pytest.fixture(scope="module")
def short():
    """A still head for 30 frames, with the timing of the whole."""
    series, brain = moving_head(frames=40)
    timing = timing_of(series, brain)
    first = DynamicSeries(series.signal[..., :30], series.affine, series.times_s[:30], series.acquisition)
    return first, brain, timing


def timing_of(series, brain):
    return find_bolus(series.signal[brain].mean(axis=0), series.times_s)


def mean_displacement(series, brain, shift, turn):
    """The truth, voxel by voxel."""
    points = (np.argwhere(brain) - (np.array(brain.shape) - 1) / 2) * series.voxel_size_mm
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    moved = points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T + shift
    return np.linalg.norm(moved - points, axis=1).mean()


@pytest.mark.parametrize("depth", [0.15, 0.6])
def test_a_bolus_alone_is_not_taken_for_motion(depth):
    series, brain = moving_head(depth=depth)
    assert estimate_displacement(series, brain).max() < 0.3


def test_quick_estimate_sees_jumps_of_three_millimetres_in_any_direction(moved):
    series, brain = moved
    displacement_mm = estimate_displacement(series, brain)
    for t in (17, 33, 38, 44):
        assert displacement_mm[t] == pytest.approx(mean_displacement(series, brain, *MOVES[t]), rel=0.25), t
    assert displacement_mm[6] == pytest.approx(1.0, abs=0.2)
    assert displacement_mm[47] > 3.5
    # The jump during the bolus is shared with its neighbours, a little.
    assert np.delete(displacement_mm, list(MOVES)).max() < 0.7
    assert np.median(np.delete(displacement_mm, list(MOVES))) < 0.15


def test_a_patient_who_moves_when_the_contrast_comes_and_stays_there_is_seen():
    series, brain = moving_head(moves={t: ((0.0, 3.0, 0.0), NO_TURN) for t in range(13, 50)})
    displacement_mm = estimate_displacement(series, brain)
    assert np.median(displacement_mm[:12]) > 1.5
    _, report = correct_motion(series, brain, timing_of(series, brain))
    np.testing.assert_allclose(report.translations_mm[20:, 1], 3.0, atol=0.6)
    np.testing.assert_allclose(report.translations_mm[:12, 1], 0.0, atol=0.2)


def test_few_slices_show_motion_in_plane():
    series, brain = moving_head(shape=(56, 64, 2), moves={33: ((3.0, 0.0, 0.0), NO_TURN)})
    displacement_mm = estimate_displacement(series, brain)
    assert displacement_mm[33] == pytest.approx(3.0, abs=0.5)
    assert np.delete(displacement_mm, 33).max() < 0.3
    _, report = correct_motion(series, brain, timing_of(series, brain))
    np.testing.assert_allclose(report.translations_mm[33], [3, 0, 0], atol=0.3)
    assert np.all(report.rotations_deg[:, :2] == 0)


def test_registration_finds_translations_and_rotations(corrected):
    _, report = corrected
    for t, (shift, turn) in MOVES.items():
        np.testing.assert_allclose(report.translations_mm[t], shift, atol=0.45, err_msg=f"frame {t}")
        np.testing.assert_allclose(report.rotations_deg[t], [0, 0, turn], atol=1.2, err_msg=f"frame {t}")
    assert np.median(report.displacement_mm[UNMOVED]) < 0.1
    assert report.displacement_mm[UNMOVED].max() < 0.5
    assert report.implausible_frames == ()


def test_displacement_is_that_of_the_transform(corrected, moved):
    _, report = corrected
    for t in (33, 38):
        truth = mean_displacement(*moved, *MOVES[t])
        assert report.displacement_mm[t] == pytest.approx(truth, rel=0.15)


def test_corrected_frames_look_like_the_unmoved_head():
    (truth, brain), (before, _) = moving_head(noise=0.5), moving_head(noise=0.5, moves=MOVES)
    after, _ = correct_motion(before, brain, timing_of(before, brain))
    inner = brain.copy()
    inner[..., [0, -1]] = False
    for t in MOVES:
        error_before = np.sqrt(np.mean((before.signal[inner, t] - truth.signal[inner, t]) ** 2))
        error_after = np.sqrt(np.nanmean((after.signal[inner, t] - truth.signal[inner, t]) ** 2))
        assert error_after < 0.5 * error_before, t


def test_a_still_series_comes_out_as_it_went_in(short):
    series, brain, timing = short
    after, report = correct_motion(series, brain, timing)
    assert report.displacement_mm.max() < 0.25
    difference = after.signal[brain] - series.signal[brain]
    assert np.sqrt(np.nanmean(difference**2)) < 10  # the noise's own size; 200 in the moved frames above
    assert after.acquisition is series.acquisition
    np.testing.assert_array_equal(after.times_s, series.times_s)


def test_samples_from_outside_the_image_are_nan_and_counted(corrected, moved):
    after, report = corrected
    _, brain = moved
    # 3 mm through slices of 7 mm stay within half a slice; 4 mm along x leave the voxels at the edge uncovered.
    assert np.isnan(after.signal[-1, :, :, 47]).any()
    assert np.isfinite(after.signal[4:-4, 4:-4, 2:-2]).all()
    lost = np.isnan(after.signal[brain]).mean()
    assert report.lost_fraction == pytest.approx(lost)


def test_an_invalid_voxel_stays_invalid_and_does_not_darken_its_neighbours(short):
    series, brain, timing = short
    signal = series.signal.copy()
    signal[28, 32, 5, 15] = np.nan
    bad = DynamicSeries(signal, series.affine, series.times_s, series.acquisition)
    after, _ = correct_motion(bad, brain, timing)
    assert np.isnan(after.signal[28, 32, 5, 15])
    around = after.signal[26:31, 30:35, 5, 15]
    reference = series.signal[26:31, 30:35, 5, 15]
    seen = np.isfinite(around)
    assert np.abs(around[seen] - reference[seen]).max() < 60


def test_progress_runs_to_one_and_its_cancellation_passes_through(short):
    series, brain, timing = short
    seen = []
    correct_motion(series, brain, timing, progress=lambda fraction, message: seen.append((fraction, message)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(seen) > series.frames

    def cancel(fraction, message):
        if fraction > 0.1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        correct_motion(series, brain, timing, progress=cancel)


def test_an_estimate_that_no_head_can_make_is_reported_and_not_used(short, monkeypatch):
    series, brain, timing = short
    monkeypatch.setattr("PerfusionCBVLib.motion.MAXIMUM_DISPLACEMENT_MM", -1.0)
    _, report = correct_motion(series, brain, timing)
    assert report.implausible_frames == tuple(range(series.frames))
    assert report.displacement_mm.max() < 0.3


def test_report_goes_to_json(corrected):
    import json

    _, report = corrected
    written = json.loads(json.dumps(report.as_dict()))
    assert written["maximum_displacement_mm"] == pytest.approx(report.displacement_mm.max(), abs=1e-3)
    assert np.shape(written["rotations_deg"]) == (50, 3)


def test_a_wrong_mask_is_refused(still):
    series, brain = still
    with pytest.raises(GeometryError, match="mask has shape"):
        estimate_displacement(series, brain[1:])
    with pytest.raises(GeometryError, match="0 voxels"):
        estimate_displacement(series, np.zeros_like(brain))
    small = np.zeros_like(brain)
    small[28, 32, 5] = True
    with pytest.raises(GeometryError, match="blocks"):
        estimate_displacement(series, small)
    with pytest.raises(GeometryError, match="displacements"):
        MotionReport(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(4))
