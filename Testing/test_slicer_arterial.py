"""The artery of the flow maps, chosen in the panel: from a segment or a file, checked, and shown."""

import importlib

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.arterial import read_arterial_curve
from slicer_panel_case import add, choose, findings_text, unchecked

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


@pytest.fixture
def classical(panel, head, monkeypatch):
    """A panel with the real work and the quickest method, and a checked series."""
    unchecked(panel, monkeypatch)
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    choose(panel.ui.methodComboBox, "Classical")
    slicer.app.processEvents()
    return panel


@pytest.fixture(scope="module")
def artery(head):
    """Some voxels, as a user draws them, and the result that the library gets with them."""
    inside = np.zeros(head.lesion.shape, dtype=bool)
    inside[tuple(np.argwhere(head.white)[:30].T)] = True
    return inside, compute_maps(head.series, Settings(method="bsw"), aif=inside)


def draw(inside, segment_names=("other", "artery")):
    """Put a segmentation into the scene whose last segment is the artery."""
    regions = importlib.import_module("PerfusionCBVLib.gui.regions")
    volume = slicer.util.getNodesByClass("vtkMRMLSequenceNode")[0].GetNthDataNode(0)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    for name in segment_names:
        image = regions.oriented_image(inside if name == "artery" else ~inside, volume)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, (1, 0, 0), name)
    return segmentation


def choose_segment(panel, segmentation):
    choose(panel.ui.arterialComboBox, "segment you drew")
    panel.ui.arterialSegmentSelector.setCurrentNode(segmentation)
    panel.ui.arterialSegmentSelector.setCurrentSegmentID("artery")


def curve_series():
    chart = importlib.import_module("PerfusionCBVLib.gui.plots").chart_node()
    return [chart.GetNthPlotSeriesNode(n).GetName() for n in range(chart.GetNumberOfPlotSeriesNodes())]


def test_only_what_the_chosen_artery_needs_is_shown(panel, parts):
    shown = {}
    panel.parent.show()
    for member in parts.Arterial:
        panel.parameters.arterial = member
        widgets = (panel.ui.arterialSegmentSelector, panel.ui.arterialFileButton, panel.ui.relaxivitySpinBox)
        shown[member.name] = [widget.visible for widget in widgets]
    nothing, file = [False] * 3, [False, True, True]
    assert shown == {"NONE": nothing, "AUTOMATIC": nothing, "SEGMENT": [True, False, False], "FILE": file}


def test_a_segment_of_an_artery_gives_the_librarys_flow_maps_with_its_checks_segment_and_curve(classical, artery):
    inside, expected = artery
    choose(classical.ui.arterialComboBox, "segment you drew")
    assert "segment of the artery" in classical.ui.applyButton.toolTip
    choose_segment(classical, draw(inside))
    classical.ui.applyButton.click()
    assert qt_slicer.messages == []
    nodes = classical.logic.outputs(classical.parameters.inputNode)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes["cbf"]).T, expected.maps["cbf"].values)
    for check in expected.arterial.checks:
        assert check.message.split(";")[0] in findings_text(classical)
    assert "--aif" not in findings_text(classical)
    assert "a segment under Flow maps" in findings_text(classical)
    regions = importlib.import_module("PerfusionCBVLib.gui.regions")
    shown = regions.region_on_series((nodes["regions"], "arterial"), classical.parameters.inputNode)
    np.testing.assert_array_equal(shown, expected.arterial.mask)
    curve = slicer.util.arrayFromTableColumn(nodes["curves"], "Arterial input")
    np.testing.assert_allclose(curve, expected.arterial.curve_per_s)
    classical.ui.plotButton.click()
    assert "Arterial input" in curve_series()
    classical.ui.arterialCurveCheckBox.click()
    assert "Arterial input" not in curve_series()
    choose(classical.ui.arterialComboBox, "Not computed")
    classical.ui.applyButton.click()
    nodes = classical.logic.outputs(classical.parameters.inputNode)
    assert "cbf" not in nodes
    assert nodes["regions"].GetSegmentation().GetSegment("arterial") is None


def test_a_curve_from_a_file_gives_the_librarys_flow_maps(classical, artery, head, tmp_path):
    _inside, with_mask = artery
    choose(classical.ui.arterialComboBox, "from a file")
    assert "Choose the CSV file" in classical.ui.applyButton.toolTip
    classical.ui.arterialFileButton.click()  # the dialog is cancelled
    assert not classical.ui.applyButton.enabled
    path = tmp_path / "artery.csv"
    rows = zip(head.series.times_s, with_mask.arterial.curve_per_s / 5.0, strict=True)
    path.write_text("time_s,concentration_mmol_per_l\n" + "".join(f"{t},{v}\n" for t, v in rows))
    qt_slicer.answers["file"] = str(path)
    classical.ui.arterialFileButton.click()
    assert classical.ui.arterialFileButton.text == "artery.csv"
    classical.ui.applyButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "the relaxivity under Flow maps" in text
    assert classical.logic.outputs(classical.parameters.inputNode) == {}
    classical.ui.relaxivitySpinBox.value = 5.0
    classical.ui.applyButton.click()
    nodes = classical.logic.outputs(classical.parameters.inputNode)
    curve = read_arterial_curve(path, relaxivity_per_s_per_mm=5.0)
    expected = compute_maps(head.series, Settings(method="bsw"), aif=curve)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes["mtt"]).T, expected.maps["mtt"].values)
    assert nodes["regions"].GetSegmentation().GetSegment("arterial") is None  # no voxels: it came from a file


def test_a_file_that_is_no_curve_is_one_dialog_and_the_scene_stays(classical, tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("Patient,Date\nA,B\n")
    choose(classical.ui.arterialComboBox, "from a file")
    qt_slicer.answers["file"] = str(path)
    classical.ui.arterialFileButton.click()
    classical.ui.applyButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "header of" in text
    assert classical.logic.outputs(classical.parameters.inputNode) == {}


def test_the_chosen_segment_comes_back_and_not_the_first_of_its_segmentation(classical, artery):
    choose_segment(classical, draw(artery[0]))
    assert classical.parameters.arterialSegmentID == "artery"
    classical.exit()
    classical.ui.arterialSegmentSelector.setCurrentNode(None)
    classical.enter()
    assert classical.parameters.arterialSegmentID == "artery"
    assert classical.ui.arterialSegmentSelector.currentSegmentID() == "artery"
