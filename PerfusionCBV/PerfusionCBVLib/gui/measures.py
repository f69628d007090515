"""Measures of segments as a table node, and as a text for the panel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.gui.output_nodes import INPUT, ROLE, outputs, place, study_item
from PerfusionCBVLib.gui.segments import drawn_segments
from PerfusionCBVLib.measures.measurement import Measurement, key_measurements
from PerfusionCBVLib.measures.regions import DrawnRegion

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.measures.measure import MeasureSettings, RegionMeasures

MEASURES = "measures"
SEGMENTATION, MAP = "PerfusionCBV.MeasuredSegmentation", "PerfusionCBV.MeasuredMap"
NOTES, CHOICES = "PerfusionCBV.Notes", "PerfusionCBV.Settings"
MAP_SHA256, REGIONS_SHA256 = "PerfusionCBV.MapSHA256", "PerfusionCBV.RegionsSHA256"
REGIONS_PLACES = "PerfusionCBV.RegionsPlaces"
"""Of what was measured: numbers of another map or of another drawing must not stand beside it."""

PLACE_TOLERANCE_MM = 1e-3

COLUMNS = ("Region", "Name", "Measure", "Value", "Unit", "Standard error")
NO_ERROR = ""


def publish_measures(
    measured: Sequence[RegionMeasures],
    settings: MeasureSettings,
    segmentation: Any,
    drawn: Sequence[DrawnRegion],
    node: Any,
) -> Any:
    """Put measures into the scene as a table; return its node. Those of an earlier measurement are replaced.

    Parameters
    ----------
    measured : sequence of RegionMeasures
    settings : MeasureSettings
    segmentation : vtkMRMLSegmentationNode
        That was measured.
    drawn : sequence of DrawnRegion
        Its segments, as they were measured.
    node : vtkMRMLNode
        The series.
    """
    table = measures_node(node)
    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{node.GetName()} measures")
        table.SetAttribute(ROLE, MEASURES)
        table.SetNodeReferenceID(INPUT, node.GetID())
    fill_rows(table, [row for each in measured for row in each.measurements])
    table.SetNodeReferenceID(SEGMENTATION, segmentation.GetID())
    shown = outputs(node)["rcbv"]
    table.SetNodeReferenceID(MAP, shown.GetID())
    table.SetAttribute(MAP_SHA256, map_sha256(shown))
    table.SetAttribute(REGIONS_SHA256, _regions_sha256(drawn))
    table.SetAttribute(REGIONS_PLACES, json.dumps(_places(drawn)))
    notes = [
        note if each.region.name in note else f"{each.region.name}: {note}" for each in measured for note in each.notes
    ]
    inside = {each.region.name for each in measured}
    beside = [each.name for each in drawn if each.name not in inside]
    notes += [_("{name} lies beside the series and was not measured.").format(name=name) for name in beside]
    table.SetAttribute(NOTES, json.dumps(notes))
    table.SetAttribute(CHOICES, json.dumps([settings.hot_spot_area_mm2, *settings.cut_offs]))
    place(table, study_item(node))
    return table


def measures_node(node: Any) -> Any:
    """Return the table of the measures of a series, or None."""
    for table in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        if table.GetAttribute(ROLE) == MEASURES and table.GetNodeReferenceID(INPUT) == node.GetID():
            return table
    return None


def measured_segments(node: Any) -> tuple[DrawnRegion, ...]:
    """Return the segments that the measures of a series were made on; nothing where nothing was measured.

    Raises
    ------
    UsageError
        The segmentation was changed or removed since.
    """
    if not measurements_in_scene(node):
        return ()
    table = measures_node(node)
    segmentation = table.GetNodeReference(SEGMENTATION)
    changed = UsageError("The segmentation was changed or removed since it was measured. Press Measure again.")
    if segmentation is None:
        raise changed
    try:
        drawn = drawn_segments(segmentation, node)
    except UsageError as error:
        raise changed from error
    places = json.loads(table.GetAttribute(REGIONS_PLACES) or "[]")
    if _regions_sha256(drawn) != table.GetAttribute(REGIONS_SHA256) or not np.allclose(
        np.ravel(places), np.ravel(_places(drawn)), atol=PLACE_TOLERANCE_MM
    ):
        raise changed
    return drawn


def measurements_in_scene(node: Any) -> tuple[Measurement, ...]:
    """Return what was measured on the latest map of a series, also in a scene that was loaded.

    Nothing where nothing was measured, or where the map was made anew since.
    """
    table, shown = measures_node(node), outputs(node).get("rcbv")
    if table is None or shown is None or table.GetAttribute(MAP_SHA256) != map_sha256(shown):
        return ()
    return rows_of(table)


def fill_rows(table: Any, rows: Sequence[Measurement]) -> None:
    """Put measurements into a table node, a row each; what it held is replaced."""
    texts = {
        "Region": [row.region for row in rows],
        "Name": [row.name for row in rows],
        "Measure": [row.title for row in rows],
        "Value": [repr(row.value) for row in rows],
        "Unit": [row.unit for row in rows],
        "Standard error": [NO_ERROR if row.standard_error is None else repr(row.standard_error) for row in rows],
    }
    table.RemoveAllColumns()
    for name in COLUMNS:
        column = vtk.vtkStringArray()
        column.SetName(name)
        for text in texts[name]:
            column.InsertNextValue(text)
        table.AddColumn(column)


def rows_of(table: Any) -> tuple[Measurement, ...]:
    """Return the measurements of a table node that `fill_rows` filled, also of a scene that was loaded."""
    content = table.GetTable()
    rows = []
    for number in range(table.GetNumberOfRows()):
        cells = {name: content.GetColumnByName(name).GetValue(number) for name in COLUMNS}
        error = cells["Standard error"]
        rows.append(
            Measurement(
                region=cells["Region"],
                name=cells["Name"],
                title=cells["Measure"],
                value=float(cells["Value"]),
                unit=cells["Unit"],
                standard_error=None if error == NO_ERROR else float(error),
            )
        )
    return tuple(rows)


def measures_html(node: Any) -> str:
    """Return the measures of a series as the panel shows them, a column a segment; "" where nothing was measured."""
    found = key_measurements(measurements_in_scene(node)) if node is not None else ()
    if not found:
        return ""
    from PerfusionCBVLib.pictures import unit_text

    regions = list(dict.fromkeys(each.region for each in found))
    cells = {(each.name, each.region): _text(each) for each in found}
    head = "".join(f"<th align='right'>{escape(region)}</th>" for region in regions)
    lines = [f"<tr><th></th>{head}</tr>"]
    for name, title in {each.name: f"{each.title} ({unit_text(each.unit)})" for each in found}.items():
        values = "".join(f"<td align='right'>{cells.get((name, region), '')}</td>" for region in regions)
        lines.append(f"<tr><td>{escape(title)}</td>{values}</tr>")
    table = measures_node(node)
    measured_map = table.GetNodeReference(MAP)
    of = _("Of {map}.").format(map=measured_map.GetName()) if measured_map else _("The map was deleted since.")
    notes = "".join(f"<br>{escape(note)}" for note in json.loads(table.GetAttribute(NOTES) or "[]"))
    return f'<table cellspacing="3">{"".join(lines)}</table><p>{escape(of)}{notes}</p>'


def map_sha256(shown: Any) -> str:
    """Return the hash of a map's values, to tell whether it was made anew since."""
    return hashlib.sha256(np.ascontiguousarray(slicer.util.arrayFromVolume(shown)).tobytes()).hexdigest()


def _regions_sha256(drawn: Sequence[DrawnRegion]) -> str:
    found = hashlib.sha256()
    for each in drawn:
        found.update(f"{each.name} {each.voxels.shape}".encode())
        found.update(np.packbits(each.voxels).tobytes())
    return found.hexdigest()


def _places(drawn: Sequence[DrawnRegion]) -> list[list[float]]:
    """Return where each segment lies: its affine's numbers, which a saved scene rounds."""
    return [each.affine[:3].ravel().tolist() for each in drawn]


def _text(measured: Measurement) -> str:
    if measured.value != measured.value:
        return _("no value")
    error = measured.standard_error
    return f"{measured.value:.3g}" + ("" if error is None else f" ± {error:.2g}")
