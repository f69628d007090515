"""The histogram of measured segments in the plot beside the slices: the library's numbers, in the segments' colours."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
from PerfusionCBVLib.measures.measure import rcbv_histogram

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)

COLOURS = {"Tumour": (1.0, 0.0, 0.0), "White matter": (0.0, 0.0, 1.0)}


@pytest.fixture
def measured(ready, head):
    """Two segments, measured."""
    ready.ui.applyButton.click()
    regions = importlib.import_module("PerfusionCBVLib.gui.regions")
    baseline = ready.logic.outputs(ready.parameters.inputNode)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    for name, inside in (("Tumour", head.lesion), ("White matter", head.white)):
        image = regions.oriented_image(inside, baseline)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, COLOURS[name], name)
    ready.ui.measuredSegmentationSelector.setCurrentNode(segmentation)
    assert "Press Measure first" in ready.ui.histogramButton.toolTip
    assert not ready.ui.histogramButton.enabled
    ready.ui.measureButton.click()
    return ready


@pytest.fixture
def view(app):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")


def chart_of(view):
    chart = slicer.mrmlScene.GetNodeByID(view.GetPlotChartNodeID())
    return chart, [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]


def test_the_plot_shows_the_librarys_histogram_of_each_segment_in_its_colour(measured, view, head, results):
    measured.ui.histogramButton.click()
    chart, series = chart_of(view)
    assert [one.GetName() for one in series] == ["Tumour", "White matter"]
    rcbv = results["anchored-unet"].maps["rcbv"].values
    for one, inside in zip(series, (head.lesion, head.white), strict=True):
        values = rcbv[inside & np.isfinite(rcbv)].astype(float)
        expected = rcbv_histogram(values, np.ones(values.size))
        table = one.GetTableNode()
        np.testing.assert_allclose(slicer.util.arrayFromTableColumn(table, one.GetYColumnName()), expected.percent)
        centres = slicer.util.arrayFromTableColumn(table, one.GetXColumnName())
        np.testing.assert_allclose(centres, expected.edges[:-1] + 0.05)
        assert one.GetColor() == pytest.approx(COLOURS[one.GetName()])
    assert chart.GetXAxisTitle() == "rCBV (ratio)"
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotView
    measured.ui.histogramButton.click()
    assert layout.GetViewArrangement() != layout.SlicerLayoutFourUpPlotView


def test_histogram_and_curves_take_turns_in_the_plot(measured, view):
    measured.ui.histogramButton.click()
    histogram, _series = chart_of(view)
    measured.ui.plotButton.click()
    curves, _series = chart_of(view)
    assert curves is not histogram
    assert measured.ui.plotButton.checked
    assert not measured.ui.histogramButton.checked
    measured.ui.histogramButton.click()
    assert chart_of(view)[0] is histogram
    assert not measured.ui.plotButton.checked
    measured.ui.plotButton.click()
    assert chart_of(view)[0] is curves


def test_a_histogram_of_a_map_that_was_made_anew_is_taken_away(measured, view):
    measured.ui.histogramButton.click()
    rcbv = measured.logic.outputs(measured.parameters.inputNode)["rcbv"]
    slicer.util.arrayFromVolume(rcbv)[0] = 3.0
    measured.onParametersChanged()
    assert not measured.ui.histogramButton.checked
    assert "Press Measure first" in measured.ui.histogramButton.toolTip


def test_what_lies_beyond_the_bins_stands_in_the_legend(measured, view):
    """Nothing is cut off in silence: a vascular tumour has much above the last bin."""
    histogram = importlib.import_module("PerfusionCBVLib.gui.histogram")
    node = measured.parameters.inputNode
    rows = [
        SimpleNamespace(region=SimpleNamespace(name=name), histogram=rcbv_histogram(values, np.ones(4)))
        for name, values in (("Tumour", np.array([5.0, 7.0, 8.0, 9.0])), ("White matter", np.ones(4)))
    ]
    histogram.publish_histogram(rows, node)
    measured.ui.histogramButton.click()
    assert [one.GetName() for one in chart_of(view)[1]] == ["Tumour, 75 % > 6", "White matter"]
    histogram.publish_histogram([SimpleNamespace(region=rows[0].region, histogram=None)], node)
    assert histogram.histogram_node(node) is None
