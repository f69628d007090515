"""Which voxels are brain: found on the bright T2*-weighted images, or given by the user and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.load_common import grid_shift_mm, require_usable_affine, same_grid
from PerfusionCBVLib.nifti_file import read_volume_values
from PerfusionCBVLib.series import DynamicSeries

SCALP_FRACTION = 0.45
"""Voxels below this fraction of the brain's typical signal are not brain: fat-suppressed scalp, air, bone."""

OPENING_MM = 4.0
"""Structures thinner than twice this (scalp, bridges to it) are taken away."""

CLOSING_MM = 5.0
"""Gaps narrower than twice this (vessels, sulci, small drop-outs) are closed."""

HEAD_MARGIN_MM = 10.0
HEAD_SHARE = 0.01
"""The head begins where a plane holds this share of the bright voxels of the fullest one; specks in air don't."""

MINIMUM_AREA_MM2 = 1000.0
"""A head shows at least this area of brain in one slice."""

_OTHER_SLICE_MM = 1e6


def brain_mask(signal: np.ndarray, voxel_size_mm: tuple[float, float, float]) -> np.ndarray:
    """Return which voxels are brain, by thresholding (Otsu) and morphology in millimetres, slice by slice.

    Parameters
    ----------
    signal : (x, y, z) or (x, y, z, T) array, arbitrary units
        Baseline image, or the whole series: then its temporal mean is used and voxels that never change are left out.
    voxel_size_mm : (3,) floats
        Slices lie along z.

    Returns
    -------
    (x, y, z) bool array

    Raises
    ------
    GeometryError
        The image does not have 3 or 4 dimensions, or a voxel size is not positive.
    QualityError
        Nothing that looks like a brain stands out.

    Notes
    -----
    Morphology runs within slices: DSC slices are 3–6 mm thick, about as thick as the structures that it has to
    separate. The border of the field of view does not count as background, so that a cut head loses nothing there.

    References
    ----------
    Otsu 1979, IEEE Trans Syst Man Cybern 9:62.
    """
    signal = np.asarray(signal)
    size_mm = tuple(float(edge) for edge in voxel_size_mm)
    if signal.ndim not in (3, 4) or len(size_mm) != 3 or not all(0 < edge < np.inf for edge in size_mm):
        raise GeometryError(
            f"A brain mask needs an image of 3 or 4 dimensions and 3 positive voxel sizes, but the image has shape "
            f"{signal.shape} and voxel sizes {size_mm} mm. Check that the perfusion series was chosen."
        )
    image = signal if signal.ndim == 3 else _temporal_mean(signal)
    image = np.where(np.isfinite(image) & (image > 0), image, 0).astype(np.float32)
    if np.ptp(image) == 0:
        raise QualityError(
            "No brain was found: the image is the same everywhere. Check that the perfusion series was chosen and "
            "exported completely, or give a mask."
        )
    box = _head_box(image, size_mm)
    found = np.zeros(image.shape, dtype=bool)
    found[box] = _brain_in(image[box], size_mm)
    return found


def brain_box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and one past the last index, (3,) each, of the box around an (x, y, z) mask that is not empty.

    Raises
    ------
    GeometryError
        The mask is empty.
    """
    if not mask.any():
        raise GeometryError("The mask is empty. Give a mask that marks the brain, or leave it out to have it found.")
    found = [np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    return np.array([f[0] for f in found]), np.array([f[-1] + 1 for f in found])


def _head_box(image: np.ndarray, size_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """Return the box around what is bright in an image, with a margin: all that `_brain_in` should see.

    Thresholds depend on how much air is in the picture. Looking for the brain in this box alone makes the mask the
    same in a wide and in a narrow field of view. Planes where nothing was recorded (exactly 0) don't count as image.
    """
    positive = np.sort(image[image > 0])
    level = float(threshold_otsu(np.minimum(image, np.percentile(positive, 99.5)).ravel()))
    for _ in range(100):  # until it is a fixed share of what lies above it, wherever it started
        above = np.searchsorted(positive, level, side="right")
        following = SCALP_FRACTION * float(np.median(positive[above:]))
        if following == level:
            break
        level = following
    corner, stop = brain_box(image > 0)
    box = []
    for axis, edge_mm in enumerate(size_mm):
        count = np.count_nonzero(image > level, axis=tuple(k for k in range(3) if k != axis))
        within = np.flatnonzero(count > HEAD_SHARE * count.max())
        margin = int(np.ceil(HEAD_MARGIN_MM / edge_mm))
        low, high = within[0] - margin, within[-1] + 1 + margin
        box.append(slice(max(int(corner[axis]), int(low)), min(int(stop[axis]), int(high))))
    return tuple(box)


def _brain_in(image: np.ndarray, size_mm: tuple[float, ...]) -> np.ndarray:
    """Return which voxels of an image of the head are brain."""
    # A few very bright voxels (vessel inflow, eyes) must not decide the threshold.
    image = np.minimum(image, np.percentile(image[image > 0], 99.5))
    smooth = ndimage.gaussian_filter(image, sigma=[1.5 / size_mm[0], 1.5 / size_mm[1], 0])
    smooth = smooth / _bias_field(smooth, size_mm)
    above = _above_threshold(smooth) & (image > 0)

    within_slice_mm = (size_mm[0], size_mm[1], _OTHER_SLICE_MM)
    mask = _dilate(_erode(above, OPENING_MM, within_slice_mm), OPENING_MM, within_slice_mm)
    mask = _large_components(mask)
    mask = _erode(_dilate(mask, CLOSING_MM, within_slice_mm), CLOSING_MM, within_slice_mm)
    for k in range(mask.shape[2]):
        mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    mask &= image > 0
    _refuse_what_is_no_brain(mask, smooth, size_mm)
    return mask


def validate_mask(mask: np.ndarray, series: DynamicSeries, affine: np.ndarray | None = None) -> np.ndarray:
    """Return a mask that the user gives as bool, after checking that it fits the series.

    Parameters
    ----------
    mask : (x, y, z) array
        Non-zero inside.
    series : DynamicSeries
    affine : (4, 4) array, optional
        The mask's own voxel to RAS transform, mm; None when the mask was made on the series' grid.

    Raises
    ------
    GeometryError
        The mask lies on another grid, or is empty.
    """
    mask = np.asarray(mask)
    grid = series.signal.shape[:3]
    if mask.shape != grid:
        raise GeometryError(
            f"The mask has {_by(mask.shape)} voxels and the series {_by(grid)}. Draw the mask on this series, or "
            "resample it to the series' grid."
        )
    if affine is not None:
        affine = np.asarray(affine, dtype=np.float64)
        off_mm = grid_shift_mm(affine, series.affine, grid)
        if not same_grid(affine, series.affine, grid):
            raise GeometryError(
                f"Mask and series have {_by(grid)} voxels but lie {off_mm:.1f} mm apart: the mask starts at "
                f"{_point(affine)} with voxels of {_by(np.linalg.norm(affine[:3, :3], axis=0), 'mm')}, the series at "
                f"{_point(series.affine)} with {_by(series.voxel_size_mm, 'mm')}. Draw the mask on this series, or "
                "resample it to the series' grid."
            )
    inside = (mask != 0) & ~np.isnan(mask)
    if not inside.any():
        raise GeometryError("The mask is empty. Give a mask that marks the brain, or leave it out to have it found.")
    return inside


def read_mask(path: Path, series: DynamicSeries) -> np.ndarray:
    """Return a mask or region of a NIfTI file, checked against the series by `validate_mask`.

    Raises
    ------
    UnreadableInputError
        The file can't be read.
    GeometryError
        See `validate_mask`.
    """
    _image, values, affine = read_volume_values(Path(path))
    require_usable_affine(affine, f"The mask {Path(path).name}")
    return validate_mask(values, series, affine)


def _temporal_mean(signal: np.ndarray) -> np.ndarray:
    # Up to 16 frames spread over the series show whether a voxel lives, at a fraction of the time of all of them.
    frames = signal[..., :: max(1, signal.shape[-1] // 16)]
    mean = frames.mean(axis=-1, dtype=np.float32)
    constant = frames.max(axis=-1) == frames.min(axis=-1)
    return np.where(constant, 0, mean)


def _bias_field(smooth: np.ndarray, size_mm: tuple[float, ...]) -> np.ndarray:
    """Return the receive coils' smooth brightness, 1 on average: a quadratic in x and y, a line in z, fitted in log."""
    bright = smooth > threshold_otsu(smooth.ravel())
    thin = np.ix_(*(_spread(n, max(1, round(6.0 / edge))) for n, edge in zip(smooth.shape, size_mm, strict=True)))
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in smooth.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    terms = [np.broadcast_to(t, smooth.shape) for t in (x, y, z, x * x, y * y, x * y)]
    inside = bright[thin]
    if inside.sum() < 100:
        return np.ones_like(smooth)
    log_signal = np.log(smooth[thin][inside])
    design = np.stack([np.ones(log_signal.size), *[t[thin][inside] for t in terms]], axis=1)
    weights = np.ones(log_signal.size)
    for _ in range(4):  # bright fluid and dark drop-outs lose their weight
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(design * root[:, None], log_signal * root, rcond=1e-6)[0]
        residual = np.abs(log_signal - design @ coefficients)
        weights = 1.0 / np.maximum(residual / max(float(np.median(residual)), 1e-6), 1.0)
    low, high = np.percentile(design[:, 1:] @ coefficients[1:], [2, 98])
    field = np.zeros(smooth.shape, dtype=np.float32)
    for coefficient, term in zip(coefficients[1:], terms, strict=True):
        field += np.float32(coefficient) * term
    # Outside the head the quadratic runs away; noise there must not be lifted to brain level.
    return np.exp(np.clip(field, low, high))


def _spread(count: int, step: int) -> np.ndarray:
    """Return every `step`-th index, the same from either end: a mirrored image must give the mirrored mask."""
    lower = np.arange((count - 1) // 2, -1, -step)
    return np.union1d(lower, count - 1 - lower)


def _above_threshold(smooth: np.ndarray) -> np.ndarray:
    otsu = threshold_otsu(smooth.ravel())
    # With hardly any background in the field of view Otsu parts fluid from tissue; the brain's typical signal
    # then bounds the threshold.
    typical = float(np.median(smooth[smooth > otsu]))
    threshold = SCALP_FRACTION * typical
    typical = float(np.median(smooth[smooth > threshold]))
    return smooth > SCALP_FRACTION * typical


def _large_components(mask: np.ndarray) -> np.ndarray:
    """Keep the largest component, and any of a fifth of its size (a hemisphere apart, cerebellum below a drop-out)."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= 0.2 * sizes.max())[labels]


def _erode(mask: np.ndarray, radius_mm: float, sampling_mm: tuple[float, ...]) -> np.ndarray:
    if mask.all():
        return mask.copy()
    return ndimage.distance_transform_edt(mask, sampling=sampling_mm) > radius_mm


def _dilate(mask: np.ndarray, radius_mm: float, sampling_mm: tuple[float, ...]) -> np.ndarray:
    if not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask, sampling=sampling_mm) <= radius_mm


def _refuse_what_is_no_brain(mask: np.ndarray, smooth: np.ndarray, size_mm: tuple[float, ...]) -> None:
    advice = "Check that the perfusion series was chosen, or give a mask."
    area_mm2 = float(mask.sum(axis=(0, 1)).max()) * size_mm[0] * size_mm[1]
    if area_mm2 < MINIMUM_AREA_MM2:
        raise QualityError(
            f"No brain was found: the largest bright region covers {area_mm2 / 100:.1f} cm² of a slice, at least "
            f"{MINIMUM_AREA_MM2 / 100:.0f} cm² is expected. {advice}"
        )
    share = float(mask.mean())
    if share > 0.97:
        raise QualityError(
            f"No brain was found: {share:.0%} of the image is equally bright, and no background stands out. {advice}"
        )
    inside, outside = float(np.median(smooth[mask])), float(np.median(smooth[~mask]))
    if share < 0.9 and inside < 1.6 * outside:
        raise QualityError(
            f"No brain was found: the brightest region is only {inside / outside:.1f} times as bright as its "
            f"surroundings, at least 1.6 is expected. {advice}"
        )


def _by(numbers: np.ndarray | tuple[float, ...], unit: str = "") -> str:
    return " × ".join(f"{n:.4g}" for n in numbers) + (f" {unit}" if unit else "")


def _point(affine: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in affine[:3, 3]) + ") mm"
