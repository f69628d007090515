"""From the choice of a series to its map in the panel: facts, findings, methods, progress, Cancel and errors."""

import importlib

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
import slicer_scene
from PerfusionCBVLib import Finding
from PerfusionCBVLib.errors import QualityError
from PerfusionCBVLib.networks.cards import read_card
from slicer_panel_case import MODULE, add, choose, findings_text, quick, unchecked, without

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


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
    panel.loading.menu.actions()[action].trigger()
    assert loaded == []  # the dialog was cancelled
    qt_slicer.answers[answer] = "/study/dsc"
    panel.loading.menu.actions()[action].trigger()
    assert loaded == ["/study/dsc"]
    assert panel.ui.inputSelector.currentNode().GetName() == "loaded"


def test_a_file_that_can_not_be_read_is_one_dialog(panel, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    qt_slicer.answers["file"] = str(tmp_path / "notes.txt")
    panel.loading.menu.actions()[1].trigger()
    assert [kind for kind, _ in qt_slicer.messages] == ["error"]
    assert "notes.txt is of no supported type" in qt_slicer.messages[0][1]


# --- the method -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet-gru", "anchored-unet"])
def test_a_network_shows_the_measured_error_of_its_card(panel, parts, name):
    panel.parameters.method = parts.Method(name)
    measured = read_card(name)["measured"]
    assert f"{measured['test']['nrmse']:.0%}" in panel.ui.methodNoteLabel.text
    assert f"<b>{measured['other_simulator']['to_classical']:.1f}</b> times" in panel.ui.methodNoteLabel.text
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
