"""Standard errors of regions: shared parts don't average out, neighbours' noise does so slowly."""

import numpy as np
import pytest

from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.measures.map_errors import COPIES, CORRELATION_MM, SharedErrors, noisy_copies, shared_errors

AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])
SHAPE = (24, 20, 8)
TOLERANCE = 4.0 / np.sqrt(2 * COPIES)  # four standard errors of a standard deviation


def copies(uncertainty, k2=0.0, shared=SharedErrors(0.0, 0.0), rcbv=2.0, inside=None, affine=AFFINE):  # noqa: B008
    inside = np.ones(SHAPE, bool) if inside is None else inside
    volumes = [np.full(SHAPE, value, np.float32) for value in (rcbv, uncertainty, k2)]
    return np.stack(list(noisy_copies(volumes[0], inside, volumes[1], volumes[2], shared, affine)))


def test_each_voxel_scatters_by_its_uncertainty():
    shared = SharedErrors(0.1, 20.0)
    found = copies(0.5, 0.01, shared)
    assert np.sqrt(found.var(axis=0, ddof=1).mean()) == pytest.approx(0.5, rel=TOLERANCE)
    assert found.mean() == pytest.approx(2.0, abs=4 * 0.5 / np.sqrt(COPIES))


@pytest.mark.parametrize("shared", [SharedErrors(0.1, 0.0), SharedErrors(0.0, 20.0)], ids=["scale", "leakage"])
def test_what_is_shared_does_not_average_out(shared):
    """A tenth of 2, or 20 s of 0.01 1/s, and nothing else: 0.2 for every voxel and for their mean."""
    found = copies(0.2, 0.01, shared)
    assert found.mean(axis=1).std(ddof=1) == pytest.approx(0.2, rel=TOLERANCE)
    np.testing.assert_allclose(found / found[:, :1], 1.0, rtol=1e-3)


@pytest.mark.parametrize("affine", [AFFINE, np.diag([1.5, 1.5, 3.0, 1.0]), np.diag([6.0, 6.0, 10.0, 1.0])])
def test_error_of_a_mean_is_that_of_the_summed_correlation(affine):
    """The mean's variance is the mean of all correlations exp(−d / length), however large the voxels."""
    at_mm = np.indices(SHAPE).reshape(3, -1).T * np.diag(affine)[:3]
    distance = np.linalg.norm(at_mm[::7, None] - at_mm[None], axis=2)
    expected = 0.5 * np.sqrt(np.exp(-distance / CORRELATION_MM).mean())
    found = copies(0.5, affine=affine).mean(axis=1).std(ddof=1)
    assert found == pytest.approx(expected, rel=TOLERANCE + 0.05)
    assert found > 0.5 / np.sqrt(np.prod(SHAPE))


def test_copies_are_the_same_in_every_run_and_follow_the_region():
    inside = np.zeros(SHAPE, bool)
    inside[3:9, 4:15, 2:5] = True
    first, second = (copies(0.5, inside=inside) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (COPIES, inside.sum())


def test_shared_parts_come_from_the_provenance_or_are_unknown():
    assert shared_errors({"uncertainty": {"scale": 0.12, "leakage_s": 31.0}}) == SharedErrors(0.12, 31.0)
    assert shared_errors({"settings": {}}) is None


def test_another_grid_is_refused():
    one, other = np.ones(SHAPE), np.ones((3, 3, 3))
    with pytest.raises(GeometryError, match="uncertainty"):
        list(noisy_copies(one, one > 0, other, one, SharedErrors(0.1, 1.0), AFFINE))
