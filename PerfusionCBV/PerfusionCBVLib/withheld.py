"""What results and messages don't say unless asked: names of files and folders, free text of headers, the patient.

One rule. Numbers, codes, UIDs and hashes of the input go into results, names don't: an input file's name, a folder's,
a series' description or a contrast agent's free text may name the patient. `--with-identifiers` lets them through.
"""

from __future__ import annotations

import copy
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import DynamicSeries

SERIES_NAME = "DSC series"
IDENTITY = "identity"
"""Key of provenance under which patient and study stand, where that was asked for."""
WITHHELD_TEXT = "named in the input, text withheld"
HINT = "(Names are withheld; --with-identifiers shows them.)"

_SUFFIXES = (".seq.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".raw.gz", ".raw", ".json", ".zip", ".csv")
_NIFTI = (".nii.gz", ".nii")
_AGENTS = re.compile(
    r"\b(gadobutrol|gadovist|gadavist|gadoterate|gadoteric|dotarem|clariscan|gadopentetate|gadopentetic|magnevist|"
    r"gadobenate|multihance|gadoteridol|prohance|gadodiamide|omniscan|gadoversetamide|optimark|gadoxetate|gadoxetic|"
    r"primovist|eovist|gadopiclenol|elucirem|vueway|gadolinium|gd-dtpa|gd-dota|gd-do3a|ferumoxytol|feraheme)\b",
    re.IGNORECASE,
)
_OWN_ARTERIAL_SOURCES = ("automatic", "mask")
_NAMES_NOBODY = {
    *(
        "anatomy",
        "baseline",
        "data",
        "dicom",
        "dsc",
        "empty",
        "file",
        "files",
        "flair",
        "folder",
        "frames",
        "image",
        "images",
    ),
    *("input", "map", "maps", "mask", "measures", "mr", "mri", "nifti", "output", "perfusion", "reference", "regions"),
    *("report", "segmentation", "series", "source", "study", "t1", "t1c", "t2", "time", "volume"),
}
"""Usual names of files that are also words of our messages."""
_SHORTEST_NUMBER = 4
"""Digits of a file's name below which it is a counter, and replacing it would change the numbers of a message."""


def without_identifiers(result: MapResult) -> MapResult:
    """Return a result whose series, arterial input and provenance name nothing of the input.

    Kept are what later commands need to find the input again: DICOM UIDs and SHA-256 of every file.
    """
    arterial = result.arterial
    if arterial is not None:
        arterial = replace(arterial, source=_arterial_source(arterial.source))
    return replace(
        result,
        series=_unnamed_series(result.series),
        arterial=arterial,
        provenance=unnamed_provenance(result.provenance),
    )


def unnamed_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance without names of files, free text and patient; the same again when nothing is left to do."""
    unnamed = {key: value for key, value in copy.deepcopy(dict(provenance)).items() if key != IDENTITY}
    entered = unnamed.get("input")
    new_names = _new_names(entered.get("sha256", {})) if entered else {}
    if entered:
        hashes = entered.get("sha256", {})
        unnamed["input"] = {
            "source": _source(hashes),
            "sha256": {new_names[key]: value for key, value in hashes.items()},
            "notes": [_renamed(note, new_names) for note in entered.get("notes", [])],
        }
    for name, entry in unnamed.get("acquisition", {}).items():
        if entry.get("source"):
            entry["source"] = _renamed(entry["source"], new_names)
        if name == "contrast_agent":
            entry["value"] = _known_agent(entry["value"])
    if "arterial_input" in unnamed:
        unnamed["arterial_input"]["source"] = _arterial_source(unnamed["arterial_input"]["source"])
    return unnamed


def withhold(text: str, inputs: Mapping[str, Path | None]) -> str:
    """Return a message without names of inputs, with a hint where any was; see `without_names`."""
    found = without_names(text, inputs)
    return text if found == text else f"{found} {HINT}"


def without_names(text: str, inputs: Mapping[str, Path | None], *, folders: bool = False) -> str:
    """Return a text in which inputs are called by their role instead of their names.

    Parameters
    ----------
    text : str
        An error's message, or a log.
    inputs : mapping of str to Path
        Role, for example "INPUT" or "--mask", to the path that the user gave. Of a folder or .zip, names of the files
        in it are withheld as well.
    folders : bool
        Whether the folders that hold the inputs are withheld too.
    """
    names: dict[str, str] = {}
    for role, path in inputs.items():
        if path is not None:
            holding = (path.parent, path.absolute().parent) if folders else ()
            around = {str(folder): f"{role}'s folder" for folder in holding}
            names = {**around, **_contained(path, role), **_names_of(path, role), **names}
    return _renamed(text, {name: role for name, role in names.items() if name in text})


def _unnamed_series(series: DynamicSeries) -> DynamicSeries:
    new_names = _new_names(series.input_sha256)
    acquisition = replace(
        series.acquisition,
        contrast_agent=_known_agent(series.acquisition.contrast_agent),
        sources={key: _renamed(source, new_names) for key, source in series.acquisition.sources.items()},
    )
    unnamed = object.__new__(DynamicSeries)  # `replace` and `copy` would look through the whole signal again
    for name, value in {
        **{each.name: getattr(series, each.name) for each in fields(series)},
        "acquisition": acquisition,
        "name": SERIES_NAME,
        "source": _source(series.input_sha256),
        "input_sha256": MappingProxyType({new_names[key]: value for key, value in series.input_sha256.items()}),
        "notes": tuple(_renamed(note, new_names) for note in series.notes),
    }.items():
        object.__setattr__(unnamed, name, value)
    return unnamed


def _new_names(file_names: Iterable[str]) -> dict[str, str]:
    """Return what each file (or ``dicom:UID``) of a series is called instead: series.nii.gz, series.json, ..."""
    new_names: dict[str, str] = {}
    for name in file_names:
        if name in new_names:
            continue
        if name.startswith("dicom:") or name == "voxels":
            new_names[name] = name
            continue
        suffix = _suffix(name)
        count = sum(_suffix(other) == suffix for other in new_names) + 1
        new_names[name] = f"series{suffix}" if count == 1 else f"series-{count}{suffix}"
        if suffix in _NIFTI:  # its sidecar is spoken of even where there is none
            new_names.setdefault(name[: -len(suffix)] + ".json", "series.json")
    return new_names


def _source(hashes: Mapping[str, str]) -> str:
    uids = [key.removeprefix("dicom:") for key in hashes if key.startswith("dicom:")]
    if uids:
        return f"DICOM series, UID {uids[0]}"
    return ", ".join(_new_names(hashes)[key] for key in hashes)


def _arterial_source(source: str) -> str:
    return source if source in _OWN_ARTERIAL_SOURCES else "curve"


def _known_agent(text: str | None) -> str | None:
    if text is None:
        return None
    found = _AGENTS.findall(text)
    return " ".join(dict.fromkeys(found)) if found else WITHHELD_TEXT


def _suffix(name: str) -> str:
    return next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")


def _names_of(path: Path, role: str) -> dict[str, str]:
    """Return the ways in which messages name a path, with what to say instead."""
    suffix = _suffix(path.name)
    stem = path.name[: len(path.name) - len(suffix)]
    return {
        str(path.absolute()): role,
        str(path): role,
        path.name: role,
        **({f"{stem}.json": f"{role}.json", stem: role} if suffix else {}),
    }


def _contained(path: Path, role: str) -> dict[str, str]:
    """Return the names of files and folders in a folder or .zip, with what to say instead."""
    try:
        if path.is_dir():
            inside = [str(entry.relative_to(path)) for entry in path.rglob("*")]
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = archive.namelist()
        else:
            return {}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    parts = {part for name in inside for part in (name, *re.split(r"[/\\]", name)) if part}
    return dict.fromkeys(parts, f"{role}/…")


def _renamed(text: str, new_names: Mapping[str, str]) -> str:
    """Return a text with names replaced in one pass, the longest first, where they stand as a whole."""
    names = sorted((name for name in new_names if _can_name(name)), key=len, reverse=True)
    if not names:
        return text
    anyone = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<![\w-])(?:{anyone})(?![\w-])", lambda match: new_names[match[0]], text)


def _can_name(name: str) -> bool:
    is_counter = name.isdecimal() and len(name) < _SHORTEST_NUMBER
    return len(name) > 1 and not is_counter and name.lower() not in _NAMES_NOBODY
