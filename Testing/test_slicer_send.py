"""Sending from the panel: a real Orthanc takes what is written, bit for bit; nothing leaves unasked."""

import importlib
import time
from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
pytest.importorskip("highdicom", reason="highdicom is not installed: pip install '.[dicom]'")
import pydicom

import qt_slicer
import slicer_scene
from orthanc_server import AET, Orthanc, after_the_header, free_port
from PerfusionCBVLib.dicom_out.send import Outcome
from PerfusionCBVLib.simulate.dicom import write_dicom_series
from slicer_panel_case import add, choose, unchecked

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield server
    server.stop()


@pytest.fixture
def mapped(panel, head, results, monkeypatch):
    """A panel with a series and its map, and a server typed in."""
    unchecked(panel, monkeypatch)
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    node = add(head.series)
    output_nodes.publish(results["bsw"], output_nodes.layers_of(results["bsw"]), node)
    panel.ui.inputSelector.setCurrentNode(node)
    slicer.app.processEvents()
    type_in(panel, "127.0.0.1", free_port())
    return panel


def type_in(panel, host, port, title=AET):
    panel.ui.hostLineEdit.text, panel.ui.portSpinBox.value, panel.ui.calledTitleLineEdit.text = host, port, title


def pretend(monkeypatch, send):
    """Let three objects be ready, and this function be the sender: send(objects, progress)."""
    objects = [SimpleNamespace(title=f"Object {n}", file_name=f"{n}.dcm") for n in range(3)]
    monkeypatch.setattr("PerfusionCBVLib.gui.dicom_objects._objects_of", lambda *_: lambda report: objects)
    monkeypatch.setattr(
        "PerfusionCBVLib.dicom_out.send.send_objects", lambda objects, *_, progress, **__: send(objects, progress)
    )
    qt_slicer.answers["folder"] = "/a/study"


def test_a_real_server_takes_what_is_written_bit_for_bit_by_both_ways(panel, head, monkeypatch, orthanc, tmp_path):
    study = tmp_path / "study"
    facts = {"echo_time_s": 0.03, "repetition_time_s": 1.5, "flip_angle_deg": 60.0, "field_strength_t": 3.0}
    write_dicom_series(head.series.signal, head.series.affine, head.series.times_s, study, **facts, seed=1)
    unchecked(panel, monkeypatch)
    qt_slicer.answers["folder"] = str(study)
    panel.loading.menu.actions()[0].trigger()
    slicer_scene.update_proxies()
    choose(panel.ui.methodComboBox, "Classical")
    choose(panel.ui.referenceComboBox, "Whole brain")
    panel.ui.applyButton.click()
    type_in(panel, "127.0.0.1", orthanc.port)
    panel.ui.testConnectionButton.click()
    assert panel.ui.sendLabel.text == f"TESTPACS at 127.0.0.1:{orthanc.port} answers."
    panel.ui.sendButton.click()
    assert [kind for kind, _text in qt_slicer.messages] == ["confirmOkCancel"]
    written = panel.logic.writeDicom(panel.parameters.inputNode, study, tmp_path / "objects")
    assert panel.ui.sendLabel.text.startswith(f"{len(written)} objects are stored")
    for path in written:
        stored = orthanc.file_of(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
        assert after_the_header(stored) == after_the_header(path.read_bytes())
    if orthanc.web is None:
        pytest.skip("Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb) is not installed")
    choose(panel.ui.sendWayComboBox, "DICOMweb")
    panel.ui.webAddressLineEdit.text = orthanc.web
    panel.ui.sendButton.click()
    assert panel.ui.sendLabel.text == f"{len(written)} objects are stored at {orthanc.web}."
    assert {kind for kind, _text in qt_slicer.messages} == {"confirmOkCancel"}


# pynetdicom leaves its socket to the collector after a refused connection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_does_not_answer_is_one_dialog_that_says_what_to_look_at(mapped):
    mapped.ui.testConnectionButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "No association with TESTPACS at 127.0.0.1" in text
    assert "Check address, port, titles" in text
    assert mapped.ui.sendLabel.text.endswith("does not answer.")


def test_nothing_is_sent_without_consent(mapped, monkeypatch):
    monkeypatch.setattr(mapped.logic, "send", lambda *_, **__: pytest.fail("sent without consent"))
    mapped.ui.sendButton.click()  # no folder chosen
    assert qt_slicer.messages == []
    qt_slicer.answers.update(folder="/a/study", confirm=False)
    mapped.ui.sendButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "confirmOkCancel"
    assert "patient's name will be sent to TESTPACS at 127.0.0.1" in text


def test_a_series_that_is_not_from_dicom_is_not_sent(mapped, tmp_path):
    qt_slicer.answers["folder"] = str(tmp_path)
    mapped.ui.sendButton.click()
    (_question, (kind, text)) = qt_slicer.messages
    assert kind == "error"
    assert "Nothing shows which DICOM series" in text


def test_objects_that_the_server_refuses_are_one_dialog_with_their_number_and_the_reason(mapped, monkeypatch):
    pretend(
        monkeypatch, lambda objects, progress: [Outcome(objects[0]), *(Outcome(o, "out of disk") for o in objects[1:])]
    )
    mapped.ui.sendButton.click()
    (_question, (kind, text)) = qt_slicer.messages
    assert kind == "error"
    assert text.startswith("2 of 3 objects were not taken by TESTPACS at 127.0.0.1")
    assert "(Object 1) because: out of disk. Send again" in text
    assert mapped.ui.sendLabel.text.startswith("Not all was stored")


def test_sending_can_be_cancelled(mapped, monkeypatch):
    def send(objects, progress):
        for step in range(1000):
            progress(step / 1000, "Sending")
            time.sleep(0.01)

    pretend(monkeypatch, send)
    slicer.app.on_event = mapped.ui.cancelButton.click
    mapped.ui.sendButton.click()
    assert mapped.ui.statusLabel.text.startswith("Cancelled")
    assert [kind for kind, _text in qt_slicer.messages] == ["confirmOkCancel"]


def test_the_buttons_say_what_is_missing(mapped):
    for host, title, reason in (
        ("", AET, "Enter the server"),
        ("pacs:104", AET, "without port"),
        ("pacs", "", "Its AE title: 1 to 16"),
        ("pacs", "A" * 17, "Its AE title: 1 to 16"),
    ):
        type_in(mapped, host, 104, title)
        for button in (mapped.ui.testConnectionButton, mapped.ui.sendButton):
            assert not button.enabled
            assert reason in button.toolTip


def test_only_the_fields_of_the_chosen_way_are_shown(mapped):
    mapped.parent.show()
    mapped.ui.sendCollapsibleButton.collapsed = False
    assert mapped.ui.hostLineEdit.visible
    assert not mapped.ui.webAddressLineEdit.visible
    assert "switch TLS on first" in mapped.ui.certificatesButton.toolTip
    mapped.ui.tlsCheckBox.click()
    assert mapped.ui.certificatesButton.enabled
    choose(mapped.ui.sendWayComboBox, "DICOMweb")
    assert not mapped.ui.hostLineEdit.visible
    assert mapped.ui.webAddressLineEdit.visible
    assert "web address" in mapped.ui.sendButton.toolTip
    mapped.ui.webAddressLineEdit.text = "https://pacs.example.org/dicom-web"
    assert mapped.ui.sendButton.enabled
    assert "no test of its own" in mapped.ui.testConnectionButton.toolTip


def test_the_server_is_remembered_on_this_computer_and_not_in_the_scene(mapped, open_panel, tmp_path):
    type_in(mapped, "pacs.example.org", 11112, "ARCHIVE")
    mapped.ui.tlsCheckBox.click()
    typed = mapped.sending.server()
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    scene = (tmp_path / "scene.mrb").read_bytes()
    assert b"pacs.example.org" not in scene
    qt_slicer.close_module()
    again = open_panel()
    assert again.sending.server() == typed
    assert again.ui.tlsCheckBox.checked
    assert again.ui.portSpinBox.value == 11112


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_certificates_of_the_server_can_be_chosen_and_left(mapped, tmp_path):
    mapped.ui.tlsCheckBox.click()
    qt_slicer.answers["file"] = str(tmp_path / "hospital.pem")
    mapped.ui.certificatesButton.click()
    assert mapped.ui.certificatesButton.text == "hospital.pem"
    mapped.ui.testConnectionButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert "Check the file with the server's certificates" in text
    qt_slicer.answers["file"] = ""
    mapped.ui.certificatesButton.click()
    assert mapped.sending.server().certificates == ""
