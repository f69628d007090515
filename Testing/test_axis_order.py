"""One order of axes for all work, whatever the order of storage."""

import itertools

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from dsc_phantom import ACQUISITION
from PerfusionCBVLib import DynamicSeries
from PerfusionCBVLib.axis_order import AxisOrder

SHAPE, FRAMES = (5, 6, 4), 20
OBLIQUE = np.array([[2.0, 0.2, 0.3, -30], [-0.2, 2.1, 0.5, 12], [-0.2, -0.3, 5.0, 7], [0, 0, 0, 1.0]])
STORED = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]


def stored_as(array, affine, order, flips):
    """Return array and affine with axes permuted and turned round; written out with indices, without nibabel."""
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = flip
        if flip < 0:
            to_old[old, 3] = array.shape[old] - 1
    turned = np.transpose(array, [*order, *range(3, array.ndim)])
    return turned[tuple(slice(None, None, flip) for flip in flips)], affine @ to_old


@pytest.fixture(scope="module")
def signal():
    return np.random.default_rng(0).random((*SHAPE, FRAMES), dtype=np.float32) + 1


@pytest.mark.parametrize(("order", "flips"), STORED)
def test_every_order_of_storage_becomes_the_same_series(signal, order, flips):
    turned, affine = stored_as(signal, OBLIQUE, order, flips)
    np.testing.assert_allclose(  # the test's own turning: voxel (1, 2, 3) lies where it lay
        apply_affine(affine, np.argwhere(turned[..., 0] == signal[1, 2, 3, 0])[0]), apply_affine(OBLIQUE, (1, 2, 3))
    )
    series = DynamicSeries(turned, affine, np.arange(FRAMES) * 1.5, ACQUISITION)
    work = AxisOrder.of(affine)
    np.testing.assert_array_equal(work.series(series).signal, signal)
    np.testing.assert_allclose(work.series(series).affine, OBLIQUE, atol=1e-12)
    np.testing.assert_array_equal(work.stored(work.work(turned)), turned)


def test_nothing_is_copied(signal):
    turned, affine = stored_as(signal, OBLIQUE, (2, 0, 1), (-1, 1, -1))
    series = DynamicSeries(turned, affine, np.arange(FRAMES) * 1.5, ACQUISITION)
    assert np.shares_memory(AxisOrder.of(affine).series(series).signal, signal)


@pytest.mark.parametrize(
    ("edges_mm", "along"),
    [((2, 2, 5), "RAS"), ((1, 1, 1), "RAS"), ((2, 5, 2), "RSA"), ((5, 2, 2), "ASR"), ((3.6, 3.6, 3), "RAS")],
    ids=["axial", "isotropic", "coronal slices", "sagittal slices", "slices thinner than pixels"],
)
def test_slices_are_the_planes_of_acquisition(edges_mm, along):
    affine = np.diag([*edges_mm, 1.0]).astype(float)
    series = DynamicSeries(np.ones((*SHAPE, FRAMES), np.float32), affine, np.arange(FRAMES) * 1.5, ACQUISITION)
    assert "".join(aff2axcodes(AxisOrder.of(affine).series(series).affine)) == along
