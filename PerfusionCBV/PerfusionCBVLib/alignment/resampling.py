"""From one grid to another through a rigid transform: maps once and linearly, segments as shares of voxels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.errors import GeometryError

LEAST_WEIGHT = 0.5
"""A point has a value where voxels with a value make up at least half of the interpolation: nearly the same region."""

SAMPLES_PER_VOXEL, CLOSEST_SAMPLE_MM = 4, 0.25
"""A voxel at a segment's border is sampled at this many points along each edge of a segment's voxel, or this close."""

_VOXELS_AT_ONCE = 2_000_000


def resample(
    values: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...],
    target_affine: np.ndarray,
    matrix: np.ndarray | None = None,
) -> np.ndarray:
    """Return a map on another grid by one linear interpolation in which only voxels with a value take part.

    A voxel that is NaN gives nothing and takes nothing: what lies beside it is weighted up, as long as that makes up at
    least half of the weight. So no 0 from outside the mask enters, and the region stays about as large as it was.

    Parameters
    ----------
    values : (x, y, z) array
        NaN where undefined.
    affine : (4, 4) array
        Of `values`, voxel index to RAS, mm.
    shape, target_affine
        The grid of the result.
    matrix : (4, 4) array, optional
        Takes the map's RAS to the target's RAS, mm (`Registration.matrix`); None where both share one space.

    Returns
    -------
    (x', y', z') float32 array
        NaN outside the map and where it is undefined. Up to half a voxel beyond the outermost voxel centres counts as
        inside.
    """
    to_source = _index_map(affine, target_affine, matrix)
    source_shape = np.array(values.shape)
    valid = np.isfinite(values)
    filled = np.where(valid, values, 0.0).astype(np.float32)
    options = {"output_shape": tuple(shape), "order": 1, "mode": "nearest", "output": np.float32}
    total = ndimage.affine_transform(filled, to_source[:3, :3], to_source[:3, 3], **options)
    if not valid.all():
        weight = ndimage.affine_transform(valid.astype(np.float32), to_source[:3, :3], to_source[:3, 3], **options)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(weight >= LEAST_WEIGHT, total / weight, np.nan)
    total[~_inside(to_source, tuple(shape), source_shape)] = np.nan
    return np.asarray(total, dtype=np.float32)


def segment_share(
    segment: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...],
    target_affine: np.ndarray,
    matrix: np.ndarray | None = None,
) -> np.ndarray:
    """Return how much of each voxel of a grid lies in a segment that was drawn on another one.

    For measuring a native map on a segment of the anatomy: the sum of share × value over the sum of shares is the mean
    over the segment's volume. Voxels are boxes on both grids. A voxel near the segment's border is sampled at
    quarters of the segment's voxels, as many along a thick slice as it takes; voxels away from it are 0 or 1.

    Parameters
    ----------
    segment : (x, y, z) array
        Non-zero inside.
    affine : (4, 4) array
        Of the segment, voxel index to RAS, mm.
    shape, target_affine
        The grid of the map.
    matrix : (4, 4) array, optional
        Takes the *map's* RAS to the *segment's* RAS, mm: `Registration.matrix` of the map's series registered to the
        volume on which the segment was drawn. None where both share one space.

    Returns
    -------
    (x', y', z') float32 array
        0 to 1.

    Raises
    ------
    GeometryError
        The segment is not three-dimensional.
    """
    segment = np.nan_to_num(np.asarray(segment, dtype=np.float32)) != 0
    if segment.ndim != 3:
        raise GeometryError(f"A segment has 3 dimensions (x, y, z), found {segment.ndim}. Pass one segment.")
    share = np.zeros(shape, dtype=np.float32)
    if not segment.any():
        return share
    # From an index of the map to an index of the segment.
    to_segment = np.linalg.inv(affine) @ (np.eye(4) if matrix is None else matrix) @ target_affine
    reach = 0.5 * np.abs(to_segment[:3, :3]).sum(axis=1)  # half extent of a map's voxel, in the segment's voxels
    box, corner = _box(segment, int(np.ceil(reach.max())) + 2)
    target = _target_box(to_segment, segment.shape, box, tuple(shape))
    if any(s.start >= s.stop for s in target):
        return share
    index = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in target], indexing="ij"), axis=-1).reshape(-1, 3)
    centre = index @ to_segment[:3, :3].T + to_segment[:3, 3] - corner
    cut = _cut(segment, box)
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    # Centres of voxels: the border between two of them lies up to half a voxel away from either.
    distance = ndimage.distance_transform_edt(cut, sampling=edges_mm)
    distance -= ndimage.distance_transform_edt(~cut, sampling=edges_mm)
    target_mm = np.linalg.norm(target_affine[:3, :3], axis=0)
    safe_mm = 0.5 * float(np.linalg.norm(target_mm)) + float(np.linalg.norm(edges_mm))
    here = ndimage.map_coordinates(distance, centre.T, order=0, mode="nearest")
    result = np.where(here > 0, np.float32(1), np.float32(0))
    near = np.flatnonzero(np.abs(here) <= safe_mm)
    sample_mm = max(float(edges_mm.min()) / SAMPLES_PER_VOXEL, CLOSEST_SAMPLE_MM)
    # Rounding in a file's geometry must not make nine points of eight.
    counts = np.ceil(target_mm / sample_mm - 1e-3).astype(int)
    result[near] = _sampled(cut, centre[near], to_segment[:3, :3], counts)
    share[target] = result.reshape([s.stop - s.start for s in target])
    return share


@dataclass(frozen=True, eq=False)
class Coarsened:
    """A blurred volume of which only every `step`-th voxel is kept, from the first on."""

    values: np.ndarray
    step: tuple[int, ...]


def on_grid(
    values: np.ndarray, voxel_mm: tuple[float, float, float], sigma_mm: float | np.ndarray, spacing_mm: float
) -> Coarsened:
    """Return a volume blurred to a Gaussian's SD and thinned to about a spacing.

    Parameters
    ----------
    values : (x, y, z) array
        What is not finite counts as 0.
    voxel_mm : (3,) floats
    sigma_mm : float or (3,) array
        SD of the result's blur, along each axis; a voxel's own (edge over √12) counts towards it.
    spacing_mm : float
        No axis is thinned beyond it.
    """
    edges = np.array(voxel_mm)
    sigma = np.sqrt(np.maximum(np.square(sigma_mm) - edges**2 / 12, 0.0)) / edges
    clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    blurred = ndimage.gaussian_filter(clean, sigma, mode="nearest", truncate=3.0)
    step = tuple(max(1, int(spacing_mm / edge + 1e-6)) for edge in edges)
    return Coarsened(np.ascontiguousarray(blurred[tuple(slice(None, None, s) for s in step)]), step)


def blur_like(sigma_mm: float, affine: np.ndarray, other_affine: np.ndarray) -> np.ndarray:
    """Return the blur, SD in mm along each axis of another grid, that makes it as blurred as a grid's voxels are.

    A voxel is a box, whose SD is its edge over √12.

    Parameters
    ----------
    sigma_mm : float
        Least blur.
    affine, other_affine : (4, 4) arrays
        Of the grid to be like, and of the grid to be blurred.
    """
    edges, other_edges = (np.linalg.norm(a[:3, :3], axis=0) for a in (affine, other_affine))
    axes = (other_affine[:3, :3] / other_edges).T @ (affine[:3, :3] / edges)
    return np.asarray(np.sqrt(axes**2 @ np.maximum(edges / np.sqrt(12.0), sigma_mm) ** 2))


def sample(values: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return linear interpolation at (N, 3) positions, RAS in mm; NaN outside."""
    back = np.linalg.inv(affine)
    index = (points @ back[:3, :3].T + back[:3, 3]).T
    found = ndimage.map_coordinates(values, index, order=1, mode="nearest", output=np.float32)
    limits = np.array(values.shape)[:, None]
    found[np.any((index < -0.5) | (index > limits - 0.5), axis=0)] = np.nan
    return np.asarray(found)


def _index_map(affine: np.ndarray, target_affine: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return the (4, 4) map from an index of the target to an index of the source."""
    forward = np.asarray(affine) if matrix is None else matrix @ affine
    return np.linalg.inv(forward) @ target_affine


def _inside(to_source: np.ndarray, shape: tuple[int, ...], source_shape: np.ndarray) -> np.ndarray:
    """Return which voxels of the target fall within half a voxel of the source's outermost voxel centres."""
    inside = np.ones(shape, dtype=bool)
    for axis in range(3):
        along = [
            (to_source[axis, a] * np.arange(n)).reshape([-1 if b == a else 1 for b in range(3)])
            for a, n in enumerate(shape)
        ]
        index = along[0] + along[1] + along[2] + to_source[axis, 3]
        inside &= (index >= -0.5) & (index <= source_shape[axis] - 0.5)
    return inside


def _box(segment: np.ndarray, margin: int) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the segment's bounding box with a margin, which may reach beyond the array, and its first index."""
    index = [np.flatnonzero(segment.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(int(i[0]) - margin, int(i[-1]) + margin + 1) for i in index)
    return box, np.array([s.start for s in box], dtype=float)


def _cut(segment: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """Return the box out of the segment, False where it reaches beyond the array."""
    result = np.zeros([s.stop - s.start for s in box], dtype=bool)
    kept = tuple(slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(box, segment.shape, strict=True))
    place = tuple(slice(k.start - s.start, k.stop - s.start) for k, s in zip(kept, box, strict=True))
    result[place] = segment[kept]
    return result


def _target_box(
    to_segment: np.ndarray, segment_shape: tuple[int, ...], box: tuple[slice, ...], shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """Return the part of the map's grid that can touch the box around the segment."""
    back = np.linalg.inv(to_segment)
    corners = np.array(list(itertools.product(*[(s.start - 0.5, s.stop - 0.5) for s in box])))
    index = corners @ back[:3, :3].T + back[:3, 3]
    low, high = np.floor(index.min(axis=0)).astype(int), np.ceil(index.max(axis=0)).astype(int)
    return tuple(slice(max(int(a), 0), min(int(b) + 1, n)) for a, b, n in zip(low, high, shape, strict=True))


def _sampled(cut: np.ndarray, centre: np.ndarray, axes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of evenly spaced points inside each voxel that fall into the segment."""
    inside = np.zeros(len(centre), dtype=np.float32)
    padded = np.pad(cut, 1)
    limits = np.array(padded.shape) - 1
    offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    for start in range(0, len(centre), _VOXELS_AT_ONCE):
        part = slice(start, start + _VOXELS_AT_ONCE)
        for offset in itertools.product(*offsets):
            index = np.rint(centre[part] + axes @ np.array(offset)).astype(np.intp) + 1
            np.clip(index, 0, limits, out=index)
            inside[part] += padded[index[:, 0], index[:, 1], index[:, 2]]
    return inside / np.prod(counts)
