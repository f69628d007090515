"""The series behind maps: found again by its hash, refused when it is another, and lying where the maps lie."""

import copy
import shutil
import zipfile

import numpy as np
import pydicom
import pytest

from dicom_fixtures import write_enhanced
from dicom_out_case import make_case, pixel_places_lps, values_at
from PerfusionCBVLib import load_series
from PerfusionCBVLib.dicom_out.source import read_source
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def provenance(case):
    return case.result.provenance


@pytest.fixture(scope="module")
def source(case, provenance):
    return read_source(case.source, provenance)


@pytest.fixture
def copied(case, tmp_path):
    return shutil.copytree(case.source, tmp_path / "copy")


def edit_first_baseline_frame(folder, provenance, edit):
    """The files that objects refer to; written slice after slice, frame after frame."""
    first = 6 * provenance["bolus"]["baseline_frames"][0]
    for file in sorted(folder.iterdir())[first : first + 6]:
        header = pydicom.dcmread(file)
        edit(header)
        header.save_as(file)


def test_each_slice_is_the_source_image_of_the_first_baseline_frame(source, case, provenance):
    first = provenance["bolus"]["baseline_frames"][0]
    assert source.time_point == first + 1
    assert source.time_points == 36
    places = [np.array(header.ImagePositionPatient, float) for header in source.headers]
    expected = [(case.phantom.affine @ [0, 0, z, 1])[:3] * (-1, -1, 1) for z in range(6)]
    np.testing.assert_allclose(places, expected, atol=1e-6)
    for header in source.headers:
        assert header.TemporalPositionIdentifier == first + 1


def test_planes_hold_what_the_map_holds_at_each_pixels_place(source, case):
    map_ = case.result.maps["rcbv"]
    planes = map_.values[source.voxels(map_.values.shape, map_.affine)]
    assert np.isfinite(planes).mean() > 0.3
    for plane, header in zip(planes, source.headers, strict=True):
        places = pixel_places_lps(
            header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing, *plane.shape
        )
        np.testing.assert_array_equal(plane, values_at(places, map_.values, map_.affine))


def test_a_zip_of_the_series_is_the_same_source(source, case, provenance, tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in case.source.iterdir():
            target.write(file, f"deep/{file.name}")
    again = read_source(archive, provenance)
    assert [image.sop_instance_uid for image in again.images] == [image.sop_instance_uid for image in source.images]


def test_a_changed_file_is_refused_unless_converted_elsewhere(copied, provenance):
    file = sorted(copied.iterdir())[17]
    header = pydicom.dcmread(file)
    header.PatientID = "ANON"
    header.save_as(file)
    with pytest.raises(UnreadableInputError, match=r"216 files .*SHA-256.*changed"):
        read_source(copied, provenance)
    assert read_source(copied, provenance, converted_elsewhere=True).time_points == 36


def test_another_series_is_refused_by_its_uid(case, provenance):
    of_another = {**provenance, "input": {"sha256": {"dicom:1.2.3.4": "0" * 64}}}
    with pytest.raises(UnreadableInputError, match=r"with UID 1\.2\.3\.4; found: UID 1\.2\.826"):
        read_source(case.source, of_another)


def test_maps_of_a_nifti_need_the_word_that_it_was_converted(case, provenance):
    of_nifti = {**provenance, "input": {"sha256": {"dsc.nii.gz": "0" * 64}}}
    with pytest.raises(UnreadableInputError, match=r"dsc\.nii\.gz.*--converted-elsewhere"):
        read_source(case.source, of_nifti)
    assert read_source(case.source, of_nifti, converted_elsewhere=True).time_points == 36
    with pytest.raises(UnreadableInputError, match=r"36 time points.* 37"):
        read_source(case.source, {**of_nifti, "frames": 37}, converted_elsewhere=True)


@pytest.mark.parametrize("shift_mm", [0.5, 6.0], ids=["part of a voxel", "a slice"])
def test_a_series_that_lies_elsewhere_is_refused(case, source, shift_mm):
    moved = copy.deepcopy(source)
    for header in moved.headers:
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y, f"{float(z) + shift_mm:.8g}"]
    with pytest.raises(GeometryError, match="mm apart"):
        moved.voxels((48, 56, 6), case.result.affine)


def test_spacing_is_that_of_the_positions_and_a_last_digit_of_the_orientation_does_not_matter(copied, provenance):
    def blur(header):
        header.SpacingBetweenSlices = "1"  # the gap, as some scanners write it
        del header.SliceThickness
        if header.InstanceNumber % 2:
            first, *rest = header.ImageOrientationPatient
            header.ImageOrientationPatient = [f"{float(first) + 1e-8:.12g}", *rest]

    edit_first_baseline_frame(copied, provenance, blur)
    headers = read_source(copied, provenance, converted_elsewhere=True).headers
    assert {tuple(header.ImageOrientationPatient) for header in headers} == {tuple(headers[0].ImageOrientationPatient)}
    for header in headers:
        assert float(header.SpacingBetweenSlices) == pytest.approx(6.0, abs=1e-5)
        assert float(header.SliceThickness) == pytest.approx(6.0, abs=1e-5)


def test_slices_turned_against_each_other_are_refused(copied, provenance):
    def turn(header):
        if header.InstanceNumber % 2:
            first, *rest = header.ImageOrientationPatient
            header.ImageOrientationPatient = [f"{float(first) + 1e-4:.12g}", *rest]

    edit_first_baseline_frame(copied, provenance, turn)
    with pytest.raises(GeometryError, match="turned against each other"):
        read_source(copied, provenance, converted_elsewhere=True)


def test_maps_of_another_size_are_refused(source, case):
    with pytest.raises(GeometryError, match=r"48 × 56 × 7 voxels.*48 × 56 pixels on 6 slices"):
        source.voxels((48, 56, 7), case.result.affine)


def test_names_are_unicode_and_missing_attributes_empty(copied, provenance):
    def strip(header):
        del header.StudyID
        header.PatientSex = "FEMALE"

    edit_first_baseline_frame(copied, provenance, strip)
    header = read_source(copied, provenance, converted_elsewhere=True).headers[0]
    assert (str(header.PatientName), header.StudyID, header.PatientSex) == ("Wüstenfrau^Ada", "", "")
    assert header.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.pop("FrameOfReferenceUID"), "Frame of Reference"),
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    ],
    ids=["no frame of reference", "mosaic"],
)
def test_what_objects_could_not_be_laid_over_is_refused(copied, provenance, edit, words):
    edit_first_baseline_frame(copied, provenance, edit)
    with pytest.raises(GeometryError, match=words):
        read_source(copied, provenance, converted_elsewhere=True)


@pytest.mark.parametrize("time_first", [True, False])
def test_an_enhanced_source_is_referred_to_by_frame(case, provenance, tmp_path, time_first):
    path = write_enhanced(case.phantom, tmp_path / "enhanced.dcm", time_first=time_first)
    read = dict(load_series(path).input_sha256)
    source = read_source(path, {**provenance, "input": {"sha256": read}})
    whole = pydicom.dcmread(path, stop_before_pixels=True)
    dataset = pydicom.Dataset()
    dataset.SourceImageSequence = [reference(header) for header in source.headers]
    dataset.ReferencedInstanceSequence = [reference(header) for header in source.headers]
    source.name_true_images(dataset)
    for item, header in zip(dataset.SourceImageSequence, source.headers, strict=True):
        assert item.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        groups = whole.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == header.ImagePositionPatient
        assert groups.FrameContentSequence[0].TemporalPositionIndex == source.time_point
    assert [i.ReferencedSOPInstanceUID for i in dataset.ReferencedInstanceSequence] == [whole.SOPInstanceUID]
    map_ = case.result.maps["rcbv"]
    source.voxels(map_.values.shape, map_.affine)


def reference(header) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item
