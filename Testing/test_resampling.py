"""Maps and segments on another grid, against SimpleITK's resampling, analytic boxes, and limits."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own documentation's name

from PerfusionCBVLib.alignment.resampling import blur_like, on_grid, resample, segment_share
from PerfusionCBVLib.errors import GeometryError
from test_rigid import turned

THICK = np.array([[-1.8, 0, 0, 60], [0, 1.8, 0, -70], [0, 0, 5.0, -40], [0, 0, 0, 1]])
FINE = np.diag([1.0, 1.0, 1.0, 1.0])
FINE[:3, 3] = [-50, -60, -45]
MOVE = turned((1, 0.5, -0.3), 9, (4, -6, 7))


def itk(values, affine):
    """Independent of the library: LPS, as ITK has it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    edges = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in edges])
    image.SetDirection([float(v) for v in (lps[:3, :3] / edges).ravel()])
    image.SetOrigin([float(v) for v in lps[:3, 3]])
    return image


def test_a_known_transform_gives_what_simpleitk_gives():
    values = np.random.default_rng(0).random((60, 70, 18)).astype(np.float32)
    shape = (100, 110, 90)
    ours = resample(values, THICK, shape, FINE, MOVE)
    flip = np.diag([-1.0, -1, 1, 1])
    back = flip @ np.linalg.inv(MOVE) @ flip
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(back[:3, :3].ravel().tolist())
    transform.SetTranslation(back[:3, 3].tolist())
    reference = itk(np.zeros(shape, np.float32), FINE)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(itk(values, THICK), reference, transform, sitk.sitkLinear, float("nan"))
    ).T
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert both.sum() > 200_000
    assert np.mean(np.isfinite(ours) != np.isfinite(theirs)) < 1e-4
    np.testing.assert_allclose(ours[both], theirs[both], atol=2e-5)


def test_the_identity_changes_nothing():
    values = np.random.default_rng(1).random((12, 13, 9)).astype(np.float32)
    values[3:5, 4, 2] = np.nan
    np.testing.assert_allclose(resample(values, THICK, values.shape, THICK), values, atol=1e-5)


def test_there_and_back_gives_a_smooth_map_again():
    x, y, z = np.indices((60, 70, 18)) * np.array([1.8, 1.8, 5.0])[:, None, None, None]
    smooth = (2 + np.sin(x / 25) + np.cos(y / 30) + z / 90).astype(np.float32)
    there = resample(smooth, THICK, (150, 160, 120), FINE, MOVE)
    back = resample(there, FINE, smooth.shape, THICK, np.linalg.inv(MOVE))
    known = np.isfinite(back)
    assert known.mean() > 0.5
    assert np.abs(back - smooth)[known].mean() < 0.01
    assert np.abs(back - smooth)[2:-2, 2:-2, 2:-2][known[2:-2, 2:-2, 2:-2]].max() < 0.1


def test_no_value_enters_from_outside_the_mask():
    values = np.full((30, 30, 12), np.nan, dtype=np.float32)
    values[8:20, 8:22, 3:9] = 3.0
    moved = resample(values, THICK, (100, 110, 90), FINE, MOVE)
    known = moved[np.isfinite(moved)]
    np.testing.assert_allclose(known, 3.0, rtol=1e-5)
    volume_ml = 12 * 14 * 6 * 1.8 * 1.8 * 5 / 1000
    assert known.size / 1000 == pytest.approx(volume_ml, rel=0.08)  # corners are rounded


def box_share(low, high, shape, affine):
    """Share of each voxel of a grid without turn in a box, RAS in mm: the product of the overlaps along the axes."""
    share = np.ones(shape)
    for axis, n in enumerate(shape):
        centre = np.arange(n) * affine[axis, axis] + affine[axis, 3]
        half = abs(affine[axis, axis]) / 2
        overlap = np.clip(np.minimum(centre + half, high[axis]) - np.maximum(centre - half, low[axis]), 0, None)
        share *= (overlap / (2 * half)).reshape([-1 if a == axis else 1 for a in range(3)])
    return share


def test_the_share_of_a_box_is_the_product_of_its_overlaps():
    segment = np.zeros((100, 110, 90), dtype=bool)
    segment[33:61, 40:77, 21:38] = True
    low = np.array([33, 40, 21]) - 0.5 + FINE[:3, 3]
    high = np.array([61, 77, 38]) - 0.5 + FINE[:3, 3]
    shift = np.eye(4)
    shift[:3, 3] = [0.7, -0.4, 1.3]  # from the map's space to the segment's
    share = segment_share(segment, FINE, (60, 70, 18), THICK, shift)
    exact = box_share(low - shift[:3, 3], high - shift[:3, 3], (60, 70, 18), THICK)
    assert np.abs(share - exact).max() < 0.08  # a quarter of a millimetre in 1.8, along two axes at a corner
    assert np.abs(share - exact).mean() < 0.001
    assert share.sum() == pytest.approx(exact.sum(), rel=0.005)
    assert np.ptp(share[exact == 1]) == 0
    assert share[exact == 0].max() == 0


def test_a_turned_segment_keeps_its_volume_and_its_centre():
    index = np.indices((100, 110, 90)).reshape(3, -1)
    inside = ((index.T - [48, 55, 44]) ** 2 / np.array([20, 14, 11]) ** 2).sum(axis=1) < 1
    segment = inside.reshape(100, 110, 90)
    share = segment_share(segment, FINE, (70, 80, 20), THICK, MOVE)
    voxel_mm3 = 1.8 * 1.8 * 5
    assert share.sum() * voxel_mm3 == pytest.approx(segment.sum(), rel=0.003)
    index = np.indices(share.shape).reshape(3, -1)
    centre = THICK[:3, :3] @ (index @ share.ravel() / share.sum()) + THICK[:3, 3]
    true = np.linalg.inv(MOVE) @ [*(np.argwhere(segment).mean(axis=0) + FINE[:3, 3]), 1]
    np.testing.assert_allclose(centre, true[:3], atol=0.05)


def test_a_segment_finer_than_a_slice_is_weighed_and_not_lost():
    segment = np.zeros((100, 110, 90), dtype=bool)
    segment[50:53, 60:63, 40:42] = True
    share = segment_share(segment, FINE, (60, 70, 18), THICK)
    assert share.sum() * 1.8 * 1.8 * 5 == pytest.approx(18, rel=0.06)
    assert share.max() < 0.5


def test_an_empty_segment_and_one_far_away_have_no_share_and_a_series_is_refused():
    segment = np.zeros((20, 20, 20), dtype=bool)
    assert segment_share(segment, FINE, (10, 10, 5), THICK).max() == 0
    segment[3, 3, 3] = True
    far = FINE.copy()
    far[:3, 3] = 500
    assert segment_share(segment, far, (10, 10, 5), THICK).max() == 0
    with pytest.raises(GeometryError, match="3 dimensions"):
        segment_share(np.ones((4, 4, 4, 2)), FINE, (10, 10, 5), THICK)


def test_blurring_to_thick_slices_gives_their_variance():
    sigma = blur_like(0.0, THICK, FINE)
    np.testing.assert_allclose(sigma**2, np.array([1.8, 1.8, 5.0]) ** 2 / 12)
    dot = np.zeros((41, 41, 61), dtype=np.float32)
    dot[20, 20, 30] = 1
    blurred = on_grid(dot, (1.0, 1.0, 1.0), np.array([2.0, 2.0, 3.0]), 1.0).values
    along = blurred.sum(axis=(0, 1))
    spread = np.sum(along * (np.arange(61) - 30) ** 2) / along.sum()
    assert spread + 1 / 12 == pytest.approx(9.0, rel=0.04)  # with the voxel's own variance
