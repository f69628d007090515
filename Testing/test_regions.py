import numpy as np
import pytest

from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.measures.regions import Region


def test_a_mask_covers_its_voxels_wholly_and_shares_are_kept():
    mask = np.zeros((3, 3, 2), bool)
    mask[1, 1] = True
    assert Region("a", mask).share.sum() == 2.0
    share = np.array([[[0.0, 0.2, 0.49, 0.5, 1.0]]])
    region = Region("b", share)
    np.testing.assert_allclose(region.share, share)
    np.testing.assert_array_equal(region.mostly, [[[False, False, False, True, True]]])


def test_a_region_can_be_changed_neither_through_the_callers_array_nor_through_its_own():
    mask = np.ones((2, 2, 2), np.float32)
    region = Region("a", mask)
    mask[0] = 0
    assert region.share.sum() == 8.0
    with pytest.raises(ValueError, match="read-only"):
        region.share[0, 0, 0] = 0.0


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (np.ones((3, 3)), "2 dimensions"),
        (np.zeros((2, 2, 2)), "no voxel"),
        (np.full((2, 2, 2), 3.0), "3"),
        (np.full((2, 2, 2), -0.5), "-0.5"),
        (np.full((2, 2, 2), np.nan), "nan"),
    ],
)
def test_what_is_no_region_is_refused_by_name(share, words):
    with pytest.raises(GeometryError, match=f"tumour.*{words}"):
        Region("tumour", share)
