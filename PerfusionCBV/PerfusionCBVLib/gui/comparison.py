"""Two dates of one patient in the scene: the change as a map over the later one, and as a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.gui.background import Background, Steps, one_at_a_time
from PerfusionCBVLib.gui.measures import MAP_SHA256, NOTES, fill_rows, map_sha256, rows_of
from PerfusionCBVLib.gui.output_nodes import (
    INPUT,
    PREFIX,
    ROLE,
    Layer,
    fill_volume,
    made_of,
    outputs,
    place,
    study_item,
    unchanged_on_error,
)
from PerfusionCBVLib.gui.scene_result import identity_in_scene, result_in_scene
from PerfusionCBVLib.gui.segments import drawn_segments
from PerfusionCBVLib.gui.words import finding_in_the_panel
from PerfusionCBVLib.progress import Progress

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.alignment.longitudinal import Comparison, Scale
    from PerfusionCBVLib.stored import StoredResult

CHANGE, EARLIER, CHANGES = "change", "earlier", "changes"
"""Roles: the difference map, the earlier map on the later's grid, the table."""

TITLES = {CHANGE: "change of rCBV since", EARLIER: "earlier map:", CHANGES: "changes since"}
OF = PREFIX + "ComparedWith"


@dataclass(frozen=True, eq=False)
class Compared:
    """What a comparison left in the scene.

    Attributes
    ----------
    comparison : Comparison
    change, earlier : vtkMRMLScalarVolumeNode
    table : vtkMRMLTableNode
    warnings : tuple of str
        Sentences for the user, in the panel's words.
    """

    comparison: Comparison
    change: Any
    earlier: Any
    table: Any
    warnings: tuple[str, ...]


@Background
def compare_node(
    node: Any, earlier: Any, segmentation: Any, scale: Scale = "own", progress: Progress | None = None
) -> Steps[Compared]:
    """Compare the latest map of a series with one of an earlier date, as `alignment.longitudinal.compare` does.

    Parameters
    ----------
    node : vtkMRMLNode
        The later series.
    earlier : vtkMRMLScalarVolumeNode or Path
        The rCBV map or baseline of another series in the scene, or a folder that `map` wrote.
    segmentation : vtkMRMLSegmentationNode or None
        Drawn on the later date.
    scale : "own", "later" or "earlier"

    Raises
    ------
    InputRefusedError, Cancelled, UsageError
        The scene is as it was.
    """
    with one_at_a_time():
        later = result_in_scene(node)
        folder = earlier if isinstance(earlier, Path) else None
        before = None if folder is not None else _result_of_map(earlier, node)
        name = folder.name if folder is not None else earlier.GetName()
        drawn = drawn_segments(segmentation, node) if segmentation is not None else ()

        def work(report: Progress) -> tuple[Comparison, list[Layer]]:
            from PerfusionCBVLib.alignment.longitudinal import compare
            from PerfusionCBVLib.alignment.region_shares import DrawnRegions
            from PerfusionCBVLib.stored import read_result

            report(0.0, "Reading")
            other = before if before is not None else read_result(folder or "")
            regions = DrawnRegions(drawn, False, {"name": segmentation.GetName()}) if drawn else None
            found = compare(other, later, regions=regions, scale=scale, progress=report)
            return found, _layers(found)

        comparison, layers = yield work
        with unchanged_on_error():
            return _publish(comparison, layers, name, node)


def comparison_nodes(node: Any) -> dict[str, Any]:
    """Return what the scene holds of the comparison of a series with an earlier date, by role."""
    return {each.GetAttribute(ROLE): each for each in made_of(node) if each.GetAttribute(ROLE) in TITLES}


def comparison_html(node: Any) -> str:
    """Return the changes as the panel shows them, a row a region; "" where nothing was compared."""
    shown = outputs(node).get("rcbv") if node is not None else None
    table = comparison_nodes(node).get(CHANGES) if shown is not None else None
    if table is None:
        return ""
    if table.GetAttribute(MAP_SHA256) != map_sha256(shown):
        return escape(_("The change in the scene is of a map that was made anew since. Compare again."))
    titles = {
        "rcbv_mean_before": _("Before"),
        "rcbv_mean_after": _("Now"),
        "rcbv_mean_change": _("Change"),
        "rcbv_mean_change_percent": _("Change (%)"),
    }
    rows = rows_of(table)
    cells = {(row.region, row.name): row.value for row in rows}
    head = "".join(f"<th align='right'>{escape(title)}</th>" for title in titles.values())
    lines = [f"<tr><th align='left'>{escape(_('Mean rCBV'))}</th>{head}</tr>"]
    for region in dict.fromkeys(row.region for row in rows):
        texts = "".join(f"<td align='right'>{_text(cells[region, name], name)}</td>" for name in titles)
        lines.append(f"<tr><td>{escape(region)}</td>{texts}</tr>")
    notes = "<br>".join(escape(note) for note in json.loads(table.GetAttribute(NOTES) or "[]"))
    return f'<table cellspacing="3">{"".join(lines)}</table><p>{notes}</p>'


def _result_of_map(shown: Any, node: Any) -> StoredResult:
    """Return the result that a map or baseline node belongs to, after a check that it can be an earlier date."""
    series = shown.GetNodeReference(INPUT) if shown is not None else None
    if series is None:
        raise UsageError(
            "Select the rCBV map of the earlier date, made here from its own series. A result in a folder: Compare "
            "with a folder."
        )
    if series is node:
        raise UsageError(
            f"{shown.GetName()} belongs to the present series. Select the map of the earlier date, or choose the later "
            "series above."
        )
    latest = outputs(series)
    if shown not in (latest.get("rcbv"), latest.get("baseline")):
        instead = f"Select {latest['rcbv'].GetName()}" if "rcbv" in latest else "Make its map again"
        raise UsageError(f"{shown.GetName()} is not the latest map of its series. {instead}.")
    _require_one_patient(series, node)
    return result_in_scene(series)


def _require_one_patient(earlier: Any, later: Any) -> None:
    """Refuse two patients, and dates in the wrong order, where the subject hierarchy knows them."""
    one, other = identity_in_scene(earlier), identity_in_scene(later)
    for title in ("ID", "Patient"):
        if one[title] and other[title] and one[title] != other[title]:
            raise UsageError(
                f"The two series belong to different patients ({one[title]} and {other[title]}). Choose two dates of "
                "one patient."
            )
    if one["Date"] and other["Date"] and one["Date"] > other["Date"]:
        raise UsageError(
            f"The map that was selected as the earlier one is of {one['Date']}, the present series of {other['Date']}. "
            "Choose the later series above, and the earlier map here."
        )


def _layers(comparison: Comparison) -> list[Layer]:
    from PerfusionCBVLib.alignment.comparison_output import comparison_windows

    window, difference = comparison_windows(comparison)
    return [
        Layer(role, "", np.ascontiguousarray(map_.values.T), ends, colours, map_.unit, map_.description)
        for role, map_, ends, colours in (
            (CHANGE, comparison.difference, difference, "diverging"),
            (EARLIER, comparison.earlier, window, "perfusion"),
        )
    ]


def _publish(comparison: Comparison, layers: list[Layer], earlier_name: str, node: Any) -> Compared:
    from PerfusionCBVLib.json_text import as_json

    later = outputs(node)
    made = {}
    for role, class_name in ((CHANGE, "vtkMRMLScalarVolumeNode"), (EARLIER, "vtkMRMLScalarVolumeNode"),
                             (CHANGES, "vtkMRMLTableNode")):  # fmt: skip
        each = comparison_nodes(node).get(role)
        if each is None:
            each = slicer.mrmlScene.AddNewNodeByClass(class_name)
            each.SetAttribute(ROLE, role)
            each.SetNodeReferenceID(INPUT, node.GetID())
        each.SetName(f"{node.GetName()} {TITLES[role]} {earlier_name}")
        each.SetAttribute(OF, earlier_name)
        each.SetAttribute(PREFIX + "Provenance", as_json(comparison.provenance))
        each.SetAttribute(PREFIX + "IntendedUse", later["rcbv"].GetAttribute(PREFIX + "IntendedUse"))
        place(each, study_item(node))
        made[role] = each
    for layer in layers:
        fill_volume(made[layer.role], layer, later["baseline"])
        made[layer.role].SetAndObserveTransformNodeID(later["baseline"].GetTransformNodeID())
    fill_rows(made[CHANGES], comparison.changes)
    warnings = tuple(
        f"{each.message} {each.advice}".strip()
        for each in map(finding_in_the_panel, comparison.findings)
        if each.severity == "warning"
    )
    made[CHANGES].SetAttribute(MAP_SHA256, map_sha256(later["rcbv"]))
    made[CHANGES].SetAttribute(NOTES, json.dumps([*_about(comparison, earlier_name, later["rcbv"]), *warnings]))
    return Compared(comparison, made[CHANGE], made[EARLIER], made[CHANGES], warnings)


def _about(comparison: Comparison, earlier_name: str, rcbv: Any) -> list[str]:
    found = comparison.registration
    return [
        _("{later}, compared with {earlier}.").format(later=rcbv.GetName(), earlier=earlier_name),
        _(
            "The earlier head was moved by {mm} mm and turned by {degrees}° onto this date's; {coverage} of the brain "
            "lies in both, and the images agree with r = {agreement}. Look at the borders of the earlier map, too."
        ).format(
            mm=f"{found.displacement_mm:.1f}",
            degrees=f"{found.rotation_deg:.1f}",
            coverage=f"{found.quality.coverage:.0%}",
            agreement=f"{found.quality.correlation:.2f}",
        ),
    ]


def _text(value: float, name: str) -> str:
    if value != value:
        return _("no value")
    return {"rcbv_mean_change": f"{value:+.2f}", "rcbv_mean_change_percent": f"{value:+.0f}"}.get(name, f"{value:.2f}")
