"""A map as a cloud in the 3-D view: its own colours, transparent where it is low or has no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

PURPOSE = "PerfusionCBV.Solid"
STEPS = 32
OPAQUE = 0.35
"""Opacity of one voxel's edge at the top of the colours."""


def show_solid(shown: Any) -> Any:
    """Show a map in the 3-D views with colours and window that its slices have now; return the volume that is drawn.

    A ray can't pass a voxel without a number, so that what is drawn is a copy with the window's lower end there; it is
    hidden from the lists of volumes and not saved.

    Parameters
    ----------
    shown : vtkMRMLScalarVolumeNode
    """
    display = shown.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    cloud = _cloud_node()
    values = slicer.util.arrayFromVolume(shown)
    floor = max(low, display.GetLowerThreshold()) if display.GetApplyThreshold() else low
    slicer.util.updateVolumeFromArray(cloud, np.where(np.isfinite(values), values, min(low, floor)).astype(np.float32))
    cloud.CopyOrientation(shown)
    cloud.CreateDefaultDisplayNodes()
    cloud.SetAndObserveTransformNodeID(shown.GetTransformNodeID())
    logic = slicer.modules.volumerendering.logic()
    rendering = logic.GetFirstVolumeRenderingDisplayNode(cloud) or logic.CreateDefaultVolumeRenderingNodes(cloud)
    _colour(rendering.GetVolumePropertyNode().GetVolumeProperty(), display.GetColorNode(), low, high, floor)
    rendering.SetVisibility(True)
    return cloud


def hide_solid() -> None:
    """Show no map in the 3-D views."""
    logic = slicer.modules.volumerendering.logic()
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(PURPOSE) and (rendering := logic.GetFirstVolumeRenderingDisplayNode(node)):
            rendering.SetVisibility(False)


def _cloud_node() -> Any:
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(PURPOSE):
            return node
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName("map in 3-D")
    node.SetAttribute(PURPOSE, "yes")
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return slicer.mrmlScene.AddNode(node)


def _colour(look: Any, colours: Any, low: float, high: float, floor: float) -> None:
    """Give a volume property the colours of a table between two values, more opaque towards the top."""
    opacity, colour = look.GetScalarOpacity(), look.GetRGBTransferFunction()
    opacity.RemoveAllPoints()
    colour.RemoveAllPoints()
    start = max(floor, low + 0.4 * (high - low))
    opacity.AddPoint(low, 0.0)
    opacity.AddPoint(start, 0.0)
    opacity.AddPoint(max(high, start + 1e-6), OPAQUE)
    entries = colours.GetNumberOfColors()
    rgba = [0.0] * 4
    for step in range(STEPS + 1):
        colours.GetColor(round(step / STEPS * (entries - 1)), rgba)
        colour.AddRGBPoint(low + step / STEPS * (high - low), *rgba[:3])
    look.ShadeOff()
    look.SetInterpolationTypeToLinear()
