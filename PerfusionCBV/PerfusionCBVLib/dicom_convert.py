"""One DICOM series to NIfTI through dcm2niix, which is given nothing but the series' files, in their order."""

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
from PerfusionCBVLib.errors import InputRefusedError, UnreadableInputError
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
        # -l o: no rescaling of integers. Trigger times, with which Philips counts the dynamics, would part a series
        # into single volumes; our own order and times are checked and used instead.
        options = ["-g", "i", "-b", "y", "-z", "n", "-x", "i", "-l", "o", "-f", "series", "--ignore_trigger_times"]
        output = _run([executable, *options, "-o", str(converted), str(chosen)])
        images = sorted(converted.glob("*.nii"))
        if len(images) != 1:
            what = "no image" if not images else f"{len(images)} separate images"
            raise UnreadableInputError(
                f"dcm2niix made {what} of the series with UID {series.uid}{_complaint(output)}. Check that the series "
                "holds one echo and one image type and is complete, or convert it to NIfTI yourself."
            )
        try:
            _, signal, affine, _ = read_nifti(images[0])
            sidecar = read_sidecar(images[0].with_suffix(".json"))
        except InputRefusedError as error:  # whose message names a file that is gone
            raise UnreadableInputError(
                f"dcm2niix made no usable image of the series with UID {series.uid}. Check that the series holds one "
                "echo and one image type and is complete, or convert it to NIfTI yourself."
            ) from error
    return signal, affine, sidecar


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
