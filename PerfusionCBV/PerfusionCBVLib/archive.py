"""Archives from elsewhere, unpacked only if they are harmless."""

from __future__ import annotations

import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PerfusionCBVLib.errors import UnreadableInputError

LARGEST_CONTENT_BYTES = 16 * 1024**3
LARGEST_RATIO = 200
"""Unpacked over packed size; DICOM rarely exceeds 10, empty images reach about 100."""
RATIO_MATTERS_ABOVE_BYTES = 100 * 1024**2
MOST_MEMBERS = 200_000

_CHUNK_BYTES = 1024**2
_ADVICE = "Unpack it yourself and pass the folder, if you trust where it comes from."


@contextmanager
def extracted(path: Path) -> Iterator[Path]:
    """Unpack a .zip into a temporary folder, which is removed afterwards whatever happens.

    Parameters
    ----------
    path : Path

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    UnreadableInputError
        Truncated or encrypted archive, members that would leave the folder, links, or content that is out of all
        proportion to the file.
    """
    with tempfile.TemporaryDirectory(prefix="perfusion-cbv-") as temporary:
        folder = Path(temporary).resolve()
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                _refuse_unsafe(members, path)
                for member in members:
                    _extract(archive, member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise UnreadableInputError(
                f"{path.name} is damaged, truncated or no .zip that can be read ({_first_line(error)}). "
                "Copy or export it again."
            ) from error
        yield folder


def _refuse_unsafe(members: list[zipfile.ZipInfo], path: Path) -> None:
    if len(members) > MOST_MEMBERS:
        raise UnreadableInputError(
            f"{path.name} holds {len(members)} files; at most {MOST_MEMBERS} are read. {_ADVICE}"
        )
    total = sum(member.file_size for member in members)
    packed = path.stat().st_size
    explodes = total > RATIO_MATTERS_ABOVE_BYTES and total > LARGEST_RATIO * packed
    if total > LARGEST_CONTENT_BYTES or explodes:
        raise UnreadableInputError(
            f"{path.name} would unpack from {packed / 1e6:.1f} MB to {total / 1e6:.0f} MB, which images do not; "
            f"it was not unpacked. {_ADVICE}"
        )
    for member in members:
        # `orig_filename`: zipfile already rewrites separators and cuts at NUL in `filename`.
        parts = re.split(r"[/\\]", member.orig_filename)
        if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in member.orig_filename:
            raise UnreadableInputError(
                f"{path.name} holds a file that would be written outside its folder ({member.orig_filename!r}); it was "
                "not unpacked. Do not use this archive."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnreadableInputError(
                f"{path.name} holds a link ({member.orig_filename!r}) instead of a file; it was not unpacked. "
                "Zip the DICOM files themselves."
            )
        if member.flag_bits & 0x1:
            raise UnreadableInputError(
                f"{path.name} is protected by a password. Unpack it and pass the folder, or export it without password."
            )


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the announced size and checks the CRC, so the sum checked before can't be exceeded.
    with archive.open(member) as packed, target.open("xb") as unpacked:
        while chunk := packed.read(_CHUNK_BYTES):
            unpacked.write(chunk)


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return (str(error).splitlines() or [type(error).__name__])[0]
