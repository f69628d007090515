"""The histograms of rCBV of measured segments as a Slicer plot: the library's numbers in a table, and a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.gui.measures import MAP_SHA256, SEGMENTATION, map_sha256, measures_node
from PerfusionCBVLib.gui.output_nodes import INPUT, PREFIX, ROLE, made_of, outputs, place, study_item
from PerfusionCBVLib.gui.plots import fill_table, plain_node, show_chart

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.measures.measure import Histogram, RegionMeasures

HISTOGRAM, CHART = "histogram", "histogram plot"
CENTRE = "rCBV"
OUTSIDE = PREFIX + "Outside"
"""By segment, what the plot can't show: the share of its volume beyond the bins, in words."""


def publish_histogram(measured: Sequence[RegionMeasures], node: Any) -> Any:
    """Put the histograms into the scene as a table: the middles of the bins, and per cent of each segment's volume.

    Returns
    -------
    vtkMRMLTableNode or None
        None where no segment has a histogram; an earlier table is removed then.
    """
    table = histogram_node(node)
    drawn = {each.region.name: each.histogram for each in measured if each.histogram is not None}
    if not drawn:
        if table is not None:
            slicer.mrmlScene.RemoveNode(table)
        return None
    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{node.GetName()} histogram")
        table.SetAttribute(ROLE, HISTOGRAM)
        table.SetNodeReferenceID(INPUT, node.GetID())
    edges = next(iter(drawn.values())).edges
    columns = {CENTRE: (edges[:-1] + edges[1:]) / 2}
    columns |= {_column(name): histogram.percent for name, histogram in drawn.items()}
    fill_table(table, columns)
    table.SetDescription("Per cent of each segment's volume in each bin of rCBV")
    outside = {name: _outside(histogram) for name, histogram in drawn.items()}
    table.SetAttribute(OUTSIDE, json.dumps(outside))
    table.SetAttribute(MAP_SHA256, map_sha256(outputs(node)["rcbv"]))
    place(table, study_item(node))
    return table


def histogram_node(node: Any) -> Any:
    """Return the table of the histograms of a series, or None."""
    return next((each for each in made_of(node) if each.GetAttribute(ROLE) == HISTOGRAM), None)


class HistogramPlot:
    """The chart beside the slices: it and the curves take turns in the one plot view."""

    def __init__(self) -> None:
        self._shown = False

    def update(self, parameters: Any, outputs: dict[str, Any]) -> None:
        """Draw the chart while it is wanted; the choice that came last, histogram or curves, puts out the other."""
        table = current_histogram(parameters.inputNode, outputs)
        if parameters.showHistogram and (table is None or (parameters.showCurves and self._shown)):
            parameters.showHistogram = False  # that of another map must not stand beside this one
        self._shown = parameters.showHistogram
        if self._shown:
            parameters.showCurves = False
            draw(table, measures_node(parameters.inputNode))


def current_histogram(node: Any, outputs: dict[str, Any]) -> Any:
    """Return the table of the histograms of the latest map of a series, or None."""
    table = histogram_node(node) if node is not None and "rcbv" in outputs else None
    return table if table is not None and table.GetAttribute(MAP_SHA256) == map_sha256(outputs["rcbv"]) else None


def chart_node() -> Any:
    """Return the chart of the histograms."""
    return plain_node("vtkMRMLPlotChartNode", CHART)


def draw(table: Any, measures: Any) -> None:
    """Show a line for each segment, in its colour where the segmentation is still there."""
    chart = chart_node()
    unchanged = chart.StartModify()
    chart.RemoveAllPlotSeriesNodeIDs()
    colours, outside = _colours(measures), json.loads(table.GetAttribute(OUTSIDE) or "{}")
    names = [table.GetTable().GetColumnName(n) for n in range(1, table.GetNumberOfColumns())]
    for number, name in enumerate(names):
        title = name.removesuffix(_column(""))
        series = plain_node("vtkMRMLPlotSeriesNode", f"histogram {number}")
        series.SetName(f"{title}{outside.get(title, '')}")
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(CENTRE)
        series.SetYColumnName(name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetLineWidth(3)
        series.SetColor(*colours.get(title, _SPARE[number % len(_SPARE)]))
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle("")
    chart.SetXAxisTitle(_("rCBV (ratio)"))
    chart.SetYAxisTitle(_("Volume of the segment (%)"))
    chart.EndModify(unchanged)
    show_chart(chart)


LEAST_TOLD = 0.5
"""Per cent of a segment's volume beyond the bins, from which the legend says so."""

_SPARE = ((0.11, 0.37, 0.61), (0.75, 0.22, 0.17), (0.17, 0.48, 0.24), (0.54, 0.43, 0.11))


def _outside(histogram: Histogram) -> str:
    parts = ((histogram.below, f"< {histogram.edges[0]:g}"), (histogram.above, f"> {histogram.edges[-1]:g}"))
    return "".join(f", {percent:.0f} % {where}" for percent, where in parts if percent >= LEAST_TOLD)


def _column(name: str) -> str:
    return f"{name} (%)"


def _colours(measures: Any) -> dict[str, tuple[float, float, float]]:
    segmentation = measures.GetNodeReference(SEGMENTATION) if measures is not None else None
    content = segmentation.GetSegmentation() if segmentation is not None else None
    found = [content.GetNthSegment(n) for n in range(content.GetNumberOfSegments())] if content is not None else []
    colours = {segment.GetName(): segment.GetColor() for segment in found}
    return colours if len(set(colours.values())) == len(colours) else {}  # alike, they could not be told apart
