"""JSON as we write it and as we take it from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import read_text, shown


def as_json(content: dict[str, Any]) -> str:
    """Return strict JSON: numpy numbers as numbers, NaN as null."""
    return json.dumps(_plain(content), indent=2, ensure_ascii=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON, see `as_json`."""
    path.write_text(as_json(content) + "\n", encoding="utf-8")


def read_json(path: Path, most_bytes: int, advice: str, *, strict: bool = True) -> Any:
    """Return the content of a JSON file of at most `most_bytes`.

    Parameters
    ----------
    path : Path
    most_bytes : int
    advice : str
        What to do where it can't be read; ends the message.
    strict : bool
        Refuse control characters in texts.

    Raises
    ------
    UnreadableInputError
    """
    try:
        return json.loads(read_text(path, most_bytes), strict=strict)
    except (ValueError, RecursionError) as error:  # ValueError: both JSONDecodeError and UnicodeDecodeError
        raise UnreadableInputError(f"{path.name} can't be read ({shown(error)}). {advice}") from error


def read_json_object(path: Path, most_bytes: int, advice: str, *, strict: bool = True) -> dict[str, Any]:
    """Return the named values of a JSON file; the parameters and errors are those of `read_json`."""
    content = read_json(path, most_bytes, advice, strict=strict)
    if not isinstance(content, dict):
        raise UnreadableInputError(f"{path.name} holds no named values. {advice}")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
