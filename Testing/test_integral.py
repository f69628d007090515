import numpy as np
import pytest

from PerfusionCBVLib.errors import TimingError
from PerfusionCBVLib.integral import area, running_integral, trapezoid_weights


@pytest.fixture
def uneven_times_s():
    return np.cumsum(np.random.default_rng(3).uniform(0.02, 0.08, size=1200)) - 0.05


def test_area_of_a_gaussian_at_uneven_times_is_sigma_root_two_pi(uneven_times_s):
    curve = 4.0 * np.exp(-0.5 * ((uneven_times_s - 25.0) / 3.0) ** 2)
    assert area(curve, uneven_times_s, slice(None)) == pytest.approx(4.0 * 3.0 * np.sqrt(2 * np.pi), rel=1e-4)


def test_area_of_a_straight_line_is_exact_at_uneven_times():
    times_s = np.array([0.0, 1.0, 1.5, 4.0, 4.25, 9.0])
    assert area(2.0 * times_s + 1.0, times_s, slice(1, 5)) == pytest.approx((4.25**2 + 4.25) - (1.0 + 1.0), rel=1e-12)


def test_area_does_not_assume_the_mean_frame_interval():
    times_s = np.array([0.0, 1.0, 2.0, 10.0])
    curve = np.array([0.0, 0.0, 0.0, 1.0])
    assert area(curve, times_s, slice(None)) == pytest.approx(4.0)  # with the mean interval it would be 1.67


def test_frames_outside_the_window_have_no_influence_not_even_nan():
    times_s = np.arange(10.0)
    curve = np.ones(10)
    curve[[0, 9]] = np.nan
    assert area(curve, times_s, slice(1, 9)) == pytest.approx(7.0)
    assert np.isnan(area(curve, times_s, slice(0, 9)))


def test_negative_lobes_count_as_negative():
    times_s = np.arange(5.0)
    assert area(np.array([0.0, 2.0, 0.0, -5.0, 0.0]), times_s, slice(None)) == pytest.approx(-3.0)


def test_area_of_a_volume_equals_the_area_of_each_voxel():
    rng = np.random.default_rng(0)
    curves = rng.normal(size=(3, 4, 2, 20)).astype(np.float32)
    times_s = np.cumsum(rng.uniform(1.0, 2.0, 20))
    whole = area(curves, times_s, slice(4, 15))
    assert whole.dtype == np.float32
    expected = np.trapezoid(curves[..., 4:15].astype(float), times_s[4:15]) if hasattr(np, "trapezoid") else None
    if expected is None:
        expected = np.trapz(curves[..., 4:15].astype(float), times_s[4:15])  # numpy 1  # noqa: NPY201
    assert whole == pytest.approx(expected, abs=1e-5)


def test_running_integral_starts_at_zero_and_ends_at_the_area(uneven_times_s):
    curve = np.sin(uneven_times_s)
    running = running_integral(curve, uneven_times_s)
    assert running[0] == 0.0
    assert running[-1] == pytest.approx(area(curve, uneven_times_s, slice(None)))
    assert running == pytest.approx(np.cos(uneven_times_s[0]) - np.cos(uneven_times_s), abs=1e-3)


def test_weights_sum_to_the_length_of_the_window():
    times_s = np.array([0.0, 1.0, 3.0, 3.5, 8.0])
    assert trapezoid_weights(times_s, slice(1, 5)).sum() == pytest.approx(7.0)


def test_a_window_of_one_frame_is_refused():
    with pytest.raises(TimingError, match="at least 2"):
        area(np.ones(10), np.arange(10.0), slice(4, 5))
