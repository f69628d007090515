"""Reading back what `output.write_result` wrote: the maps that are measured, with their provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import same_grid
from PerfusionCBVLib.series import ParameterMap

PROVENANCE = "provenance.json"

_DESCRIPTIONS = {
    "rcbv": "Relative cerebral blood volume",
    "uncertainty": "Standard deviation of rCBV",
    "k2": "Leakage rate K2",
    "psr": "Percentage signal recovery",
}
_FIXED_UNITS = {"k2": "1/s", "psr": "%"}


@dataclass(frozen=True, eq=False)
class MapFolder:
    """Maps of one series with what is needed to measure them; the names are those of `MapResult`.

    Attributes
    ----------
    folder : Path
    maps : dict of str to ParameterMap
        ``rcbv`` and, where they are there, ``uncertainty``, ``k2`` and ``psr``.
    mask : (x, y, z) bool array
        Brain.
    reference : (x, y, z) bool array or None
    status : (x, y, z) uint8 array
        See `concentration.Status`.
    provenance : dict
    """

    folder: Path
    maps: dict[str, ParameterMap]
    mask: np.ndarray
    reference: np.ndarray | None
    status: np.ndarray
    provenance: dict[str, Any]

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to RAS, mm, (4, 4)."""
        return self.maps["rcbv"].affine


def read_map_folder(folder: Path | str) -> MapFolder:
    """Return the maps in a folder that `perfusion-cbv map` wrote.

    Raises
    ------
    UnreadableInputError
        No such result, an incomplete one, or one of another version.
    GeometryError
        Its files are not on one grid.
    """
    folder = Path(folder)
    provenance = _read_provenance(folder)
    rcbv, affine = _read_volume(folder / "rcbv.nii.gz")
    kind = provenance["reference"]["kind"]
    # A classical map without reference is an area, a network's a ratio to the mean curve.
    unit = "1" if kind == "none" and "network" not in provenance else "{ratio}"
    maps = {}
    for name, description in _DESCRIPTIONS.items():
        if f"{name}.nii.gz" in provenance["files"]:
            values = rcbv if name == "rcbv" else _on_grid(folder / f"{name}.nii.gz", rcbv.shape, affine)
            maps[name] = ParameterMap(name, values, affine, _FIXED_UNITS.get(name, unit), description)
    mask = _on_grid(folder / "mask.nii.gz", rcbv.shape, affine) > 0
    reference = None if kind == "none" else _on_grid(folder / "reference.nii.gz", rcbv.shape, affine) > 0
    status = _on_grid(folder / "status.nii.gz", rcbv.shape, affine).astype(np.uint8)
    return MapFolder(folder, maps, mask, reference, status, provenance)


def _read_provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    try:
        provenance: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableInputError(
            f"There is no {PROVENANCE} in {folder}. Give the folder that `perfusion-cbv map` wrote."
        ) from error
    except ValueError as error:
        raise UnreadableInputError(f"{path} is damaged ({error}). Map the series again.") from error
    if not isinstance(provenance, dict) or provenance.get("software") != "PerfusionCBV":
        raise UnreadableInputError(
            f"{path} was not written by PerfusionCBV. Give the folder that `perfusion-cbv map` wrote."
        )
    version = str(provenance.get("version"))
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise UnreadableInputError(
            f"The maps in {folder} were made by version {version} of PerfusionCBV, and this is {__version__}, which "
            "may scale them otherwise. Map the series again."
        )
    missing = {"files", "reference"} - set(provenance)
    missing |= {name for name in provenance.get("files", ()) if not (folder / name).is_file()}
    if missing:
        raise UnreadableInputError(
            f"The result in {folder} is incomplete: {', '.join(sorted(missing))} is missing. Map the series again."
        )
    if "rcbv.nii.gz" not in provenance["files"]:
        raise UnreadableInputError(f"The result in {folder} has no rcbv.nii.gz. Map the series again.")
    return provenance


def _read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = nib.load(path)
        return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise UnreadableInputError(f"{path} is missing or damaged ({error}). Map the series again.") from error


def _on_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    values, own = _read_volume(path)
    if values.shape != shape or not same_grid(own, affine, shape):
        raise GeometryError(
            f"{path.name} and rcbv.nii.gz in {path.parent} are on different grids, so that they are not of one result. "
            "Map the series again."
        )
    return values
