import numpy as np
import pytest

from PerfusionCBVLib.concentration import Status, delta_r2s, voxel_status
from PerfusionCBVLib.errors import TimingError

BASELINE = slice(2, 8)
TE = 0.03


def signal_of(curve_per_s, echo_time_s=TE, s0=500.0):
    return s0 * np.exp(-echo_time_s * np.asarray(curve_per_s, dtype=np.float64))


@pytest.fixture
def curve_per_s():
    frames = np.arange(40.0)
    return 9.0 * np.exp(-(((frames - 15.0) / 3.0) ** 2)) * (frames >= 8)


def test_delta_r2s_inverts_the_signal_equation(curve_per_s):
    assert delta_r2s(signal_of(curve_per_s), echo_time_s=TE, baseline=BASELINE) == pytest.approx(curve_per_s, abs=1e-12)


def test_ten_percent_loss_at_30_ms_is_3_51_per_second():
    signal = np.full(20, 200.0)
    signal[12] = 180.0
    assert delta_r2s(signal, echo_time_s=0.030, baseline=BASELINE)[12] == pytest.approx(3.512017, rel=1e-6)


def test_half_the_echo_time_doubles_delta_r2s(curve_per_s):
    signal = signal_of(curve_per_s)
    once = delta_r2s(signal, echo_time_s=TE, baseline=BASELINE)
    assert delta_r2s(signal, echo_time_s=TE / 2, baseline=BASELINE) == pytest.approx(2.0 * once)


def test_negative_delta_r2s_is_kept(curve_per_s):
    curve_per_s[25:] = -4.0  # T1 leakage: brighter than before the bolus
    out = delta_r2s(signal_of(curve_per_s), echo_time_s=TE, baseline=BASELINE)
    assert out[25:] == pytest.approx(-4.0)


def test_non_steady_first_frames_do_not_enter_the_baseline(curve_per_s):
    signal = signal_of(curve_per_s)
    signal[:2] *= 1.5
    assert delta_r2s(signal, echo_time_s=TE, baseline=BASELINE)[2:] == pytest.approx(curve_per_s[2:], abs=1e-12)


@pytest.mark.parametrize("bad", [0.0, -3.0, np.nan, np.inf])
def test_unusable_sample_is_nan_and_only_that_sample(curve_per_s, bad):
    signal = signal_of(curve_per_s)
    signal[20] = bad
    assert np.flatnonzero(np.isnan(delta_r2s(signal, echo_time_s=TE, baseline=BASELINE))).tolist() == [20]


@pytest.mark.parametrize("bad", [0.0, -3.0, np.nan, np.inf])
def test_unusable_baseline_sample_makes_the_voxel_nan_and_leaves_its_neighbour(curve_per_s, bad):
    signal = np.stack([signal_of(curve_per_s)] * 2)
    signal[0, 4] = bad
    out = delta_r2s(signal, echo_time_s=TE, baseline=BASELINE)
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_float32_stays_float32_and_agrees_with_float64(curve_per_s):
    signal = signal_of(curve_per_s)
    single = delta_r2s(signal.astype(np.float32), echo_time_s=TE, baseline=BASELINE)
    assert single.dtype == np.float32
    assert single == pytest.approx(curve_per_s, abs=2e-5)
    assert delta_r2s(np.round(signal).astype(np.int16), echo_time_s=TE, baseline=BASELINE).dtype == np.float32


def test_input_is_left_alone(curve_per_s):
    signal = signal_of(curve_per_s)
    signal.setflags(write=False)
    delta_r2s(signal, echo_time_s=TE, baseline=BASELINE)


@pytest.mark.parametrize("echo_time", [30.0, 0.0, -0.03, np.nan])
def test_echo_time_in_milliseconds_is_refused(curve_per_s, echo_time):
    with pytest.raises(TimingError, match="seconds"):
        delta_r2s(signal_of(curve_per_s), echo_time_s=echo_time, baseline=BASELINE)


def test_empty_baseline_is_refused(curve_per_s):
    with pytest.raises(TimingError, match="baseline"):
        delta_r2s(signal_of(curve_per_s), echo_time_s=TE, baseline=slice(5, 5))


def test_status_names_why_a_voxel_has_no_value():
    rng = np.random.default_rng(0)
    curve = 9.0 * np.exp(-(((np.arange(40.0) - 15.0) / 3.0) ** 2))
    signal = signal_of(np.tile(curve, (2, 3, 2, 1))) + rng.normal(scale=5.0, size=(2, 3, 2, 40))
    mask = np.ones((2, 3, 2), dtype=bool)
    mask[0, 0, 0] = False
    signal[0, 0, 1, 2:8] = 0.0  # no baseline
    signal[0, 1, 0, 30] = np.nan
    signal[0, 1, 1, 15] = 0.0
    signal[0, 2, 0, 20] = np.inf
    signal[1, 0, 0, 14:17] = 7.0  # below 3 × 5
    status = voxel_status(signal, mask, baseline=BASELINE, first_pass=slice(8, 25))
    assert status[0, 0, 0] == Status.OUTSIDE
    assert status[0, 0, 1] == Status.NO_SIGNAL
    assert status[0, 1, 0] == status[0, 1, 1] == status[0, 2, 0] == Status.INVALID_SAMPLES
    assert status[1, 0, 0] == Status.SATURATED
    assert np.count_nonzero(status == Status.VALID) == 6
    assert status.dtype == np.uint8


def test_status_with_a_value_is_exactly_where_delta_r2s_is_finite():
    rng = np.random.default_rng(1)
    signal = rng.normal(100.0, 3.0, size=(200, 30))
    signal[rng.random(signal.shape) < 0.01] = 0.0
    status = voxel_status(signal, np.ones(200, dtype=bool), baseline=BASELINE, first_pass=slice(8, 20))
    finite = np.isfinite(delta_r2s(signal, echo_time_s=TE, baseline=BASELINE)).all(axis=-1)
    assert 0 < finite.sum() < 200
    assert [Status(int(s)).has_value for s in status] == finite.tolist()
