"""Measures and the page for the referrer from what the scene holds, on slicer-core's real MRML."""

import json
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import vtk

import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import Cancelled, PerfusionError, UsageError
from PerfusionCBVLib.gui import dicom_objects, output_nodes
from PerfusionCBVLib.gui import logic as work
from PerfusionCBVLib.gui.measures import measurements_in_scene, measures_html, measures_node
from PerfusionCBVLib.gui.regions import oriented_image
from PerfusionCBVLib.gui.scene_result import result_in_scene
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_regions
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.simulate.dicom import write_dicom_series

pytestmark = pytest.mark.slicer


@pytest.fixture(scope="module")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(scope="module")
def result(head):
    made = compute_maps(head.series, Settings(method="anchored-unet"))
    status = made.status.copy()
    status[np.argwhere(head.lesion)[:7, 0], np.argwhere(head.lesion)[:7, 1], np.argwhere(head.lesion)[:7, 2]] = 4
    return replace(made, status=status)


@pytest.fixture
def node(head, result, tmp_path):
    """A series with its maps, under a patient and a study as Slicer's DICOM module makes them."""
    slicer_scene.start(tmp_path / "slicer")
    sequence = work.add_sequence(work.Sequence.of(head.series))
    sequence.SetName("DSC perfusion")
    slicer_scene.update_proxies()
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Petrenko")
    hierarchy.SetItemAttribute(patient, "DICOM.PatientName", "Petrenko^Olena")
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.SetItemAttribute(study, "DICOM.StudyDate", "20261122")
    hierarchy.CreateItem(study, output_nodes.shown_node(sequence))
    output_nodes.publish(result, output_nodes.layers_of(result), sequence)
    return sequence


@pytest.fixture
def drawn(node, head):
    """Two segments on the grid of the maps."""
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    for name, inside in (("Tumour", head.lesion), ("White matter", head.white)):
        image = oriented_image(inside, baseline)
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, (1, 0, 0), name.lower())
    return segmentation


def expected(result, head):
    regions = [Region("Tumour", head.lesion), Region("White matter", head.white)]
    return measure_regions(regions, result, MeasureSettings())


def test_the_scene_gives_back_the_result_that_was_put_into_it(node, result):
    found = result_in_scene(node)
    assert found.maps.keys() == result.maps.keys()
    for name, map_ in result.maps.items():
        np.testing.assert_array_equal(found.maps[name].values, map_.values)
        assert found.maps[name].unit == map_.unit
    for name in ("baseline", "mask", "reference"):
        np.testing.assert_array_equal(getattr(found, name), getattr(result, name))
    np.testing.assert_allclose(found.affine, result.affine)
    np.testing.assert_allclose(found.times_s, result.series.times_s)
    np.testing.assert_allclose(found.curves_per_s["brain"], result.curves_per_s["brain"])
    np.testing.assert_array_equal(found.status == Status.SATURATED, result.status == Status.SATURATED)
    assert [f.code for f in found.findings] == [f.code for f in result.findings]


def test_measures_of_the_scene_are_the_librarys(node, drawn, result, head):
    work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    found = measurements_in_scene(node)
    wanted = [row for each in expected(result, head) for row in each.measurements]
    assert [(row.region, row.name, row.title, row.unit) for row in found] == [
        (row.region, row.name, row.title, row.unit) for row in wanted
    ]
    np.testing.assert_array_equal([row.value for row in found], [row.value for row in wanted])
    assert [row.standard_error for row in found] == [row.standard_error for row in wanted]


def test_a_second_measurement_replaces_the_first(node, drawn):
    first = work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    rows = first.GetNumberOfRows()
    second = work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    assert second is first
    assert second.GetNumberOfRows() == rows


def test_measures_come_back_with_the_scene(node, drawn, tmp_path):
    work.measure_node(node, drawn, MeasureSettings(), mirrors=True)
    before, name, text = measurements_in_scene(node), node.GetName(), measures_html(node)
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    slicer_scene.open_bundle(tmp_path / "scene.mrb", tmp_path / "again")
    again = slicer.util.getFirstNodeByClassByName("vtkMRMLSequenceNode", name)
    assert [repr(row) for row in measurements_in_scene(again)] == [repr(row) for row in before]
    assert measures_html(again) == text


def test_measures_of_a_map_that_was_made_anew_are_not_mixed_with_it(node, drawn, head):
    work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    classical = compute_maps(head.series, Settings(method="bsw"))
    output_nodes.publish(classical, output_nodes.layers_of(classical), node)
    assert measurements_in_scene(node) == ()
    assert measures_html(node) == ""


def test_a_page_of_segments_that_were_redrawn_since_is_refused(node, drawn, head, tmp_path):
    work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    drawn.GetSegmentation().RemoveSegment("tumour")
    with pytest.raises(UsageError, match="changed or removed since it was measured"):
        work.write_page_of(node, tmp_path / "page.html", named=False)
    slicer.mrmlScene.RemoveNode(drawn)
    with pytest.raises(UsageError, match="changed or removed since it was measured"):
        work.write_page_of(node, tmp_path / "page.html", named=False)


def test_two_segments_of_one_name_are_refused_and_the_scene_stays(node, drawn):
    drawn.GetSegmentation().GetSegment("white matter").SetName("Tumour")
    before = slicer_scene.scene_contents()
    with pytest.raises(UsageError, match="Two segments are called Tumour"):
        work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    assert slicer_scene.scene_contents() == before


def test_a_cancelled_measurement_leaves_the_scene(node, drawn):
    def stop(fraction, message):
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        work.measure_node(node, drawn, MeasureSettings(), mirrors=False, progress=stop)
    assert measures_node(node) is None


def test_the_page_names_the_patient_only_when_asked(node, drawn, tmp_path):
    work.measure_node(node, drawn, MeasureSettings(), mirrors=False)
    work.write_page_of(node, tmp_path / "page.html", named=False)
    unnamed = (tmp_path / "page.html").read_text("utf-8")
    assert "Petrenko" not in unnamed
    assert "20261122" not in unnamed
    work.write_page_of(node, tmp_path / "page.html", named=True)
    named = (tmp_path / "page.html").read_text("utf-8")
    assert "<strong>Patient</strong> Petrenko Olena" in named
    assert "<strong>Date</strong> 2026-11-22" in named
    assert "<th>Tumour</th>" in named


def test_without_a_map_there_is_no_page(node, tmp_path):
    slicer.mrmlScene.RemoveNode(output_nodes.outputs(node)["rcbv"])
    with pytest.raises(PerfusionError, match="no map of this series"):
        work.write_page_of(node, tmp_path / "page.html", named=False)
    assert not (tmp_path / "page.html").exists()


def test_flow_maps_come_with_an_arterial_input_and_go_with_the_next_run_without(node, head):
    with_flow = compute_maps(head.series, Settings(method="bsw"), aif=head.white)
    nodes = output_nodes.publish(with_flow, output_nodes.layers_of(with_flow), node)
    assert {"cbv", "cbf", "mtt", "tmax", "ttp", "delay"} <= nodes.keys()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes["cbf"]).T, with_flow.maps["cbf"].values)
    assert nodes["mtt"].GetVoxelValueUnits().GetCodeValue() == "s"
    assert nodes["mtt"].GetVoxelValueQuantity().GetCodeValue() == "113052"
    without = compute_maps(head.series, Settings(method="bsw"))
    assert "cbf" not in output_nodes.publish(without, output_nodes.layers_of(without), node)


def world(volume, ijk):
    """Where a voxel lies in the world, RAS in mm."""
    to_ras, position = vtk.vtkMatrix4x4(), [0.0, 0.0, 0.0]
    volume.GetIJKToRASMatrix(to_ras)
    volume.TransformPointToWorld(to_ras.MultiplyPoint((*ijk, 1.0))[:3], position)
    return np.array(position)


def test_aligned_maps_lie_where_the_anatomy_has_the_same_place(node, head, result):
    """The anatomy is the baseline image itself, scanned after the head had moved."""
    moved = np.array([[0.9962, -0.0872, 0, 6], [0.0872, 0.9962, 0, -4], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    anatomy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T1 post")
    slicer.util.updateVolumeFromArray(anatomy, np.ascontiguousarray(result.baseline.T))
    anatomy.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(moved @ head.series.affine))
    registration, transform = work.align_nodes(node, anatomy)
    rcbv = output_nodes.outputs(node)["rcbv"]
    assert rcbv.GetParentTransformNode() is transform
    for ijk in ((10, 12, 1), (30, 30, 4), (20, 23, 3)):
        assert np.linalg.norm(world(rcbv, ijk) - world(anatomy, ijk)) < 1.0
    again, same = work.align_nodes(node, anatomy)
    assert same is transform
    np.testing.assert_allclose(again.matrix, registration.matrix)


def test_a_segment_drawn_on_the_aligned_anatomy_measures_the_native_map(node, head, result):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "aligned")
    shift = vtk.vtkMatrix4x4()
    shift.SetElement(0, 3, 2 * head.series.voxel_size_mm[0])
    transform.SetMatrixTransformToParent(shift)
    output_nodes.shown_node(node).SetAndObserveTransformNodeID(transform.GetID())
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "in the world")
    drawn = np.roll(head.lesion, 2 * int(np.sign(head.series.affine[0, 0])), axis=0)
    image = oriented_image(drawn, baseline)
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, "Tumour", (1, 0, 0), "tumour")
    work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
    mean = next(row.value for row in measurements_in_scene(node) if row.name == "rcbv_mean")
    assert mean == pytest.approx(result.maps["rcbv"].values[head.lesion].mean(), rel=1e-5)


def test_without_an_anatomy_nothing_is_aligned(node):
    before = slicer_scene.scene_contents()
    with pytest.raises(UsageError, match="Select the anatomical volume"):
        work.align_nodes(node, None)
    assert slicer_scene.scene_contents() == before


def test_a_series_of_unknown_origin_gets_no_patients_name_by_dicom(node, tmp_path):
    with pytest.raises(UsageError, match="Nothing shows which DICOM series"):
        dicom_objects.write_dicom_of(node, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_it_was_measured_with(node, drawn):
    settings = MeasureSettings(hot_spot_area_mm2=25.0, cut_offs=(0.9, 2.0))
    table = work.measure_node(node, drawn, settings, mirrors=False)
    assert json.loads(table.GetAttribute("PerfusionCBV.Settings")) == [25.0, 0.9, 2.0]
    assert any("rCBV ≥ 2" in row.title for row in measurements_in_scene(node))


def write_dicom(folder, head, *, seed):
    """The head as a DICOM series; another seed is another patient's study."""
    series = head.series
    facts = {"echo_time_s": 0.03, "repetition_time_s": 1.5, "flip_angle_deg": 60.0, "field_strength_t": 3.0}
    write_dicom_series(series.signal, series.affine, series.times_s, folder, **facts, seed=seed)
    return folder


def test_dicom_objects_of_a_series_from_dicom_hold_its_patient_and_the_measures(head, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed: pip install '.[dicom]'")
    import pydicom

    folder = write_dicom(tmp_path / "study", head, seed=1)
    slicer_scene.start(tmp_path / "slicer")
    node = work.load_node(folder)
    slicer_scene.update_proxies()
    settings = Settings(method="bsw", normalize="brain")
    work.process_node(
        node, settings, echo_time_s=None, repetition_time_s=None, mask=None, reference=None, aif=None, progress=None
    )
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    inside = slicer.util.arrayFromVolume(output_nodes.outputs(node)["rcbv"]).T > 2.0
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented_image(inside, baseline), "Tumour", (1, 0, 0), "t")
    work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
    written = dicom_objects.write_dicom_of(node, folder, tmp_path / "objects")
    names = {path.name for path in written}
    assert {"map_rcbv.dcm", "regions.dcm", "measures.dcm"} <= names
    source = pydicom.dcmread(next(folder.iterdir()))
    for path in written:
        made = pydicom.dcmread(path)
        assert (made.PatientID, made.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    segments = pydicom.dcmread(tmp_path / "objects" / "regions.dcm").SegmentSequence
    assert [item.SegmentLabel for item in segments] == ["Brain", "Reference region", "Tumour"]
    other = write_dicom(tmp_path / "other", head, seed=2)
    with pytest.raises(PerfusionError, match="Pass that series"):
        dicom_objects.write_dicom_of(node, other, tmp_path / "none")
