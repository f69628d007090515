"""What the panel's widgets show for a given state; nothing is computed or decided here that a test can't see there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.gui.arterial import file_text, why_no_artery
from PerfusionCBVLib.gui.choices import Arterial
from PerfusionCBVLib.gui.comparison_section import show_comparison
from PerfusionCBVLib.gui.display import ROLE, missing_in_comparison
from PerfusionCBVLib.gui.histogram import current_histogram
from PerfusionCBVLib.gui.measures import measures_html
from PerfusionCBVLib.gui.panel_text import (
    error_meaning,
    facts_text,
    findings_html,
    known_text,
    method_note,
    time_left_text,
    why_not,
)
from PerfusionCBVLib.gui.parameters import (
    Method,
    Reference,
    View,
    WindowPreset,
    library_method,
    reference_segment,
    uses_network,
)
from PerfusionCBVLib.gui.plots import arterial_curve

if TYPE_CHECKING:
    from PerfusionCBVLib.gui.input_nodes import NodeSeries

TIMES = (("echoTime", "echo_time_s"), ("repetitionTime", "repetition_time_s"))


def show_state(
    ui: Any,
    logic: Any,
    parameters: Any,
    outputs: dict[str, Any],
    *,
    findings: Sequence[Finding] | None,
    busy: bool,
    result: Any,
) -> str:
    """Show everything; return why no map can be made now, or "".

    Parameters
    ----------
    ui : object with the panel's widgets
    logic : PerfusionCBVLogic
    parameters : PerfusionCBVParameterNode
    outputs : mapping of role to node
    findings : of the last check, or None
    busy : bool
        Work is running.
    result : MapResult or None
        Of this session.
    """
    node = parameters.inputNode
    dynamic = node is None or logic.isDynamic(node)
    there = node is not None and dynamic
    said = logic.describe(node) if there else None
    show_series(ui, said, findings)
    show_method(ui, parameters)
    show_display(ui, parameters, outputs)
    _show_row(ui.arterialCurveLabel, ui.arterialCurveCheckBox, arterial_curve(outputs) is not None)
    show_measures(ui, parameters, outputs, busy)
    show_comparison(ui, parameters, outputs, busy)
    show_report(ui, mapped="rcbv" in outputs and not busy, complete=result is not None and not busy)
    segment = reference_segment(parameters)
    reason = why_not(
        logic.describe(node, **typed_times(logic, parameters)) if there else None,
        dynamic=dynamic,
        findings=findings,
        segment_missing=segment is not None and not all(segment),
        busy=busy,
    )
    reason = reason or why_no_artery(parameters)
    show_readiness(ui, reason, busy)
    ui.checkButton.enabled = there and not busy
    return reason


def show_reason(ui: Any, reason: str) -> None:
    """Say under Apply why it waits; what else stands there stays until there is a reason."""
    if reason:
        ui.statusLabel.text = reason
    elif ui.statusLabel.text == ui.statusLabel.property("reason"):
        ui.statusLabel.text = ""
    ui.statusLabel.setProperty("reason", reason)


def typed_times(logic: Any, parameters: Any) -> dict[str, float]:
    """Return the times that the user typed, s, by the library's names; none that the series says itself."""
    known = logic.describe(parameters.inputNode).acquisition
    typed = {"echo_time_s": parameters.echoTimeMs, "repetition_time_s": parameters.repetitionTimeMs}
    return {name: ms / 1000 for name, ms in typed.items() if ms and getattr(known, name) is None}


def show_series(ui: Any, facts: NodeSeries | None, findings: Sequence[Finding] | None) -> None:
    """Show facts and findings; a time is a text where the series says it, and a field where it does not.

    Parameters
    ----------
    ui : object with the panel's widgets
    facts : NodeSeries or None
        What the node itself says, without what the user entered.
    findings : of the last check, or None
    """
    ui.factsLabel.text = facts_text(facts) if facts is not None else _("No series chosen.")
    for field, name in TIMES:
        known, source = known_text(facts, name)
        label, box = getattr(ui, f"{field}KnownLabel"), getattr(ui, f"{field}SpinBox")
        label.text, label.toolTip, label.visible, box.visible = known, source, bool(known), not known
        box.enabled = facts is not None
    html = findings_html(findings)
    if ui.findingsBrowser.property("shown") != html:  # writing it again would scroll back to the top
        ui.findingsBrowser.setProperty("shown", html)
        ui.findingsBrowser.html = html
    ui.findingsBrowser.visible = facts is not None


def show_method(ui: Any, parameters: Any) -> None:
    """Show what the method needs to be chosen with it, and its measured error."""
    ui.methodNoteLabel.text = method_note(library_method(parameters))
    ui.methodNoteLabel.toolTip = error_meaning() if uses_network(parameters) else ""
    _show_row(ui.leakageLabel, ui.leakageComboBox, parameters.method is Method.CLASSICAL)
    _show_row(ui.deviceLabel, ui.deviceComboBox, uses_network(parameters))
    _show_row(ui.arterialSegmentLabel, ui.arterialSegmentSelector, parameters.arterial is Arterial.SEGMENT)
    from_file = parameters.arterial is Arterial.FILE
    _show_row(ui.arterialFileLabel, ui.arterialFileButton, from_file)
    _show_row(ui.relaxivityLabel, ui.relaxivitySpinBox, from_file)
    ui.arterialFileButton.text, ui.arterialFileButton.toolTip = file_text(parameters)
    _show_row(ui.referenceSegmentLabel, ui.referenceSegmentSelector, parameters.reference is Reference.SEGMENT)


def show_readiness(ui: Any, reason: str, busy: bool) -> None:
    """Enable what can be done now; a button that can't be pressed says why."""
    ui.applyButton.enabled = not reason
    ui.applyButton.toolTip = reason or _("Make the map and show it over the series")
    ui.cancelButton.enabled = busy
    ui.progressBar.visible = busy
    for control in (ui.inputSelector, ui.loadButton):
        control.enabled = not busy


def show_progress(ui: Any, fraction: float, message: str, elapsed_s: float) -> None:
    """Show how far the work is, what is being done, and how long the rest takes."""
    ui.progressBar.value = round(100 * fraction)
    left = time_left_text(fraction, elapsed_s)
    ui.statusLabel.text = f"{message} … {left}" if left else f"{message} …"


def show_display(ui: Any, parameters: Any, outputs: dict[str, Any]) -> None:
    """Show only those controls of the display that have an effect now."""
    over_anatomy = parameters.view is View.ANATOMY
    _show_row(ui.anatomyLabel, ui.anatomySelector, over_anatomy)
    ui.alignButton.visible = over_anatomy
    why = "" if outputs and parameters.anatomy else _("A map and a volume to align it to are needed.")
    _enable(ui.alignButton, _("Register the series to this volume by its anatomy, and move the maps along"), why)
    shown = parameters.shownMap
    blood = parameters.view is View.COMPARE or shown is None or shown.GetAttribute(ROLE) == "rcbv"
    for control in (ui.coloursComboBox, ui.windowPresetComboBox, ui.windowRangeWidget, ui.thresholdSlider):
        control.enabled = blood
    ui.windowRangeWidget.visible = parameters.windowPreset is WindowPreset.MANUAL
    ui.displayNoteLabel.text = _display_note(parameters, outputs, blood)
    ui.displayNoteLabel.visible = bool(ui.displayNoteLabel.text)


def _display_note(parameters: Any, outputs: dict[str, Any], blood: bool) -> str:
    if not outputs:
        return _("Press Apply first: there is no map of this series yet.")
    if parameters.view is View.ANATOMY and parameters.anatomy is None:
        return _("Select the volume to show the map over.")
    if parameters.view is View.COMPARE:
        names = {
            "rcbv_classical": _("classical map"),
            "disagreement": _("difference"),
            "uncertainty": _("uncertainty"),
        }
        missing = [names[role] for role in missing_in_comparison(outputs) if role in names]
        return _("This result comes without: {maps}.").format(maps=", ".join(missing)) if missing else ""
    return "" if blood else _("This map has its own colours and window.")


def show_measures(ui: Any, parameters: Any, outputs: dict[str, Any], busy: bool) -> None:
    """Show what was measured, and enable measuring where it can be done."""
    why = ""
    if "rcbv" not in outputs:
        why = _("Press Apply first: there is no map of this series yet.")
    elif parameters.measuredSegmentation is None:
        why = _("Select the segmentation to measure. Draw it in the Segment Editor.")
    elif parameters.lowCutOff >= parameters.highCutOff:
        why = _("The first cut-off must lie below the second.")
    _enable(ui.measureButton, _("Measure every segment on the map"), why, busy)
    measured = current_histogram(parameters.inputNode, outputs) is not None
    tip = _("How much of each segment's volume has which rCBV, as a plot beside the slices; press again to return")
    _enable(ui.histogramButton, tip, "" if measured else _("Press Measure first: the plot is of measured segments."))
    ui.measuresLabel.text = measures_html(parameters.inputNode)
    ui.measuresLabel.visible = bool(ui.measuresLabel.text)


def show_report(ui: Any, *, mapped: bool, complete: bool) -> None:
    """Enable what needs a map in the scene, and what needs a result of this session."""
    no_map = _("Press Apply first: there is no map of this series yet.")
    no_result = _("Press Apply first: this is made from a result of this session.")
    report = _("Findings, maps, curves and settings, all of them, in the browser")
    page = _("Key slices, measures, findings and limits on one sheet, as PDF or HTML")
    save = _("Maps as NIfTI, report, pictures and provenance, into a folder")
    _enable(ui.pageButton, page, "" if mapped else no_map)
    dicom = _("Maps, regions, measures and coloured pictures as DICOM objects of the same study, for the archive")
    _enable(ui.dicomButton, dicom, "" if mapped else no_map)
    _enable(ui.reportButton, report, "" if complete else no_result)
    _enable(ui.saveButton, save, "" if complete else no_result)


def _enable(button: Any, tip: str, why_not: str, busy: bool = False) -> None:
    button.enabled = not why_not and not busy
    button.toolTip = why_not or tip


def _show_row(label: Any, field: Any, visible: bool) -> None:
    label.visible = field.visible = visible
