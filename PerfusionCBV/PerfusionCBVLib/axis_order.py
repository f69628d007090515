"""One order of axes for all work, so that a map does not depend on how its voxels happen to be stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from PerfusionCBVLib.series import DynamicSeries

CLEARLY_THICKER = 1.2
"""An edge longer than the others by this factor is the slice thickness."""

_STORED = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)

Volume = TypeVar("Volume", bound=np.ndarray | None)


@dataclass(frozen=True, eq=False)
class AxisOrder:
    """The way from a stored grid to the working grid and back; both are views, nothing is copied or interpolated.

    On the working grid the slices lie along z, and each axis runs towards right, anterior or superior, in this order
    where the slices leave a choice. Mask and networks work slice by slice, and a network is not quite symmetric; so a
    series that was stored turned or mirrored must come to them the same way round.

    Attributes
    ----------
    forward, back : (3, 2) arrays
        nibabel orientation transforms.
    """

    forward: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray) -> AxisOrder:
        """Return the order for a grid: slices are the planes of acquisition, axial where all edges are alike.

        Parameters
        ----------
        affine : (4, 4) array
            Voxel index to RAS, mm.
        """
        towards = io_orientation(affine)  # for each stored axis: the world axis it follows, and whether backwards
        edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
        thickest = int(np.argmax(edges_mm))
        if edges_mm[thickest] <= CLEARLY_THICKER * np.sort(edges_mm)[1]:
            thickest = int(np.argmax(towards[:, 0] == 2))
        last = np.where(np.arange(3) == thickest, 3, towards[:, 0])
        forward = np.stack([np.argsort(np.argsort(last)), towards[:, 1]], axis=1).astype(float)
        return cls(forward, ornt_transform(_STORED, forward))

    @property
    def is_stored_order(self) -> bool:
        """Whether the stored grid is the working grid."""
        return np.array_equal(self.forward, _STORED)

    def work(self, volume: Volume) -> Volume:
        """Return an (x, y, z, ...) array of the stored grid on the working grid; None stays None."""
        return None if volume is None else apply_orientation(volume, self.forward)  # type: ignore[return-value]

    def stored(self, volume: Volume) -> Volume:
        """Return an (x, y, z, ...) array of the working grid on the stored grid; None stays None."""
        return None if volume is None else apply_orientation(volume, self.back)  # type: ignore[return-value]

    def series(self, series: DynamicSeries) -> DynamicSeries:
        """Return a series on the working grid."""
        if self.is_stored_order:
            return series
        affine = series.affine @ inv_ornt_aff(self.forward, series.signal.shape[:3])
        return replace(series, signal=self.work(series.signal), affine=affine)
