"""What a case is called: a name that is safe as a folder on every system, and the same in every run."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

from PerfusionCBVLib.errors import UnreadableInputError

LONGEST_NAME = 80
_BETWEEN_FOLDERS = "__"
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_ENDINGS = (".nii.gz", ".seq.nrrd", ".nii", ".nrrd", ".nhdr", ".zip", ".dcm")


def is_safe_name(name: str) -> bool:
    """Return whether a name can be a folder on every system: letters, digits, ``_ . -``, not reserved or too long."""
    return bool(
        re.fullmatch(r"\w[\w.-]*", name)
        and not name.endswith(".")
        and len(name) <= LONGEST_NAME
        and not _RESERVED.fullmatch(name)
        and unicodedata.is_normalized("NFC", name)
    )


def name_of(path: PurePath) -> str:
    """Return the name of a series by its path below the cohort's folder.

    It depends on nothing but the path, so that a case keeps its name when others are added. Where the path can't be
    taken as it is, a piece of its hash is added, so that two paths don't get one name.

    Parameters
    ----------
    path : PurePath
        Relative.
    """
    last = path.name
    for ending in _ENDINGS:
        if last.lower().endswith(ending):
            last = last[: -len(ending)]
            break
    parts = [*path.parts[:-1], last]
    plain = _BETWEEN_FOLDERS.join(parts)
    if is_safe_name(plain) and not any(_BETWEEN_FOLDERS in part for part in parts):
        return plain
    digest = hashlib.sha256(path.as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:8]
    readable = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", plain)).strip("._-")
    return f"{readable[: LONGEST_NAME - 9].rstrip('._-') or 'case'}-{digest}"


def require_different(names: Iterable[str], advice: str) -> None:
    """Refuse names that are one folder, on systems that ignore case too.

    Raises
    ------
    UnreadableInputError
    """
    seen: dict[str, str] = {}
    for name in names:
        first = seen.get(name.casefold())
        seen[name.casefold()] = name
        if first is not None:
            how = f"are called {name!r}" if first == name else f"differ only in capitals ({first!r}, {name!r})"
            raise UnreadableInputError(f"Two cases {how}, but each needs a folder of its own. {advice}")
