"""From a sequence in the scene to its maps and back, on slicer-core's real MRML."""

import importlib
import json
import sys
import time
import unittest
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import vtk

import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.errors import Cancelled, GeometryError, InputRefusedError, PerfusionError, UsageError
from PerfusionCBVLib.gui import logic as work
from PerfusionCBVLib.gui import output_nodes
from PerfusionCBVLib.gui.worker import run_in_background
from PerfusionCBVLib.settings import NETWORK_METHODS

pytestmark = pytest.mark.slicer

LONGEST_GAP_S = 0.3


@pytest.fixture(scope="module")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(autouse=True)
def app(tmp_path):
    return slicer_scene.start(tmp_path / "slicer")


@pytest.fixture
def logic(app, monkeypatch):
    """The logic class of the module file, made as the application makes it."""
    monkeypatch.syspath_prepend(str(Path(work.__file__).parents[2]))
    monkeypatch.setitem(sys.modules, "qt", sys.modules.get("qt") or ModuleType("qt"))  # only the widget uses it
    monkeypatch.delitem(sys.modules, "PerfusionCBV", raising=False)
    yield importlib.import_module("PerfusionCBV").PerfusionCBVLogic()
    sys.modules.pop("PerfusionCBV")


@pytest.fixture
def sample_data(monkeypatch):
    """Slicer's Sample Data module: what is registered with it, and what is shown."""
    module = ModuleType("SampleData")
    module.sources, module.shown, module.errors = {}, [], []
    module.dialog = SimpleNamespace(wasCanceled=False, closed=False)
    module.dialog.close = lambda: setattr(module.dialog, "closed", True)
    module.SampleDataLogic = SimpleNamespace(
        sampleDataSourcesByCategory=lambda: module.sources,
        registerCustomSampleDataSource=lambda category, **source: module.sources.setdefault(category, []).append(
            source
        ),
    )
    monkeypatch.setitem(sys.modules, "SampleData", module)
    monkeypatch.setattr(slicer.util, "createProgressDialog", lambda **options: module.dialog)
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **layers: module.shown.append(layers["background"]))
    monkeypatch.setattr(slicer.util, "errorDisplay", module.errors.append)
    return module


@pytest.fixture
def node(head, app):
    """The head's series under a patient and a study, below a transform."""
    sequence = work.add_sequence(work.Sequence.of(head.series))
    sequence.SetName("DSC perfusion")
    slicer_scene.update_proxies()
    shown = output_nodes.shown_node(sequence)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.CreateItem(study, shown)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(1, 3, 12.5)
    transform.SetMatrixTransformToParent(matrix)
    shown.SetAndObserveTransformNodeID(transform.GetID())
    return sequence


def values(volume):
    """A volume's voxels as (x, y, z)."""
    return slicer.util.arrayFromVolume(volume).T


def colours_of(volume):
    """The colours that a volume is shown in, RGBA."""
    table = volume.GetDisplayNode().GetColorNode()
    rgba = [[0.0] * 4 for _ in range(table.GetNumberOfColors())]
    for index, colour in enumerate(rgba):
        table.GetColor(index, colour)
    return rgba


def affine(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


# --- the maps ---------------------------------------------------------------------------------------------------------


def test_maps_in_the_scene_are_the_librarys_maps_on_the_series_own_grid(logic, node, head):
    nodes = logic.process(node, Settings(method="bsw"))
    expected = compute_maps(head.series, Settings(method="bsw"))
    for role, name in (("rcbv", "rcbv"), ("k1", "k1"), ("k2", "k2")):
        np.testing.assert_array_equal(values(nodes[role]), expected.maps[name].values)
        np.testing.assert_allclose(affine(nodes[role]), head.series.affine)
    np.testing.assert_array_equal(values(nodes["baseline"]), expected.baseline)
    assert set(nodes) == {"rcbv", "k1", "k2", "psr", "baseline", "regions", "curves"}
    assert logic.result.provenance["settings"]["method"] == "bsw"


def test_rcbv_in_the_scene_recovers_the_phantoms_blood_volume(logic, node, head):
    rcbv = values(logic.process(node, Settings(method="bsw"))["rcbv"])
    assert np.nanmedian(rcbv[head.white]) == pytest.approx(1, abs=0.1)
    assert np.nanmedian(rcbv[head.lesion]) == pytest.approx(3, abs=0.3)


def test_a_networks_map_has_the_classical_one_and_their_difference_beside_it(logic, node):
    nodes = logic.process(node, Settings(method="unet-gru"))
    assert nodes["rcbv"].GetName() == "DSC perfusion rCBV (UNet-GRU)"
    assert nodes["rcbv_classical"].GetName() == "DSC perfusion rCBV (Boxerman-Schmainda-Weisskoff)"
    difference = values(nodes["rcbv"]) - values(nodes["rcbv_classical"])
    np.testing.assert_array_equal(values(nodes["disagreement"]), difference)
    assert len(nodes["rcbv"].GetAttribute("PerfusionCBV.WeightsSHA256")) == 64
    assert nodes["rcbv_classical"].GetAttribute("PerfusionCBV.WeightsSHA256") is None
    # A run of the classical method alone updates that very node.
    assert logic.process(node, Settings(method="bsw"))["rcbv"] is nodes["rcbv_classical"]


def test_maps_say_what_they_show_in_which_unit_and_how_they_were_made(logic, node):
    nodes = logic.process(node, Settings(method="bsw"))
    rcbv = nodes["rcbv"]
    quantity, unit = rcbv.GetVoxelValueQuantity(), rcbv.GetVoxelValueUnits()
    assert (quantity.GetCodeValue(), quantity.GetCodingSchemeDesignator()) == ("126398", "DCM")
    assert quantity.GetCodeMeaning() == "Relative Regional Blood Volume"
    assert (unit.GetCodeValue(), unit.GetCodingSchemeDesignator()) == ("{ratio}", "UCUM")
    assert nodes["k2"].GetVoxelValueUnits().GetCodeValue() == "1/s"
    assert nodes["k2"].GetVoxelValueQuantity() is None
    made = output_nodes.provenance(rcbv)
    assert made["settings"]["method"] == "bsw"
    assert made["intended_use"] == rcbv.GetAttribute("PerfusionCBV.IntendedUse") == "research use only"
    assert made["input"]["sha256"] == json.loads(rcbv.GetAttribute("PerfusionCBV.InputSHA256"))
    assert len(made["input"]["sha256"]["voxels"]) == 64
    assert rcbv.GetNodeReference("PerfusionCBV.Input") is node
    assert rcbv.GetAttribute("PerfusionCBV.Map") == "yes"
    assert nodes["baseline"].GetAttribute("PerfusionCBV.Map") is None


def test_maps_are_shown_in_colour_in_the_reports_window_with_a_threshold(logic, node):
    from PerfusionCBVLib.pictures import rcbv_window

    nodes = logic.process(node, Settings(method="bsw"))
    display = nodes["rcbv"].GetDisplayNode()
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "perfusion"
    low, high = rcbv_window(logic.result)
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((low, high))
    assert not display.GetAutoWindowLevel()
    assert (display.GetApplyThreshold(), display.GetLowerThreshold()) == (1, 0)
    assert nodes["k2"].GetDisplayNode().GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "diverging"
    assert nodes["k2"].GetDisplayNode().GetLowerThreshold() < -1e5


def test_voxels_without_a_number_or_below_the_threshold_are_transparent(logic, node):
    rcbv = logic.process(node, Settings(method="bsw"))["rcbv"]
    display = rcbv.GetDisplayNode()
    display.SetLowerThreshold(1.5)
    display.SetInputImageDataConnection(rcbv.GetImageDataConnection())
    output = display.GetOutputImageDataConnection()
    output.GetProducer().Update()
    rgba = vtk.util.numpy_support.vtk_to_numpy(output.GetProducer().GetOutput().GetPointData().GetScalars())
    alpha = rgba[:, 3].reshape(slicer.util.arrayFromVolume(rcbv).shape).T
    shown = values(rcbv) >= 1.5  # False where not a number
    assert np.isnan(values(rcbv)).any()
    assert shown.any()
    np.testing.assert_array_equal(alpha > 0, shown)


def test_outputs_lie_under_the_patients_study_and_the_series_transform(logic, node):
    nodes = logic.process(node, Settings(method="bsw"))
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    for each in nodes.values():
        item = hierarchy.GetItemByDataNode(each)
        assert hierarchy.GetItemName(hierarchy.GetItemParent(item)) == "Study"
        if each.IsA("vtkMRMLTransformableNode"):
            assert each.GetParentTransformNode().GetName() == "Registration"


def test_regions_are_segments_of_the_brain_and_of_the_reference(logic, node):
    from PerfusionCBVLib.gui.regions import region_on_series

    segmentation = logic.process(node, Settings(method="bsw"))["regions"]
    names = [segmentation.GetSegmentation().GetSegment(name).GetName() for name in ("brain", "reference")]
    assert names == ["Brain", "Reference region"]
    np.testing.assert_array_equal(region_on_series((segmentation, "brain"), node), logic.result.mask)
    np.testing.assert_array_equal(region_on_series((segmentation, "reference"), node), logic.result.reference)


def test_curves_are_a_table_over_the_series_times(logic, node, head):
    table = logic.process(node, Settings(method="bsw"))["curves"]
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(table, "Time (s)"), head.series.times_s)
    brain = slicer.util.arrayFromTableColumn(table, "Brain")
    np.testing.assert_allclose(brain, logic.result.curves_per_s["brain"], rtol=1e-6)


def test_a_segment_is_the_reference_when_the_user_wants_it(logic, node, head):
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.util.updateVolumeFromArray(labels, head.lesion.T.astype(np.uint8))
    labels.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(head.series.affine))
    labels.SetAndObserveTransformNodeID(slicer.mrmlScene.GetFirstNodeByName("Registration").GetID())
    rcbv = values(logic.process(node, Settings(method="bsw"), reference=labels)["rcbv"])
    assert np.nanmean(rcbv[head.lesion]) == pytest.approx(1, abs=1e-4)


# --- running again ----------------------------------------------------------------------------------------------------


def test_a_second_run_updates_its_nodes_and_keeps_what_the_user_set(logic, node):
    first = logic.process(node, Settings(method="bsw"))
    before = slicer_scene.scene_contents().keys()
    display = first["rcbv"].GetDisplayNode()
    display.SetWindowLevelMinMax(0.5, 2.5)
    old = values(first["rcbv"]).copy()
    second = logic.process(node, Settings(method="bsw", normalize="brain"))
    assert second == first
    assert slicer_scene.scene_contents().keys() == before
    assert not np.array_equal(values(second["rcbv"]), old, equal_nan=True)
    assert output_nodes.provenance(second["rcbv"])["settings"]["normalize"] == "brain"
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.5, 2.5)
    low, high = map(float, second["k2"].GetAttribute("PerfusionCBV.Window").split())
    assert second["k2"].GetDisplayNode().GetWindowLevelMax() == pytest.approx(high, rel=1e-5)
    assert low == -high


def test_another_method_makes_its_own_map_and_shares_baseline_and_regions(logic, node):
    bsw = logic.process(node, Settings(method="bsw"))
    integral = logic.process(node, Settings(method="integral"))
    assert integral["rcbv"] is not bsw["rcbv"]
    assert integral["regions"] is bsw["regions"]
    assert set(logic.outputs(node)) == {"rcbv", "psr", "baseline", "regions", "curves"}
    assert logic.outputs(node, "bsw") == bsw
    assert logic.outputs(node, "captk") == {}


def test_a_reference_that_a_run_does_not_use_is_taken_out_again(logic, node):
    logic.process(node, Settings(method="bsw"))
    nodes = logic.process(node, Settings(method="bsw", normalize="none"))
    assert list(nodes["regions"].GetSegmentation().GetSegmentIDs()) == ["brain", "saturated"]
    assert nodes["rcbv"].GetVoxelValueUnits().GetCodeValue() == "1"


def test_a_difference_between_maps_of_different_units_does_not_stay_from_an_earlier_run(logic, node):
    compared = logic.process(node, Settings(method="anchored-unet"))
    assert {"disagreement", "uncertainty"} <= set(compared)
    alone = logic.process(node, Settings(method="anchored-unet", normalize="none"))
    assert "disagreement" not in alone
    assert alone["rcbv_classical"].GetVoxelValueUnits().GetCodeValue() == "1"
    assert alone["rcbv"].GetVoxelValueUnits().GetCodeValue() == "{ratio}"


# --- the scene file ---------------------------------------------------------------------------------------------------


def test_a_saved_scene_brings_everything_back(logic, node, tmp_path):
    nodes = logic.process(node, Settings(method="unet-gru"))
    parameters = logic.getParameterNode()
    parameters.inputNode = node
    parameters.opacity = 0.25
    maps = {role: values(each).copy() for role, each in nodes.items() if each.IsA("vtkMRMLScalarVolumeNode")}
    made, colours = output_nodes.provenance(nodes["rcbv"]), colours_of(nodes["rcbv"])
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    slicer_scene.open_bundle(tmp_path / "scene.mrb", tmp_path / "fresh")

    again = slicer.mrmlScene.GetFirstNodeByName("DSC perfusion")
    assert again is not node
    back = logic.outputs(again)
    assert set(back) == set(nodes)
    for role, expected in maps.items():
        np.testing.assert_array_equal(values(back[role]), expected)
    rcbv = back["rcbv"]
    assert output_nodes.provenance(rcbv) == made
    assert rcbv.GetVoxelValueQuantity().GetCodeValue() == "126398"
    assert colours_of(rcbv) == colours
    assert rcbv.GetDisplayNode().GetApplyThreshold()
    assert rcbv.GetParentTransformNode().GetName() == "Registration"
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(rcbv))
    assert hierarchy.GetItemName(study) == "Study"
    assert list(back["regions"].GetSegmentation().GetSegmentIDs()) == ["brain", "reference", "saturated"]
    assert back["curves"].GetNumberOfColumns() == nodes["curves"].GetNumberOfColumns()
    assert logic.getParameterNode().inputNode is again
    assert logic.getParameterNode().opacity == 0.25

    # And the next run goes on where the last scene stopped.
    before = slicer_scene.scene_contents().keys()
    assert logic.process(again, Settings(method="unet-gru")) == back
    assert slicer_scene.scene_contents().keys() == before


# --- cancelling, failing, answering -----------------------------------------------------------------------------------


def test_cancelling_stops_the_work_at_its_next_report_and_serves_the_user_until_then():
    steps, served = [], []

    def work_in_steps(report):
        for step in range(100):
            time.sleep(0.02)
            report(step / 100, "")
            steps.append(step)

    def cancel(fraction, message):
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        run_in_background(work_in_steps, cancel, lambda: served.append(len(steps)))
    assert len(steps) < 50
    assert served


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6])
def test_cancelling_leaves_the_scene_as_it_was(logic, node, at):
    before = slicer_scene.scene_contents()

    def cancel(fraction, message):
        if fraction >= at:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        logic.process(node, Settings(method="bsw"), progress=cancel)
    assert slicer_scene.scene_contents() == before
    assert logic.result is None
    assert logic.process(node, Settings(method="bsw"))


def test_a_series_without_a_bolus_is_refused_in_one_sentence_and_leaves_the_scene_as_it_was(logic, node, head):
    flat = head.series.signal[..., :1] + np.zeros(head.series.frames, dtype=np.float32)
    series = type(head.series)(flat, head.series.affine, head.series.times_s, head.series.acquisition, name="flat")
    still = work.add_sequence(work.Sequence.of(series))
    before = slicer_scene.scene_contents()
    with pytest.raises(InputRefusedError) as refused:
        logic.process(still, Settings(method="bsw"))
    assert "Traceback" not in str(refused.value)
    assert slicer_scene.scene_contents() == before


def test_an_error_while_nodes_are_made_takes_the_made_ones_out_again(logic, node, monkeypatch):
    before = slicer_scene.scene_contents().keys()

    def broken(result, run):
        raise RuntimeError("a bug")

    monkeypatch.setattr(output_nodes, "_publish_curves", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        logic.process(node, Settings(method="bsw"))
    assert slicer_scene.scene_contents().keys() == before


def test_a_series_that_is_removed_meanwhile_gets_no_map(logic, node, app):
    app.on_event = lambda: slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(PerfusionError, match="removed from the scene"):
        logic.process(node, Settings(method="bsw"))
    assert slicer.mrmlScene.GetFirstNodeByName("DSC perfusion baseline") is None


def test_a_second_click_while_the_first_run_goes_on_is_refused(logic, node, app):
    refused = []

    def click_again():
        app.on_event = lambda: None
        with pytest.raises(UsageError, match="wait until it is done"):
            logic.process(node, Settings(method="bsw"))
        refused.append(True)

    app.on_event = click_again
    assert logic.process(node, Settings(method="bsw"))
    assert refused


def test_errors_speak_the_panels_language(logic, node, head):
    with pytest.raises(InputRefusedError) as refused:
        logic.process(node, Settings(method="bsw"), repetition_time_s=1500)
    assert "--" not in str(refused.value)
    assert "repetition time (TR)" in str(refused.value)


@pytest.mark.parametrize("method", ["bsw", "anchored-unet", "unet-gru"])
def test_the_application_answers_all_the_time(logic, app, method):
    """Longest time between two servings; of clock and processor time the shorter, so that other work does not count."""
    if method in NETWORK_METHODS:
        importlib.import_module("PerfusionCBVLib.networks.inference")  # PyTorch comes once a session, slowly
    series = graded_head(shape=(96, 96, 16), frames=50).series  # large enough for steps that take seconds
    large = work.add_sequence(work.Sequence.of(series))
    app.served.clear()
    reported = []
    app.processEvents()
    logic.process(large, Settings(method=method), progress=lambda fraction, message: reported.append(fraction))
    app.processEvents()
    gaps_s = np.diff(app.served, axis=0).min(axis=1)
    assert len(app.served) > 5
    assert reported == sorted(reported)
    assert gaps_s.max() <= LONGEST_GAP_S, f"{gaps_s.max():.2f} s before serving {gaps_s.argmax() + 1} of {gaps_s.size}"


def test_progress_says_what_is_done_and_arrives_at_the_end(logic, node):
    seen = []
    logic.process(node, Settings(method="bsw"), progress=lambda fraction, message: seen.append((fraction, message)))
    assert len({message for _, message in seen}) >= 3
    assert all(0 <= fraction <= 1 for fraction, _ in seen)


# --- checking, loading, describing ------------------------------------------------------------------------------------


def test_check_gives_the_librarys_findings(logic, node, head):
    from PerfusionCBVLib import check

    assert [f.code for f in logic.check(node)] == [f.code for f in check(head.series)]


def test_loading_a_file_gives_the_series_that_the_library_reads(logic, head, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    from PerfusionCBVLib import load_series
    from PerfusionCBVLib.gui.input_nodes import series_from_node

    path = tmp_path / "dsc.nii.gz"
    image = nibabel.Nifti1Image(head.series.signal, head.series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nibabel.save(image, path)
    (tmp_path / "dsc.json").write_text(json.dumps({"EchoTime": 0.03, "FlipAngle": 60}))
    loaded, expected = series_from_node(logic.load(path)), load_series(path)
    np.testing.assert_array_equal(loaded.signal, expected.signal)
    np.testing.assert_array_equal(loaded.times_s, expected.times_s)
    assert loaded.acquisition == expected.acquisition
    assert loaded.input_sha256.items() >= expected.input_sha256.items()


def test_a_file_without_times_is_loaded_and_the_repetition_time_asked_for(logic, head, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(head.series.signal, head.series.affine)
    nibabel.save(image, tmp_path / "dsc.nii.gz")
    node = logic.load(tmp_path / "dsc.nii.gz")
    assert "Enter the repetition time" in logic.describe(node).problem
    assert logic.describe(node, repetition_time_s=1.5).problem == ""
    with pytest.raises(InputRefusedError, match="Enter the repetition time"):
        logic.process(node, Settings(method="bsw"))
    with pytest.raises(InputRefusedError, match="Enter the echo time"):
        logic.process(node, Settings(method="bsw"), repetition_time_s=1.5)
    times = {"echo_time_s": 0.03, "repetition_time_s": 1.5}
    rcbv = values(logic.process(node, Settings(method="bsw"), **times)["rcbv"])
    np.testing.assert_array_equal(rcbv, compute_maps(head.series, Settings(method="bsw")).maps["rcbv"].values)


def test_a_file_that_is_no_series_leaves_the_scene_as_it_was(logic, tmp_path):
    before = slicer_scene.scene_contents()
    (tmp_path / "notes.nii").write_text("no image")
    with pytest.raises(InputRefusedError, match=r"notes\.nii"):
        logic.load(tmp_path / "notes.nii")
    assert slicer_scene.scene_contents() == before


def test_a_mask_beside_the_series_is_refused(logic, node):
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Mask")
    slicer.util.updateVolumeFromArray(labels, np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(GeometryError, match="Mask covers no voxel"):
        logic.process(node, Settings(method="bsw"), mask=labels)


# --- sample data ------------------------------------------------------------------------------------------------------


def test_the_first_click_on_the_sample_gives_a_patient_with_all_that_a_map_needs(logic, sample_data):
    from PerfusionCBVLib.gui import sample_data as sample

    sample.register()
    sample.register()  # as a reload of the module does
    (source,) = sample_data.sources["Perfusion CBV"]
    assert Path(source["thumbnailFileName"]).is_file()
    assert "http" not in source["uris"]
    node = source["customDownloader"](None)
    facts = logic.describe(node)
    assert facts.problem == ""
    assert facts.acquisition.echo_time_s
    assert sample_data.dialog.closed
    assert [shown.IsA("vtkMRMLScalarVolumeNode") for shown in sample_data.shown] == [True]


def test_a_cancelled_or_failed_simulation_leaves_the_scene_as_it_was(logic, sample_data, monkeypatch):
    from PerfusionCBVLib.gui import logic as gui_logic
    from PerfusionCBVLib.gui.sample_data import make_patient

    before = slicer_scene.scene_contents()

    def refuse(progress):
        raise UsageError("Something else is being computed.")

    def cancel(progress):
        sample_data.dialog.wasCanceled = True
        progress(0.0, "")

    monkeypatch.setattr(gui_logic, "simulate_node", refuse)
    assert make_patient() is None
    monkeypatch.setattr(gui_logic, "simulate_node", cancel)
    assert make_patient() is None
    assert sample_data.errors == ["Something else is being computed."]
    assert slicer_scene.scene_contents() == before


def test_the_modules_own_test_passes(logic):
    test = sys.modules["PerfusionCBV"].PerfusionCBVTest("test_fromSampleDataToMaps")
    outcome = unittest.TestResult()
    test.run(outcome)
    assert outcome.errors + outcome.failures + outcome.skipped == []
    assert outcome.testsRun == 1
