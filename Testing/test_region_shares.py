"""Regions on the grid that they were drawn on, and what they cover of a map's voxels."""

import nibabel as nib
import numpy as np
import pytest

from PerfusionCBVLib.alignment.region_shares import as_drawn, read_drawn, region_on, share_on
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.measures.region_files import read_regions
from PerfusionCBVLib.measures.regions import DrawnRegion

SHAPE, AFFINE = (12, 10, 6), np.array([[-2.0, 0, 0, 12], [0, 2.0, 0, -10], [0, 0, 5.0, -15], [0, 0, 0, 1]])


def anatomy():
    """1 mm voxels, turned by 7 degrees about the feet-head axis."""
    c, s = np.cos(np.radians(7)), np.sin(np.radians(7))
    affine = np.array([[c, -s, 0, -9], [s, c, 0, -12], [0, 0, 1, -14], [0, 0, 0, 1]])
    return Volume(np.zeros((20, 18, 24)), affine, "T1 post")


def ball(shape, affine):
    """A ball of 6 mm about (1, -1, 0) in the patient."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - (1, -1, 0), axis=-1) <= 6


def save(path, values, affine):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_on_the_maps_own_voxels_a_region_covers_whole_voxels(tmp_path):
    path = save(tmp_path / "a.nii.gz", ball(SHAPE, AFFINE).astype(np.uint8), AFFINE)
    found = read_drawn(path, SHAPE, AFFINE, anatomy())
    assert not found.on_anatomy
    np.testing.assert_array_equal(share_on(found.regions[0], SHAPE, AFFINE), ball(SHAPE, AFFINE))
    # The same by sampling, and from the part of the grid that is drawn on.
    cut = AFFINE.copy()
    cut[:3, 3] = (AFFINE @ (2, 1, 1, 1))[:3]
    part = DrawnRegion("part", ball(SHAPE, AFFINE)[2:11, 1:9, 1:5], cut)
    np.testing.assert_array_equal(share_on(part, SHAPE, AFFINE), ball(SHAPE, AFFINE))


def test_a_region_of_the_anatomy_keeps_its_volume_and_its_terms_on_the_map(tmp_path):
    volume = anatomy()
    inside = ball(volume.values.shape, volume.affine)
    found = read_drawn(save(tmp_path / "a.nii.gz", inside.astype(np.uint8), volume.affine), SHAPE, AFFINE, volume)
    assert found.on_anatomy
    assert list(found.source["sha256"]) == ["a.nii.gz"]
    terms = ("49755003", "SCT", "Morphologically Altered Structure"), ("108369006", "SCT", "Neoplasm")
    tumour = DrawnRegion("Tumour", found.regions[0].voxels, volume.affine, *terms)
    region = region_on(tumour, SHAPE, AFFINE)
    assert (region.category, region.kind) == terms
    assert region.share.sum() * 20 == pytest.approx(inside.sum() * 1.0, rel=0.01)
    assert np.any((region.share > 0) & (region.share < 1))
    centre = np.argwhere(region.share > 0).T @ region.share[region.share > 0] / region.share.sum()
    np.testing.assert_allclose((AFFINE @ (*centre, 1))[:3], (1, -1, 0), atol=0.1)


def test_what_is_drawn_on_neither_grid_or_is_no_label_is_refused(tmp_path):
    foreign = save(tmp_path / "a.nii.gz", np.ones((5, 5, 5), np.uint8), np.diag([3.0, 3, 3, 1]))
    with pytest.raises(GeometryError, match="neither on the maps' voxels nor on those of T1 post"):
        read_drawn(foreign, SHAPE, AFFINE, anatomy())
    with pytest.raises(GeometryError, match="--anatomy"):
        read_drawn(foreign, SHAPE, AFFINE, None)
    with pytest.raises(UnreadableInputError, match="no label map"):
        read_drawn(save(tmp_path / "b.nii.gz", np.full(SHAPE, 0.3), AFFINE), SHAPE, AFFINE, None)


def test_what_lies_beside_the_map_or_has_no_three_axes_is_refused():
    far = AFFINE.copy()
    far[:3, 3] += 200
    with pytest.raises(GeometryError, match="covers no voxel"):
        region_on(DrawnRegion("far", np.ones(SHAPE), far), SHAPE, AFFINE)
    with pytest.raises(GeometryError, match="2 dimensions"):
        DrawnRegion("flat", np.ones((3, 3)), AFFINE)


def test_what_was_read_for_a_grid_is_drawn_on_it(tmp_path):
    path = save(tmp_path / "a.nii.gz", ball(SHAPE, AFFINE).astype(np.uint8), AFFINE)
    (one,) = as_drawn(read_regions(path, SHAPE, AFFINE), AFFINE)
    assert one.name == "label 1"
    np.testing.assert_array_equal(one.voxels, ball(SHAPE, AFFINE))


def test_rounding_of_a_files_geometry_does_not_change_the_shares():
    """A map's edge of 2 mm is eight steps of 0.25 mm, also when its file says 2.0000001."""
    volume = anatomy()
    exact = DrawnRegion("ball", ball(volume.values.shape, volume.affine), volume.affine)
    rounded = DrawnRegion("ball", exact.voxels, volume.affine.astype(np.float32))
    slightly_longer = AFFINE @ np.diag([1 + 5e-8, 1 + 5e-8, 1 + 5e-8, 1])
    np.testing.assert_allclose(share_on(rounded, SHAPE, slightly_longer), share_on(exact, SHAPE, AFFINE), atol=1e-6)
