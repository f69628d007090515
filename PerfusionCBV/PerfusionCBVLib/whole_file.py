"""Writing one file: whole or not at all, whatever stops the program."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place, then move it there; return its path. An older file is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        return partial.replace(path)
    except BaseException:  # a full disk, Ctrl-C: half a page with a patient's name must not stay behind
        partial.unlink(missing_ok=True)
        raise
