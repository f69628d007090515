"""Which series a batch works on: of a folder tree, of a pattern, or of a manifest."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PerfusionCBVLib.batch.names import name_of, require_different
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.map_request import MapRequest
from PerfusionCBVLib.progress import Progress, silent


@dataclass(frozen=True)
class Case:
    """One series of a cohort.

    Attributes
    ----------
    id : str
        Name of its folder.
    request : MapRequest
    source : str
        What the summary says it was made from: a path below the cohort's folder, or a row of the manifest, because
        paths may hold names where the user gave ids.
    regions : Path or None
        Label map to measure.
    trouble : str or None
        Why it can't be run, known before it is.
    private : bool
        Nothing of its paths may be shown: the user gave it an id.
    """

    id: str
    request: MapRequest
    source: str
    regions: Path | None = None
    trouble: str | None = None
    private: bool = False


@dataclass(frozen=True)
class PassedOver:
    """What was found and is no case, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """The cases, by name, and what was passed over."""

    cases: tuple[Case, ...]
    passed_over: tuple[PassedOver, ...] = ()


def find_cohort(
    asked: Sequence[str], shared: MapRequest, output: Path | None = None, progress: Progress = silent
) -> Cohort:
    """Return the cases that a user asked for.

    Parameters
    ----------
    asked : sequence of str
        One manifest (.csv), or folders, files and patterns.
    shared : MapRequest
        What holds for every case; its series is ignored. A manifest's own entries come first.
    output : Path, optional
        Not searched.
    progress : callable (fraction, message), optional

    Raises
    ------
    UnreadableInputError
        Nothing there, an illegible manifest, no case, or two cases with one name.
    """
    from PerfusionCBVLib.batch.manifest import read_manifest  # both make Cases
    from PerfusionCBVLib.batch.tree import search

    if any(word.lower().endswith(".csv") for word in asked):
        if len(asked) > 1:
            raise UnreadableInputError(
                f"A manifest is a cohort by itself, but {len(asked)} things were named. Pass the manifest alone."
            )
        cohort = read_manifest(Path(asked[0]), shared)
    else:
        roots = _roots(asked)
        base = _base(asked, roots)
        found, passed_over = search(roots, base, output, progress)
        cases = []
        for entry in sorted(found, key=lambda entry: entry.path):
            relative = entry.path.relative_to(base)
            relative = relative if relative.parts else Path(entry.path.name or "series")
            request = replace(shared, series=entry.path, series_uid=entry.series_uid or shared.series_uid)
            cases.append(Case(name_of(relative), request, relative.as_posix(), trouble=entry.trouble))
        cohort = Cohort(tuple(cases), tuple(passed_over))
    if not cohort.cases:
        raise UnreadableInputError(_nothing_found(asked, cohort.passed_over))
    require_different((case.id for case in cohort.cases), "Rename one, or pass a manifest (.csv) with an id for each.")
    return cohort


def _roots(asked: Sequence[str]) -> list[Path]:
    """Return what the words name, absolute, each once; patterns are filled in."""
    roots: dict[Path, None] = {}
    for word in asked:
        if Path(word).exists():
            found = [word]
        elif glob.has_magic(word):
            found = sorted(glob.glob(word, recursive=True))
            if not found:
                raise UnreadableInputError(f"The pattern {word} fits nothing. Check the path; quote it for the shell.")
        else:
            raise UnreadableInputError(f"There is no file or folder {word}. Check the path.")
        roots.update(dict.fromkeys(Path(os.path.abspath(path)) for path in found))
    return list(roots)


def _base(asked: Sequence[str], roots: Sequence[Path]) -> Path:
    """Return the folder that cases are named below: of a pattern what stands before it, else what all have in common.

    It must not depend on what a pattern fits today, or the names would change when a patient is added.
    """
    fixed = []
    for word in asked:
        path = Path(os.path.abspath(word))
        if not path.exists():  # a pattern
            path = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        fixed.append(path if path.is_dir() else path.parent)
    base = Path(os.path.commonpath(fixed))
    return base if all(root.is_relative_to(base) for root in roots) else Path(base.anchor)


def _nothing_found(asked: Sequence[str], passed_over: Sequence[PassedOver]) -> str:
    needed = "DICOM folders or .zip, 4-D NIfTI (.nii, .nii.gz) and Slicer sequences (.seq.nrrd) are looked for."
    example = f" Passed over, for example: {passed_over[0].source} ({passed_over[0].reason})." if passed_over else ""
    return f"No dynamic series was found in {', '.join(asked)}. {needed}{example}"
