"""The mirror image of a region on the other side of the brain, as a reference for it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.brain_space import BrainSpace
from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.measures.regions import Region

LARGEST_SHARE_OUTSIDE = 0.05
"""Of the mirror image's volume; no brain is quite symmetric, so its rim may lie outside and is left out."""


def mirror_region(region: Region, *, rcbv: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the mirror image of a region in the brain's mid-sagittal plane, to be shown, saved and measured.

    The plane is the one by which the reference region is found: where the brain's outline and blood volume mirror
    themselves best.

    Parameters
    ----------
    region : Region
    rcbv : (x, y, z) array
        NaN where undefined.
    mask : (x, y, z) bool array
        Brain.
    affine : (4, 4) array
        Voxel index to RAS, mm.

    Returns
    -------
    (x, y, z) bool array

    Raises
    ------
    GeometryError
        The arrays are not on one grid.
    QualityError
        The image overlaps the region, which then crosses the midline, or leaves the brain.
    """
    for name, array in (("mask", mask), ("region", region.share)):
        if array.shape != rcbv.shape:
            raise GeometryError(f"The {name} has the grid {array.shape}, the map {rcbv.shape}; they must be the same.")
    if not mask.any():
        raise QualityError("The brain mask is empty, so that nothing can be mirrored in it. Map the series again.")
    defined = mask & np.isfinite(rcbv)
    blood = np.where(defined, rcbv, 0.0).astype(np.float32)
    typical = float(np.median(blood[defined])) if defined.any() else 0.0
    np.clip(blood, -2.0 * typical, 5.0 * typical, out=blood)  # vessels, as in `normalize.find_nawm`
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    space = BrainSpace(np.asarray(affine, dtype=np.float64), box, mask[box], blood[box])
    start = np.array([s.start for s in box])[:, np.newaxis]
    everywhere = np.indices(mask.shape).reshape(3, -1)
    there = space.mirrored(everywhere - start) + start
    sampled = ndimage.map_coordinates(np.asarray(region.share, dtype=np.float32), there, order=1, mode="constant")
    image = sampled.reshape(mask.shape) >= 0.5
    # What falls beside the image grid is lost in `image`; the region's own volume tells.
    expected = max(int(np.count_nonzero(region.mostly)), 1)
    inside = int(np.count_nonzero(image & mask))
    overlap = int(np.count_nonzero(image & (region.share > 0)))
    if overlap:
        raise QualityError(
            f"{region.name} reaches across the midline: its mirror image shares {overlap} voxels with it, so that it "
            "is no reference for it. Draw a reference region on the other side by hand."
        )
    if inside < (1.0 - LARGEST_SHARE_OUTSIDE) * expected:
        raise QualityError(
            f"The mirror image of {region.name} leaves the brain: {1 - inside / expected:.0%} of its volume lies "
            f"outside, {LARGEST_SHARE_OUTSIDE:.0%} at most is expected. Draw a reference region by hand."
        )
    return np.asarray(image & mask)
