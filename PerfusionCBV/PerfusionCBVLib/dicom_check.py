"""The proof that a conversion has every frame, slice and value where DICOM has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from PerfusionCBVLib.dicom_frames import FrameGrid
from PerfusionCBVLib.dicom_headers import Frame, SeriesHeaders
from PerfusionCBVLib.dicom_pixels import read_images
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError

LARGEST_SCALE_SPREAD = 1e-4
"""Relative difference of one scale between the frames of a series: more is another signal, less is rounding."""

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def require_same_images(signal: np.ndarray, affine: np.ndarray, grid: FrameGrid, series: SeriesHeaders) -> None:
    """Refuse a conversion that is not the DICOM images, each at its place and time, all under one scale.

    dcm2niix orders frames and chooses scales by heuristics that differ between manufacturers; a frame out of order, or
    scaled on its own, would pass unnoticed into every map. Compared are the middle slice at every time point and every
    slice at the first, middle and last one; of a mosaic, all slices of every time point.

    Parameters
    ----------
    signal : (x, y, z, T) array
    affine : (4, 4) array
        Voxel index to RAS, mm.
    grid : FrameGrid
    series : SeriesHeaders

    Raises
    ------
    GeometryError
        Other images, places or numbers of them.
    UnreadableInputError
        The scale differs between frames in a way that leaves the signal open, or an image can't be decoded.
    """
    slices, frames = len(grid.frames), len(grid.frames[0])
    expected = (frames,) if series.is_mosaic else (slices, frames)
    if signal.shape[-len(expected) :] != expected:
        raise GeometryError(
            f"dcm2niix made {signal.shape[2]} slices of {signal.shape[3]} frames of a series that has {slices} slices "
            f"of {frames} frames. Export the series again, or convert it to NIfTI yourself."
        )
    images: tuple[np.ndarray, np.ndarray] | None = None
    file: Path | None = None
    scales, precise = [], []
    for time, frame in _compared(grid):
        if images is None or frame.file != file:
            file, images = frame.file, read_images(frame.file)
        if frame.index >= len(images[0]):
            raise _does_not_match(time)
        image = images[0][frame.index]
        precise.append(images[1][frame.index])
        if series.is_mosaic:
            scale = _scale_of_mosaic(image, signal[..., time], affine, frame, series)
        else:
            scale = _scale_at(image, _corner_mm(frame), signal[..., time], affine)
        if scale is None:
            raise _does_not_match(time)
        scales.append(scale)
    _require_one_scale(np.array(scales), np.array(precise))


def _compared(grid: FrameGrid) -> Iterator[tuple[int, Frame]]:
    slices, frames = len(grid.frames), len(grid.frames[0])
    everywhere = {0, frames // 2, frames - 1}
    for time in range(frames):
        for place in range(slices):
            if place == slices // 2 or time in everywhere:
                yield time, grid.frames[place][time]


def _corner_mm(frame: Frame) -> np.ndarray:
    """Return the centre of the first pixel, RAS mm."""
    return np.array(frame.position_mm) * _LPS_TO_RAS


def _scale_at(image: np.ndarray, corner_mm: np.ndarray, volume: np.ndarray, affine: np.ndarray) -> float | None:
    """Return the factor from an image to the slice of the volume that lies there, NaN for an empty image.

    None where there is no such slice, or where the slice is not the image times one factor.
    """
    rows, columns = image.shape
    i, j, k = np.linalg.solve(affine, [*corner_mm, 1.0])[:3]
    off = np.array([i if i < columns / 2 else i - columns + 1, j if j < rows / 2 else j - rows + 1, k - round(k)])
    if volume.shape[:2] != (columns, rows) or np.abs(off).max() >= 0.05 or not 0 <= round(k) < volume.shape[2]:
        return None
    plane = volume[:: 1 if i < columns / 2 else -1, :: 1 if j < rows / 2 else -1, round(k)].T.astype(np.float64)
    power = float(np.sum(image * image))
    if not (np.isfinite(plane).all() and math.isfinite(power)):  # a damaged scale made values infinite
        return None
    if power == 0:
        return None if plane.any() else math.nan
    scale = float(np.sum(plane * image)) / power
    # float32 holds 7 digits, and Philips' scales are written with about as many.
    return scale if np.abs(plane - scale * image).max() <= 1e-5 * np.abs(plane).max() else None


def _scale_of_mosaic(
    mosaic: np.ndarray, volume: np.ndarray, affine: np.ndarray, frame: Frame, series: SeriesHeaders
) -> float | None:
    """Return the one factor between the tiles of a Siemens mosaic and the slices of a volume, as `_scale_at` does."""
    slices = volume.shape[2]
    side = math.ceil(math.sqrt(slices))
    rows, columns = mosaic.shape[0] // side, mosaic.shape[1] // side
    if (rows * side, columns * side) != mosaic.shape or frame.position_mm is None or frame.orientation is None:
        return None
    spacing_mm = [float(v) for v in series.header.get("PixelSpacing") or ()]
    if len(spacing_mm) != 2:
        return None
    # The position in the header is that of a single image as large as the mosaic.
    along_row, along_column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    first_lps = np.array(frame.position_mm) + (
        along_row * spacing_mm[1] * (mosaic.shape[1] - columns) / 2
        + along_column * spacing_mm[0] * (mosaic.shape[0] - rows) / 2
    )
    tiles = [mosaic[k // side * rows :][:rows, k % side * columns :][:, :columns] for k in range(slices)]
    # The tiles follow each other along the slice axis, whose direction only Siemens' private header says.
    step_mm = affine[:3, 2]
    for direction in (1, -1):
        corners_mm = [first_lps * _LPS_TO_RAS + direction * k * step_mm for k in range(slices)]
        scales = [_scale_at(tile, corner, volume, affine) for tile, corner in zip(tiles, corners_mm, strict=True)]
        known = [scale for scale in scales if scale is not None]
        if len(known) == slices:
            filled = [scale for scale in known if not math.isnan(scale)]
            if not filled:
                return math.nan
            return filled[0] if np.ptp(filled) <= LARGEST_SCALE_SPREAD * abs(filled[0]) else None
    return None


def _require_one_scale(scales: np.ndarray, precise: np.ndarray) -> None:
    scales = scales[np.isfinite(scales)]
    if scales.size and (scales.min() <= 0 or np.ptp(scales) > LARGEST_SCALE_SPREAD * scales.max()):
        raise UnreadableInputError(
            f"dcm2niix scaled the frames by factors from {scales.min():.4g} to {scales.max():.4g}, where one is "
            "needed, so the signal over time is in doubt. Convert the series to NIfTI yourself."
        )
    if np.ptp(precise) > LARGEST_SCALE_SPREAD * np.abs(precise).max():
        raise UnreadableInputError(
            "The scale of the images differs between frames, and the rescale slope and Philips' private scale slope "
            "contradict each other, so the signal over time is in doubt. Export the series again with one scale."
        )


def _does_not_match(time: int) -> GeometryError:
    return GeometryError(
        f"The conversion by dcm2niix does not match the DICOM images at time point {time + 1}, so order, position or "
        "scale of the frames is in doubt. Export the series as classic DICOM, or convert it to NIfTI yourself."
    )
