"""What the user drew: segments of a segmentation, on the grid that each was drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.errors import GeometryError, UsageError
from PerfusionCBVLib.gui.input_nodes import parent_transform
from PerfusionCBVLib.gui.regions import segment_image, voxels_of
from PerfusionCBVLib.measures.regions import DrawnRegion, Region

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.stored import StoredResult

_TERMINOLOGY = "TerminologyEntry"


def drawn_segments(segmentation: Any, node: Any) -> tuple[DrawnRegion, ...]:
    """Return the segments of a segmentation that are not empty, in the space of a series, each cut to what is drawn.

    Nothing is resampled: `regions_on` says what they cover of the series' voxels, and needs no node any more.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode or None
    node : vtkMRMLNode
        The series.

    Raises
    ------
    UsageError
        No segmentation, nothing drawn, two segments of one name, or a transform that bends.
    """
    if segmentation is None:
        raise UsageError("Select the segmentation to measure. Draw it in the Segment Editor.")
    to_series = _to_series(segmentation, node)
    content = segmentation.GetSegmentation()
    found: dict[str, DrawnRegion] = {}
    for number in range(content.GetNumberOfSegments()):
        segment_id = content.GetNthSegmentID(number)
        drawn = _drawn(segmentation, segment_id, to_series)
        if drawn is None:
            continue
        if drawn.name in found:
            raise UsageError(
                f"Two segments are called {drawn.name}; rename one, so that their numbers can be told apart."
            )
        found[drawn.name] = drawn
    if not found:
        raise UsageError(f"Nothing is drawn in {segmentation.GetName()}. Draw a segment on the series' images.")
    return tuple(found.values())


def regions_on(drawn: Sequence[DrawnRegion], result: StoredResult) -> tuple[Region, ...]:
    """Return segments as shares of the voxels of a result's maps; those beside the maps are left out.

    Raises
    ------
    UsageError
        None of them touches the maps.
    """
    from PerfusionCBVLib.alignment.region_shares import region_on

    regions = []
    for each in drawn:
        try:
            regions.append(region_on(each, result.mask.shape, result.affine))
        except GeometryError:
            continue
    if drawn and not regions:
        names = ", ".join(each.name for each in drawn)
        raise UsageError(f"Nothing of {names} covers a voxel of the series. Draw on its images, or align it first.")
    return tuple(regions)


def _drawn(segmentation: Any, segment_id: str, to_series: np.ndarray) -> DrawnRegion | None:
    from PerfusionCBVLib.measures.region_files import terminology

    image = segment_image(segmentation, segment_id)
    if image is None:
        return None
    voxels = voxels_of(image)
    where = np.argwhere(voxels)
    if not where.size:
        return None
    # Slicer keeps more or less of the empty grid around what is drawn; nothing may depend on that.
    low, high = where.min(axis=0), where.max(axis=0) + 1
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = to_series @ slicer.util.arrayFromVTKMatrix(matrix)
    first = np.add(image.GetExtent()[::2], low)
    affine[:3, 3] += affine[:3, :3] @ first
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    entry = vtk.reference("")
    tag = f"{_TERMINOLOGY}:{entry}" if segment.GetTag(_TERMINOLOGY, entry) else ""
    inside = voxels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return DrawnRegion(segment.GetName(), inside, affine, *terminology(tag))


def _to_series(segmentation: Any, node: Any) -> np.ndarray:
    """Return the (4, 4) matrix from the segmentation's own coordinates to the series', RAS in mm."""
    matrix = vtk.vtkMatrix4x4()
    linear = slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        segmentation.GetParentTransformNode(), parent_transform(node), matrix
    )
    if not linear:
        raise UsageError(
            f"A transform that bends lies above {segmentation.GetName()} or the series. Harden it first, in the "
            "Transforms module."
        )
    return np.array(slicer.util.arrayFromVTKMatrix(matrix))
