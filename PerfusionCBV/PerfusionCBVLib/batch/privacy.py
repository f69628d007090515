"""Keeping file names out of what a batch shows: a patient's name is often part of them."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from PerfusionCBVLib.batch.cohort import Case
from PerfusionCBVLib.errors import InputRefusedError
from PerfusionCBVLib.load import files_in

_SHORTEST = 4
"""Shorter names are found inside other words."""


def without_paths(text: str, case: Case) -> str:
    """Return a text in which the files of a case that has an id of its own are called INPUT.

    A case without one is called after its path, which then stands everywhere anyway.
    """
    if not case.private:
        return text
    request = case.request
    aif = None if request.aif in (None, "auto") else Path(str(request.aif))
    words: set[str] = set()
    for path in (request.series, request.mask, request.reference, case.regions, aif):
        if path is not None:
            words |= {str(path), str(path.absolute()), path.name, str(path.parent)}
    if request.series.is_dir():
        with suppress(InputRefusedError):
            words |= {file.name for file in files_in(request.series)}
            words |= {str(file.relative_to(request.series)) for file in files_in(request.series)}
    ordered = sorted((word for word in words if len(word) >= _SHORTEST), key=len, reverse=True)
    if not ordered:
        return text
    return re.sub("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in ordered), "INPUT", text)
