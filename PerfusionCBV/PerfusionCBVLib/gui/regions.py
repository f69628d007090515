"""Regions between the scene and arrays: a segment or a label volume to a mask on the series' grid, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.gui.input_nodes import grid_node, parent_transform


def region_on_series(region: Any, node: Any) -> np.ndarray | None:
    """Return the voxels of a series that a region covers; None for no region.

    Parameters
    ----------
    region : vtkMRMLScalarVolumeNode, or (vtkMRMLSegmentationNode, segment ID), or None
        A label volume (not 0 is inside) or a segment; both are brought to the series' grid, nearest voxel.
    node : vtkMRMLNode
        The dynamic node.

    Returns
    -------
    (x, y, z) bool array

    Raises
    ------
    GeometryError
        Nothing of the region lies in the series.
    """
    if region is None:
        return None
    if isinstance(region, tuple):
        owner, segment_id = region
        segment = owner.GetSegmentation().GetSegment(segment_id)
        name = segment.GetName() if segment else segment_id
        image = segment_image(owner, segment_id)
    else:
        owner, name, image = region, region.GetName(), None
        if region.GetImageData() is not None:
            image = slicer.vtkOrientedImageData()
            image.ShallowCopy(region.GetImageData())
            image.SetGeometryFromImageToWorldMatrix(_ijk_to_ras(region))
    if image is not None and min(image.GetDimensions()) > 0:
        transform = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            owner.GetParentTransformNode(), parent_transform(node), transform
        )
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            image, _empty_like(grid_node(node)), resampled, False, False, transform
        )
        inside = voxels_of(resampled) != 0
        if inside.any():
            return inside
    raise GeometryError(f"{name} covers no voxel of the series. Draw it on the series' images.")


def segment_image(segmentation: Any, segment_id: str) -> Any:
    """Return a segment as the vtkOrientedImageData that it was drawn as, or None where there is nothing.

    Without the transform above the segmentation.
    """
    image = slicer.vtkOrientedImageData()
    found = segmentation.GetSegmentation().GetSegment(segment_id) and (
        slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentBinaryLabelmapRepresentation(
            segmentation, segment_id, image, False
        )
    )
    return image if found and min(image.GetDimensions()) > 0 else None


def voxel_at(ras: Sequence[float], volume: Any) -> tuple[int, int, int] | None:
    """Return the voxel (i, j, k) of a volume node that a position in the world lies in; None outside."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), transform)
    to_ijk = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(to_ijk)
    i, j, k, _one = to_ijk.MultiplyPoint((*transform.TransformPoint(ras), 1.0))
    voxel = round(i), round(j), round(k)
    inside = all(0 <= n < size for n, size in zip(voxel, volume.GetImageData().GetDimensions(), strict=True))
    return voxel if inside else None


def oriented_image(inside: np.ndarray, volume: Any) -> Any:
    """Return a mask, (x, y, z), as the vtkOrientedImageData of a segment on the grid of a volume node."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(inside.shape)
    scalars = numpy_support.numpy_to_vtk(inside.ravel(order="F").astype(np.uint8), deep=True)
    image.GetPointData().SetScalars(scalars)
    image.SetGeometryFromImageToWorldMatrix(_ijk_to_ras(volume))
    return image


def _empty_like(volume: Any) -> Any:
    return oriented_image(np.zeros(volume.GetImageData().GetDimensions(), dtype=bool), volume)


def voxels_of(image: Any) -> np.ndarray:
    """Return the voxels of a vtkOrientedImageData, (x, y, z)."""
    x, y, z = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x).T


def _ijk_to_ras(volume: Any) -> Any:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix
