"""Weighted statistics against NumPy's, and against voxels written down as often as they weigh."""

import numpy as np
import pytest

from PerfusionCBVLib.measures.weighted import weighted_class_shares, weighted_mean, weighted_percentiles, weighted_sd

VALUES = np.random.default_rng(0).gamma(3.0, 0.6, 401)
ONES = np.ones(VALUES.size)
PERCENT = (5, 10, 25, 50, 75, 90, 95)


def test_equal_weights_give_numpys_statistics():
    for weight in (1.0, 0.3):
        weights = weight * ONES
        assert weighted_mean(VALUES, weights) == pytest.approx(VALUES.mean(), rel=1e-12)
        assert weighted_sd(VALUES, weights) == pytest.approx(VALUES.std(ddof=1), rel=1e-9)
        expected = np.percentile(VALUES, PERCENT, method="hazen")
        np.testing.assert_allclose(weighted_percentiles(VALUES, weights, PERCENT), expected, rtol=1e-9)


def test_a_weight_of_three_is_three_voxels():
    times = np.random.default_rng(1).integers(1, 4, VALUES.size)
    repeated = np.repeat(VALUES, times)
    weights = times.astype(float)
    assert weighted_mean(VALUES, weights) == pytest.approx(repeated.mean(), rel=1e-12)
    cuts = (1.0, 1.75)
    shares = [np.mean(repeated <= 1.0), np.mean((repeated > 1.0) & (repeated < 1.75)), np.mean(repeated >= 1.75)]
    np.testing.assert_allclose(weighted_class_shares(VALUES, weights, cuts), shares, rtol=1e-9)
    # Between neighbouring values, for repeated voxels are a step where one heavy voxel is a slope.
    found = weighted_percentiles(VALUES, weights, PERCENT)
    ordered = np.sort(VALUES)
    at = np.searchsorted(ordered, np.percentile(repeated, PERCENT, method="hazen"))
    assert (found >= ordered[np.maximum(at - 2, 0)]).all()
    assert (found <= ordered[np.minimum(at + 2, VALUES.size - 1)]).all()


def test_a_voxel_that_hardly_belongs_hardly_counts():
    values, weights = np.array([1.0, 2.0, 3.0, 1000.0]), np.array([1.0, 1.0, 1.0, 1e-9])
    assert weighted_mean(values, weights) == pytest.approx(2.0, abs=1e-5)
    assert weighted_percentiles(values, weights, (50,))[0] == pytest.approx(2.0, abs=1e-6)


def test_classes_hold_their_own_boundaries_and_sum_to_one():
    values = np.array([0.5, 1.0, 1.0000001, 1.7499999, 1.75, 9.0])
    assert weighted_class_shares(values, np.ones(6), (1.0, 1.75)) == pytest.approx((2 / 6, 2 / 6, 2 / 6))
    assert sum(weighted_class_shares(VALUES, ONES, (0.9, 2.0))) == pytest.approx(1.0, abs=1e-12)


def test_a_single_voxel_has_no_spread():
    assert np.isnan(weighted_sd(np.array([2.0]), np.array([0.4])))
