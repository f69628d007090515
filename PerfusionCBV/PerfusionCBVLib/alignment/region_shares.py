"""Regions from the grid that they were drawn on to a map's: one way for command line and panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib.alignment.resampling import segment_share
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.load_common import sha256_of_file
from PerfusionCBVLib.measures.region_files import read_regions
from PerfusionCBVLib.measures.regions import DrawnRegion, Region


@dataclass(frozen=True, eq=False)
class DrawnRegions:
    """The regions of one file or one segmentation.

    Attributes
    ----------
    regions : tuple of DrawnRegion
        In the space of the map, or of the anatomy.
    on_anatomy : bool
        Whether that space is the anatomy's.
    source : mapping
        Where they come from, for provenance.
    """

    regions: tuple[DrawnRegion, ...]
    on_anatomy: bool
    source: Mapping[str, Any]


def share_on(
    drawn: DrawnRegion, shape: tuple[int, ...], affine: np.ndarray, matrix: np.ndarray | None = None
) -> np.ndarray:
    """Return how much of each voxel of a map lies in a drawn region, (x, y, z) float32, 0 to 1.

    Exactly 0 or 1 where the region was drawn on the map's own voxels.

    Parameters
    ----------
    drawn : DrawnRegion
    shape, affine
        The map's grid; (4, 4) voxel index to RAS, mm.
    matrix : (4, 4) array, optional
        Takes the map's RAS to the region's RAS, mm; None where both share one space.
    """
    if matrix is None and drawn.voxels.shape == tuple(shape) and np.array_equal(drawn.affine, affine):
        return drawn.voxels.astype(np.float32)
    return segment_share(drawn.voxels, drawn.affine, shape, affine, matrix)


def region_on(
    drawn: DrawnRegion, shape: tuple[int, ...], affine: np.ndarray, matrix: np.ndarray | None = None
) -> Region:
    """Return a drawn region on a map's grid; the parameters are those of `share_on`.

    Raises
    ------
    GeometryError
        Nothing of it lies in the map.
    """
    return Region(drawn.name, share_on(drawn, shape, affine, matrix), drawn.category, drawn.kind)


def as_drawn(regions: Sequence[Region], affine: np.ndarray) -> tuple[DrawnRegion, ...]:
    """Return regions that `read_regions` gave for a grid, with that grid's (4, 4) affine."""
    return tuple(DrawnRegion(each.name, each.share > 0, affine, each.category, each.kind) for each in regions)


def read_drawn(path: Path, shape: tuple[int, int, int], affine: np.ndarray, anatomy: Volume | None) -> DrawnRegions:
    """Return the regions of a file that were drawn on a map's voxels or on an anatomy's.

    Parameters
    ----------
    path : Path
        See `region_files.read_regions`.
    shape, affine
        The map's grid.
    anatomy : Volume or None

    Raises
    ------
    UnreadableInputError
        The file can't be read, or holds no labels.
    GeometryError
        It lies on neither grid.
    """
    try:
        found = as_drawn(read_regions(path, shape, affine), affine)
        on_anatomy = False
    except GeometryError as error:
        if anatomy is None:
            raise
        on_anatomy = True
        try:
            found = as_drawn(read_regions(path, anatomy.values.shape, anatomy.affine), anatomy.affine)
        except GeometryError:
            raise GeometryError(
                f"{path.name} lies neither on the maps' voxels nor on those of {anatomy.name}. Draw the regions on one "
                "of the two."
            ) from error
    return DrawnRegions(found, on_anatomy, {"name": path.name, "sha256": {path.name: sha256_of_file(path)}})
