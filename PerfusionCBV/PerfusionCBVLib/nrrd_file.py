"""A NRRD file read within the bounds that its header announces, whatever its compressed part would unpack to."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nrrd
import numpy as np

from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import (
    cannot_open,
    require_plain_file,
    require_plausible_ratio,
    require_plausible_size,
    shown,
)

LARGEST_HEADER_BYTES = 16 * 1024**2

_BROKEN = (nrrd.NRRDError, ValueError, LookupError, TypeError, StopIteration, EOFError, OverflowError, zlib.error)
"""What pynrrd raises on damaged headers; StopIteration on an empty file, TypeError on one without data."""

_KINDS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}
_BYTE_ORDER = {"little": "<", "big": ">"}


def read_header(path: Path) -> dict[str, Any]:
    """Return the fields of a NRRD header, whose sizes are plausible and whose lists have an entry for each axis.

    Raises
    ------
    UnreadableInputError
        No NRRD, damaged, or its data lie in several files or outside its folder.
    GeometryError
        It announces no data, or more than any series has.
    """
    with _opened(path) as stream:
        return _header(path, stream)


def read_nrrd(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return header and array of a NRRD file, the axis that changes fastest first.

    Raises
    ------
    UnreadableInputError, GeometryError
        As `read_header`; also where there are fewer or more data than announced.
    """
    with _opened(path) as stream:
        header = _header(path, stream)
        detached = data_file(path, header)
        if detached is not None:
            with _opened(detached) as data:
                return header, _array(header, data, path, detached)
        return header, _array(header, stream, path, path)


def data_file(path: Path, header: Mapping[str, Any]) -> Path | None:
    """Return the file that holds the data of a detached header, None where they follow the header.

    Raises
    ------
    UnreadableInputError
        They lie in several files, or the header points out of its folder.
    """
    entry = str(header.get("data file", header.get("datafile", ""))).strip().removeprefix("./")
    if not entry:
        return None
    if re.search(r"[/\\:\0]", entry) or entry == "..":
        raise UnreadableInputError(
            f"The header {path.name} points to data outside its folder, which is not followed. Put the data file "
            "beside it, or save it as one .seq.nrrd file from Slicer."
        )
    data = path.parent / entry
    if not data.is_file():  # a list or pattern of files, one for each frame
        raise UnreadableInputError(
            f"{path.name} keeps its data in several files; save it as one .seq.nrrd file from Slicer."
        )
    return data


def _opened(path: Path) -> BinaryIO:
    require_plain_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise cannot_open(path, error) from error


def _header(path: Path, stream: BinaryIO) -> dict[str, Any]:
    """Return the header, leaving the stream at the first byte behind it."""
    try:
        start = io.BytesIO(stream.read(min(path.stat().st_size, LARGEST_HEADER_BYTES)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about repeated header fields, which Slicer's do not need
            header = dict(nrrd.read_header(start))
        stream.seek(start.tell())
        sizes = tuple(int(n) for n in header["sizes"])
        whole = int(header["dimension"]) == len(sizes) and all(
            len(header[key]) == len(sizes)
            for key in ("kinds", "space directions", "spacings", "units")
            if key in header
        )
    except _BROKEN as error:
        raise _damaged(path) from error
    except OSError as error:
        raise cannot_open(path, error) from error
    if not whole:
        raise _damaged(path)
    require_plausible_size(sizes, path.name)
    return header


def _array(header: Mapping[str, Any], stream: BinaryIO, path: Path, holder: Path) -> np.ndarray:
    try:
        sizes = tuple(int(n) for n in header["sizes"])
        kind = np.dtype(_BYTE_ORDER.get(str(header.get("endian", "little")).lower(), "?") + _KIND[header["type"]])
        encoding = str(header["encoding"]).lower()
        lines, skip = (int(header.get(f"{unit} skip", header.get(f"{unit}skip", 0))) for unit in ("line", "byte"))
        if lines != 0 or (skip != 0 and (skip != -1 or encoding != "raw")):
            raise UnreadableInputError(f"{path.name} skips part of its data. Save it from Slicer as one file.")
        expected = math.prod(sizes) * kind.itemsize
        if skip == -1:
            stream.seek(-expected, io.SEEK_END)
        size = holder.stat().st_size
        if encoding == "raw":
            content = stream.read(expected + 1) if expected <= size else b""
        elif encoding in ("gzip", "gz", "bzip2", "bz2"):
            require_plausible_ratio(expected, size, path.name)
            content = _unpacked(stream, expected, is_gzip=encoding.startswith("g"))
        elif encoding in ("ascii", "text", "txt"):
            content = np.array(stream.read().split(), dtype=kind.newbyteorder("=")).astype(kind).tobytes()
        else:
            raise UnreadableInputError(f"{path.name} is packed as {shown(encoding)!r}. Save it raw or with gzip.")
        if len(content) != expected:
            raise _damaged(path)
        return np.frombuffer(content, kind).reshape(sizes, order="F")
    except _BROKEN as error:
        raise _damaged(path) from error
    except OSError as error:
        raise (cannot_open(holder, error) if error.errno else _damaged(path)) from error


def _unpacked(stream: BinaryIO, expected: int, *, is_gzip: bool) -> bytes:
    """Return what the stream unpacks to, at most one byte more than expected."""
    with gzip.GzipFile(fileobj=stream) if is_gzip else bz2.BZ2File(stream) as unpacker:
        return unpacker.read(expected + 1)


def _damaged(path: Path) -> UnreadableInputError:
    return UnreadableInputError(f"{path.name} is truncated, damaged or no NRRD file. Copy it or save it again.")
