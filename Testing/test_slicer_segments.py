"""Segments drawn on a finer, turned anatomy: the panel's numbers are the command line's."""

import csv

import nibabel as nib
import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps, write_result
from PerfusionCBVLib.alignment.resampling import resample
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.gui import logic as work
from PerfusionCBVLib.gui import output_nodes
from PerfusionCBVLib.gui.measures import measured_segments, measurements_in_scene, measures_html
from PerfusionCBVLib.gui.regions import oriented_image
from PerfusionCBVLib.gui.scene_result import result_in_scene
from PerfusionCBVLib.gui.segments import drawn_segments, regions_on
from PerfusionCBVLib.measures.measure import MeasureSettings

pytestmark = pytest.mark.slicer


@pytest.fixture(scope="module")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(scope="module")
def result(head):
    return compute_maps(head.series, Settings(method="bsw", normalize="brain"))


@pytest.fixture
def node(head, result, tmp_path):
    slicer_scene.start(tmp_path / "slicer")
    sequence = work.add_sequence(work.Sequence.of(head.series))
    slicer_scene.update_proxies()
    output_nodes.publish(result, output_nodes.layers_of(result), sequence)
    return sequence


@pytest.fixture(scope="module")
def anatomy(head, result):
    """The baseline on a finer grid, turned about two axes; (values, affine, drawn tumour)."""
    a, b = np.radians(8), np.radians(-6)
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    old, old_shape = head.series.affine, np.array(head.series.signal.shape[:3])
    size_mm = np.array(head.series.voxel_size_mm) * old_shape
    shape = tuple(np.ceil(size_mm / 2.0).astype(int) + 6)
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x @ np.diag([-2.0, 2.0, 2.0])
    affine[:3, 3] = (old @ (*((old_shape - 1) / 2), 1))[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    values = np.nan_to_num(resample(result.baseline, old, shape, affine))
    tumour = np.nan_to_num(resample(head.lesion.astype(float), old, shape, affine)) > 0.4
    return values, affine, tumour


def add_anatomy(anatomy):
    """Put the anatomy and the tumour drawn on it into the scene."""
    values, affine, tumour = anatomy
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T1 post")
    slicer.util.updateVolumeFromArray(volume, np.ascontiguousarray(values.T))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn on T1")
    image = oriented_image(tumour, volume)
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, "label 1", (1, 0, 0), "tumour")
    return volume, segmentation


def test_the_panel_measures_a_segment_of_the_anatomy_as_the_command_line_does(
    node, result, anatomy, tmp_path, monkeypatch
):
    """With one registration for both: found twice, it differs by micrometres, which flips sample points at borders."""
    volume, segmentation = add_anatomy(anatomy)
    registration, _transform = work.align_nodes(node, volume)
    monkeypatch.setattr("PerfusionCBVLib.alignment.overlay.register", lambda *_: registration)
    work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
    panel = {row.name: row.value for row in measurements_in_scene(node)}
    values, affine, tumour = anatomy
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "t1.nii.gz")
    nib.save(nib.Nifti1Image(tumour.astype(np.uint8), affine), tmp_path / "tumour.nii.gz")
    write_result(result, tmp_path / "maps")
    where = ["--regions", str(tmp_path / "tumour.nii.gz"), "--anatomy", str(tmp_path / "t1.nii.gz")]
    assert main(["measure", str(tmp_path / "maps"), *where, "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "measures.csv").open(newline="") as file:
        command = {row["name"]: float(row["value"] or "nan") for row in csv.DictReader(file)}
    assert panel.keys() == command.keys()
    for name, value in command.items():
        assert panel[name] == pytest.approx(value, rel=1e-5, abs=1e-8, nan_ok=True), name
    assert panel["volume"] == pytest.approx(tumour.sum() * 0.008, rel=0.01)


def test_a_segment_of_the_series_own_voxels_covers_whole_voxels(node, head):
    """Also of the part of the grid that Slicer keeps, which begins anywhere."""
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented_image(head.lesion, baseline), "A", (1, 0, 0), "a")
    (region,) = regions_on(drawn_segments(segmentation, node), result_in_scene(node))
    np.testing.assert_array_equal(region.share, head.lesion)
    assert drawn_segments(segmentation, node)[0].voxels.sum() == head.lesion.sum()


def test_a_segments_terminology_comes_along(node, head):
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented_image(head.lesion, baseline), "A", (1, 0, 0), "a")
    tag = "Segmentation category and type~SCT^49755003^Morphologically Altered Structure~SCT^108369006^Neoplasm~^^~~~"
    segmentation.GetSegmentation().GetSegment("a").SetTag("TerminologyEntry", tag)
    (region,) = regions_on(drawn_segments(segmentation, node), result_in_scene(node))
    assert region.kind == ("108369006", "SCT", "Neoplasm")


def test_a_segmentation_that_was_moved_since_it_was_measured_is_another(node, anatomy, tmp_path):
    _volume, segmentation = add_anatomy(anatomy)
    work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
    assert [each.name for each in measured_segments(node)] == ["label 1"]
    name = node.GetName()
    slicer_scene.save_bundle(tmp_path / "scene.mrb")
    slicer_scene.open_bundle(tmp_path / "scene.mrb", tmp_path / "again")
    node = slicer.util.getFirstNodeByClassByName("vtkMRMLSequenceNode", name)
    assert [each.name for each in measured_segments(node)] == ["label 1"]
    segmentation = slicer.util.getFirstNodeByClassByName("vtkMRMLSegmentationNode", "drawn on T1")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    shift = np.eye(4)
    shift[0, 3] = 1.0
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(UsageError, match="changed or removed"):
        measured_segments(node)


def test_a_segmentation_under_a_transform_that_bends_is_refused(node, anatomy):
    _volume, segmentation = add_anatomy(anatomy)
    bending = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bending")
    segmentation.SetAndObserveTransformNodeID(bending.GetID())
    with pytest.raises(UsageError, match="that bends"):
        drawn_segments(segmentation, node)


def test_a_segment_beside_the_series_is_left_out_and_named(node, head, anatomy):
    values, affine, tumour = anatomy
    far = affine.copy()
    far[2, 3] += 500
    _volume, segmentation = add_anatomy((values, far, tumour))
    baseline = output_nodes.outputs(node)["baseline"]
    segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented_image(head.lesion, baseline), "A", (1, 0, 0), "a")
    work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
    assert {row.region for row in measurements_in_scene(node)} == {"A"}
    assert "label 1 lies beside the series and was not measured." in measures_html(node)


def test_a_segmentation_beside_the_series_is_refused_with_its_names(node, anatomy):
    values, affine, tumour = anatomy
    far = affine.copy()
    far[2, 3] += 500
    _volume, segmentation = add_anatomy((values, far, tumour))
    with pytest.raises(UsageError, match="Nothing of label 1 covers a voxel"):
        work.measure_node(node, segmentation, MeasureSettings(), mirrors=False)
