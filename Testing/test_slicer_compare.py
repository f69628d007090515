"""Two dates in the panel: the command line's numbers, the change over the later date, and what can't be compared."""

import csv
import importlib
import time

import nibabel as nib
import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
import slicer_scene
from PerfusionCBVLib import write_result
from PerfusionCBVLib.alignment.registration import register
from PerfusionCBVLib.alignment.volume import baseline_volume
from PerfusionCBVLib.cli import main
from slicer_panel_case import add, unchecked

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


@pytest.fixture(scope="session")
def registration(results):
    """Of the earlier to the later date, which here are one head: found once for all tests."""
    earlier, later = baseline_volume(results["bsw"]), baseline_volume(results["anchored-unet"])
    return register(earlier, results["bsw"].mask, later)


@pytest.fixture
def dates(panel, head, results, registration, monkeypatch):
    """A panel with an earlier series, mapped by the formula, and a later one, mapped by the network and chosen."""
    unchecked(panel, monkeypatch)
    monkeypatch.setattr("PerfusionCBVLib.alignment.longitudinal.register", lambda *_: registration)
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    for name, method in (("March", "bsw"), ("June", "anchored-unet")):
        node = add(head.series, name)
        output_nodes.publish(results[method], output_nodes.layers_of(results[method]), node)
    panel.ui.inputSelector.setCurrentNode(node)
    slicer.app.processEvents()
    return panel


@pytest.fixture
def drawn(dates, head):
    """The tumour, drawn on the later date and chosen."""
    regions = importlib.import_module("PerfusionCBVLib.gui.regions")
    baseline = dates.logic.outputs(dates.parameters.inputNode)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    image = regions.oriented_image(head.lesion, baseline)
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, "label 1", (1, 0, 0), "tumour")
    dates.ui.comparedSegmentationSelector.setCurrentNode(segmentation)
    return dates


def node_of(name):
    return slicer.util.getFirstNodeByClassByName("vtkMRMLSequenceNode", name)


def map_of(panel, name, role="rcbv"):
    return panel.logic.outputs(node_of(name))[role]


def made(panel):
    comparison = importlib.import_module("PerfusionCBVLib.gui.comparison")
    return comparison.comparison_nodes(panel.parameters.inputNode)


def changes(panel):
    measures = importlib.import_module("PerfusionCBVLib.gui.measures")
    return {(row.region, row.name): row.value for row in measures.rows_of(made(panel)["changes"])}


def test_the_panel_compares_as_the_command_line_does(drawn, head, results, tmp_path):
    drawn.ui.earlierMapSelector.setCurrentNode(map_of(drawn, "March"))
    drawn.ui.compareButton.click()
    nib.save(nib.Nifti1Image(head.lesion.astype(np.uint8), head.series.affine), tmp_path / "tumour.nii.gz")
    for name, method in (("march", "bsw"), ("june", "anchored-unet")):
        write_result(results[method], tmp_path / name)
    dates, regions = [str(tmp_path / "march"), str(tmp_path / "june")], str(tmp_path / "tumour.nii.gz")
    assert main(["compare", *dates, "--regions", regions, "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "changes.csv").open(newline="") as file:
        command = {(row["region"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    found = changes(drawn)
    assert found.keys() == command.keys()
    assert {region for region, _name in found} == {"whole brain", "label 1"}
    for key, value in command.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    written = np.asarray(nib.load(tmp_path / "out" / "difference.nii.gz").dataobj)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(made(drawn)["change"]).T, written, atol=1e-3)


def test_the_change_is_shown_with_its_table_its_registration_and_its_warnings(drawn, head, results, registration):
    drawn.ui.earlierMapSelector.setCurrentNode(map_of(drawn, "March"))
    drawn.ui.compareButton.click()
    assert drawn.parameters.shownMap is made(drawn)["change"]
    assert drawn.ui.mapSelector.currentNode() is made(drawn)["change"]
    text = drawn.ui.comparisonLabel.text
    before, after = (results[m].maps["rcbv"].values[head.lesion].mean() for m in ("bsw", "anchored-unet"))
    assert f"<td>label 1</td><td align='right'>{before:.2f}</td><td align='right'>{after:.2f}</td>" in text
    assert f"moved by {registration.displacement_mm:.1f} mm" in text
    assert "June rCBV (Anchored U-Net), compared with March rCBV (Boxerman-Schmainda-Weisskoff)" in text
    ((kind, said),) = qt_slicer.messages
    assert kind == "warning"
    assert "made by different methods: bsw earlier, anchored-unet later" in said
    name = "June change of rCBV since March rCBV (Boxerman-Schmainda-Weisskoff)"
    assert made(drawn)["change"].GetName() == name
    display = made(drawn)["change"].GetDisplayNode()
    assert display.GetWindowLevelMin() == -display.GetWindowLevelMax()
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "diverging"


def test_a_result_in_a_folder_gives_the_same_change_as_its_map_in_the_scene(drawn, results, tmp_path):
    drawn.ui.earlierMapSelector.setCurrentNode(map_of(drawn, "March"))
    drawn.ui.compareButton.click()
    first, nodes = changes(drawn), made(drawn)
    values = slicer.util.arrayFromVolume(nodes["change"]).copy()
    write_result(results["bsw"], tmp_path / "march")
    qt_slicer.answers["folder"] = str(tmp_path / "march")
    drawn.ui.compareFolderButton.click()
    assert made(drawn) == nodes  # replaced in place
    # A file rounds positions: what lies on a border may go to either side.
    np.testing.assert_allclose(slicer.util.arrayFromVolume(nodes["change"]), values, atol=1e-3)
    assert changes(drawn) == pytest.approx(first, rel=1e-4, abs=1e-5)
    assert "compared with march." in drawn.ui.comparisonLabel.text


def test_comparing_waits_for_both_maps_and_says_so(panel, head, monkeypatch, results):
    unchecked(panel, monkeypatch)
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    for button in (panel.ui.compareButton, panel.ui.compareFolderButton):
        assert not button.enabled
        assert "Press Apply first" in button.toolTip
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    output_nodes.publish(results["bsw"], output_nodes.layers_of(results["bsw"]), panel.parameters.inputNode)
    panel.onParametersChanged()
    assert not panel.ui.compareButton.enabled
    assert "Select the map of the earlier date" in panel.ui.compareButton.toolTip
    assert panel.ui.compareFolderButton.enabled


def test_a_map_that_is_no_earlier_date_is_refused_and_the_scene_stays(dates):
    for name, role, reason in (
        ("June", "rcbv", "belongs to the present series"),
        ("March", "k2", "is not the latest map of its series. Select March rCBV"),
    ):
        dates.parameters.earlierMap = map_of(dates, name, role)
        before = slicer_scene.scene_contents()
        qt_slicer.messages.clear()
        dates.ui.compareButton.click()
        ((kind, text),) = qt_slicer.messages
        assert kind == "error"
        assert reason in text
        assert slicer_scene.scene_contents().keys() == before.keys()


def place_in_study(node, patient_id, date):
    """Put a series' map under a patient and a study, as Slicer's DICOM module does."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), patient_id)
    hierarchy.SetItemAttribute(patient, "DICOM.PatientID", patient_id)
    study = hierarchy.CreateStudyItem(patient, date)
    hierarchy.SetItemAttribute(study, "DICOM.StudyDate", date)
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)


def test_two_patients_and_dates_in_the_wrong_order_are_refused(dates):
    dates.ui.earlierMapSelector.setCurrentNode(map_of(dates, "March"))
    for patients, days, reason in (
        (("A-1", "B-2"), ("20260301", "20260601"), "different patients (A-1 and B-2)"),
        (("A-1", "A-1"), ("20260601", "20260301"), "of 2026-06-01, the present series of 2026-03-01"),
    ):
        for name, patient, day in zip(("March", "June"), patients, days, strict=True):
            place_in_study(map_of(dates, name), patient, day)
        qt_slicer.messages.clear()
        dates.ui.compareButton.click()
        ((kind, text),) = qt_slicer.messages
        assert kind == "error"
        assert reason in text
        assert made(dates) == {}


def test_a_folder_without_a_result_is_one_dialog(dates, tmp_path):
    qt_slicer.answers["folder"] = str(tmp_path)
    dates.ui.compareFolderButton.click()
    ((kind, text),) = qt_slicer.messages
    assert kind == "error"
    assert text.endswith("so it is no result. Choose the folder that Save the result wrote.")


def test_a_cancelled_comparison_leaves_the_scene(dates, monkeypatch):
    def work(*_arguments, progress, **_options):
        for step in range(1000):
            progress(step / 1000, "Registering")
            time.sleep(0.01)

    monkeypatch.setattr("PerfusionCBVLib.alignment.longitudinal.compare", work)
    slicer.app.on_event = dates.ui.cancelButton.click
    dates.ui.earlierMapSelector.setCurrentNode(map_of(dates, "March"))
    before = slicer_scene.scene_contents()
    dates.ui.compareButton.click()
    assert dates.ui.statusLabel.text.startswith("Cancelled")
    assert slicer_scene.scene_contents().keys() == before.keys()
    assert qt_slicer.messages == []


def test_the_change_moves_with_its_series_and_is_not_shown_as_that_of_a_new_map(drawn):
    drawn.ui.earlierMapSelector.setCurrentNode(map_of(drawn, "March"))
    drawn.ui.compareButton.click()
    alignment = importlib.import_module("PerfusionCBVLib.gui.alignment")
    compared = importlib.import_module("PerfusionCBVLib.gui.comparison").comparison_html
    node = drawn.parameters.inputNode
    registration = importlib.import_module("PerfusionCBVLib.alignment.longitudinal").register()
    for _again in range(2):
        transform = alignment.publish_alignment(registration, made(drawn)["change"], node)
        assert made(drawn)["change"].GetParentTransformNode() is transform
    assert compared(node)
    slicer.util.arrayFromVolume(map_of(drawn, "June"))[0] = 3.0
    assert "made anew since. Compare again." in compared(node)
    assert "<table" not in compared(node)
