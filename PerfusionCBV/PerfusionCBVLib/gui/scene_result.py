"""What the scene keeps of a result, read back: for measures and pages, also of a scene that was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.gui.output_nodes import CURVE_COLUMNS, SHARED_ROLES, TIME_COLUMN, outputs, provenance
from PerfusionCBVLib.gui.regions import region_on_series
from PerfusionCBVLib.identity import FIELDS, readable
from PerfusionCBVLib.series import ParameterMap

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.stored import StoredResult

_STUDY_FIELDS = ("Study", "Date", "Accession")


def result_in_scene(node: Any) -> StoredResult:
    """Return the latest result of a series as the scene holds it.

    Parameters
    ----------
    node : vtkMRMLNode
        The series.

    Raises
    ------
    UsageError
        There is none, or its nodes were deleted.
    """
    from PerfusionCBVLib.stored import StoredResult

    nodes = outputs(node)
    if not {"rcbv", "baseline", "regions"} <= nodes.keys():
        raise UsageError("There is no map of this series, or some of its nodes were deleted. Press Apply first.")
    matrix = vtk.vtkMatrix4x4()
    nodes["baseline"].GetIJKToRASMatrix(matrix)
    affine = slicer.util.arrayFromVTKMatrix(matrix)
    facts = provenance(nodes["rcbv"])
    maps = {}
    for role, each in nodes.items():
        if role not in SHARED_ROLES:
            unit = each.GetVoxelValueUnits()
            code = unit.GetCodeValue() if unit else ""
            maps[role] = ParameterMap(role, _xyz(each), affine, code, each.GetDescription() or "")
    times_s, curves = _curves(nodes.get("curves"))
    mask = _segment(nodes["regions"], "brain", node)
    status = np.where(mask, Status.VALID, Status.OUTSIDE).astype(np.uint8)
    if nodes["regions"].GetSegmentation().GetSegment("saturated"):
        status[_segment(nodes["regions"], "saturated", node)] = Status.SATURATED
    return StoredResult(
        origin=f"Slicer node {nodes['rcbv'].GetName()}",
        affine=affine,
        maps=maps,
        baseline=_xyz(nodes["baseline"]),
        mask=mask,
        reference=_segment(nodes["regions"], "reference", node) if facts["reference"]["kind"] != "none" else None,
        status=status,
        times_s=times_s,
        curves_per_s=curves,
        findings=tuple(Finding(**entry) for entry in facts["findings"]),
        provenance=facts,
    )


def identity_in_scene(node: Any) -> dict[str, str]:
    """Return what the subject hierarchy knows of the patient and study that a series belongs to; "" where nothing."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(outputs(node).get("rcbv", node))
    known = {}
    for title, keyword in FIELDS.items():
        owner = hierarchy.GetItemAncestorAtLevel(item, "Study" if title in _STUDY_FIELDS else "Patient")
        value = hierarchy.GetItemAttribute(owner, f"DICOM.{keyword}") if owner else ""
        known[title] = readable(title, value)
    return known


def _segment(segmentation: Any, segment_id: str, node: Any) -> np.ndarray:
    inside = region_on_series((segmentation, segment_id), node)
    assert inside is not None
    return inside


def _xyz(volume: Any) -> np.ndarray:
    return np.array(slicer.util.arrayFromVolume(volume).T, dtype=np.float32)


def _curves(table: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if table is None:
        return np.empty(0), {}
    names = [table.GetTable().GetColumnName(i) for i in range(table.GetNumberOfColumns())]
    columns = {name: np.array(slicer.util.arrayFromTableColumn(table, name)) for name in names}
    curves = {key: columns[title] for key, title in CURVE_COLUMNS.items() if title in columns}
    return columns[TIME_COLUMN], curves
