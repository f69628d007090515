"""Reading one volume: the same place in the patient from NIfTI, NRRD and DICOM; refusals that say why."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own documentation's name

from PerfusionCBVLib.alignment.volume import Volume, read_volume
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.simulate.dicom import write_dicom_series
from test_rigid import turned

AFFINE = turned((0.2, 1, 0.3), 14, (-30, 12, 55)) @ np.diag([-0.9, 1.1, 1.4, 1.0])


def values():
    return np.random.default_rng(3).integers(0, 900, (11, 13, 9)).astype(np.float32)


def lps_image():
    image = sitk.GetImageFromArray(np.ascontiguousarray(values().T))
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    edges = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(edges.tolist())
    image.SetDirection((lps[:3, :3] / edges).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_nifti_and_nrrd_give_the_same_voxels_in_the_same_place(tmp_path):
    nib.save(nib.Nifti1Image(values(), AFFINE), tmp_path / "a.nii.gz")
    sitk.WriteImage(lps_image(), str(tmp_path / "b.nrrd"))
    for name in ("a.nii.gz", "b.nrrd"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.values, values())
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
        assert len(volume.input_sha256[name]) == 64


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "t1"
    signal = np.repeat(values()[..., None], 1, axis=-1)
    options = {
        "echo_time_s": 0.01,
        "repetition_time_s": 1.0,
        "flip_angle_deg": 30.0,
        "field_strength_t": 3.0,
        "seed": 1,
    }
    write_dicom_series(signal, AFFINE, np.zeros(1), folder, **options)
    return folder


def test_a_dicom_folder_gives_the_same_place(dicom):
    volume = read_volume(dicom)
    here = np.linalg.inv(AFFINE) @ volume.affine  # axes may come in another order or direction
    index = np.indices(volume.values.shape).reshape(3, -1)
    there = np.rint(here[:3, :3] @ index + here[:3, 3:]).astype(int)
    assert np.abs(here[:3, :3] @ index + here[:3, 3:] - there).max() < 1e-3
    # Stored values are scaled to 12 bits.
    found, true = volume.values.ravel(), values()[tuple(there)]
    np.testing.assert_allclose(found / found.max(), true / true.max(), atol=1e-3)


def test_a_dicom_folder_without_one_of_its_slices_is_refused(dicom, tmp_path):
    files = sorted(dicom.iterdir())
    for file in files[:4] + files[5:]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(GeometryError, match="missing or unevenly"):
        read_volume(tmp_path)


def test_a_voxel_has_the_volume_of_its_edges():
    assert Volume(values(), AFFINE, "one").voxel_ml == pytest.approx(0.9 * 1.1 * 1.4 / 1000)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda p: p / "none.nii.gz", UnreadableInputError, "no file"),
        (lambda p: (p / "x.nii.gz").write_text("no") and p / "x.nii.gz", UnreadableInputError, "damaged"),
        (lambda p: (p / "x.nrrd").write_text("no") and p / "x.nrrd", UnreadableInputError, "damaged"),
        (lambda p: (p / "x.txt").write_text("no") and p / "x.txt", UnreadableInputError, "supported"),
        (lambda p: p, UnreadableInputError, "no DICOM"),
    ],
    ids=["missing", "NIfTI", "NRRD", "kind", "folder"],
)
def test_what_is_no_volume_is_refused(tmp_path, make, error, word):
    with pytest.raises(error, match=word):
        read_volume(make(tmp_path))


def test_a_nifti_without_orientation_is_refused(tmp_path):
    image = nib.Nifti1Image(values(), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "x.nii.gz")
    with pytest.raises(GeometryError, match="left and right"):
        read_volume(tmp_path / "x.nii.gz")


def test_a_series_and_a_sheared_grid_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 5), np.float32), AFFINE), tmp_path / "x.nii.gz")
    with pytest.raises(GeometryError, match="4 dimensions"):
        read_volume(tmp_path / "x.nii.gz")
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    with pytest.raises(GeometryError, match="perpendicular"):
        Volume(values(), sheared, "tilted")
