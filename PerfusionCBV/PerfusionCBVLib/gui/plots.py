"""Curves of a voxel and of segments as a Slicer plot: one table, one chart, updated in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.gui.choices import Quantity
from PerfusionCBVLib.gui.display import ROLE
from PerfusionCBVLib.gui.input_nodes import describe, series_from_node
from PerfusionCBVLib.gui.output_nodes import ARTERIAL_COLUMN, provenance
from PerfusionCBVLib.gui.regions import region_on_series, voxel_at

if TYPE_CHECKING:
    from PerfusionCBVLib.gui.curves import CurveSource
    from PerfusionCBVLib.result import MapResult

CHART, TABLE, BOXES = "plot", "plot table", "plot windows"
TIME = "Time (s)"
MAXIMUM_SEGMENTS = 6

ARTERY_COLOUR = (0.55, 0.11, 0.35)
VOXEL_COLOUR, FIT_COLOUR = (0.1, 0.1, 0.1), (0.75, 0.22, 0.17)
WINDOW_COLOURS = {"baseline": (0.55, 0.55, 0.55), "bolus": (0.85, 0.55, 0.0)}


def segment_regions(segmentation: Any, node: Any) -> dict[str, tuple[np.ndarray, tuple[float, float, float]]]:
    """Return the voxels of a series that each segment covers, and its colour, by name; empty segments are left out."""
    from PerfusionCBVLib.errors import GeometryError

    regions: dict[str, tuple[np.ndarray, tuple[float, float, float]]] = {}
    if segmentation is None:
        return regions
    content = segmentation.GetSegmentation()
    for number in range(content.GetNumberOfSegments()):
        segment_id = content.GetNthSegmentID(number)
        segment = content.GetSegment(segment_id)
        try:
            inside = region_on_series((segmentation, segment_id), node)
        except GeometryError:
            continue
        if inside is not None and len(regions) < MAXIMUM_SEGMENTS:
            regions[segment.GetName()] = inside, segment.GetColor()
    return regions


def arterial_curve(outputs: Mapping[str, Any]) -> np.ndarray | None:
    """Return the arterial input of the latest run, (T,) 1/s; None where it was made without one."""
    table = outputs.get("curves")
    if table is None or table.GetTable().GetColumnByName(ARTERIAL_COLUMN) is None:
        return None
    return np.array(slicer.util.arrayFromTableColumn(table, ARTERIAL_COLUMN))


class CurvePlot:
    """The chart that follows the mouse."""

    def __init__(self) -> None:
        self.source: CurveSource | None = None
        self.regions: dict[str, tuple[np.ndarray, tuple[float, float, float]]] = {}
        self.text = ""
        """What the panel says below: the voxel and its values, or why there is no curve."""
        self._outputs: Mapping[str, Any] = {}
        self._voxel: tuple[int, int, int] | None = None
        self._made_of: tuple[Any, ...] = ()
        self._segments: tuple[Any, ...] = ()
        self._choices: tuple[Any, ...] = ()

    def forget(self) -> None:
        """Forget a series, after its map was made anew or its scene was closed."""
        self.__init__()  # type: ignore[misc]

    def update(self, parameters: Any, outputs: Mapping[str, Any], result: MapResult | None) -> None:
        """Draw the curves anew where a choice or the map changed; nothing while no curves are asked for.

        Parameters
        ----------
        parameters : PerfusionCBVParameterNode
        outputs : mapping of role to node
        result : MapResult or None
            Of this session; without it the curves come from the scene.
        """
        if not parameters.showCurves:
            return
        self._outputs = outputs
        if "rcbv" not in outputs:
            self.text = _("Press Apply first: the curves need the bolus window and the baseline.")
            return
        made_of = outputs["rcbv"].GetID(), outputs["rcbv"].GetAttribute("PerfusionCBV.Provenance")
        if made_of != self._made_of:
            self._made_of, self._segments, self._choices = made_of, (), ()
            self.source = _source(parameters.inputNode, outputs, result)
        segmentation = parameters.curveSegmentation
        segments = (segmentation.GetID(), segmentation.GetSegmentation().GetMTime()) if segmentation else (None,)
        if segments != self._segments:
            self._segments, self._choices = segments, ()
            self.regions = segment_regions(segmentation, parameters.inputNode)
        choices = parameters.quantity, parameters.showFit, parameters.showWindows, parameters.showArterial
        if choices != self._choices:
            self._choices = choices
            self._draw(parameters)
        if self.source is not None:
            show_chart(chart_node())  # the histogram may have taken its place

    def show_at(self, position: Sequence[float], parameters: Any) -> None:
        """Draw the curve of the voxel at a position in the world; outside the series the last one stays."""
        voxel = voxel_at(position, self._outputs["baseline"]) if self.source is not None else None
        if voxel is not None and voxel != self._voxel:
            self._voxel = voxel
            self._draw(parameters)

    def _draw(self, parameters: Any) -> None:
        if self.source is None:
            return
        voxel, quantity = self._voxel, parameters.quantity
        curves: dict[str, tuple[np.ndarray, tuple[float, float, float], str]] = {}
        if voxel is not None:
            curves[_("Voxel")] = self._curve(voxel, quantity), VOXEL_COLOUR, "solid"
            if parameters.showFit:
                curves[_("Fitted reference")] = self._fit(voxel, quantity), FIT_COLOUR, "dash"
        for name, (inside, colour) in self.regions.items():
            curves[name] = self._curve(inside, quantity), colour, "solid"
        artery = arterial_curve(self._outputs)
        if artery is not None and parameters.showArterial and quantity is Quantity.DELTA_R2S:
            curves[_("Arterial input")] = artery, ARTERY_COLOUR, "solid"
        self._write(curves, self.source.windows_s() if parameters.showWindows else {}, quantity)
        self.text = self._values(voxel) if voxel else _("Move the mouse over a slice.")

    def _values(self, voxel: tuple[int, int, int]) -> str:
        i, j, k = voxel
        titles = {"rcbv": "rCBV", "rcbv_classical": _("classical"), "uncertainty": "±", "k2": "K2 (1/s)"}
        parts = [_("Voxel {i}, {j}, {k}").format(i=i, j=j, k=k)]
        for role, title in titles.items():
            if role in self._outputs:
                value = float(slicer.util.arrayFromVolume(self._outputs[role])[k, j, i])
                parts.append(f"{title} {value:.3g}" if np.isfinite(value) else f"{title} –")
        return ", ".join(parts)

    def _curve(self, where: Any, quantity: Quantity) -> np.ndarray:
        assert self.source is not None
        return self.source.signal(where) if quantity is Quantity.SIGNAL else self.source.delta_r2s_per_s(where)

    def _fit(self, voxel: tuple[int, int, int], quantity: Quantity) -> np.ndarray:
        assert self.source is not None
        fitted = self.source.fitted_per_s(self.source.delta_r2s_per_s(voxel))
        return self.source.as_signal(fitted, self.source.signal(voxel)) if quantity is Quantity.SIGNAL else fitted

    def _write(
        self,
        curves: Mapping[str, tuple[np.ndarray, tuple[float, float, float], str]],
        windows: Mapping[str, tuple[float, float]],
        quantity: Quantity,
    ) -> None:
        assert self.source is not None
        first = self.source.timing.first_steady
        times_s = self.source.series.times_s[first:]
        columns = {TIME: times_s, **{name: curve[first:] for name, (curve, _c, _s) in curves.items()}}
        table = fill_table(table_node(), columns)
        heights = np.concatenate([columns[name] for name in curves] or [np.zeros(1)])
        heights = heights[np.isfinite(heights)]
        low, high = (float(heights.min()), float(heights.max())) if heights.size else (0.0, 1.0)
        boxes: dict[str, np.ndarray] = {}
        for key, (begin, end) in windows.items():
            boxes[f"{key} x"] = np.array([begin, begin, end, end], dtype=float)
            boxes[f"{key} y"] = np.array([low, high, high, low], dtype=float)
        box_table = fill_table(windows_node(), boxes)

        chart = chart_node()
        unchanged = chart.StartModify()
        chart.RemoveAllPlotSeriesNodeIDs()
        names = {"baseline": _("Baseline"), "bolus": _("Bolus window")}
        for key in windows:
            series = _series(names[key], box_table, f"{key} x", f"{key} y", WINDOW_COLOURS[key], "dot")
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        for name, (_curve, colour, style) in curves.items():
            series = _series(name, table, TIME, name, colour, style)
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetXAxisTitle(_("Time (s)"))
        chart.SetYAxisTitle("ΔR2* (1/s)" if quantity is Quantity.DELTA_R2S else _("Signal"))
        chart.EndModify(unchanged)
        show_chart(chart)


def _source(node: Any, outputs: Mapping[str, Any], result: MapResult | None) -> CurveSource:
    """Return where curves come from: the result of this session, or the series and what its map says about itself."""
    from PerfusionCBVLib.gui.curves import CurveSource

    if result is not None:
        return CurveSource.of_result(result)
    facts = provenance(outputs["rcbv"])
    known = {name: facts["acquisition"][name]["value"] for name in ("echo_time_s", "repetition_time_s")}
    if describe(node).times_s is not None:
        known.pop("repetition_time_s")
    inside = region_on_series((outputs["regions"], "brain"), node)
    assert inside is not None
    return CurveSource.of_provenance(series_from_node(node, **known), inside, facts)


def chart_node() -> Any:
    """Return the chart of the curves."""
    return plain_node("vtkMRMLPlotChartNode", CHART)


def show_chart(chart: Any) -> None:
    """Put a chart into the plot views."""
    for view in slicer.util.getNodesByClass("vtkMRMLPlotViewNode"):
        if view.GetPlotChartNodeID() != chart.GetID():
            view.SetPlotChartNodeID(chart.GetID())


def table_node() -> Any:
    """Return the table of the curves, one column for each, after the times."""
    return plain_node("vtkMRMLTableNode", TABLE)


def windows_node() -> Any:
    """Return the table of the boxes around baseline and bolus window."""
    return plain_node("vtkMRMLTableNode", BOXES)


def plain_node(class_name: str, role: str) -> Any:
    """Return the node of a role, made where the scene has none; it is no data of the user's, so it is not saved."""
    for node in slicer.util.getNodesByClass(class_name):
        if node.GetAttribute(ROLE) == role:
            return node
    node = slicer.mrmlScene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetAttribute(ROLE, role)
    node.SetName(f"PerfusionCBV {role}")
    node.SetSaveWithScene(False)
    if class_name != "vtkMRMLPlotChartNode":
        node.SetHideFromEditors(True)
    return slicer.mrmlScene.AddNode(node)


def _series(name: str, table: Any, x: str, y: str, colour: tuple[float, float, float], style: str) -> Any:
    series = plain_node("vtkMRMLPlotSeriesNode", f"curve {name}")
    unchanged = series.StartModify()
    series.SetName(name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(y)
    series.SetPlotType(series.PlotTypeScatter)
    series.SetMarkerStyle(series.MarkerStyleNone)
    styles = {"solid": series.LineStyleSolid, "dash": series.LineStyleDash, "dot": series.LineStyleDot}
    series.SetLineStyle(styles[style])
    series.SetLineWidth(2 if style == "dot" else 3)
    series.SetColor(*colour)
    series.EndModify(unchanged)
    return series


def fill_table(table: Any, columns: Mapping[str, np.ndarray]) -> Any:
    """Put columns into a table; where names and lengths are the same, only the values change."""
    content = table.GetTable()
    names = [content.GetColumnName(n) for n in range(content.GetNumberOfColumns())]
    size = len(next(iter(columns.values()), ()))
    if names == list(columns) and content.GetNumberOfRows() == size:
        for name, values in columns.items():
            slicer.util.arrayFromTableColumn(table, name)[:] = values
            content.GetColumnByName(name).Modified()
        table.Modified()
    else:
        table.RemoveAllColumns()
        slicer.util.updateTableFromArray(table, tuple(columns.values()), tuple(columns))
    return table
