"""Files that survive a crash: written aside, brought to the disk, then renamed into place."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file so that a reader, or a crash at any moment, finds the old content or the new; return its path.

    Parameters
    ----------
    path : Path
        In an existing folder.
    content : str or bytes
        A text is written as UTF-8, line ends as they are.

    Raises
    ------
    OSError
        The old content is still there.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:  # a full disk, Ctrl-C: half a page with a patient's name must not stay behind
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def sync_files(folder: Path) -> None:
    """Bring all files below a folder, and the folders' entries, to the disk.

    Raises
    ------
    OSError
        A full disk may say so only now.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            # Windows flushes only what was opened for writing.
            with open(Path(parent) / name, "rb+" if os.name == "nt" else "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: what was made, renamed or removed in it. Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
