"""Mirror images in a head whose plane of symmetry is known."""

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.measures.mirror import mirror_region
from PerfusionCBVLib.measures.regions import Region


@pytest.fixture(scope="module")
def head():
    return graded_head()


def mirror(head, inside, affine=None, mask=None):
    rcbv = np.where(head.volume > 0, head.volume, np.nan)
    mask = head.volume > 0 if mask is None else mask
    affine = head.series.affine if affine is None else affine
    return mirror_region(Region("tumour", inside), rcbv=rcbv, mask=mask, affine=affine)


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def turned(affine, yaw_deg, roll_deg):
    """Turn the head, not the array."""
    y, r = np.radians([yaw_deg, roll_deg])
    yaw = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    roll = np.array([[np.cos(r), 0, np.sin(r)], [0, 1, 0], [-np.sin(r), 0, np.cos(r)]])
    out = np.eye(4)
    out[:3] = yaw @ roll @ affine[:3]
    return out


@pytest.mark.parametrize("turn", [(0, 0), (8, 0), (-6, 3)])
def test_mirror_image_is_the_other_side_of_the_head_however_it_lies(head, turn):
    found = mirror(head, head.lesion, turned(head.series.affine, *turn))
    assert dice(found, head.lesion[::-1]) > 0.9
    assert not (found & head.lesion).any()
    assert found.sum() == pytest.approx(head.lesion.sum(), rel=0.1)


def test_shares_mirror_as_the_voxels_that_belong_by_half(head):
    share = np.where(head.lesion, 0.7, 0.0).astype(np.float32)
    share[head.lesion & (np.arange(head.lesion.shape[1]) < 30)[None, :, None]] = 0.2
    found = mirror(head, share)
    assert found.any()
    assert dice(found, (share >= 0.5)[::-1]) > 0.8


def test_a_region_across_the_midline_has_no_mirror_image(head):
    x = np.arange(head.lesion.shape[0])[:, None, None]
    butterfly = head.white & (x > 15) & (x < 32) & np.isin(np.arange(8), (3, 4))
    with pytest.raises(QualityError, match="tumour reaches across the midline"):
        mirror(head, butterfly)


def test_an_image_outside_the_brain_is_refused(head):
    far_right = np.arange(head.lesion.shape[0])[:, None, None] > 40
    with pytest.raises(QualityError, match="leaves the brain"):
        mirror(head, head.lesion, mask=(head.volume > 0) & ~(far_right & head.lesion[::-1]))


def test_another_grid_is_refused(head):
    with pytest.raises(GeometryError, match="region"):
        mirror(head, head.lesion[1:])
