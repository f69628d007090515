"""The panel as a whole: its sections, its state in the parameter node, closing, reloading and coming back."""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
import slicer_scene
from PerfusionCBVLib import Settings
from slicer_panel_case import MODULE, choose, findings_text, quick

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)

UI = ElementTree.parse(MODULE / "Resources" / "UI" / "PerfusionCBV.ui")
SECTIONS = ("series", "map", "display", "curves", "measure", "compare", "report", "send")


# --- the sections -----------------------------------------------------------------------------------------------------


def test_sections_stand_in_the_order_of_the_work(panel):
    children = [w.objectName for w in panel.parent.findChildren(qt_slicer.ctkCollapsibleButton)]
    assert children == [f"{name}CollapsibleButton" for name in SECTIONS]
    titles = [getattr(panel.ui, name).text for name in children]
    assert titles == ["Series", "Map", "Display", "Curves", "Measure", "Two dates", "Report and export", "Send to PACS"]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_opens_and_closes_and_leaves_hidden_rows_hidden(panel, name):
    section = getattr(panel.ui, f"{name}CollapsibleButton")
    panel.parent.show()
    section.collapsed = True
    assert not any(child.visible for child in section.children() if child.isWidgetType())
    section.collapsed = False
    assert any(child.visible for child in section.children() if child.isWidgetType())
    assert not panel.ui.anatomySelector.visible
    assert not panel.ui.referenceSegmentSelector.visible


def test_every_control_has_a_tooltip_and_every_button_a_purpose(panel):
    classes = ["QPushButton", "QToolButton", "QComboBox", "QCheckBox", "QDoubleSpinBox", "QSpinBox", "QLineEdit"]
    classes += ["ctkSliderWidget", "ctkRangeWidget", "qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget"]
    names = [w.get("name") for w in UI.iter("widget") if w.get("class") in classes]
    assert len(names) > 20
    without_tip = [name for name in names if len(getattr(panel.ui, name).toolTip) < 10]
    assert without_tip == []


def test_layout_file_declares_its_widgets_and_gives_the_scene_to_those_that_need_it():
    widgets = {widget.get("name"): widget.get("class") for widget in UI.iter("widget")}
    assert len(widgets) == len(list(UI.iter("widget")))
    declared = {element.findtext("class") for element in UI.iter("customwidget")}
    assert {name for name in widgets.values() if not name.startswith("Q")} == declared
    connected = {
        c.findtext("receiver") for c in UI.iter("connection") if c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert connected == {name for name, kind in widgets.items() if kind.startswith("qMRML")} - {"PerfusionCBV"}


def test_every_parameter_has_its_widget(panel, parts):
    named = [p.findtext("string") for p in UI.iter("property") if p.get("name") == "SlicerParameterName"]
    by_hand = ["inputNode", "referenceSegmentation", "referenceSegmentID"]
    by_hand += ["arterialSegmentation", "arterialSegmentID", "arterialFile"]
    assert sorted(named + by_hand) == sorted(parts.PerfusionCBVParameterNode.allParameters)


# --- the parameter node -----------------------------------------------------------------------------------------------


CHOICES = [
    ("methodComboBox", "method", "UNET_GRU", "UNet-GRU"),
    ("leakageComboBox", "leakage", "BOTH_WAYS", "back in"),
    ("referenceComboBox", "reference", "BRAIN", "Whole brain"),
    ("deviceComboBox", "device", "CPU", "Processor"),
    ("viewComboBox", "view", "COMPARE", "Compare"),
    ("coloursComboBox", "colours", "UNIFORM", "Uniform"),
    ("windowPresetComboBox", "windowPreset", "MANUAL", "below"),
    ("quantityComboBox", "quantity", "SIGNAL", "Signal"),
    ("arterialComboBox", "arterial", "SEGMENT", "segment you drew"),
    ("scaleComboBox", "comparisonScale", "LATER", "This date's"),
]


@pytest.mark.parametrize(("widget", "name", "member", "text"), CHOICES)
def test_a_choice_reaches_the_node_and_comes_back(panel, widget, name, member, text):
    combo = getattr(panel.ui, widget)
    default = getattr(panel.parameters, name)
    choose(combo, text)
    chosen = getattr(panel.parameters, name)
    assert chosen.name == member
    assert panel.parameters.parameterNode.GetParameter(name) == member
    setattr(panel.parameters, name, default)
    assert combo.currentText == default.label()


@pytest.mark.parametrize(
    ("widget", "name"),
    [
        ("motionCheckBox", "motionCorrection"),
        ("legendCheckBox", "legend"),
        ("followMouseCheckBox", "followMouse"),
        ("fitCheckBox", "showFit"),
        ("windowsCheckBox", "showWindows"),
        ("plotButton", "showCurves"),
        ("arterialCurveCheckBox", "showArterial"),
    ],
)
def test_a_switch_reaches_the_node_and_comes_back(panel, widget, name):
    switch = getattr(panel.ui, widget)
    default = getattr(panel.parameters, name)
    assert switch.checked == default
    switch.click()
    assert getattr(panel.parameters, name) is not default
    setattr(panel.parameters, name, default)
    assert switch.checked == default


@pytest.mark.parametrize(
    ("widget", "name", "value"),
    [
        ("echoTimeSpinBox", "echoTimeMs", 31.5),
        ("repetitionTimeSpinBox", "repetitionTimeMs", 1500.0),
        ("opacitySlider", "opacity", 0.45),
        ("thresholdSlider", "threshold", 0.8),
        ("relaxivitySpinBox", "arterialRelaxivity", 5.3),
    ],
)
def test_a_number_reaches_the_node_and_comes_back(panel, widget, name, value):
    field = getattr(panel.ui, widget)
    default = getattr(panel.parameters, name)
    field.value = value
    assert getattr(panel.parameters, name) == pytest.approx(value)
    setattr(panel.parameters, name, default)
    assert field.value == pytest.approx(default)


def test_the_window_reaches_the_node_and_comes_back(panel, parts):
    panel.ui.windowRangeWidget.setValues(0.5, 6.0)
    assert (panel.parameters.window.minimum, panel.parameters.window.maximum) == (0.5, 6.0)
    panel.parameters.window = parts.FloatRange(1.0, 3.0)
    assert (panel.ui.windowRangeWidget.minimumValue, panel.ui.windowRangeWidget.maximumValue) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("widget", "name", "class_name"),
    [
        ("anatomySelector", "anatomy", "vtkMRMLScalarVolumeNode"),
        ("mapSelector", "shownMap", "vtkMRMLScalarVolumeNode"),
        ("curveSegmentationSelector", "curveSegmentation", "vtkMRMLSegmentationNode"),
        ("earlierMapSelector", "earlierMap", "vtkMRMLScalarVolumeNode"),
        ("comparedSegmentationSelector", "comparedSegmentation", "vtkMRMLSegmentationNode"),
    ],
)
def test_a_node_reaches_the_node_and_comes_back(panel, widget, name, class_name):
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, "chosen")
    selector = getattr(panel.ui, widget)
    selector.setCurrentNode(node)
    assert getattr(panel.parameters, name) is node
    setattr(panel.parameters, name, None)
    assert selector.currentNode() is None


def test_defaults_are_the_librarys_in_automatic_colours(panel, parts):
    assert parts.settings(panel.parameters) == Settings()
    assert panel.parameters.colours is parts.Colours.AUTOMATIC
    assert panel.parameters.windowPreset is parts.WindowPreset.AUTOMATIC
    assert panel.parameters.legend
    assert panel.parameters.echoTimeMs == panel.parameters.repetitionTimeMs == 0  # nothing is guessed


def test_the_state_of_the_panel_comes_back_with_the_saved_scene(ready, open_panel, tmp_path, parts):
    ready.ui.applyButton.click()
    choose(ready.ui.methodComboBox, "anchored")
    ready.ui.opacitySlider.value = 0.35
    name = ready.parameters.inputNode.GetName()
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    qt_slicer.close_module()
    slicer_scene.open_bundle(tmp_path / "scene.mrb", tmp_path / "again")
    again = open_panel()
    assert again.parameters.inputNode.GetName() == again.ui.inputSelector.currentNode().GetName() == name
    assert again.parameters.method is parts.Method.ANCHORED_UNET
    assert again.ui.opacitySlider.value == pytest.approx(0.35)
    assert "rCBV" in again.ui.mapSelector.currentNode().GetName()
    assert "bolus arrives" in findings_text(again)
    assert not again.ui.reportButton.enabled
    assert "this session" in again.ui.reportButton.toolTip


# --- the scene and the module -----------------------------------------------------------------------------------------


def test_closing_the_scene_resets_the_panel(ready):
    ready.ui.applyButton.click()
    ready.ui.opacitySlider.value = 0.2
    slicer.mrmlScene.Clear(False)
    assert ready.parameters.inputNode is None
    assert ready.ui.inputSelector.currentNode() is None
    assert not ready.ui.applyButton.enabled
    assert ready.logic.result is None
    assert ready.ui.factsLabel.text == "No series chosen."
    assert not ready.ui.reportButton.enabled
    assert "no map" in ready.ui.displayNoteLabel.text


def test_closing_the_scene_during_a_run_cancels_it(ready, results, monkeypatch):
    quick(ready, results, monkeypatch, at=lambda f: slicer.mrmlScene.Clear(False) if f == 0.25 else None)
    ready.ui.applyButton.click()
    assert "Cancelled" in ready.ui.statusLabel.text
    assert ready.parameters.inputNode is None
    assert qt_slicer.messages == []


def test_a_series_removed_from_the_scene_leaves_an_empty_panel(ready):
    slicer.mrmlScene.RemoveNode(ready.parameters.inputNode)
    ready.onParametersChanged()
    assert ready.parameters.inputNode is None
    assert not ready.ui.applyButton.enabled


def test_leaving_the_module_and_coming_back_keeps_the_state(ready):
    node = ready.parameters.inputNode
    ready.exit()
    ready.logic.getParameterNode().opacity = 0.25  # by another module or a script
    ready.enter()
    assert ready.parameters.inputNode is node
    assert ready.ui.opacitySlider.value == pytest.approx(0.25)


def test_reload_makes_a_new_panel_with_the_same_state(ready):
    ready.ui.opacitySlider.value = 0.4
    old_library = sys.modules["PerfusionCBVLib.gui.panel"]
    ready.onReload()
    again = slicer.modules.PerfusionCBVWidget
    assert again is not ready
    assert sys.modules["PerfusionCBVLib.gui.panel"] is not old_library
    assert again.parameters.inputNode.GetName() == "DSC perfusion"
    assert again.ui.opacitySlider.value == pytest.approx(0.4)
    ready.ui.opacitySlider.value = 0.9  # the old panel has let go of the scene
    assert again.parameters.opacity == pytest.approx(0.4)
    assert again.ui.applyButton.enabled
