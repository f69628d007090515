"""What a command writes about its result, sealed: whoever reads it back notices any change to it or to its files.

A map that was replaced by another patient's on the same grid, or by an edited one, would be measured, reported and sent
to PACS under the name of this one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.json_text import as_json, read_json_object
from PerfusionCBVLib.load_common import sha256_of_file

LARGEST_BYTES = 16 * 1024**2
SEAL, FILES = "seal", "sha256"


def write_sealed_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record with the SHA-256 of every other file in or below its folder, and its own seal.

    Parameters
    ----------
    path : Path
    content : dict
        Becomes strict JSON, see `json_text.as_json`.
    """
    others = sorted(each for each in path.parent.rglob("*") if each.is_file() and each != path)
    files = {each.relative_to(path.parent).as_posix(): sha256_of_file(each) for each in others}
    record = {**content, FILES: files}
    path.write_text(as_json({**record, SEAL: _seal(record)}) + "\n", encoding="utf-8")


def read_sealed_record(path: Path, advice: str) -> dict[str, Any]:
    """Return what `write_sealed_record` wrote, without its seal.

    Parameters
    ----------
    path : Path
    advice : str
        What to do where it can't be had; ends the message.

    Raises
    ------
    UnreadableInputError
        Missing, damaged, or changed since.
    """
    content = read_json_object(path, LARGEST_BYTES, advice)
    seal = content.pop(SEAL, None)
    if seal != _seal(content):
        raise UnreadableInputError(f"{path} is not as it was written: it was changed or damaged since. {advice}")
    return content


def require_files_of(record: dict[str, Any], folder: Path, names: set[str], advice: str) -> None:
    """Refuse files that are not the record's.

    Raises
    ------
    UnreadableInputError
        One is missing, or another than was written.
    """
    for name in sorted(names):
        path = folder / name
        if name not in record[FILES] or not path.is_file():
            raise UnreadableInputError(f"{path} is missing. {advice}")
        if sha256_of_file(path) != record[FILES][name]:
            raise UnreadableInputError(
                f"{path} is not the file that was written with this result: it was changed, replaced or damaged "
                f"since. {advice}"
            )


def _seal(content: dict[str, Any]) -> str:
    """Return the hash of a record that does not hold its seal."""
    return hashlib.sha256(as_json(content).encode("utf-8", "surrogatepass")).hexdigest()
