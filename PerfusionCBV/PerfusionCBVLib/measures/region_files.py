"""Regions from files: label maps in NIfTI or NRRD, and Slicer's segmentations (.seg.nrrd) with their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import require_usable_affine, shown
from PerfusionCBVLib.load_nrrd import nrrd_affine
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.nifti_file import read_volume_values
from PerfusionCBVLib.nrrd_file import read_nrrd

LARGEST_MISFIT = 0.1
"""Of a voxel, as far as a drawn grid may lie off the map's."""

LONGEST_NAME = 200

MOST_LABELS = 256
"""A file with more different values is an image, not a label map."""


def read_regions(path: Path | str, shape: tuple[int, int, int], affine: np.ndarray) -> tuple[Region, ...]:
    """Return the segments of a file that lie on a map's own grid, in the file's order.

    A label map gives a region for each whole number above 0, called ``label 1`` and so on; a segmentation of Slicer
    gives its segments by their names, overlapping ones too. Empty segments are left out. A file that holds a part of
    the map's grid only, voxel on voxel, is fine: Slicer saves what is drawn on.

    Parameters
    ----------
    path : Path
        .nii, .nii.gz, .nrrd, .nhdr or .seg.nrrd.
    shape : (x, y, z)
        The map's grid.
    affine : (4, 4) array
        The map's voxel index to RAS, mm.

    Raises
    ------
    UnreadableInputError
        The file can't be read, or holds no labels.
    GeometryError
        It lies on another grid.
    """
    path = Path(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        values, own_affine = _read_nifti(path)
        header: Mapping[str, Any] = {}
    elif path.name.lower().endswith((".nrrd", ".nhdr")):
        values, own_affine, header = _read_nrrd(path)
    else:
        raise UnreadableInputError(
            f"{path.name} is no label file that can be read here. Give .nii, .nii.gz, .nrrd or .seg.nrrd."
        )
    require_usable_affine(own_affine, path.name)
    _require_labels(values, path.name)
    values = _on_grid(values, own_affine, shape, affine, path.name)
    named = _segments(header, path, values.shape[0]) or _labels(values)
    regions = [
        Region(each.name, values[each.layer] == each.label, each.category, each.kind)
        for each in named
        if (values[each.layer] == each.label).any()
    ]
    if not regions:
        raise UnreadableInputError(f"{path.name} marks no voxel. Draw a region, or choose another file.")
    twice = sorted({r.name for r in regions if [other.name for other in regions].count(r.name) > 1})
    if twice:
        raise UnreadableInputError(
            f"{path.name} has several segments called {shown(', '.join(twice), 200)}; their measures could not be told "
            "apart. Rename them."
        )
    return tuple(regions)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    _image, values, affine = read_volume_values(path)
    if values.ndim != 3:
        raise GeometryError(f"{path.name} has {values.ndim} dimensions; a label map has 3 (x, y, z).")
    return values[np.newaxis], affine


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, Mapping[str, Any]]:
    header, values = read_nrrd(path)
    if values.ndim not in (3, 4):
        raise GeometryError(f"{path.name} has {values.ndim} dimensions; a segmentation has 3, or 4 with layers.")
    layers = None
    if values.ndim == 4:  # Slicer keeps overlapping segments in layers, along the axis without a direction in space
        rows = [row is None or not np.isfinite(row).all() for row in header.get("space directions", [])]
        if rows.count(True) != 1:
            raise GeometryError(f"{path.name} does not say which of its 4 axes holds the layers. Save it from Slicer.")
        layers = rows.index(True)
        values = np.moveaxis(values, layers, 0)
    else:
        values = values[np.newaxis]
    return values, nrrd_affine(header, layers, path.name), header


def _on_grid(
    values: np.ndarray, own_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray, name: str
) -> np.ndarray:
    """Return the layers on the map's grid.

    Axes may be swapped or reversed, and Slicer saves the part of a segmentation's grid that is drawn on.
    """
    to_maps = np.linalg.inv(affine) @ own_affine
    nearest = np.rint(to_maps)
    own_shape = values.shape[1:]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in own_shape], indexing="ij")).reshape(3, -1)
    off = (to_maps - nearest)[:3, :3] @ corners + (to_maps - nearest)[:3, 3:]
    turned = np.abs(nearest[:3, :3])
    if np.abs(off).max() > LARGEST_MISFIT or (turned.sum(axis=0) != 1).any() or (turned.sum(axis=1) != 1).any():
        raise GeometryError(
            f"{name} is not on the maps' grid: it has {_by(own_shape)} voxels of "
            f"{_by(np.linalg.norm(own_affine[:3, :3], axis=0))} mm, the maps {_by(shape)} of "
            f"{_by(np.linalg.norm(affine[:3, :3], axis=0))} mm. Give the image that it was drawn on with --anatomy, or "
            "draw it on the maps."
        )
    layer, *drawn = np.nonzero(values)
    i, j, k = (nearest[:3, :3] @ np.array(drawn) + nearest[:3, 3:]).astype(int)
    inside = (np.array([i, j, k]) >= 0).all(axis=0) & (shape > np.array([i, j, k]).T).all(axis=1)
    if lost := int(np.count_nonzero(~inside)):
        raise GeometryError(
            f"{lost} marked voxels of {name} lie beside the maps' grid of {_by(shape)} voxels. Draw the regions on the "
            "maps, or give the image that they were drawn on with --anatomy."
        )
    placed = np.zeros((values.shape[0], *shape), dtype=values.dtype)
    placed[layer, i, j, k] = values[layer, *drawn]
    return placed


def _require_labels(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "f":
        whole = np.isfinite(values).all() and bool((values == np.round(values)).all())
    else:
        whole = values.dtype.kind in "iub"
    if not whole or values.min() < 0 or np.unique(values).size > MOST_LABELS:
        raise UnreadableInputError(
            f"{name} is no label map: its values are not a few whole numbers from 0. Give a segmentation, not an image."
        )


class _Segment(NamedTuple):
    name: str
    layer: int
    label: int
    category: tuple[str, str, str] | None = None
    kind: tuple[str, str, str] | None = None


def _segments(header: Mapping[str, Any], path: Path, layers: int) -> list[_Segment]:
    """Return Slicer's segments; none for a plain label map."""
    numbers = sorted(int(match[1]) for key in header if (match := re.fullmatch(r"Segment(\d+)_ID", str(key))))
    names = _segment_names(path) if numbers else {}
    try:
        found = [
            _Segment(
                shown(names.get(i) or header[f"Segment{i}_ID"], LONGEST_NAME),
                int(header.get(f"Segment{i}_Layer", 0)),
                int(header.get(f"Segment{i}_LabelValue", 1)),
                *terminology(str(header.get(f"Segment{i}_Tags", ""))),
            )
            for i in numbers
        ]
    except ValueError:
        found = [_Segment(path.name, layers, 0)]
    if any(each.layer >= layers or each.label < 1 for each in found):
        raise UnreadableInputError(f"The list of segments in {path.name} is damaged. Save it from Slicer again.")
    return found


def terminology(tags: str) -> tuple[tuple[str, str, str] | None, tuple[str, str, str] | None]:
    """Return category and type, (code, scheme, meaning), from Slicer's "TerminologyEntry:context~SCT^1^a~SCT^2^b~…"."""
    entry = re.search(r"TerminologyEntry:([^|]*)", tags)
    codes = [part.split("^") for part in entry[1].split("~")[1:3]] if entry else []
    if len(codes) != 2 or any(len(code) != 3 or not all(code) for code in codes):
        return None, None
    (scheme, value, meaning), (kind_scheme, kind_value, kind_meaning) = codes
    return (value, scheme, meaning), (kind_value, kind_scheme, kind_meaning)


def _segment_names(path: Path) -> dict[int, str]:
    """Return the segments' names by number. Slicer writes UTF-8, of which pynrrd drops all that is not ASCII."""
    names = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            if not line.strip():  # the header ends
                break
            if match := re.match(rb"Segment(\d+)_Name\s*:=(.*)", line):
                names[int(match[1])] = match[2].decode("utf-8", errors="replace").strip()
    return names


def _labels(values: np.ndarray) -> list[_Segment]:
    if values.shape[0] > 1:
        return [_Segment(f"layer {i + 1} label {v}", i, v) for i in range(values.shape[0]) for v in _present(values[i])]
    return [_Segment(f"label {v}", 0, v) for v in _present(values[0])]


def _present(values: np.ndarray) -> list[int]:
    return [int(v) for v in np.unique(values) if v > 0]


def _by(numbers: Any) -> str:
    return " × ".join(f"{n:.4g}" for n in numbers)
