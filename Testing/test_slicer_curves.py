"""Curves of voxels and segments in the plot beside the slices."""

import importlib

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
import slicer_scene
from slicer_panel_case import choose

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


@pytest.fixture
def curves(ready):
    """A panel with a map that shows curves."""
    ready.ui.applyButton.click()
    ready.ui.plotButton.click()
    return ready


def columns():
    plots = importlib.import_module("PerfusionCBVLib.gui.plots")
    table = plots.table_node()
    names = [table.GetTable().GetColumnName(i) for i in range(table.GetNumberOfColumns())]
    return {name: slicer.util.arrayFromTableColumn(table, name).copy() for name in names}


def chart():
    plots = importlib.import_module("PerfusionCBVLib.gui.plots")
    return plots.chart_node()


def series_names():
    node = chart()
    return [node.GetNthPlotSeriesNode(i).GetName() for i in range(node.GetNumberOfPlotSeriesNodes())]


def move_mouse(head, voxel):
    """Move the mouse to the centre of a voxel, as a slice view reports it."""
    ras = head.series.affine @ [*voxel, 1]
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCursorPositionRAS(list(ras[:3]))


def measured(head, timing, voxel):
    signal = head.series.signal[voxel].astype(float)
    return -np.log(signal / signal[timing.baseline].mean()) / 0.03


def test_the_curve_of_the_voxel_under_the_mouse_is_its_delta_r2s(curves, head, results):
    timing = results["bsw"].timing
    for voxel in ((20, 30, 3), (12, 20, 2)):
        move_mouse(head, voxel)
        found = columns()
        first = timing.first_steady
        np.testing.assert_allclose(found["Time (s)"], head.series.times_s[first:])
        np.testing.assert_allclose(found["Voxel"], measured(head, timing, voxel)[first:], atol=1e-3)
        assert f"Voxel {voxel[0]}, {voxel[1]}, {voxel[2]}, rCBV" in curves.ui.curveLabel.text
        rcbv = results["anchored-unet"].maps["rcbv"].values[voxel]
        assert f"rCBV {rcbv:.3g}" in curves.ui.curveLabel.text


def test_the_fitted_reference_follows_the_curve_and_the_windows_are_those_of_the_map(curves, head, results):
    voxel, timing = (20, 34, 3), results["bsw"].timing
    move_mouse(head, voxel)
    found = columns()
    after = slice(timing.arrival - timing.first_steady, None)
    residual = np.std(found["Voxel"][after] - found["Fitted reference"][after])
    assert residual < 0.2 * np.std(found["Voxel"][after])
    assert series_names() == ["Baseline", "Bolus window", "Voxel", "Fitted reference"]
    plots = importlib.import_module("PerfusionCBVLib.gui.plots")
    boxes = plots.windows_node()
    times_s = head.series.times_s
    for key, frames in (("baseline", timing.baseline), ("bolus", timing.first_pass)):
        x = slicer.util.arrayFromTableColumn(boxes, f"{key} x")
        assert (x.min(), x.max()) == pytest.approx((times_s[frames][0], times_s[frames][-1]))
    curves.ui.fitCheckBox.click()
    curves.ui.windowsCheckBox.click()
    assert series_names() == ["Voxel"]


def test_the_signal_can_be_shown_instead(curves, head):
    move_mouse(head, (20, 30, 3))
    choose(curves.ui.quantityComboBox, "Signal")
    np.testing.assert_allclose(columns()["Voxel"], head.series.signal[20, 30, 3], rtol=1e-6)
    assert chart().GetYAxisTitle() == "Signal"
    fitted = columns()["Fitted reference"]
    assert np.nanmin(fitted) == pytest.approx(head.series.signal[20, 30, 3].min(), rel=0.1)


def test_curves_of_segments_are_means_over_their_voxels(curves, head, results):
    regions = curves.logic.outputs(curves.parameters.inputNode)["regions"]
    curves.ui.curveSegmentationSelector.setCurrentNode(regions)
    np.testing.assert_allclose(columns()["Brain"], results["bsw"].curves_per_s["brain"], rtol=1e-4, atol=1e-3)
    assert {"Brain", "Reference region"} <= set(series_names())


def test_with_follow_off_the_crosshair_counts_and_not_the_mouse(curves, head, results):
    move_mouse(head, (20, 30, 3))
    before = columns()["Voxel"]
    curves.ui.followMouseCheckBox.click()
    move_mouse(head, (12, 20, 2))
    np.testing.assert_array_equal(columns()["Voxel"], before)
    ras = (head.series.affine @ [12, 20, 2, 1])[:3]
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairRAS(*ras)
    np.testing.assert_allclose(columns()["Voxel"], measured(head, results["bsw"].timing, (12, 20, 2)), atol=1e-3)


def test_outside_the_series_the_last_curve_stays(curves, head):
    move_mouse(head, (20, 30, 3))
    before = columns()["Voxel"]
    move_mouse(head, (400, 30, 3))
    np.testing.assert_array_equal(columns()["Voxel"], before)


def test_showing_curves_adds_a_plot_to_the_layout_and_hiding_them_brings_the_layout_back(ready):
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetViewArrangement()
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode", "PlotView1")
    ready.ui.applyButton.click()
    ready.ui.plotButton.click()
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotView
    assert view.GetPlotChartNodeID() == chart().GetID()
    ready.ui.plotButton.click()
    assert layout.GetViewArrangement() == before


def test_before_there_is_a_map_the_curves_say_what_they_wait_for(ready):
    ready.ui.plotButton.click()
    assert "Press Apply first" in ready.ui.curveLabel.text


def test_curves_work_in_a_scene_that_was_saved_and_opened_again(curves, head, open_panel, tmp_path, results):
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    qt_slicer.close_module()
    slicer_scene.open_bundle(tmp_path / "scene.mrb", tmp_path / "again")
    slicer_scene.update_proxies()
    again = open_panel()
    assert again.logic.result is None
    assert again.ui.plotButton.checked
    move_mouse(head, (20, 30, 3))
    expected = measured(head, results["bsw"].timing, (20, 30, 3))
    np.testing.assert_allclose(columns()["Voxel"], expected, atol=1e-3)
