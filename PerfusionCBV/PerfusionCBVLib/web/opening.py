"""What may be opened: paths below the root given at start, and uploads of known kinds and bounded size."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from PerfusionCBVLib.errors import UnreadableInputError, UsageError

UPLOADS, DOWNLOADS = "uploads", "downloads"
"""Folders in that of a session."""

SUFFIXES = (".zip", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".json")
"""Of uploads: a DICOM folder as .zip, NIfTI with its .json, Slicer's sequences and segmentations."""

LARGEST_UPLOAD_BYTES = 2 * 1024**3
"""Unless another limit is given at start; what an archive unpacks to is bounded by `archive.py`."""

MOST_LISTED = 500


def inside_root(root: Path | None, wanted: str) -> Path:
    """Return the path that a user asked for, if it lies below the root.

    Parameters
    ----------
    root : Path or None
        None: no path may be opened at all.
    wanted : str
        Relative to the root; links and ".." are followed before the question is asked.

    Raises
    ------
    UsageError
        No root, or the path leads out of it.
    UnreadableInputError
        There is nothing at this path.
    """
    if root is None:
        raise UsageError("This server opens no paths. Upload the series, or have it started with --root FOLDER.")
    if "\0" in wanted:
        raise UsageError("A path can't hold a NUL character. Choose from the list.")
    real_root = root.resolve()
    path = (real_root / wanted).resolve()
    if path != real_root and real_root not in path.parents:
        raise UsageError(f"{wanted} lies outside the folder that this server may read. Choose from the list.")
    if not path.exists():
        raise UnreadableInputError(f"There is no file or folder {wanted} on the server. Choose from the list.")
    return path


def listing(root: Path | None, below: str) -> list[dict[str, Any]]:
    """Return what may be chosen in a folder below the root, folders first.

    Returns
    -------
    list of dict
        `name`, `path` (relative to the root), `folder` (whether it can be entered).

    Raises
    ------
    UsageError, UnreadableInputError
        See `inside_root`.
    """
    folder = inside_root(root, below)
    assert root is not None
    real_root = root.resolve()
    entries: list[dict[str, Any]] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                try:
                    path = inside_root(root, str(Path(folder, entry.name).relative_to(real_root)))
                except (UsageError, UnreadableInputError):  # a link that leads out, or nowhere
                    continue
                is_folder = path.is_dir()
                if is_folder or path.name.lower().endswith(SUFFIXES[:-1]):
                    relative = str(Path(folder, entry.name).relative_to(real_root))
                    entries.append({"name": entry.name, "path": relative, "folder": is_folder})
    except OSError as error:
        raise UnreadableInputError(f"The folder {below or '.'} can't be read: {error.strerror}.") from error
    return sorted(entries, key=lambda each: (not each["folder"], each["name"].lower()))[:MOST_LISTED]


def upload_name(name: str) -> str:
    """Return the name under which an upload may be kept.

    Raises
    ------
    UsageError
        A kind that is not read here, or a name that is more than a name.
    """
    last = re.split(r"[/\\]", name)[-1]
    if last != name or not last.strip(" .") or any(ord(letter) < 32 for letter in last) or len(last) > 200:
        raise UsageError("The name of the uploaded file is not usable. Rename the file.")
    if not last.lower().endswith(SUFFIXES):
        raise UsageError(
            f"{last} can't be read here. Upload a .zip of the DICOM folder, a NIfTI (.nii, .nii.gz) with its .json, or "
            "a Slicer sequence or segmentation (.nrrd)."
        )
    return last


def batch_name(batch: str) -> str:
    """Return the name of the folder of files that were uploaded together.

    Raises
    ------
    UsageError
        No number that the page gives.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", batch):
        raise UsageError("This upload has no usable number. Reload the page.")
    return batch


def too_large(limit_bytes: int) -> str:
    """Return what to tell who uploads more than the limit."""
    return (
        f"The file is larger than {limit_bytes / 1024**2:.0f} MB, which this server accepts at most. Have the server "
        "started with a larger --upload-limit, or with --root FOLDER to open the file where it lies."
    )
