"""Archives from elsewhere, unpacked only if they are harmless."""

from __future__ import annotations

import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import require_plausible_ratio, shown

LARGEST_CONTENT_BYTES = 16 * 1024**3
MOST_MEMBERS = 200_000

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""What medical software writes; the others' unpackers may reserve gigabytes at a header's word."""

_DAMAGE = (ValueError, IndexError, struct.error, OverflowError, RuntimeError)
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
    with tempfile.TemporaryDirectory(prefix="perfusion-cbv-") as temporary:  # for its owner only (0700)
        folder = Path(temporary).resolve()
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                _refuse_unsafe(members, path)
                for member in members:
                    _extract(archive, member, folder)
        # ValueError: names that are no text, sizes below 0; the others: damaged lists of members.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, *_DAMAGE) as error:
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
    require_plausible_ratio(total, packed, path.name)
    if total > LARGEST_CONTENT_BYTES:
        raise UnreadableInputError(
            f"{path.name} would unpack to {total / 1e9:.0f} GB; at most {LARGEST_CONTENT_BYTES / 1e9:.0f} GB are. "
            f"{_ADVICE}"
        )
    for member in members:
        name = shown(member.orig_filename)
        # `orig_filename`: zipfile already rewrites separators and cuts at NUL in `filename`.
        parts = re.split(r"[/\\]", member.orig_filename)
        if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in member.orig_filename:
            raise UnreadableInputError(
                f"{path.name} holds a file that would be written outside its folder ({name!r}); it was not unpacked. "
                "Do not use this archive."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnreadableInputError(
                f"{path.name} holds a link ({name!r}) instead of a file; it was not unpacked. "
                "Zip the DICOM files themselves."
            )
        if member.compress_type not in _METHODS:
            raise UnreadableInputError(
                f"{path.name} is packed by a method that is not read here (number {member.compress_type}). Zip the "
                "DICOM folder with the usual method (deflate)."
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
    return shown(error) or type(error).__name__
