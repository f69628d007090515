"""The hot spot against brute force: every place tried, every disc counted on fine points."""

import numpy as np
import pytest
from scipy import ndimage

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.measures.hot_spot import disc_kernel, disc_places, slice_axis

AFFINE = np.diag([1.6, 2.1, 5.0, 1.0])


def smooth_blob(seed, shape=(24, 20, 4)):
    g = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(g.normal(size=shape), (1.5, 1.5, 0.5)) * 5 + 2
    inside = ndimage.gaussian_filter(g.normal(size=shape), (3, 3, 1)) > 0.0
    return values, inside


def brute_force(values, inside, spacing, area_mm2):
    """Return the highest mean: each voxel of a slice as centre, the disc cut into squares of 0.04 mm."""
    radius = np.sqrt(area_mm2 / np.pi)
    step = np.arange(-radius - 0.05, radius + 0.05, 0.04) + 0.02
    x, y = np.meshgrid(step, step, indexing="ij")
    x, y = x[np.hypot(x, y) <= radius], y[np.hypot(x, y) <= radius]
    best = np.nan
    for k in range(values.shape[2]):
        for i, j in np.argwhere(inside[:, :, k]):
            at_x, at_y = (np.floor(p / e + 0.5).astype(int) + c for p, e, c in ((x, spacing[0], i), (y, spacing[1], j)))
            if min(at_x.min(), at_y.min()) < 0 or at_x.max() >= values.shape[0] or at_y.max() >= values.shape[1]:
                continue
            if inside[at_x, at_y, k].all():
                best = np.fmax(best, values[at_x, at_y, k].mean())
    return best


@pytest.mark.parametrize(("seed", "area_mm2"), [(0, 12.0), (1, 40.0)])
def test_hot_spot_is_brute_forces(seed, area_mm2):
    values, inside = smooth_blob(seed)
    found = disc_places(inside, AFFINE, area_mm2).hottest(values[inside])
    assert found == pytest.approx(brute_force(values, inside, (1.6, 2.1), area_mm2), abs=0.01)
    assert found < values[inside].max() - 0.05


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 2.5), (0.9, 1.7), (9.0, 9.0)])
def test_disc_has_the_area_asked_for_whatever_the_voxel(spacing):
    for area_mm2 in (20.0, 45.0):
        kernel = disc_kernel(area_mm2, spacing)
        assert kernel.sum() == pytest.approx(1.0)
        if kernel.max() < 0.999:  # the middle voxel lies wholly inside: its share is its own area over the disc's
            assert np.prod(spacing) / kernel.max() == pytest.approx(area_mm2, rel=0.01)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1])


def test_region_that_is_smaller_than_the_disc_has_no_hot_spot():
    values = np.ones((20, 20, 4))
    inside = np.zeros(values.shape, bool)
    inside[8:11, 8:11, 1:3] = True  # 30 mm² in a slice
    places = disc_places(inside, AFFINE, 40.0)
    assert np.isnan(places.hottest(values[inside]))
    assert not places.voxels(values[inside]).any()
    assert disc_places(inside, AFFINE, 6.0).hottest(values[inside]) == pytest.approx(1.0)


def test_disc_lies_in_the_acquired_slice_and_touches_the_hot_voxels_only():
    affine = np.array([[0, 0, 2.0, 0], [6.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1.0]])  # coronal, slices first
    assert slice_axis(affine) == 0
    assert slice_axis(np.diag([2.0, 2.0, 2.0, 1.0])) == 2
    assert slice_axis(affine[:, [1, 0, 2, 3]]) == 1
    values = np.ones((5, 15, 15))
    values[3, 5:10, 6:11] = 4.0
    inside = np.ones(values.shape, bool)
    places = disc_places(inside, affine, 40.0)
    assert places.hottest(values[inside]) == pytest.approx(4.0)
    touched = places.voxels(values[inside]).reshape(values.shape)
    assert touched.any()
    assert (values[touched] == 4.0).all()


@pytest.mark.parametrize("area_mm2", [0.0, -3.0, float("nan"), float("inf")])
def test_an_impossible_area_is_refused(area_mm2):
    with pytest.raises(UsageError, match=r"between 0\.1 and 10000"):
        disc_kernel(area_mm2, (1.0, 1.0))
