"""The standard scale: what it does to a brain's histogram, and what can't change it."""

import json
from importlib import resources

import numpy as np
import pytest

from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.measures.standard_scale import standard_landmarks, standardise

MASK = np.zeros((20, 20, 6), bool)
MASK[2:18, 2:18] = True


def brain(seed=0):
    values = np.random.default_rng(seed).gamma(3.0, 0.6, MASK.shape)
    return np.where(MASK, values, np.nan)


def test_the_brains_percentiles_come_to_lie_on_the_landmarks():
    percent, landmarks = standard_landmarks()
    np.testing.assert_allclose(np.percentile(standardise(brain(), MASK)[MASK], percent), landmarks, atol=0.01)


def test_a_factor_on_the_map_cancels_out_and_a_tumours_place_in_the_order_stays():
    tumour = brain()
    tumour[8:12, 8:12, 2:4] *= 3
    found = standardise(tumour, MASK)
    np.testing.assert_allclose(standardise(37.0 * tumour, MASK), found, rtol=1e-5)
    order = np.argsort(tumour[MASK])
    assert (np.diff(found[MASK][order]) >= -1e-6).all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(tumour))


def test_a_brain_that_has_the_standard_histogram_is_left_as_it_is_to_its_hottest_voxel():
    percent, landmarks = standard_landmarks()
    values = np.full(MASK.shape, np.nan)
    rank = np.linspace(0, 100, MASK.sum())
    middle = percent.size // 2
    values[MASK] = np.interp(rank, percent, landmarks)
    top, bottom = rank > percent[-1], rank < percent[0]
    values[MASK] = np.where(top, landmarks[-1] + (rank - percent[-1]) / 5, values[MASK])
    values[MASK] = np.where(bottom, landmarks[0] - (percent[0] - rank) / 50, values[MASK])
    assert middle
    np.testing.assert_allclose(standardise(values, MASK)[MASK], values[MASK], atol=0.01)


def test_the_landmarks_say_how_they_came_about():
    content = json.loads(resources.files("PerfusionCBVLib.measures").joinpath("standard_scale.json").read_text("utf-8"))
    percent, landmarks = standard_landmarks()
    assert content["made_by"].startswith("python Testing/make_standard_scale.py")
    assert percent.size == landmarks.size
    assert (np.diff(percent) > 0).all()
    assert (np.diff(landmarks) > 0).all()


def test_a_map_without_different_values_is_refused():
    with pytest.raises(QualityError, match="different"):
        standardise(np.ones(MASK.shape), MASK)
    with pytest.raises(QualityError, match="0 values"):
        standardise(brain(), np.zeros(MASK.shape, bool))
    with pytest.raises(GeometryError):
        standardise(brain(), MASK[1:])
