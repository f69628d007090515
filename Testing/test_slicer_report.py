"""The panel's measures, report and page for the referrer."""

import importlib
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
from PerfusionCBVLib.errors import Cancelled

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


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
