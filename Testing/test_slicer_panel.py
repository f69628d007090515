"""The real panel - its .ui file and its widget class - off-screen, over slicer-core's real MRML.

PythonQt, ctk and qMRML widgets are the substitutes of `qt_slicer`, whose docstring says what they don't show.
"""

import importlib
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import Finding, Settings, compute_maps
from PerfusionCBVLib.errors import Cancelled, QualityError
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.series import Acquisition

pytestmark = pytest.mark.slicer
qt_slicer.attribute_style(__name__)

MODULE = Path(__file__).parent.parent / "PerfusionCBV"
UI = ElementTree.parse(MODULE / "Resources" / "UI" / "PerfusionCBV.ui")
SECTIONS = ("series", "map", "display", "curves", "measure", "report")


@pytest.fixture(scope="module")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(scope="module")
def results(head):
    """Results by method, computed once."""
    return {method: compute_maps(head.series, Settings(method=method)) for method in ("bsw", "anchored-unet")}


@pytest.fixture
def app(tmp_path):
    events = qt_slicer.start_qt().processEvents
    application = slicer_scene.start(tmp_path / "slicer")
    application.on_event = events
    qt_slicer.forget()
    return application


@pytest.fixture
def module(app, monkeypatch):
    monkeypatch.syspath_prepend(str(MODULE))
    library = loaded_library()
    yield qt_slicer.load_module()
    del sys.modules["PerfusionCBV"]
    if loaded_library()["PerfusionCBVLib"] is library["PerfusionCBVLib"]:
        return
    # After a reload the next test gets the first library again, and nothing but it.
    for name in loaded_library():
        del sys.modules[name]
    sys.modules.update(library)
    for name, package in library.items():
        for part in [part for part, found in vars(package).items() if isinstance(found, ModuleType)]:
            if vars(package)[part].__name__ == f"{name}.{part}" and f"{name}.{part}" not in library:
                delattr(package, part)


def loaded_library():
    return {name: found for name, found in sys.modules.items() if name.split(".")[0] == "PerfusionCBVLib"}


@pytest.fixture
def open_panel(module):
    yield lambda: qt_slicer.open_module(module)
    qt_slicer.close_module()


@pytest.fixture
def panel(open_panel):
    return open_panel()


@pytest.fixture
def parts(app):
    """The panel's library modules, as the open panel uses them (a reload makes new ones)."""
    return importlib.import_module("PerfusionCBVLib.gui.parameters")


def add(series, name="DSC perfusion"):
    """Put a series into the scene; return its sequence node."""
    work = importlib.import_module("PerfusionCBVLib.gui.logic")
    node = work.add_sequence(work.Sequence.of(series))
    node.SetName(name)
    slicer_scene.update_proxies()
    return node


def without(series, *names):
    """Return a series that does not know some of its acquisition values."""
    known = {name: None if name in names else value["value"] for name, value in series.acquisition.as_dict().items()}
    return replace(series, acquisition=Acquisition(**known))


def quick(panel, results, monkeypatch, *, at=None):
    """Let the panel's logic put ready results into the scene, with progress as the real work reports it.

    `at(fraction)` is called between two reports: what the user does meanwhile.
    """
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    calls = []

    def process(
        node, settings, *, mask=None, reference=None, aif=None, echo_time_s=None, repetition_time_s=None, progress=None
    ):
        calls.append({"settings": settings, "reference": reference, "echo_time_s": echo_time_s, "aif": aif})
        for fraction in (0.0, 0.25, 0.5, 0.75, 0.9):
            progress(fraction, f"Step at {fraction}")
            if at:
                at(fraction)
            slicer.app.processEvents()
        result = results[settings.method]
        panel.logic.result = result
        return output_nodes.publish(result, output_nodes.layers_of(result), node)

    monkeypatch.setattr(panel.logic, "process", process)
    return calls


def unchecked(panel, monkeypatch, findings=()):
    """Let checks of a series find this at once."""
    monkeypatch.setattr(panel.logic, "check", lambda node, **options: tuple(findings))


def findings_text(panel):
    """What the findings say, without icons."""
    lines = panel.ui.findingsBrowser.plainText.replace("\N{OBJECT REPLACEMENT CHARACTER}", "").splitlines()
    return "\n".join(line for line in lines if line)


def choose(combo, text):
    combo.currentIndex = next(i for i in range(combo.count) if text in combo.itemText(i))


@pytest.fixture
def ready(panel, head, results, monkeypatch):
    """A panel with a chosen, checked series and quick work."""
    unchecked(panel, monkeypatch)
    panel.calls = quick(panel, results, monkeypatch)
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    slicer.app.processEvents()
    return panel


# --- the sections -----------------------------------------------------------------------------------------------------


def test_sections_stand_in_the_order_of_the_work(panel):
    children = [w.objectName for w in panel.parent.findChildren(qt_slicer.ctkCollapsibleButton)]
    assert children == [f"{name}CollapsibleButton" for name in SECTIONS]
    titles = [getattr(panel.ui, name).text for name in children]
    assert titles == ["Series", "Map", "Display", "Curves", "Measure", "Report and export"]


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
    classes = ["QPushButton", "QToolButton", "QComboBox", "QCheckBox", "QDoubleSpinBox"]
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


# --- the series -------------------------------------------------------------------------------------------------------


def test_the_selector_offers_sequences_multi_volumes_and_vector_volumes(panel):
    assert set(panel.ui.inputSelector.nodeTypes) == {
        "vtkMRMLSequenceNode",
        "vtkMRMLMultiVolumeNode",
        "vtkMRMLVectorVolumeNode",
    }


def test_the_only_series_of_the_scene_is_chosen_at_once(open_panel, head, app):
    node = add(head.series)
    assert open_panel().parameters.inputNode is node


def test_facts_of_the_series_are_shown(ready):
    facts = ready.ui.factsLabel.text
    for part in ("40 × 46 × 6 voxels of 3.4 × 3.4 × 6 mm", "40 frames, one every 1.5 s", "3 T", "60°", "phantom"):
        assert part in facts
    assert ready.ui.echoTimeKnownLabel.text == "30 ms"
    assert "Source" in ready.ui.echoTimeKnownLabel.toolTip


def test_known_times_can_not_be_edited(ready):
    ready.parent.show()
    for name in ("echoTime", "repetitionTime"):
        assert getattr(ready.ui, f"{name}KnownLabel").visible
        assert not getattr(ready.ui, f"{name}SpinBox").visible


def test_an_unknown_echo_time_is_asked_for_and_never_guessed(ready, head, monkeypatch):
    ready.parent.show()
    ready.ui.inputSelector.setCurrentNode(add(without(head.series, "echo_time_s"), "without TE"))
    box = ready.ui.echoTimeSpinBox
    assert box.visible
    assert box.enabled
    assert (box.value, box.text) == (0, "unknown: enter it")
    assert not ready.ui.applyButton.enabled
    assert "echo time is unknown" in ready.ui.applyButton.toolTip
    box.value = 31.0
    assert ready.ui.applyButton.enabled
    ready.ui.applyButton.click()
    assert ready.calls[-1]["echo_time_s"] == pytest.approx(0.031)


def test_unknown_frame_times_are_asked_for(ready, head):
    node = add(head.series, "without times")
    node.SetIndexName("frame")
    node.SetIndexUnit("")
    node.SetAttribute("PerfusionCBV.Acquisition", '{"echo_time_s": {"value": 0.03, "source": "test"}}')
    ready.parent.show()
    ready.ui.inputSelector.setCurrentNode(node)
    assert ready.ui.repetitionTimeSpinBox.visible
    assert "repetition time" in ready.ui.applyButton.toolTip
    ready.ui.repetitionTimeSpinBox.value = 1500
    assert ready.ui.applyButton.enabled


def test_a_typed_time_is_forgotten_with_its_series(ready, head):
    first, second = (add(without(head.series, "echo_time_s"), name) for name in ("first", "second"))
    ready.ui.inputSelector.setCurrentNode(first)
    ready.ui.echoTimeSpinBox.value = 31.0
    ready.ui.inputSelector.setCurrentNode(second)
    assert ready.parameters.echoTimeMs == 0
    assert not ready.ui.applyButton.enabled


def test_choosing_a_series_checks_it_and_shows_what_was_found(panel, head):
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    assert findings_text(panel) == "Not checked yet."
    slicer.app.processEvents()
    text = findings_text(panel)
    assert "The bolus arrives at" in text
    assert "goes on for 16 s" in text
    assert "Leakage correction is uncertain here" in text
    assert text.index("goes on for 16 s") < text.index("The bolus arrives at")
    for icon in ("warning", "info"):
        assert f"Icons/{icon}.png" in panel.ui.findingsBrowser.html
        assert (MODULE / "Resources" / "Icons" / f"{icon}.png").is_file()


def test_a_finding_that_forbids_a_map_stands_first_and_disables_apply(panel, head, monkeypatch):
    findings = (
        Finding("motion", "info", "The head stays still."),
        Finding("no-bolus", "error", "No bolus was found.", "Choose the perfusion series."),
    )
    unchecked(panel, monkeypatch, findings)
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    assert panel.ui.applyButton.enabled
    slicer.app.processEvents()
    assert findings_text(panel).startswith("No bolus was found.")
    assert not panel.ui.applyButton.enabled
    assert "No bolus was found. Choose the perfusion series." in panel.ui.applyButton.toolTip


def test_checking_again_replaces_the_findings(ready, monkeypatch):
    unchecked(ready, monkeypatch, [Finding("new", "warning", "Something new.", "Look.")])
    ready.ui.checkButton.click()
    assert findings_text(ready) == "Something new.\nLook."


def test_nothing_is_installed_when_a_series_is_chosen(panel, head, monkeypatch):
    monkeypatch.setattr(panel.logic, "missingPackages", lambda method: ["scipy>=1.12"])
    monkeypatch.setattr(panel.logic, "ensurePackages", lambda method: pytest.fail("asked without need"))
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    slicer.app.processEvents()
    assert findings_text(panel) == "Not checked yet."


@pytest.mark.parametrize(("action", "answer"), [(0, "folder"), (1, "file")])
def test_load_reads_what_the_user_names_and_selects_it(panel, head, monkeypatch, action, answer):
    loaded = []

    def load(path, progress=None):
        loaded.append(path)
        return add(head.series, "loaded")

    unchecked(panel, monkeypatch)
    monkeypatch.setattr(panel.logic, "load", load)
    panel.loadMenu.actions()[action].trigger()
    assert loaded == []  # the dialog was cancelled
    qt_slicer.answers[answer] = "/study/dsc"
    panel.loadMenu.actions()[action].trigger()
    assert loaded == ["/study/dsc"]
    assert panel.ui.inputSelector.currentNode().GetName() == "loaded"


def test_a_file_that_can_not_be_read_is_one_dialog(panel, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    qt_slicer.answers["file"] = str(tmp_path / "notes.txt")
    panel.loadMenu.actions()[1].trigger()
    assert [kind for kind, _ in qt_slicer.messages] == ["error"]
    assert "notes.txt is of no supported type" in qt_slicer.messages[0][1]


# --- the method -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet-gru", "anchored-unet"])
def test_a_network_shows_the_measured_error_of_its_card(panel, parts, name):
    panel.parameters.method = parts.Method(name)
    error = read_card(name)["measured"]["validation"]["nrmse"]
    assert f"{error:.0%}" in panel.ui.methodNoteLabel.text
    assert "simulated patients" in panel.ui.methodNoteLabel.text
    assert "not validated on patients" in panel.ui.methodNoteLabel.text
    assert "NRMSE" in panel.ui.methodNoteLabel.toolTip


def test_the_two_controls_choose_every_method_of_the_library(panel, parts):
    from PerfusionCBVLib.settings import METHODS

    chosen = set()
    for method in parts.Method:
        for leakage in parts.Leakage:
            panel.parameters.method, panel.parameters.leakage = method, leakage
            chosen.add(parts.settings(panel.parameters).method)
            assert panel.ui.methodNoteLabel.text
    assert chosen == set(METHODS)


def test_only_what_belongs_to_the_method_is_shown(panel, parts):
    panel.parent.show()
    panel.parameters.method = parts.Method.CLASSICAL
    assert panel.ui.leakageComboBox.visible
    assert not panel.ui.deviceComboBox.visible
    panel.parameters.method = parts.Method.UNET_GRU
    assert not panel.ui.leakageComboBox.visible
    assert panel.ui.deviceComboBox.visible


def test_a_segment_as_reference_has_to_be_chosen_and_reaches_the_work(ready, parts):
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.GetSegmentation().AddEmptySegment("white", "White matter")
    ready.parent.show()
    choose(ready.ui.referenceComboBox, "segment")
    assert ready.ui.referenceSegmentSelector.visible
    assert not ready.ui.applyButton.enabled
    assert "Choose the segment" in ready.ui.applyButton.toolTip
    ready.ui.referenceSegmentSelector.setCurrentNode(segmentation)
    ready.ui.referenceSegmentSelector.setCurrentSegmentID("white")
    assert ready.ui.applyButton.enabled
    ready.ui.applyButton.click()
    assert ready.calls[-1]["reference"] == (segmentation, "white")
    ready.parameters.reference = parts.Reference.BRAIN
    ready.ui.applyButton.click()
    assert ready.calls[-1]["reference"] is None
    assert ready.calls[-1]["settings"].normalize == "brain"


# --- Apply and Cancel -------------------------------------------------------------------------------------------------


def test_apply_waits_for_a_series_and_says_so(panel):
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Select or load a series first."
    assert panel.ui.statusLabel.text == panel.ui.applyButton.toolTip


def test_a_node_that_is_no_series_is_refused_with_the_reason(panel):
    colours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photograph")
    slicer.util.updateVolumeFromArray(colours, np.zeros((2, 8, 8, 3), np.uint8))
    panel.ui.inputSelector.setCurrentNode(colours)
    assert not panel.ui.applyButton.enabled
    assert "no dynamic series" in panel.ui.applyButton.toolTip


def test_a_run_shows_its_progress_and_ends_with_the_map_on_screen(ready, results, monkeypatch):
    seen = []

    def look(fraction):
        ui = ready.ui
        seen.append((ui.progressBar.value, ui.statusLabel.text, ui.applyButton.enabled, ui.cancelButton.enabled))

    quick(ready, results, monkeypatch, at=look)
    ready.parent.show()
    ready.ui.applyButton.click()
    assert [value for value, *_ in seen] == [0, 25, 50, 75, 90]
    assert all(f"Step at {value / 100:g}" in text or value == 0 for value, text, *_ in seen)
    assert all((apply, cancel) == (False, True) for *_, apply, cancel in seen)
    assert ready.ui.applyButton.enabled
    assert not ready.ui.cancelButton.enabled
    assert not ready.ui.progressBar.visible
    assert ready.ui.statusLabel.text.startswith("Done in")
    assert ready.parameters.shownMap.GetName() == "DSC perfusion rCBV (Anchored U-Net)"
    assert not ready.ui.displayCollapsibleButton.collapsed
    assert qt_slicer.messages == []


def test_progress_names_the_time_that_is_left(ready, results, monkeypatch):
    running = importlib.import_module("PerfusionCBVLib.gui.running")
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr(running.time, "monotonic", lambda: float(next(clock)))
    texts = []
    quick(ready, results, monkeypatch, at=lambda fraction: texts.append(ready.ui.statusLabel.text))
    ready.ui.applyButton.click()
    # Two readings before the work starts; then 10 s at 0 %, 20 s at 25 %, 30 s at 50 %, 40 s at 75 %, 50 s at 90 %.
    assert texts == [
        "Step at 0.0 …",
        "Step at 0.25 … about 1 min left",
        "Step at 0.5 … about 30 s left",
        "Step at 0.75 … about 13 s left",
        "Step at 0.9 … about 6 s left",
    ]


def test_cancelling_stops_the_work_and_leaves_the_scene_as_it_was(ready, results, monkeypatch):
    seen = []

    def cancel(fraction):
        seen.append(fraction)
        if fraction == 0.5:
            ready.ui.cancelButton.click()

    quick(ready, results, monkeypatch, at=cancel)
    nodes = slicer_scene.scene_contents().keys()
    ready.ui.applyButton.click()
    assert seen == [0.0, 0.25, 0.5]
    assert slicer_scene.scene_contents().keys() == nodes
    assert ready.ui.statusLabel.text == "Cancelled. The scene is as it was."
    assert qt_slicer.messages == []
    assert ready.ui.applyButton.enabled


def test_the_real_work_can_be_cancelled_from_the_panel_and_then_done(panel, head):
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    slicer.app.processEvents()
    slicer.app.on_event = lambda: panel.ui.cancelButton.click() if panel.ui.progressBar.value >= 20 else None
    panel.ui.applyButton.click()
    assert panel.ui.statusLabel.text.startswith("Cancelled")
    assert panel.logic.outputs(panel.parameters.inputNode) == {}
    slicer.app.on_event = qt_slicer.start_qt().processEvents
    panel.ui.applyButton.click()
    assert panel.ui.statusLabel.text.startswith("Done in")
    assert "rcbv" in panel.logic.outputs(panel.parameters.inputNode)


def test_an_error_is_one_dialog_without_a_traceback(ready, monkeypatch):
    sentence = "The signal does not drop. Choose the perfusion series."

    def process(*arguments, **options):
        raise QualityError(sentence)

    monkeypatch.setattr(ready.logic, "process", process)
    ready.ui.applyButton.click()
    assert qt_slicer.messages == [("error", sentence)]
    assert ready.ui.statusLabel.text == sentence
    assert ready.ui.applyButton.enabled
    assert not ready.ui.cancelButton.enabled


def test_a_fault_of_ours_is_a_dialog_and_goes_to_the_log(ready, monkeypatch, caplog):
    monkeypatch.setattr(ready.logic, "process", lambda *arguments, **options: 1 / 0)
    ready.ui.applyButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "fault of Perfusion CBV" in text
    assert "ZeroDivisionError" in text
    assert "Traceback" not in text
    assert "\n" not in text
    assert "Traceback" in caplog.text
    assert ready.ui.applyButton.enabled


def test_a_folder_that_can_not_be_written_is_one_dialog(ready, tmp_path):
    ready.ui.applyButton.click()
    (tmp_path / "file").write_text("in the way")
    qt_slicer.answers["folder"] = str(tmp_path / "file")
    ready.ui.saveButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "can't be read or written" in text


def test_without_consent_to_install_nothing_is_computed(ready, monkeypatch):
    monkeypatch.setattr(ready.logic, "ensurePackages", lambda method: False)
    ready.ui.applyButton.click()
    assert ready.calls == []
    assert "not installed" in ready.ui.statusLabel.text
    assert qt_slicer.messages == []


def test_the_packages_of_the_chosen_method_are_asked_for(ready, monkeypatch, parts):
    asked = []
    monkeypatch.setattr(ready.logic, "ensurePackages", lambda method: asked.append(method))
    ready.parameters.method = parts.Method.ANCHORED_UNET
    ready.ui.applyButton.click()
    assert asked == ["anchored-unet"]


def test_while_work_runs_no_other_series_can_be_chosen(ready, results, monkeypatch):
    states = []
    quick(
        ready,
        results,
        monkeypatch,
        at=lambda f: states.append(
            (ready.ui.inputSelector.enabled, ready.ui.loadButton.enabled, ready.ui.checkButton.enabled)
        ),
    )
    ready.ui.applyButton.click()
    assert set(states) == {(False, False, False)}
    assert ready.ui.inputSelector.enabled
    assert ready.ui.checkButton.enabled


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


# --- the display ------------------------------------------------------------------------------------------------------


@pytest.fixture
def views(ready):
    """Three slice views as the application has them, and a map."""
    composites = {}
    for name in ("Red", "Green", "Yellow"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(slicer.mrmlScene)
        logic.AddSliceNode(name)
        composites[name] = logic
    ready.views = composites
    ready.ui.applyButton.click()
    return {name: logic.GetSliceCompositeNode() for name, logic in composites.items()}


def shown(composite):
    nodes = (
        slicer.mrmlScene.GetNodeByID(i or "")
        for i in (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
    )
    return [node.GetName() if node else None for node in nodes]


def test_the_map_lies_over_the_baseline_in_every_view(ready, views):
    for composite in views.values():
        assert shown(composite) == ["DSC perfusion baseline", "DSC perfusion rCBV (Anchored U-Net)"]
        assert composite.GetForegroundOpacity() == pytest.approx(0.7)
    ready.ui.opacitySlider.value = 0.3
    assert views["Red"].GetForegroundOpacity() == pytest.approx(0.3)


def test_the_map_lies_over_a_chosen_anatomical_volume(ready, views):
    anatomy = slicer.util.addVolumeFromArray(np.ones((4, 8, 8), np.float32), name="T1 post")
    ready.parent.show()
    choose(ready.ui.viewComboBox, "another volume")
    assert ready.ui.anatomySelector.visible
    assert "Select the volume" in ready.ui.displayNoteLabel.text
    ready.ui.anatomySelector.setCurrentNode(anatomy)
    assert shown(views["Red"])[0] == "T1 post"
    choose(ready.ui.viewComboBox, "over the series")
    assert shown(views["Red"])[0] == "DSC perfusion baseline"


def test_another_map_can_be_shown(ready, views):
    k2 = ready.logic.outputs(ready.parameters.inputNode)["k2"]
    ready.ui.mapSelector.setCurrentNode(k2)
    assert shown(views["Red"])[1] == k2.GetName()
    assert k2.GetDisplayNode().GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "diverging"
    assert not ready.ui.windowPresetComboBox.enabled
    assert "own colours" in ready.ui.displayNoteLabel.text


def test_the_map_selector_offers_maps_only(panel):
    assert ("vtkMRMLScalarVolumeNode", "PerfusionCBV.Map", "yes") in panel.ui.mapSelector.attributes


@pytest.mark.parametrize(("preset", "expected"), [("0 to 3.5", (0, 3.5)), ("0 to 5", (0, 5)), ("0 to 10", (0, 10))])
def test_a_preset_sets_the_window_and_automatic_brings_back_the_maps_own(ready, views, preset, expected):
    display = ready.parameters.shownMap.GetDisplayNode()
    own = tuple(float(end) for end in ready.parameters.shownMap.GetAttribute("PerfusionCBV.Window").split())
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(own)
    choose(ready.ui.windowPresetComboBox, preset)
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(expected)
    choose(ready.ui.windowPresetComboBox, "Automatic")
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(own)


def test_the_window_can_be_set_by_hand(ready, views):
    ready.parent.show()
    assert not ready.ui.windowRangeWidget.visible
    choose(ready.ui.windowPresetComboBox, "As set below")
    assert ready.ui.windowRangeWidget.visible
    ready.ui.windowRangeWidget.setValues(0.5, 2.5)
    display = ready.parameters.shownMap.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0.5, 2.5))


def test_colour_table_and_threshold_reach_the_map(ready, views):
    display = ready.parameters.shownMap.GetDisplayNode()
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "perfusion"
    choose(ready.ui.coloursComboBox, "Uniform")
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "uniform"
    ready.ui.thresholdSlider.value = 1.5
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == pytest.approx(1.5)


def test_the_legend_can_be_switched_off_and_on(ready, views):
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(ready.parameters.shownMap)
    assert legend.GetVisibility()
    assert legend.GetTitleText() == "rCBV"
    ready.ui.legendCheckBox.click()
    assert not legend.GetVisibility()
    ready.ui.legendCheckBox.click()
    assert legend.GetVisibility()


def test_what_the_user_changes_in_the_views_stays_while_other_choices_change(ready, views):
    views["Red"].SetForegroundVolumeID(None)
    ready.ui.motionCheckBox.click()
    ready.ui.echoTimeSpinBox.value = 12
    assert shown(views["Red"])[1] is None


def test_four_maps_are_compared_in_linked_views_and_the_old_layout_comes_back(ready, views, parts):
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    logics = []
    for tag in display.TAGS:  # the application makes them from the layout
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(slicer.mrmlScene)
        logic.AddSliceNode(tag)
        logics.append(logic)
    ready.parameters.method = parts.Method.ANCHORED_UNET
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "Compare")
    assert layout.GetViewArrangement() == display.COMPARE_LAYOUT
    names = [shown(logic.GetSliceCompositeNode()) for logic in logics]
    maps = ("rCBV (Anchored U-Net)", "rCBV (Boxerman", "rCBV difference", "rCBV uncertainty")
    for (background, foreground), name in zip(names, maps, strict=True):
        assert background == "DSC perfusion baseline"
        assert name in foreground
    assert all(logic.GetSliceCompositeNode().GetHotLinkedControl() for logic in logics)
    assert ready.ui.displayNoteLabel.text == ""
    choose(ready.ui.viewComboBox, "over the series")
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView


def test_another_run_or_a_closed_scene_does_not_lose_the_users_layout(ready, views, parts):
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
    choose(ready.ui.viewComboBox, "Compare")
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "over the series")
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView
    choose(ready.ui.viewComboBox, "Compare")
    slicer.mrmlScene.Clear(False)
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView


def test_another_run_shows_its_map_again(ready, views):
    views["Red"].SetForegroundVolumeID(None)
    ready.ui.applyButton.click()
    assert "rCBV" in shown(views["Red"])[1]


def test_the_comparison_says_which_maps_there_are_not(ready, views):
    choose(ready.ui.methodComboBox, "Classical")
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "Compare")
    assert ready.ui.displayNoteLabel.text == "This result comes without: classical map, difference, uncertainty."


def test_layouts_of_our_own_are_layouts_that_slicer_reads(app, parts):
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    for plot in (False, True):
        views = ElementTree.fromstring(display.layout_description(plot)).findall(".//view")
        slices = [view for view in views if view.get("class") == "vtkMRMLSliceNode"]
        assert [view.get("singletontag") for view in slices] == list(display.TAGS)
        groups = {view.find("property[@name='viewgroup']").text for view in slices}
        assert len(groups) == 1  # linked views are those of one group
        assert ("vtkMRMLPlotViewNode" in [view.get("class") for view in views]) == plot


# --- the curves -------------------------------------------------------------------------------------------------------


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


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_opens_in_the_browser(ready, head):
    ready.ui.applyButton.click()
    ready.ui.reportButton.click()
    (address,) = qt_slicer.opened
    page = Path(address.removeprefix("file://")).read_text("utf-8")
    assert "rCBV of" in page
    assert "Research use only" in page


def test_the_result_is_written_into_a_folder(ready, tmp_path):
    ready.ui.applyButton.click()
    ready.ui.saveButton.click()  # the dialog is cancelled
    assert ready.ui.statusLabel.text.startswith("Done in")
    qt_slicer.answers["folder"] = str(tmp_path / "result")
    ready.ui.saveButton.click()
    assert {"rcbv.nii.gz", "report.html", "provenance.json"} <= {p.name for p in (tmp_path / "result").iterdir()}
    assert str(tmp_path / "result") in ready.ui.statusLabel.text


def test_the_report_waits_for_a_result(ready):
    assert not ready.ui.reportButton.enabled
    assert "Press Apply first" in ready.ui.saveButton.toolTip


@pytest.fixture
def tumour(ready, head):
    """A map, and a segmentation with one segment, chosen for measuring."""
    ready.ui.applyButton.click()
    regions = importlib.import_module("PerfusionCBVLib.gui.regions")
    baseline = ready.logic.outputs(ready.parameters.inputNode)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    image = regions.oriented_image(head.lesion, baseline)
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, "Enhancing tumour", (1, 0, 0), "tumour")
    ready.ui.measuredSegmentationSelector.setCurrentNode(segmentation)
    return ready


def test_measuring_waits_for_a_map_a_segmentation_and_rising_cut_offs(ready, head):
    assert "Press Apply first" in ready.ui.measureButton.toolTip
    ready.ui.applyButton.click()
    assert not ready.ui.measureButton.enabled
    assert "Select the segmentation" in ready.ui.measureButton.toolTip
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    ready.ui.measuredSegmentationSelector.setCurrentNode(segmentation)
    assert ready.ui.measureButton.enabled
    ready.ui.lowCutOffSpinBox.value = 2.0
    assert not ready.ui.measureButton.enabled
    assert "below the second" in ready.ui.measureButton.toolTip


def test_measures_stand_in_the_panel_with_their_segment_and_their_map(tumour, results, head):
    tumour.ui.measureButton.click()
    text = tumour.ui.measuresLabel.text
    mean = results["anchored-unet"].maps["rcbv"].values[head.lesion].mean()
    assert f"<td>Mean rCBV (ratio)</td><td align='right'>{mean:.3g}" in text
    assert "Enhancing tumour" in text
    assert "rCBV (Anchored U-Net)" in text
    assert tumour.ui.statusLabel.text.startswith("Measured.")
    assert qt_slicer.messages == []


def test_a_segmentation_without_a_segment_is_refused_in_one_dialog(ready):
    ready.ui.applyButton.click()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    ready.ui.measuredSegmentationSelector.setCurrentNode(segmentation)
    ready.ui.measureButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "Nothing is drawn in empty" in text


def test_the_page_for_the_referrer_holds_the_measures_and_opens(tumour, tmp_path):
    tumour.ui.measureButton.click()
    tumour.ui.pageButton.click()  # the dialog is cancelled
    assert qt_slicer.opened == []
    qt_slicer.answers["save"] = str(tmp_path / "page.html")
    tumour.ui.pageButton.click()
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<th>Enhancing tumour</th>" in page
    assert "Largest section" in page
    (address,) = qt_slicer.opened
    assert address.endswith("page.html")


def test_cancelled_is_what_the_panel_raises(ready, results, monkeypatch):
    """The work must see the cancel as the library's own exception, also after a reload made a second one."""
    raised = []

    def process(node, settings, *, progress=None, **options):
        ready.ui.cancelButton.click()
        try:
            progress(0.1, "x")
        except Exception as error:
            raised.append(type(error))
            raise

    monkeypatch.setattr(ready.logic, "process", process)
    ready.ui.applyButton.click()
    assert raised == [Cancelled]
