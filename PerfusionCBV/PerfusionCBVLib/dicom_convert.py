"""One DICOM series to NIfTI through dcm2niix, and the check that frames and slices came out where DICOM has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from PerfusionCBVLib.dicom_frames import FrameGrid
from PerfusionCBVLib.dicom_headers import PARSE_ERRORS, SeriesHeaders
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_nifti import read_nifti, read_sidecar

TIMEOUT_S = 300


def convert(series: SeriesHeaders, grid: FrameGrid) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return signal (x, y, z, T) float32, affine in RAS mm, and dcm2niix's BIDS sidecar of one series.

    Parameters
    ----------
    series : SeriesHeaders
    grid : FrameGrid
        The order of its frames, which instance numbers given to dcm2niix follow.

    Raises
    ------
    UnreadableInputError
        dcm2niix is missing, fails, takes too long, or finds not exactly one image in the series.
    GeometryError
        The result is not four-dimensional.
    """
    try:
        from dcm2niix import bin as executable
    except ImportError as error:
        raise UnreadableInputError(
            "Reading DICOM needs the Python package dcm2niix, which is not installed. Install it (pip install "
            "dcm2niix), or convert the series to NIfTI first."
        ) from error
    with tempfile.TemporaryDirectory(prefix="perfusion-cbv-") as temporary:
        chosen, converted = Path(temporary, "dicom"), Path(temporary, "nifti")
        chosen.mkdir()
        converted.mkdir()
        files = list(dict.fromkeys(frame.file for frames in zip(*grid.frames, strict=True) for frame in frames))
        # dcm2niix stacks images by instance number, which some exports assign in no useful order.
        renumber = len(files) == len(series.frames) and not grid.is_numbered_by_time
        for count, file in enumerate(files, start=1):
            target = chosen / f"{count:06d}.dcm"
            if renumber:
                _copy_with_number(file, target, count)
            else:
                _link_or_copy(file.resolve(), target)
        # -g i: a user's own defaults file must not change the result; -x i: keep the slices as acquired;
        # -l o: no rescaling of integers.
        options = ["-g", "i", "-b", "y", "-z", "n", "-x", "i", "-l", "o", "-f", "series"]
        output = _run([executable, *options, "-o", str(converted), str(chosen)])
        images = sorted(converted.glob("*.nii"))
        if len(images) != 1:
            what = "no image" if not images else f"{len(images)} separate images"
            raise UnreadableInputError(
                f"dcm2niix made {what} of the series with UID {series.uid}{_complaint(output)}. Check that the series "
                "holds one echo and one image type and is complete, or convert it to NIfTI yourself."
            )
        _, signal, affine, _ = read_nifti(images[0])
        sidecar = read_sidecar(images[0].with_suffix(".json"))
    return signal, affine, sidecar


def require_same_images(signal: np.ndarray, affine: np.ndarray, grid: FrameGrid, *, is_mosaic: bool) -> None:
    """Refuse a conversion whose middle slice, at any time point, is not the DICOM image of that place and time.

    dcm2niix orders frames by heuristics that differ between manufacturers; a frame out of order would pass unnoticed
    into every map. Compressed images and mosaics are not compared.

    Parameters
    ----------
    signal : (x, y, z, T) array
    affine : (4, 4) array
        Voxel index to RAS, mm.
    grid : FrameGrid
    is_mosaic : bool

    Raises
    ------
    GeometryError
    """
    slices, frames = len(grid.frames), len(grid.frames[0])
    expected = (frames,) if is_mosaic else (slices, frames)
    if signal.shape[-len(expected) :] != expected:
        raise GeometryError(
            f"dcm2niix made {signal.shape[2]} slices of {signal.shape[3]} frames of a series that has {slices} slices "
            f"of {frames} frames. Export the series again, or convert it to NIfTI yourself."
        )
    if is_mosaic:
        return
    pixels: dict[Path, np.ndarray] = {}
    for time, frame in enumerate(grid.frames[slices // 2]):
        if frame.file not in pixels:
            pixels = {frame.file: _pixels(frame.file)}
        if pixels[frame.file].size == 0:
            return
        image = pixels[frame.file][frame.index]  # (rows, columns)
        rows, columns = image.shape
        corner_ras = np.array(frame.position_mm) * (-1.0, -1.0, 1.0)
        i, j, k = np.linalg.solve(affine, [*corner_ras, 1.0])[:3]
        places = np.array(
            [i if i < columns / 2 else i - columns + 1, j if j < rows / 2 else j - rows + 1, k - round(k)]
        )
        same = signal.shape[:2] == (columns, rows) and np.abs(places).max() < 0.05 and 0 <= round(k) < slices
        if same:
            plane = signal[:: 1 if i < columns / 2 else -1, :: 1 if j < rows / 2 else -1, round(k), time].T
            same = _proportional(plane, image)
        if not same:
            raise GeometryError(
                f"The conversion by dcm2niix does not match the DICOM images at time point {time + 1}, so order or "
                "position of the frames is in doubt. Export the series as classic DICOM, or convert it to "
                "NIfTI yourself."
            )


def _proportional(plane: np.ndarray, image: np.ndarray) -> bool:
    # Philips images are stored with scale and offset, so only a linear relation can be asked for.
    a = plane.astype(np.float64) - plane.mean(dtype=np.float64)
    b = image.astype(np.float64) - image.mean(dtype=np.float64)
    spread = np.linalg.norm(a) * np.linalg.norm(b)
    return bool(np.sum(a * b) > (1.0 - 1e-9) * spread) if spread > 0 else not (a.any() or b.any())


def _pixels(file: Path) -> np.ndarray:
    """Return (frames, rows, columns) of an uncompressed file, an empty array of a compressed one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
            dataset = pydicom.dcmread(file)
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                return np.empty(0)
            pixels = dataset.pixel_array
    except PARSE_ERRORS as error:
        raise UnreadableInputError(f"The image in {file.name} can't be read. Export the series again.") from error
    return pixels.reshape(-1, *pixels.shape[-2:])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadableInputError(
            f"dcm2niix did not finish within {TIMEOUT_S} s. Pass a folder that holds only the perfusion series."
        ) from error
    except OSError as error:
        raise UnreadableInputError(
            f"dcm2niix can't be started ({error.strerror}). Install the package dcm2niix again."
        ) from error
    output = done.stdout + done.stderr
    # dcm2niix ends with a non-zero status for mere remarks too, so what it wrote is judged, not the status.
    if done.returncode < 0:
        raise UnreadableInputError(
            f"dcm2niix broke off (signal {-done.returncode}). The series may be damaged: export it again."
        )
    return output


def _complaint(output: str) -> str:
    # Only its errors: other lines repeat paths and header values.
    errors = [line.strip() for line in output.splitlines() if line.startswith("Error")]
    return f" ({errors[0][:120]})" if errors else ""


def _copy_with_number(source: Path, target: Path, instance_number: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
            dataset = pydicom.dcmread(source)
            dataset.InstanceNumber = instance_number
            dataset.save_as(target)
    except PARSE_ERRORS as error:
        raise UnreadableInputError(
            f"{source.name} can't be copied for conversion. Export the series again, and check free disk space."
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise UnreadableInputError(
                f"{source.name} can't be copied for conversion ({error.strerror}). Check permissions and disk space."
            ) from error
