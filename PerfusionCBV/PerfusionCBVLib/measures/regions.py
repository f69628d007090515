"""A named region of a map: which share of each voxel belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.errors import GeometryError


@dataclass(frozen=True, eq=False)
class Region:
    """A segment on the grid of a map.

    A segment drawn on the map's own grid covers voxels wholly or not at all. One drawn on finer anatomy and brought to
    the map's grid covers a share of each voxel, and every measure weighs the voxel by it.

    Parameters
    ----------
    name : str
        As the user gave it.
    share : (x, y, z) array
        Bool, or the share of each voxel that belongs to the segment, 0 to 1. Kept as float32, read-only.
    category, kind : (code, scheme, meaning) or None
        What it is, by DICOM's terminology, where its file says so; never guessed from the name.

    Raises
    ------
    GeometryError
        Not three-dimensional, empty, or no shares.
    """

    name: str
    share: np.ndarray
    category: tuple[str, str, str] | None = None
    kind: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        share = np.array(self.share, dtype=np.float32)
        if share.ndim != 3:
            raise GeometryError(
                f"The region {self.name} has {share.ndim} dimensions; a region has 3 (x, y, z). Choose a label volume."
            )
        if not (np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1 + 1e-5):
            raise GeometryError(
                f"The region {self.name} has values from {share.min():g} to {share.max():g}; the share of a voxel that "
                "belongs to a region lies between 0 and 1. Choose a segmentation, not an image."
            )
        if not share.any():
            raise GeometryError(f"The region {self.name} covers no voxel of the map. Draw it on the map's images.")
        np.minimum(share, 1.0, out=share)
        share.setflags(write=False)
        object.__setattr__(self, "share", share)

    @property
    def mostly(self) -> np.ndarray:
        """The voxels of which half or more belongs to the region, (x, y, z) bool: what is drawn and mirrored."""
        return self.share >= 0.5


@dataclass(frozen=True, eq=False)
class DrawnRegion:
    """A segment on the grid that it was drawn on, before it is brought to a map's.

    Parameters
    ----------
    name : str
        As the user gave it.
    voxels : (x, y, z) array
        Not 0 inside. Kept as bool, read-only.
    affine : (4, 4) array
        Of `voxels`, index to RAS, mm.
    category, kind : (code, scheme, meaning) or None
        As in `Region`.

    Raises
    ------
    GeometryError
        Not three-dimensional.
    """

    name: str
    voxels: np.ndarray
    affine: np.ndarray
    category: tuple[str, str, str] | None = None
    kind: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        voxels, affine = np.array(self.voxels) != 0, np.array(self.affine, dtype=np.float64)
        if voxels.ndim != 3:
            raise GeometryError(
                f"The region {self.name} has {voxels.ndim} dimensions; a region has 3 (x, y, z). Choose a label volume."
            )
        for array in (voxels, affine):
            array.setflags(write=False)
        object.__setattr__(self, "voxels", voxels)
        object.__setattr__(self, "affine", affine)
