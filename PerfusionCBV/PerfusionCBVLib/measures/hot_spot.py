"""The hottest place of a region: where a disc of a given area, wholly inside it, has the highest mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from PerfusionCBVLib.errors import UsageError

AREAS_MM2 = (0.1, 10_000.0)
"""Smallest and largest area of a hot spot."""

_PARTS = 32
"""A voxel's cover by the disc is counted on this many points along each edge."""


@dataclass(frozen=True, eq=False)
class DiscPlaces:
    """Every place where the disc lies wholly inside a region.

    Attributes
    ----------
    weights : (P, V) sparse array
        Share of the disc that each of the region's V voxels takes, for each of the P places; rows sum to 1.
    """

    weights: sparse.csr_array

    def hottest(self, values: np.ndarray) -> float:
        """Return the highest mean over the disc, of (V,) values; NaN where the disc fits nowhere."""
        return float((self.weights @ values).max()) if self.weights.shape[0] else math.nan

    def voxels(self, values: np.ndarray) -> np.ndarray:
        """Return which of the V voxels the hottest disc touches, bool; none where the disc fits nowhere."""
        touched = np.zeros(values.size, dtype=bool)
        if self.weights.shape[0]:
            best = int(np.argmax(self.weights @ values))
            start, stop = self.weights.indptr[best : best + 2]
            touched[self.weights.indices[start:stop]] = True
        return touched


def require_area(area_mm2: float) -> None:
    """Refuse what is no area of a hot spot.

    Raises
    ------
    UsageError
    """
    low, high = AREAS_MM2
    if not low <= area_mm2 <= high:
        raise UsageError(
            f"The hot-spot area is {area_mm2:g} mm²; between {low:g} and {high:g} is possible. Usual are 20 to 60 mm²."
        )


def disc_kernel(area_mm2: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return the share of the disc's area that each voxel around its centre holds; odd shape, sums to 1.

    Voxels on the rim count by the part of them that the disc covers, so that the area is the one asked for.

    Raises
    ------
    UsageError
        No area of a hot spot.
    """
    require_area(area_mm2)
    radius_mm = math.sqrt(area_mm2 / math.pi)
    along = []
    for edge in spacing_mm:
        reach = math.ceil(max(radius_mm / edge - 0.5, 0.0))
        fine = (np.arange((2 * reach + 1) * _PARTS) + 0.5) / _PARTS - reach - 0.5
        along.append(fine * edge)
    inside = along[0][:, np.newaxis] ** 2 + along[1] ** 2 <= radius_mm**2
    rows, columns = (fine.size // _PARTS for fine in along)
    cover = inside.reshape(rows, _PARTS, columns, _PARTS).sum(axis=(1, 3)).astype(np.float64)
    if cover.sum() == 0:  # smaller than the points that count it
        cover[rows // 2, columns // 2] = 1.0
    return cover / cover.sum()


def slice_axis(affine: np.ndarray) -> int:
    """Return the array axis across the slices: along the longest voxel edge; of equal ones, closest to feet–head."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if np.ptp(edges) <= 0.01 * edges.max():
        return int(np.argmax(np.abs(affine[2, :3])))
    return int(np.argmax(edges))


def disc_places(inside: np.ndarray, affine: np.ndarray, area_mm2: float) -> DiscPlaces:
    """Return where a disc of an area fits into a region, centred on voxels, within one slice as acquired.

    Parameters
    ----------
    inside : (x, y, z) bool array
        Voxels of the region that have a value. No voxel that the disc touches may lie outside.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    area_mm2 : float

    Returns
    -------
    DiscPlaces
        Without a place where the disc fits nowhere: a smaller disc would be hotter, and is never taken instead. The
        voxels are those of `inside`, in the array's order.

    Raises
    ------
    UsageError
        The area is not positive.
    """
    inside = np.ascontiguousarray(inside)
    across = slice_axis(affine)
    spacing = np.delete(np.linalg.norm(affine[:3, :3], axis=0), across)
    kernel = np.expand_dims(disc_kernel(area_mm2, (float(spacing[0]), float(spacing[1]))), across)
    fits = ndimage.binary_erosion(inside, kernel > 0)
    number = np.zeros(inside.shape, dtype=np.int32)
    number[inside] = np.arange(np.count_nonzero(inside))
    # Steps in the flat array: the disc lies inside the region, so that none leaves its row.
    steps = np.array(inside.strides) // inside.itemsize
    offsets = (np.array(np.nonzero(kernel)).T - np.array(kernel.shape) // 2) @ steps  # (K,)
    columns = number.ravel()[np.flatnonzero(fits)[:, np.newaxis] + offsets]  # (P, K)
    places, parts = columns.shape
    weights = sparse.csr_array(
        (np.tile(kernel[kernel > 0], places), columns.ravel(), np.arange(places + 1) * parts),
        shape=(places, int(np.count_nonzero(inside))),
    )
    return DiscPlaces(weights)
