"""Segments in the browser: loaded from a file, drawn with a round brush, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.gui.output_nodes import outputs
from PerfusionCBVLib.gui.regions import oriented_image, region_on_series
from PerfusionCBVLib.gui.scene_result import result_in_scene
from PerfusionCBVLib.gui.segments import drawn_segments, regions_on

DRAWN, DRAWN_NAME, DRAWN_COLOUR = "drawn", "Drawn", (1.0, 0.35, 0.9)
COLOURS = ((0.2, 0.9, 0.9), (1.0, 0.6, 0.1), (0.6, 1.0, 0.3), (0.9, 0.4, 1.0))


def new_segmentation(node: Any) -> Any:
    """Return an empty segmentation beside a series that has a map, on the map's grid.

    Raises
    ------
    UsageError
        There is no map yet, whose grid the segments would have.
    """
    baseline = outputs(node).get("baseline")
    if baseline is None:
        raise UsageError("Compute a map first: regions are drawn and measured on its grid.")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{node.GetName()} regions to measure")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(baseline)
    segmentation.SetAndObserveTransformNodeID(baseline.GetTransformNodeID())
    segmentation.GetDisplayNode().SetVisibility2DFill(False)
    return segmentation


def add_regions_of_file(path: Path, segmentation: Any, node: Any) -> list[str]:
    """Add the segments of a file, which must lie on the map's grid, to a segmentation; return their names.

    Raises
    ------
    UnreadableInputError, GeometryError
        See `measures.region_files.read_regions`.
    UsageError
        A segment of this name is there already.
    """
    from PerfusionCBVLib.measures.region_files import read_regions

    baseline = outputs(node)["baseline"]
    affine = slicer.util.arrayFromVTKMatrix(_to_ras(baseline))
    regions = read_regions(path, baseline.GetImageData().GetDimensions(), affine)
    content = segmentation.GetSegmentation()
    known = {content.GetNthSegment(number).GetName() for number in range(content.GetNumberOfSegments())}
    twice = [region.name for region in regions if region.name in known]
    if twice:
        raise UsageError(
            f"A segment called {twice[0]} is there already. Remove the segments, or rename it in the file."
        )
    for region in regions:
        colour = COLOURS[content.GetNumberOfSegments() % len(COLOURS)]
        image = oriented_image(region.mostly, baseline)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, region.name, colour, "")
    return [region.name for region in regions]


class Brush:
    """A round brush that draws one segment in the plane of a view, on the voxels of the map.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode
    node : vtkMRMLNode
        The series.
    """

    def __init__(self, segmentation: Any, node: Any) -> None:
        self._segmentation = segmentation
        self._baseline = outputs(node)["baseline"]
        self._affine = slicer.util.arrayFromVTKMatrix(_to_world(self._baseline))
        shape = self._baseline.GetImageData().GetDimensions()
        known = segmentation.GetSegmentation().GetSegment(DRAWN) is not None
        found = region_on_series((segmentation, DRAWN), node) if known else None
        self._inside = np.zeros(shape, bool) if found is None else found

    def paint(self, places: np.ndarray, normal: np.ndarray, radius_mm: float, *, erase: bool) -> None:
        """Add the voxels of one slice within a radius of places to the segment, or take them away.

        Parameters
        ----------
        places : (N, 3) array, mm
            In the world.
        normal : (3,) unit vector
            Of the view's plane; voxels whose centre lies within half a voxel of the plane through a place are painted.
        radius_mm : float
        erase : bool
        """
        for place in np.atleast_2d(places):
            self._disc(place, np.asarray(normal, dtype=float), radius_mm, erase=erase)
        self._write()

    def _disc(self, place: np.ndarray, normal: np.ndarray, radius_mm: float, *, erase: bool) -> None:
        half_mm = 0.5 * float(np.abs(self._affine[:3, :3].T @ normal).max()) + 1e-3
        centre = np.linalg.inv(self._affine) @ [*place, 1.0]
        reach = np.ceil(radius_mm / np.linalg.norm(self._affine[:3, :3], axis=0)) + 1
        low = np.maximum(np.floor(centre[:3] - reach), 0).astype(int)
        high = np.minimum(np.ceil(centre[:3] + reach) + 1, self._inside.shape).astype(int)
        if (low >= high).any():
            return
        grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
        offset = grid @ self._affine[:3, :3].T + self._affine[:3, 3] - place
        along = offset @ normal
        across = np.linalg.norm(offset - along[..., None] * normal, axis=-1)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        disc = (np.abs(along) <= half_mm) & (across <= radius_mm)
        self._inside[box] = self._inside[box] & ~disc if erase else self._inside[box] | disc

    def _write(self) -> None:
        content = self._segmentation.GetSegmentation()
        if content.GetSegment(DRAWN):
            content.RemoveSegment(DRAWN)
        if self._inside.any():
            image = oriented_image(self._inside, self._baseline)
            add = self._segmentation.AddSegmentFromBinaryLabelmapRepresentation
            add(image, DRAWN_NAME, DRAWN_COLOUR, DRAWN)


def histograms(segmentation: Any, node: Any) -> dict[str, Any]:
    """Return the histogram of rCBV of each segment of a segmentation on the latest map of a series, by name."""
    from PerfusionCBVLib.measures.measure import rcbv_histogram

    values = slicer.util.arrayFromVolume(outputs(node)["rcbv"]).T
    found = {}
    for region in regions_on(drawn_segments(segmentation, node), result_in_scene(node)):
        chosen = (region.share > 0) & np.isfinite(values)
        if chosen.any():
            found[region.name] = rcbv_histogram(
                values[chosen].astype(np.float64), region.share[chosen].astype(np.float64)
            )
    return found


def _to_ras(volume: Any) -> Any:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def _to_world(volume: Any) -> Any:
    to_ras, to_world = _to_ras(volume), vtk.vtkMatrix4x4()
    transform = volume.GetParentTransformNode()
    if transform is not None:
        transform.GetMatrixTransformToWorld(to_world)
    product = vtk.vtkMatrix4x4()
    product.Multiply4x4(to_world, to_ras, product)
    return product
