"""A series and its maps onto an anatomical volume in the scene, by a transform above them: nothing is resampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.gui.input_nodes import shown_node
from PerfusionCBVLib.gui.output_nodes import INPUT, ROLE, made_of, place, study_item

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.alignment.registration import Registration
    from PerfusionCBVLib.alignment.volume import Volume

ALIGNMENT = "alignment"


def anatomy_volume(anatomy: Any) -> Volume:
    """Return a volume node as the library takes it, in the world's coordinates.

    Raises
    ------
    UsageError
        No volume, or one under a transform that bends.
    """
    from PerfusionCBVLib.alignment.volume import Volume

    if anatomy is None or anatomy.GetImageData() is None:
        raise UsageError("Select the anatomical volume that the map shall lie over, for example T1 after contrast.")
    parent, to_world = anatomy.GetParentTransformNode(), vtk.vtkMatrix4x4()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise UsageError(f"{anatomy.GetName()} is under a transform that bends it. Harden the transform first.")
        parent.GetMatrixTransformToWorld(to_world)
    to_ras = vtk.vtkMatrix4x4()
    anatomy.GetIJKToRASMatrix(to_ras)
    affine = slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(to_ras)
    values = np.array(slicer.util.arrayFromVolume(anatomy).T, dtype=np.float32)
    return Volume(values, affine, anatomy.GetName())


def publish_alignment(registration: Registration, anatomy: Any, node: Any) -> Any:
    """Put a transform above the series and all that was made of it; return its node. An earlier one is replaced."""
    transform = _alignment_of(node)
    if transform is None:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetAttribute(ROLE, ALIGNMENT)
        transform.SetNodeReferenceID(INPUT, node.GetID())
        place(transform, study_item(node))
    transform.SetName(f"{node.GetName()} to {anatomy.GetName()}")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(registration.matrix))
    for each in (shown_node(node), *made_of(node)):
        if each is not None and each.IsA("vtkMRMLTransformableNode") and not each.IsA("vtkMRMLTransformNode"):
            each.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def _alignment_of(node: Any) -> Any:
    for each in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode"):
        if each.GetAttribute(ROLE) == ALIGNMENT and each.GetNodeReferenceID(INPUT) == node.GetID():
            return each
    return None
