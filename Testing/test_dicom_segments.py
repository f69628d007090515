"""Segments from label files and Slicer's segmentations, at the right voxels and under their own names."""

import nibabel as nib
import nrrd
import numpy as np
import pytest

from PerfusionCBVLib.dicom_out.segments import read_segments
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError

SHAPE = (10, 12, 5)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2.5, 0, -11], [0, 0, 6, 4], [0, 0, 0, 1]])
TUMOUR = (
    "Segmentation:[0,0,0]|TerminologyEntry:Segmentation category and type~SCT^49755003^Morphologically Altered "
    "Structure~SCT^108369006^Neoplasm~^^~Anatomic codes~^^~^^|"
)


@pytest.fixture
def labels():
    values = np.zeros(SHAPE, np.uint8)
    values[2:5, 3:9, 1:3] = 1
    values[6:9, 2:4, 2:5] = 4
    return values


def save(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_a_label_is_called_by_its_number_and_said_to_be_nothing_more(labels, tmp_path):
    (only,) = read_segments(save(tmp_path / "tumour.nii.gz", np.where(labels == 4, labels, 0)), SHAPE, AFFINE)
    assert (only.name, only.kind) == ("label 4", None)
    np.testing.assert_array_equal(only.mask, labels == 4)


def test_labels_in_another_order_of_axes_come_to_the_same_voxels(labels, tmp_path):
    turned = nib.Nifti1Image(labels, AFFINE).as_reoriented([[2, 1], [0, -1], [1, -1]])
    nib.save(turned, tmp_path / "t.nii")
    found = read_segments(tmp_path / "t.nii", SHAPE, AFFINE)
    assert [segment.name for segment in found] == ["label 1", "label 4"]
    for segment, label in zip(found, (1, 4), strict=True):
        np.testing.assert_array_equal(segment.mask, labels == label)


def test_a_part_of_the_grid_will_do(labels, tmp_path):
    part = labels[2:, 1:, 1:]
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [2, 1, 1, 1])[:3]
    found = read_segments(save(tmp_path / "t.nii", part, affine), SHAPE, AFFINE)
    np.testing.assert_array_equal(found[0].mask, labels == 1)


def write_segmentation(path, values, header):
    rows = [[2.0, 0, 0], [0, -2.5, 0], [0, 0, 6]]  # LPS
    if values.ndim == 4:
        rows = [[np.nan] * 3, *rows]
    header = {"space": "left-posterior-superior", "space directions": rows, "space origin": [-9, 11, 4], **header}
    nrrd.write(str(path), values, header, index_order="F")
    return path


def test_slicers_segments_keep_names_and_terminology(labels, tmp_path):
    header = {
        "Segment0_Name": "NAME", "Segment0_LabelValue": "4", "Segment0_Layer": "0",
        "Segment0_Tags": TUMOUR, "Segment1_Name": "Opposite", "Segment1_LabelValue": "1", "Segment1_Layer": "0",
    }  # fmt: skip
    path = write_segmentation(tmp_path / "s.seg.nrrd", labels, header)
    path.write_bytes(path.read_bytes().replace(b"NAME", "Усиление – tumour".encode(), 1))  # pynrrd writes ASCII only
    first, second = read_segments(path, SHAPE, AFFINE)
    assert (first.name, second.name) == ("Усиление – tumour", "Opposite")
    np.testing.assert_array_equal(first.mask, labels == 4)
    np.testing.assert_array_equal(second.mask, labels == 1)
    assert first.category == ("49755003", "SCT", "Morphologically Altered Structure")
    assert first.kind == ("108369006", "SCT", "Neoplasm")
    assert second.kind is None


def test_overlapping_segments_lie_on_layers(labels, tmp_path):
    layers = np.stack([labels, (labels > 0).astype(np.uint8)])
    header = {
        "Segment0_Name": "a", "Segment0_LabelValue": "4", "Segment0_Layer": "0",
        "Segment1_Name": "b", "Segment1_LabelValue": "1", "Segment1_Layer": "1",
    }  # fmt: skip
    first, second = read_segments(write_segmentation(tmp_path / "s.seg.nrrd", layers, header), SHAPE, AFFINE)
    np.testing.assert_array_equal(first.mask, labels == 4)
    np.testing.assert_array_equal(second.mask, labels > 0)


@pytest.mark.parametrize(
    "change",
    [
        np.diag([0.5, 0.5, 1, 1]),
        np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.array([[1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
    ids=["finer", "half a voxel off", "beyond the edge"],
)
def test_segments_on_another_grid_are_refused(labels, tmp_path, change):
    path = save(tmp_path / "t.nii", labels, AFFINE @ change)
    with pytest.raises(GeometryError, match="does not lie on the maps' voxels"):
        read_segments(path, SHAPE, AFFINE)


def test_what_holds_no_segment_is_refused(labels, tmp_path):
    with pytest.raises(UnreadableInputError, match="no segment with any voxel"):
        read_segments(save(tmp_path / "empty.nii", labels * 0), SHAPE, AFFINE)
    with pytest.raises(UnreadableInputError, match="does not hold labels"):
        read_segments(save(tmp_path / "image.nii", labels * 0.5), SHAPE, AFFINE)
    with pytest.raises(UnreadableInputError, match="names no segment"):
        read_segments(write_segmentation(tmp_path / "v.nrrd", labels, {}), SHAPE, AFFINE)
    (tmp_path / "text.nii").write_text("no image", "utf-8")
    with pytest.raises(UnreadableInputError, match="can't be read"):
        read_segments(tmp_path / "text.nii", SHAPE, AFFINE)
    with pytest.raises(UnreadableInputError, match="no label file"):
        read_segments(tmp_path / "a.txt", SHAPE, AFFINE)
