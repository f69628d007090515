"""Label files as radiologists save them, on the maps' grid or not."""

import nibabel as nib
import nrrd
import numpy as np
import pytest

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.measures.region_files import read_regions

SHAPE = (12, 10, 6)
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0.1, 2.0, 0, -20], [0, 0, 5.0, 7], [0, 0, 0, 1]])
LPS = np.diag([-1.0, -1.0, 1.0])


def labels():
    values = np.zeros(SHAPE, np.int16)
    values[2:5, 3:6, 1:3] = 1
    values[7:9, 2:8, 2:5] = 4
    return values


def save_nifti(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def save_segmentation(path, values, affine=AFFINE, segments=()):
    """Write what Slicer writes: LPS, layers first, names in the header."""
    directions, kinds = [*(LPS @ affine[:3, :3]).T], ["domain"] * 3
    if values.ndim == 4:
        directions, kinds = [np.full(3, np.nan), *directions], ["list", *kinds]
    header = {
        "space": "left-posterior-superior",
        "kinds": kinds,
        "space directions": np.array(directions),
        "space origin": LPS @ affine[:3, 3],
    }
    for i, (name, layer, label) in enumerate(segments):
        header |= {
            f"Segment{i}_ID": f"Segment_{i}",
            f"Segment{i}_Name": name,
            f"Segment{i}_Layer": str(layer),
            f"Segment{i}_LabelValue": str(label),
        }
    nrrd.write(str(path), values, header, index_order="F")
    content = path.read_bytes()  # pynrrd writes ASCII, Slicer UTF-8
    path.write_bytes(content.replace(b"{Oe}", "Ö".encode()))
    return path


def read(path):
    return {region.name: region.share for region in read_regions(path, SHAPE, AFFINE)}


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
def test_a_label_map_gives_a_region_for_each_label(tmp_path, kind, name):
    write = save_segmentation if name.endswith("nrrd") else save_nifti
    found = read(write(tmp_path / name, labels().astype(kind)))
    assert list(found) == ["label 1", "label 4"]
    np.testing.assert_array_equal(found["label 1"], labels() == 1)
    np.testing.assert_array_equal(found["label 4"], labels() == 4)


def test_a_segmentation_gives_its_names_and_overlapping_segments_too(tmp_path):
    values = np.zeros((2, *SHAPE), np.uint8)
    values[0] = labels()
    values[1, 1:6, 2:7, 0:4] = 1
    segments = [("Enhancing tumour", 0, 1), ("{Oe}dem", 0, 4), ("Whole = all", 1, 1), ("Empty", 1, 9)]
    found = read(save_segmentation(tmp_path / "s.seg.nrrd", values, segments=segments))
    assert list(found) == ["Enhancing tumour", "Ödem", "Whole = all"]
    np.testing.assert_array_equal(found["Ödem"], labels() == 4)
    np.testing.assert_array_equal(found["Whole = all"], values[1] == 1)


def test_labels_in_another_order_of_axes_come_to_the_same_voxels(tmp_path):
    turned = nib.Nifti1Image(labels(), AFFINE).as_reoriented([[2, 1], [0, -1], [1, -1]])
    nib.save(turned, tmp_path / "turned.nii")
    found = read(tmp_path / "turned.nii")
    assert list(found) == ["label 1", "label 4"]
    for label in (1, 4):
        np.testing.assert_array_equal(found[f"label {label}"], labels() == label)


def test_a_segment_keeps_slicers_terminology_and_nothing_is_guessed_from_a_name(tmp_path):
    segments = [("Tumour", 0, 4), ("Neoplasm", 0, 1)]
    path = save_segmentation(tmp_path / "a.seg.nrrd", labels(), segments=segments)
    tags = (
        "Segment0_Tags:=Segmentation:[0,0,0]|TerminologyEntry:Segmentation category and type~SCT^49755003^"
        "Morphologically Altered Structure~SCT^108369006^Neoplasm~^^~Anatomic codes~^^~^^|\nSegment0_ID"
    )
    path.write_bytes(path.read_bytes().replace(b"Segment0_ID", tags.encode(), 1))
    first, second = read_regions(path, SHAPE, AFFINE)
    assert first.category == ("49755003", "SCT", "Morphologically Altered Structure")
    assert first.kind == ("108369006", "SCT", "Neoplasm")
    assert (second.category, second.kind) == (None, None)


def test_a_file_that_holds_only_the_drawn_part_of_the_grid_is_put_in_its_place(tmp_path):
    part = AFFINE.copy()
    part[:3, 3] = (AFFINE @ [2, 1, 1, 1])[:3]
    found = read(save_segmentation(tmp_path / "cut.seg.nrrd", labels()[2:10, 1:9, 1:5], part))
    np.testing.assert_array_equal(found["label 1"], labels() == 1)
    larger = AFFINE.copy()
    larger[:3, 3] = (AFFINE @ [-3, -2, 0, 1])[:3]
    found = read(save_nifti(tmp_path / "larger.nii.gz", np.pad(labels(), ((3, 1), (2, 0), (0, 2))), larger))
    np.testing.assert_array_equal(found["label 4"], labels() == 4)


def moved(shift_voxels=(0, 0, 0), factor=1.0, turn_deg=0.0):
    affine = AFFINE.copy()
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3] * factor
    affine[:3, 3] = (AFFINE @ [*shift_voxels, 1])[:3]
    return affine


@pytest.mark.parametrize(
    "affine",
    [moved((0.5, 0, 0)), moved((0, 0, 0.3)), moved(factor=0.5), moved(turn_deg=5.0), np.diag([-1, 1, 1, 1]) @ AFFINE],
    ids=["half a voxel", "along slices", "finer", "turned", "mirrored"],
)
def test_a_file_on_another_grid_is_refused_with_the_way_out(tmp_path, affine):
    with pytest.raises(GeometryError, match="--anatomy"):
        read(save_nifti(tmp_path / "a.nii.gz", labels(), affine))


def test_labels_beside_the_maps_are_refused_and_not_cut_off(tmp_path):
    with pytest.raises(GeometryError, match=r"18 marked voxels.*beside"):
        read(save_nifti(tmp_path / "a.nii.gz", np.where(labels() == 1, 1, 0).astype(np.uint8), moved((40, 0, 0))))


@pytest.mark.parametrize(
    "values",
    [np.random.default_rng(0).random(SHAPE), -labels(), np.arange(720).reshape(SHAPE), np.full(SHAPE, np.nan)],
    ids=["an image", "negative", "too many labels", "not a number"],
)
def test_an_image_is_no_label_map(tmp_path, values):
    with pytest.raises(UnreadableInputError, match="no label map"):
        read(save_nifti(tmp_path / "a.nii.gz", values.astype(np.float64)))


def test_what_gives_no_region_or_no_clear_one_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match="marks no voxel"):
        read(save_nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.uint8)))
    twice = [("Tumour", 0, 1), ("Tumour", 0, 4)]
    with pytest.raises(UnreadableInputError, match="several segments called Tumour"):
        read(save_segmentation(tmp_path / "s.seg.nrrd", labels(), segments=twice))
    with pytest.raises(UnreadableInputError, match="damaged"):
        read(save_segmentation(tmp_path / "s.seg.nrrd", labels(), segments=[("Tumour", 3, 1)]))
    with pytest.raises(GeometryError, match="4 dimensions"):
        read(save_nifti(tmp_path / "d.nii.gz", np.ones((*SHAPE, 2), np.uint8)))
    for name in ("none.nii.gz", "none.nrrd", "none.txt"):
        with pytest.raises(UnreadableInputError, match="none"):
            read(tmp_path / name)
    for name in ("text.nii.gz", "text.seg.nrrd"):
        (tmp_path / name).write_text("NRRD0004\nno image")
        with pytest.raises(UnreadableInputError, match="text"):
            read(tmp_path / name)
