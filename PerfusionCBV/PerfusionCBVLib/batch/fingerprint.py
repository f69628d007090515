"""What a result was made from, as one hash: the same hash, and the case need not be run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nrrd

from PerfusionCBVLib import __version__
from PerfusionCBVLib.batch.cohort import Case
from PerfusionCBVLib.errors import ModelError, UnreadableInputError
from PerfusionCBVLib.load import files_in
from PerfusionCBVLib.load_common import sha256_of_file
from PerfusionCBVLib.networks.cards import WEIGHTS_FOLDER
from PerfusionCBVLib.settings import NETWORK_METHODS, Settings


def input_hashes(case: Case) -> dict[str, str]:
    """Return the SHA-256 of every file that a case is made from, by role and name.

    Every byte is read each time: a file's size and times can stay the same when its content does not, and reading a
    series takes about a hundredth of the time of mapping it.

    Raises
    ------
    UnreadableInputError
        A file is missing or can't be read.
    """
    found = {}
    for role, file, name in _input_files(case):
        found[f"{role}: {name}"] = sha256_of_file(file)
    return found


def weights_hash(method: str) -> str | None:
    """Return the SHA-256 of the weights that a method runs on here; None for a classical one.

    Raises
    ------
    ModelError
        They are missing.
    """
    if method not in NETWORK_METHODS:
        return None
    path = WEIGHTS_FOLDER / f"{method}.safetensors"
    if not path.is_file():
        raise ModelError(f"The weights {path} are missing. Install the package again.")
    return sha256_of_file(path)


def case_key(case: Case, settings: Settings, weights_sha256: str | None, hashes: dict[str, str]) -> str:
    """Return the hash over everything that decides a case's result: input, what the user gave, settings, version."""
    request = case.request
    content: dict[str, Any] = {
        "version": __version__,
        "settings": asdict(settings),
        "weights_sha256": weights_sha256,
        "inputs": hashes,
        "aif": "auto" if request.aif == "auto" else None,
        "aif_relaxivity": request.aif_relaxivity,
        "echo_time_s": request.echo_time_s,
        "repetition_time_s": request.repetition_time_s,
        "series_uid": request.series_uid,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _input_files(case: Case) -> Iterator[tuple[str, Path, str]]:
    """Give role, file and name of all that is read for a case."""
    request = case.request
    if request.series.is_dir():
        for file in files_in(request.series):
            yield "series", file, file.relative_to(request.series).as_posix()
    elif not request.series.exists():
        raise UnreadableInputError(f"There is no file or folder {request.series}. Check the path.")
    else:
        yield "series", request.series, request.series.name
        for file in _beside(request.series):
            yield "series", file, file.name
    aif = None if request.aif in (None, "auto") else Path(str(request.aif))
    for role, path in (
        ("mask", request.mask), ("reference", request.reference), ("regions", case.regions), ("aif", aif),
    ):  # fmt: skip
        if path is not None:
            yield role, path, path.name


def _beside(path: Path) -> Iterator[Path]:
    """Give the files that a reader opens beside the one that was named: a sidecar, a header's own data."""
    name = path.name
    if name.lower().endswith((".nii", ".nii.gz")):
        sidecar = path.with_name(name[: name.lower().rindex(".nii")] + ".json")
        if sidecar.exists():
            yield sidecar
    elif name.lower().endswith((".nhdr", ".nrrd")):
        try:
            header = nrrd.read_header(str(path))
        except (nrrd.NRRDError, ValueError, LookupError, TypeError, StopIteration, OSError):
            return  # the loader will say what is wrong with it
        data = path.parent / str(header.get("data file", header.get("datafile", ""))).strip()
        if data.is_file():
            yield data
