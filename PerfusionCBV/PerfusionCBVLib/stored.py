"""Reading back what `map` wrote: for measures, reports, registration and DICOM objects made later."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.load_common import sha256_of_file
from PerfusionCBVLib.output import CURVES, PROVENANCE
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.withheld import unnamed_provenance

GRID_TOLERANCE_MM = 1e-3


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
        The folder holds no result, not all of it, or one of another version.
    GeometryError
        Its files lie on different grids.
    """
    folder = Path(folder)
    provenance = _provenance(folder)
    if not with_identifiers:
        provenance = unnamed_provenance(provenance)
    baseline, affine = read_map_file(folder / "baseline.nii.gz")
    maps = {}
    for name, facts in provenance["maps"].items():
        values = _on_grid(folder / f"{name}.nii.gz", baseline.shape, affine)
        maps[name] = ParameterMap(name, values, affine, facts["unit"], facts["description"])
    has_reference = "reference.nii.gz" in provenance["files"]
    times_s, curves_per_s = _curves(folder / CURVES)
    return StoredResult(
        origin=str(folder) if with_identifiers else f"SHA-256 of its provenance {sha256_of_file(folder / PROVENANCE)}",
        affine=affine,
        maps=maps,
        baseline=baseline,
        mask=_on_grid(folder / "mask.nii.gz", baseline.shape, affine) > 0,
        reference=_on_grid(folder / "reference.nii.gz", baseline.shape, affine) > 0 if has_reference else None,
        status=_on_grid(folder / "status.nii.gz", baseline.shape, affine).astype(np.uint8),
        times_s=times_s,
        curves_per_s=curves_per_s,
        findings=tuple(Finding(**entry) for entry in provenance["findings"]),
        provenance=provenance,
    )


def read_map_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a NIfTI volume, (x, y, z) float32, and its affine.

    Raises
    ------
    UnreadableInputError
        The file is missing, damaged or no volume.
    """
    try:
        image = nib.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise UnreadableInputError(f"{path} can't be read ({error}). Make the maps again with `map`.") from error
    if values.ndim != 3:
        raise UnreadableInputError(f"{path} has {values.ndim} dimensions; a volume has 3 (x, y, z).")
    return values, np.asarray(image.affine, dtype=np.float64)  # type: ignore[attr-defined]


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"files", "findings", "maps", "settings", "version"} - content.keys()
    except FileNotFoundError as error:
        raise UnreadableInputError(
            f"{folder} holds no {PROVENANCE}, so it is no result. Choose the folder that `map --output` wrote."
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise UnreadableInputError(f"{path} can't be read ({error}). Make the maps again with `map`.") from error
    version = str(content.get("version"))
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise UnreadableInputError(
            f"The maps in {folder} were made by version {version} of PerfusionCBV, and this is {__version__}, which "
            "may scale them otherwise. Make the maps again with `map`."
        )
    if missing:
        raise UnreadableInputError(
            f"{path} lacks {', '.join(sorted(missing))}: another version made it. Make the maps again with `map`."
        )
    if str(content["version"]).split(".")[:2] != __version__.split(".")[:2]:
        raise UnreadableInputError(
            f"The maps in {folder} were made by version {content['version']}, and this is {__version__}, which may "
            "scale them otherwise. Make the maps again with `map`."
        )
    return content


def _on_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    values, found = read_map_file(path)
    if values.shape != shape or not np.allclose(found, affine, atol=GRID_TOLERANCE_MM):
        raise GeometryError(
            f"{path} lies on another grid than the other maps of its folder ({values.shape} voxels, needed: {shape}). "
            "Make the maps again with `map`."
        )
    return values


def _curves(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        table = np.array(rows, dtype=np.float64)
        columns = dict(zip(head, table.T, strict=True))
        return columns.pop("time_s"), columns
    except (OSError, ValueError, KeyError) as error:
        raise UnreadableInputError(f"{path} can't be read ({error}). Make the maps again with `map`.") from error
