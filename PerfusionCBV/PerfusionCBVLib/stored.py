"""Reading back what `map` wrote: for measures, reports, registration and DICOM objects made later."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.load_common import sha256_of_file, shown
from PerfusionCBVLib.nifti_file import read_volume_values
from PerfusionCBVLib.output import CURVES, PROVENANCE
from PerfusionCBVLib.sealed_record import read_sealed_record, require_files_of
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.withheld import unnamed_provenance

ADVICE = "Make the maps again with `map`."


@dataclass(frozen=True, eq=False)
class StoredResult:
    """What a folder, or a Slicer scene, keeps of a result: a `MapResult` without the series itself.

    Attributes
    ----------
    origin : str
        The folder, or where that may not be named the hash of its provenance; the node in Slicer.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    maps : dict of str to ParameterMap
    baseline : (x, y, z) float32 array
    mask : (x, y, z) bool array
    reference : (x, y, z) bool array or None
    status : (x, y, z) uint8 array
        See `concentration.Status`; a scene keeps only which voxels are at the noise floor.
    times_s : (T,) array, s
    curves_per_s : dict of str to (T,) array
        Mean ΔR2*, 1/s.
    findings : tuple of Finding
    provenance : dict
    """

    origin: str
    affine: np.ndarray
    maps: dict[str, ParameterMap]
    baseline: np.ndarray
    mask: np.ndarray
    reference: np.ndarray | None
    status: np.ndarray
    times_s: np.ndarray
    curves_per_s: dict[str, np.ndarray]
    findings: tuple[Finding, ...]
    provenance: dict[str, Any]


def read_result(folder: Path | str, *, with_identifiers: bool = False) -> StoredResult:
    """Return the result that `map` (or `write_result`) left in a folder.

    Parameters
    ----------
    folder : Path or str
    with_identifiers : bool
        Whether names may pass: the folder's and those that `map` was told to keep, see `withheld`.

    Raises
    ------
    UnreadableInputError
        The folder holds no result, not all of it, one of another version, or one that was changed since.
    """
    folder = Path(folder)
    provenance = _provenance(folder)
    has_reference = "reference.nii.gz" in provenance["files"]
    volumes = {*provenance["maps"], "baseline", "mask", "status", *(["reference"] if has_reference else [])}
    require_files_of(provenance, folder, {CURVES, *(f"{name}.nii.gz" for name in volumes)}, ADVICE)
    if not with_identifiers:
        provenance = unnamed_provenance(provenance)
    read = {name: read_map_file(folder / f"{name}.nii.gz") for name in volumes}
    values = {name: each for name, (each, _affine) in read.items()}
    affine = read["baseline"][1]
    maps = {
        name: ParameterMap(name, values[name], affine, facts["unit"], facts["description"])
        for name, facts in provenance["maps"].items()
    }
    times_s, curves_per_s = _curves(folder / CURVES)
    return StoredResult(
        origin=str(folder) if with_identifiers else f"SHA-256 of its provenance {sha256_of_file(folder / PROVENANCE)}",
        affine=affine,
        maps=maps,
        baseline=values["baseline"],
        mask=values["mask"] > 0,
        reference=values["reference"] > 0 if has_reference else None,
        status=values["status"].astype(np.uint8),
        times_s=times_s,
        curves_per_s=curves_per_s,
        findings=tuple(Finding(**entry) for entry in provenance["findings"]),
        provenance=provenance,
    )


def read_map_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a NIfTI volume, (x, y, z) float32, and its affine in RAS mm.

    Raises
    ------
    UnreadableInputError, GeometryError
        The file is missing, damaged or no volume.
    """
    _image, values, affine = read_volume_values(path)
    if values.ndim != 3:
        raise GeometryError(f"{path.name} has {values.ndim} dimensions; a volume has 3 (x, y, z). {ADVICE}")
    return values.astype(np.float32, copy=False), affine


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    if not path.exists():
        raise UnreadableInputError(
            f"{folder} holds no {PROVENANCE}, so it is no result. Choose the folder that `map --output` wrote."
        )
    content = read_sealed_record(path, ADVICE)
    version = str(content.get("version"))
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise UnreadableInputError(
            f"The maps in {folder} were made by version {shown(version)} of PerfusionCBV, and this is {__version__}, "
            f"which may scale them otherwise. {ADVICE}"
        )
    missing = {"files", "findings", "maps", "settings"} - content.keys()
    if missing:
        raise UnreadableInputError(f"{path} is no record of maps: it lacks {', '.join(sorted(missing))}. {ADVICE}")
    return content


def _curves(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    columns = dict(zip(head, np.array(rows, dtype=np.float64).T, strict=True))
    return columns.pop("time_s"), columns
