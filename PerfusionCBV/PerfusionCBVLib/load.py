"""Any supported input to a validated `DynamicSeries`: DICOM folder or zip, NIfTI with sidecar, Slicer sequence."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TypedDict

from PerfusionCBVLib.archive import extracted
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import (
    GIVEN_BY_USER,
    cannot_open,
    require_plain_file,
    require_seconds,
    sha256_of_file,
    shown,
)
from PerfusionCBVLib.load_dicom import is_dicom_file, load_dicom
from PerfusionCBVLib.load_nifti import load_nifti
from PerfusionCBVLib.load_nrrd import load_nrrd
from PerfusionCBVLib.series import DynamicSeries

_NIFTI = (".nii", ".nii.gz")
_NRRD = (".nrrd", ".nhdr")
MOST_FILES = 200_000

_SUPPORTED = "a DICOM folder or .zip, a 4D NIfTI (.nii, .nii.gz) or a Slicer sequence (.seq.nrrd)"


class _UserTimes(TypedDict):
    echo_time_s: float | None
    repetition_time_s: float | None


def load_series(
    path: str | os.PathLike[str],
    *,
    echo_time_s: float | None = None,
    repetition_time_s: float | None = None,
    series_uid: str | None = None,
) -> DynamicSeries:
    """Return the DSC-MRI series that `path` holds.

    Parameters
    ----------
    path : str or path-like
        A DICOM folder, .zip or enhanced multi-frame file; a 4D NIfTI (.nii, .nii.gz), with or without a BIDS-style
        .json beside it; a Slicer sequence (.seq.nrrd, .nrrd, .nhdr).
    echo_time_s : float, optional
        Overrides what the input says, s.
    repetition_time_s : float, optional
        Time between frames and between excitations, s; overrides what the input says.
    series_uid : str, optional
        SeriesInstanceUID to read where a DICOM input holds several dynamic series.

    Returns
    -------
    DynamicSeries
        With what the reader decided in `notes` and the hash of what was read in `input_sha256`.

    Raises
    ------
    UnreadableInputError
        Missing, truncated or ambiguous files, an unknown format, an unsafe archive.
    GeometryError
        Not four-dimensional, missing slices, no usable orientation.
    TimingError
        Fewer than 15 frames, missing frames, frame times missing or contradictory, milliseconds given as seconds.
    QualityError
        Non-positive or non-finite signal in bulk.
    """
    path = Path(path)
    for name, value_s in (("echo_time_s", echo_time_s), ("repetition_time_s", repetition_time_s)):
        if value_s is not None:
            require_seconds(name, value_s, GIVEN_BY_USER)
    times: _UserTimes = {"echo_time_s": echo_time_s, "repetition_time_s": repetition_time_s}
    try:
        is_there = path.exists()
    except (OSError, ValueError) as error:  # a name too long, a folder on the way that may not be entered
        raise cannot_open(path, error) from error
    if not is_there:
        raise UnreadableInputError(f"There is no file or folder {path}. Check the path.")
    if path.is_dir():
        return _load_folder(path, times, series_uid)
    require_plain_file(path)
    name = path.name.lower()
    if name.endswith(".zip"):
        return _load_zip(path, times, series_uid)
    if name.endswith(_NIFTI):
        return load_nifti(path, **times)
    if name.endswith(_NRRD):
        return load_nrrd(path, **times)
    if is_dicom_file(path):
        return load_dicom([path], series_uid=series_uid, **times)
    raise UnreadableInputError(f"{path.name} is of no supported type; {_SUPPORTED} is needed.")


def _load_folder(folder: Path, times: _UserTimes, series_uid: str | None) -> DynamicSeries:
    files = files_in(folder)
    if not files:
        raise UnreadableInputError(f"The folder {folder.name} is empty; {_SUPPORTED} is needed.")
    if any(is_dicom_file(file) for file in files):
        return load_dicom(files, series_uid=series_uid, **times)
    volumes = [file.name for file in files if file.name.lower().endswith(_NIFTI + _NRRD)]
    if volumes:
        raise UnreadableInputError(
            f"The folder {folder.name} holds no DICOM files but {_listed(volumes)}. Pass the file itself, not the "
            "folder."
        )
    kinds = Counter(file.suffix.lower() or "no extension" for file in files)
    found = ", ".join(f"{count} × {shown(kind)}" for kind, count in kinds.most_common(5))
    raise UnreadableInputError(
        f"The folder {folder.name} holds no DICOM files (found {found}); {_SUPPORTED} is needed."
    )


def _load_zip(path: Path, times: _UserTimes, series_uid: str | None) -> DynamicSeries:
    zip_hash = {path.name: sha256_of_file(path)}
    with extracted(path) as folder:
        files = files_in(folder)
        if any(is_dicom_file(file) for file in files):
            return load_dicom(files, series_uid=series_uid, extra_sha256=zip_hash, **times)
        niftis = [file for file in files if file.name.lower().endswith(_NIFTI)]
        if len(niftis) == 1:
            return load_nifti(niftis[0], extra_sha256=zip_hash, **times)
    found = _listed([file.name for file in files]) if files else "nothing"
    raise UnreadableInputError(
        f"{path.name} holds neither DICOM files nor exactly one NIfTI (found {found}). Zip the DICOM folder of one "
        "examination, or pass the image file itself."
    )


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, but for the hidden tree of resource forks in a Mac's archives.

    Links to folders are not followed, so that a loop has an end; pipes and devices are left out.

    Raises
    ------
    UnreadableInputError
        The folder can't be listed, or holds more files than any study.
    """
    try:
        files = list(islice((file for file in folder.rglob("*") if file.is_file()), MOST_FILES + 1))
    except OSError as error:
        raise cannot_open(folder, error) from error
    if len(files) > MOST_FILES:
        raise UnreadableInputError(
            f"The folder {folder.name} holds more than {MOST_FILES} files. Pass the folder of one examination."
        )
    return sorted(f for f in files if "__MACOSX" not in f.relative_to(folder).parts and not f.name.startswith("._"))


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
