"""Nodes to series and back, on slicer-core's real MRML."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import vtk

import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib.errors import GeometryError, InputRefusedError
from PerfusionCBVLib.gui import colours, input_nodes, logic, regions
from PerfusionCBVLib.measures.region_files import read_regions

pytestmark = pytest.mark.slicer

AFFINE = np.array([[0.0, -2.0, 0.0, 11.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE, FRAMES = (7, 6, 5), 20


@pytest.fixture(autouse=True)
def app(tmp_path):
    return slicer_scene.start(tmp_path / "slicer")


@pytest.fixture
def signal():
    return np.random.default_rng(1).uniform(100, 900, (*SHAPE, FRAMES)).astype(np.float32)


def volume_node(values, class_name="vtkMRMLScalarVolumeNode", name="vol", affine=AFFINE):
    """A volume node of (x, y, z) or (x, y, z, components) values, not made by the code under test."""
    image = vtk.vtkImageData()
    image.SetDimensions(values.shape[:3])
    components = values.shape[3] if values.ndim == 4 else 1
    flat = np.ascontiguousarray(values.reshape(-1, components, order="F"))
    image.GetPointData().SetScalars(vtk.util.numpy_support.numpy_to_vtk(flat, deep=True))
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    node.SetAndObserveImageData(image)
    return node


def sequence_node(signal, *, index_values=None, unit="s", index_name="time", name="DSC", affine=AFFINE):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    node.SetIndexName(index_name)
    node.SetIndexUnit(unit)
    for frame in range(signal.shape[-1]):
        volume = volume_node(signal[..., frame], affine=affine)
        node.SetDataNodeAtValue(volume, index_values[frame] if index_values else str(1.5 * frame))
        slicer.mrmlScene.RemoveNode(volume)
    return node


# --- sequences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "index_values"),
    [
        ("s", [str(2 + 1.25 * frame) for frame in range(FRAMES)]),
        ("ms", [str(500 + 1250 * frame) for frame in range(FRAMES)]),
        ("sec", [f"{1.25 * frame:.3f}" for frame in range(FRAMES)]),
    ],
)
def test_a_sequences_index_values_and_unit_give_the_times(signal, unit, index_values):
    series = input_nodes.series_from_node(sequence_node(signal, unit=unit, index_values=index_values))
    np.testing.assert_allclose(series.times_s, 1.25 * np.arange(FRAMES))
    np.testing.assert_array_equal(series.signal, signal)
    np.testing.assert_allclose(series.affine, AFFINE)
    assert series.name == "DSC"


@pytest.mark.parametrize(("unit", "index_name"), [("", "time"), ("ms", "EchoTime"), ("deg", "time")])
def test_without_a_unit_of_time_the_user_is_asked_and_nothing_is_guessed(signal, unit, index_name):
    node = sequence_node(signal, unit=unit, index_name=index_name)
    facts = input_nodes.describe(node)
    assert facts.times_s is None
    assert facts.acquisition.repetition_time_s is None
    assert "Enter the repetition time" in facts.problem
    with pytest.raises(InputRefusedError, match="Enter the repetition time"):
        facts.series()
    given = input_nodes.series_from_node(node, repetition_time_s=1.8)
    np.testing.assert_allclose(given.times_s, 1.8 * np.arange(FRAMES))
    assert given.acquisition.sources["repetition_time_s"] == "given by the user"


def test_an_unknown_echo_time_stays_unknown_until_the_user_gives_it(signal):
    node = sequence_node(signal)
    assert input_nodes.describe(node).acquisition.echo_time_s is None
    assert input_nodes.describe(node, echo_time_s=0.03).acquisition.echo_time_s == 0.03


def test_dicom_attributes_of_a_node_give_echo_time_repetition_time_and_flip_angle(signal):
    node = sequence_node(signal)
    for key, value in (("EchoTime", "30"), ("RepetitionTime", "1500"), ("FlipAngle", "60")):
        node.SetAttribute(f"MultiVolume.DICOM.{key}", value)
    acquisition = input_nodes.series_from_node(node).acquisition
    assert acquisition.echo_time_s == pytest.approx(0.03)
    assert acquisition.repetition_time_s == pytest.approx(1.5)
    assert acquisition.flip_angle_deg == 60
    assert "MultiVolume.DICOM.EchoTime" in acquisition.sources["echo_time_s"]


def test_the_dicom_database_gives_them_for_the_instances_of_the_first_frame(signal, monkeypatch):
    headers = {"0018,0081": "28.5", "0018,0080": "1500", "0018,1314": "75", "0018,0087": "3", "0008,0070": "SCANNER"}
    database = SimpleNamespace(instanceValue=lambda uid, tag: headers.get(tag, "") if uid == "1.2.3" else "")
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    node = sequence_node(signal)
    node.GetNthDataNode(0).SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    acquisition = input_nodes.series_from_node(node).acquisition
    assert acquisition.echo_time_s == pytest.approx(0.0285)
    assert acquisition.flip_angle_deg == 75
    assert acquisition.field_strength_t == 3
    assert acquisition.manufacturer == "SCANNER"
    assert acquisition.contrast_agent is None


def test_seconds_in_a_dicom_attribute_are_refused_in_one_sentence(signal):
    node = sequence_node(signal)
    node.SetAttribute("MultiVolume.DICOM.EchoTime", "0.03")
    assert "echo time is 3e-05 s" in input_nodes.describe(node).problem


def test_a_frame_of_another_size_or_place_is_named(signal):
    node = sequence_node(signal)
    moved = AFFINE.copy()
    moved[0, 3] += 2
    node.GetNthDataNode(7).SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(moved))
    facts = input_nodes.describe(node)
    assert facts.problem.startswith("Frame 8 of DSC differs")
    with pytest.raises(InputRefusedError, match="Frame 8"):
        facts.series()


def test_a_node_is_described_without_copying_a_voxel(signal):
    node = sequence_node(signal)
    facts = input_nodes.describe(node)
    slicer.util.arrayFromVolume(node.GetNthDataNode(3))[4, 2, 1] = -5
    assert facts.volumes[3][4, 2, 1] == -5
    assert (facts.frames, facts.shape) == (FRAMES, SHAPE)
    assert facts.voxel_size_mm == (1.5, 2.0, 4.0)


def test_the_same_voxels_give_the_same_hash_and_others_another(signal):
    first = input_nodes.series_from_node(sequence_node(signal)).input_sha256["voxels"]
    assert first == input_nodes.series_from_node(sequence_node(signal)).input_sha256["voxels"]
    signal[0, 0, 0, 0] += 1
    assert first != input_nodes.series_from_node(sequence_node(signal)).input_sha256["voxels"]


# --- multi-volumes and vector volumes ---------------------------------------------------------------------------------


def multi_volume(signal, **attributes):
    node = volume_node(signal, "vtkMRMLVectorVolumeNode", name="MV")
    for key, value in attributes.items():
        node.SetAttribute("MultiVolume." + key.replace("_", "."), value)
    return node


def test_a_multi_volume_is_read_by_its_attributes(signal):
    node = multi_volume(
        signal,
        FrameLabels=",".join(str(1400.0 * frame) for frame in range(FRAMES)),
        FrameIdentifyingDICOMTagName="AcquisitionTime",
        FrameIdentifyingDICOMTagUnits="ms",
        NumberOfFrames=str(FRAMES),
        DICOM_EchoTime="35",
        DICOM_FlipAngle="90",
    )
    series = input_nodes.series_from_node(node)
    np.testing.assert_array_equal(series.signal, signal)
    np.testing.assert_allclose(series.times_s, 1.4 * np.arange(FRAMES))
    np.testing.assert_allclose(series.affine, AFFINE)
    assert series.acquisition.echo_time_s == pytest.approx(0.035)
    assert series.acquisition.flip_angle_deg == 90


def test_multi_volume_labels_that_are_no_times_are_not_taken_for_times(signal):
    node = multi_volume(
        signal,
        FrameLabels=",".join(str(frame) for frame in range(FRAMES)),
        FrameIdentifyingDICOMTagName="FlipAngle",
        FrameIdentifyingDICOMTagUnits="degrees",
    )
    assert "FlipAngle, which is no time" in input_nodes.describe(node).problem


def test_missing_multi_volume_labels_are_counted(signal):
    labels = ",".join(str(1400.0 * frame) for frame in range(FRAMES - 1))
    node = multi_volume(signal, FrameLabels=labels, FrameIdentifyingDICOMTagUnits="ms")
    assert "20 frames but 19 times" in input_nodes.describe(node).problem


def test_a_vector_volume_without_attributes_needs_the_repetition_time_only(signal):
    node = volume_node(signal, "vtkMRMLVectorVolumeNode")
    assert "Enter the repetition time" in input_nodes.describe(node).problem
    series = input_nodes.series_from_node(node, repetition_time_s=1.5)
    np.testing.assert_array_equal(series.signal, signal)


def test_only_volumes_with_time_count_as_dynamic(signal):
    assert input_nodes.is_dynamic(sequence_node(signal))
    assert input_nodes.is_dynamic(volume_node(signal, "vtkMRMLVectorVolumeNode"))
    assert not input_nodes.is_dynamic(None)
    assert not input_nodes.is_dynamic(volume_node(signal[..., 0]))
    assert not input_nodes.is_dynamic(volume_node(signal[..., :4], "vtkMRMLVectorVolumeNode"))
    assert not input_nodes.is_dynamic(volume_node(signal[..., :9], "vtkMRMLDiffusionTensorVolumeNode"))
    assert not input_nodes.is_dynamic(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode"))


def test_a_nifti_that_slicer_loads_as_a_sequence_is_the_series_that_the_library_loads(signal, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    from PerfusionCBVLib import load_series

    image = nibabel.Nifti1Image(signal, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.7
    path = tmp_path / "dsc.nii.gz"
    nibabel.save(image, path)
    node = slicer.modules.sequences.logic().AddSequence(str(path))
    from_node, from_file = input_nodes.series_from_node(node), load_series(path)
    np.testing.assert_allclose(from_node.times_s, from_file.times_s, atol=1e-6)
    # Slicer may count an axis from its other end: the same place must hold the same curve.
    there = np.linalg.inv(from_node.affine) @ from_file.affine @ [2, 1, 3, 1]
    i, j, k = np.rint(there[:3]).astype(int)
    np.testing.assert_allclose(there[:3], [i, j, k], atol=1e-4)
    np.testing.assert_array_equal(from_node.signal[i, j, k], from_file.signal[2, 1, 3])


# --- what the extension loads itself ----------------------------------------------------------------------------------


def test_a_series_put_into_the_scene_is_read_back_without_loss():
    series = graded_head(shape=(20, 22, 4), frames=24).series
    known = series.acquisition.with_value("echo_time_s", 0.03, "dsc.json: EchoTime")
    node = logic.add_sequence(logic.Sequence.of(replace(series, acquisition=known, input_sha256={"dsc.nii": "12ab"})))
    back = input_nodes.series_from_node(node)
    np.testing.assert_array_equal(back.signal, series.signal)
    np.testing.assert_array_equal(back.times_s, series.times_s)
    np.testing.assert_allclose(back.affine, series.affine)
    for name, entry in known.as_dict().items():
        assert getattr(back.acquisition, name) == entry["value"]
    assert back.acquisition.sources["echo_time_s"] == "dsc.json: EchoTime"
    assert back.input_sha256["dsc.nii"] == "12ab"
    shown = input_nodes.shown_node(node)
    assert shown.IsA("vtkMRMLScalarVolumeNode")


def test_a_series_of_unknown_times_keeps_no_time_in_the_scene():
    series = graded_head(shape=(20, 22, 4), frames=24).series
    facts = input_nodes.describe(logic.add_sequence(logic.Sequence.of(series, timed=False)))
    assert facts.times_s is None
    assert facts.acquisition.repetition_time_s is None
    assert facts.acquisition.echo_time_s == series.acquisition.echo_time_s


# --- regions ----------------------------------------------------------------------------------------------------------


def a_region():
    inside = np.zeros(SHAPE, dtype=bool)
    inside[2:5, 1:3, 2:4] = True
    inside[3, 4, 1] = True
    return inside


def segment_node(inside, affine=AFFINE, transform=None):
    labels = volume_node(inside.astype(np.uint8), "vtkMRMLLabelMapVolumeNode", affine=affine)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "seg")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
    if transform is not None:
        labels.SetAndObserveTransformNodeID(transform.GetID())
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node, node.GetSegmentation().GetNthSegmentID(0), labels


def shift_node(offset_mm):
    matrix = np.eye(4)
    matrix[:3, 3] = offset_mm
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def test_a_segment_and_a_label_volume_give_the_voxels_they_cover(signal):
    node = sequence_node(signal)
    segmentation, segment_id, labels = segment_node(a_region())
    np.testing.assert_array_equal(regions.region_on_series((segmentation, segment_id), node), a_region())
    np.testing.assert_array_equal(regions.region_on_series(labels, node), a_region())
    assert regions.region_on_series(None, node) is None


def test_a_region_under_a_transform_is_taken_where_it_is_seen(signal):
    node = volume_node(signal, "vtkMRMLVectorVolumeNode")
    # The grid's first axis runs along +y with 1.5 mm, so 3 mm along y are two voxels of the first axis.
    segmentation, segment_id, labels = segment_node(a_region(), transform=shift_node([0, 3, 0]))
    expected = np.zeros_like(a_region())
    expected[2:] = a_region()[:-2]
    np.testing.assert_array_equal(regions.region_on_series((segmentation, segment_id), node), expected)
    np.testing.assert_array_equal(regions.region_on_series(labels, node), expected)
    node.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
    np.testing.assert_array_equal(regions.region_on_series((segmentation, segment_id), node), a_region())


def test_a_region_beside_the_series_is_refused_by_its_name(signal):
    segmentation, segment_id, _ = segment_node(a_region(), transform=shift_node([500, 0, 0]))
    segmentation.GetSegmentation().GetSegment(segment_id).SetName("Tumour")
    with pytest.raises(GeometryError, match="Tumour covers no voxel"):
        regions.region_on_series((segmentation, segment_id), sequence_node(signal))


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perfusion", "uniform", "diverging"])
def test_a_colour_node_has_the_librarys_colours(name):
    from PerfusionCBVLib.colours import colour_table

    node = colours.colour_node(name)
    rgba = np.zeros((256, 4))
    for index in range(256):
        colour = [0.0] * 4
        node.GetColor(index, colour)
        rgba[index] = colour
    np.testing.assert_allclose(rgba[:, :3] * 255, colour_table(name), atol=0.51)
    assert (rgba[1:, 3] == 1).all()
    assert rgba[0, 3] == (1 if name == "diverging" else 0)
    assert colours.colour_node(name) is node


@pytest.mark.parametrize("cropped", [True, False])
def test_the_library_reads_segments_from_the_file_that_slicer_writes(tmp_path, cropped):
    """Overlapping segments, a name beyond ASCII, a turned grid; cropped to what is drawn on, or not."""
    masks = {name: np.zeros(SHAPE, bool) for name in ("Ödem", "Core", "Elsewhere")}
    masks["Ödem"][1:4, 1:4, 1:3] = True
    masks["Core"][2, 2, 1] = True
    masks["Elsewhere"][5, 1:3, 3] = True
    volume = volume_node(np.zeros(SHAPE))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for name, mask in masks.items():
        segmentation.AddSegmentFromBinaryLabelmapRepresentation(regions.oriented_image(mask, volume), name)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "drawn.seg.nrrd"))
    storage.SetCropToMinimumExtent(cropped)
    assert storage.WriteData(segmentation)
    found = read_regions(tmp_path / "drawn.seg.nrrd", SHAPE, AFFINE)
    assert [region.name for region in found] == list(masks)
    for region, mask in zip(found, masks.values(), strict=True):
        np.testing.assert_array_equal(region.share, mask)
