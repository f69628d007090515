"""Regions that were drawn on maps: label files and Slicer's segmentations, brought onto the maps' grid."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError

LARGEST_MISFIT = 0.05
"""Of a voxel, as far as a drawn grid may lie off the maps'."""

_MOST_LABELS = 100
_TO_RAS = {
    "left-posterior-superior": np.diag([-1.0, -1.0, 1.0]),
    "right-anterior-superior": np.eye(3),
}


@dataclass(frozen=True, eq=False)
class Segment:
    """A named region on the maps' grid.

    Attributes
    ----------
    name : str
    mask : (x, y, z) bool array
    category, kind : (code, scheme, meaning) or None
        What it is, by DICOM's terminology, where the file says so; never guessed from the name.
    """

    name: str
    mask: np.ndarray
    category: tuple[str, str, str] | None = None
    kind: tuple[str, str, str] | None = None


def read_segments(path: Path | str, shape: tuple[int, ...], affine: np.ndarray) -> list[Segment]:
    """Return the segments of a label file.

    Parameters
    ----------
    path : path-like
        NIfTI labels (0 is background), called "label 1", "label 2" as measures call them; or Slicer's ``.seg.nrrd``,
        with its names and terminology.
    shape : (x, y, z)
        Of the maps.
    affine : (4, 4) array
        Of the maps, voxel index to RAS, mm.

    Raises
    ------
    UnreadableInputError
        Not readable, not labels, or empty.
    GeometryError
        On another grid than the maps; a part of the same grid will do.
    """
    path = Path(path)
    lower = path.name.lower()
    if lower.endswith((".nii", ".nii.gz")):
        labels, own_affine, named = _from_nifti(path)
    elif lower.endswith(".nrrd"):
        labels, own_affine, named = _from_nrrd(path)
    else:
        raise UnreadableInputError(f"{path.name} is no label file; NIfTI or Slicer's .seg.nrrd is needed.")
    to_maps = np.linalg.inv(affine) @ own_affine
    if np.abs(to_maps[:3, :3] - np.rint(to_maps[:3, :3])).max() * max(labels.shape[:3]) > LARGEST_MISFIT or (
        np.abs(np.abs(to_maps[:3, :3]).sum(axis=0) - 1).max() > LARGEST_MISFIT
    ):
        raise _off_grid(path)
    segments = []
    for name, layer, value, category, kind in named:
        drawn = np.argwhere(labels[..., layer] == value)
        if not drawn.size:
            continue
        places = drawn @ to_maps[:3, :3].T + to_maps[:3, 3]
        voxels = np.rint(places).astype(int)
        if np.abs(places - voxels).max() > LARGEST_MISFIT or (voxels < 0).any() or (voxels >= shape).any():
            raise _off_grid(path)
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(voxels.T)] = True
        segments.append(Segment(name, mask, category, kind))
    if not segments:
        raise UnreadableInputError(f"{path.name} holds no segment with any voxel. Draw one, or leave the file out.")
    return segments


def _off_grid(path: Path) -> GeometryError:
    return GeometryError(
        f"{path.name} does not lie on the maps' voxels. Resample it to the maps' grid by nearest neighbour first."
    )


_Named = list[tuple[str, int, int, tuple[str, str, str] | None, tuple[str, str, str] | None]]


def _from_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, _Named]:
    try:
        image = nib.load(path)
        values = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise UnreadableInputError(f"{path.name} can't be read ({error}). Save it again.") from error
    found = [int(value) for value in _labels(values, path) if value]
    named: _Named = [(f"label {label}", 0, label, None, None) for label in found]
    return values[..., None], np.asarray(image.affine, dtype=np.float64), named  # type: ignore[attr-defined]


def _from_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, _Named]:
    try:
        values, header = nrrd.read(str(path), index_order="F")
        directions = np.array(header["space directions"], dtype=np.float64)
        to_ras = _TO_RAS[str(header["space"]).lower()]
        origin = np.array(header["space origin"], dtype=np.float64)
    except (nrrd.NRRDError, OSError, EOFError, ValueError, LookupError, zlib.error) as error:
        raise UnreadableInputError(f"{path.name} can't be read ({error}). Save it again from Slicer.") from error
    is_space = np.isfinite(directions).all(axis=1)
    if is_space.sum() != 3 or values.ndim not in (3, 4):
        raise UnreadableInputError(f"{path.name} does not have three axes in space. Save it again from Slicer.")
    # Overlapping segments lie on layers of a fourth axis.
    layers = [*np.flatnonzero(~is_space)]
    values = np.moveaxis(values, layers[0], -1) if layers else values[..., None]
    _labels(values, path)
    affine = np.eye(4)
    affine[:3, :3] = to_ras @ directions[is_space].T
    affine[:3, 3] = to_ras @ origin
    names = _names(path)
    named: _Named = []
    for key in sorted((k for k in header if re.fullmatch(r"Segment\d+_Name", k)), key=lambda k: int(k[7:-5])):
        prefix = key.removesuffix("Name")
        category, kind = _terminology(header, prefix)
        value, layer = int(header.get(f"{prefix}LabelValue", 1)), int(header.get(f"{prefix}Layer", 0))
        named.append((names[key], layer, value, category, kind))
    if not named:
        raise UnreadableInputError(f"{path.name} names no segment. Save it from Slicer as a segmentation (.seg.nrrd).")
    return values, affine, named


def _names(path: Path) -> dict[str, str]:
    """Return the segments' names by header key. Slicer writes UTF-8, of which pynrrd drops all that is not ASCII."""
    names = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            if not line.strip():  # the header ends
                break
            if match := re.match(rb"(Segment\d+_Name)\s*:=(.*)", line):
                names[match[1].decode()] = match[2].decode("utf-8", errors="replace").strip()
    return names


def _labels(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim < 3:
        raise UnreadableInputError(f"{path.name} has {values.ndim} dimensions; labels of a volume have 3.")
    found = np.unique(values)
    if len(found) > _MOST_LABELS or (found < 0).any() or (found != np.rint(found)).any():
        raise UnreadableInputError(
            f"{path.name} does not hold labels (whole numbers from 0, at most {_MOST_LABELS}). Pass a segmentation."
        )
    return found


def _terminology(
    header: Mapping[str, Any], prefix: str
) -> tuple[tuple[str, str, str] | None, tuple[str, str, str] | None]:
    """Return category and type of a segment from Slicer's tag "TerminologyEntry:context~SCT^1^a~SCT^2^b~…"."""
    entry = re.search(r"TerminologyEntry:([^|]*)", str(header.get(f"{prefix}Tags", "")))
    parts = entry[1].split("~") if entry else []
    codes = [tuple(part.split("^")) for part in parts[1:3]]
    if len(codes) != 2 or any(len(code) != 3 or not all(code) for code in codes):
        return None, None
    (scheme, value, meaning), (kind_scheme, kind_value, kind_meaning) = codes
    return (value, scheme, meaning), (kind_value, kind_scheme, kind_meaning)
