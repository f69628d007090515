"""NIfTI, Slicer sequences and archives are read as what they are, or refused with a reason."""

import hashlib
import json
import shutil
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import nibabel
import nrrd
import numpy as np
import pytest

from dicom_fixtures import at_positions_of, make_phantom, write_classic, write_nifti, write_sequence
from PerfusionCBVLib.errors import GeometryError, InputRefusedError, QualityError, TimingError, UnreadableInputError
from PerfusionCBVLib.load import load_series

SIDECAR = {"EchoTime": 0.03, "RepetitionTime": 1.5, "FlipAngle": 60, "MagneticFieldStrength": 3, "Manufacturer": "Make"}


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(oblique=True)


def refused(path, error_class, *words, **keywords):
    with pytest.raises(error_class) as caught:
        load_series(path, **keywords)
    message = str(caught.value)
    assert isinstance(caught.value, InputRefusedError)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message


# NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_nifti_keeps_every_value_at_its_place(tmp_path, suffix, flips):
    phantom = make_phantom(oblique=True, flips=flips)
    series = load_series(write_nifti(phantom, tmp_path / f"dsc{suffix}", SIDECAR))
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    assert series.signal.dtype == np.float32


def test_sidecar_values_are_taken_with_their_source(tmp_path, phantom):
    sidecar = {**SIDECAR, "RepetitionTimeExcitation": 0.02, "ContrastBolusIngredient": "GADOLINIUM"}
    acquisition = load_series(str(write_nifti(phantom, tmp_path / "dsc.nii.gz", sidecar))).acquisition
    assert acquisition.as_dict() == {
        "echo_time_s": {"value": 0.03, "source": "dsc.json: EchoTime"},
        "repetition_time_s": {"value": 0.02, "source": "dsc.json: RepetitionTimeExcitation"},
        "flip_angle_deg": {"value": 60.0, "source": "dsc.json: FlipAngle"},
        "field_strength_t": {"value": 3.0, "source": "dsc.json: MagneticFieldStrength"},
        "manufacturer": {"value": "Make", "source": "dsc.json: Manufacturer"},
        "contrast_agent": {"value": "GADOLINIUM", "source": "dsc.json: ContrastBolusIngredient"},
        "contrast_dose_ml": {"value": None, "source": None},
    }


def test_without_sidecar_the_echo_time_stays_unknown(tmp_path, phantom):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii.gz"))
    assert series.acquisition.echo_time_s is None
    assert series.acquisition.repetition_time_s == 1.5
    assert series.acquisition.sources["repetition_time_s"] == "frame interval (dsc.nii.gz: header pixdim[4])"
    assert any("no sidecar dsc.json" in note for note in series.notes)


@pytest.mark.parametrize(("unit", "interval"), [("sec", 1.5), ("msec", 1500.0), ("usec", 1.5e6)])
def test_frame_interval_of_the_header_is_converted_to_seconds(tmp_path, phantom, unit, interval):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii", unit=unit, interval=interval))
    np.testing.assert_allclose(series.times_s, phantom.times_s, rtol=1e-12)


def test_header_interval_without_a_unit_of_time_is_not_believed(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", unit="unknown")
    refused(path, TimingError, "no time between frames", "--repetition-time")
    assert load_series(path, repetition_time_s=1.25).frame_interval_s == 1.25


def test_header_interval_of_exactly_one_second_is_remarked_on(tmp_path, phantom):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii", interval=1.0))
    assert any("please check" in note for note in series.notes)


def test_header_and_sidecar_that_disagree_are_refused_unless_the_user_decides(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR, interval=2.0)
    refused(path, TimingError, "1.5 s in dsc.json", "2 s in the header", "--repetition-time")
    series = load_series(path, repetition_time_s=1.8)
    np.testing.assert_allclose(series.times_s, 1.8 * np.arange(16))
    assert series.acquisition.repetition_time_s == 1.8
    assert series.acquisition.sources["repetition_time_s"] == "given by the user"


def test_header_and_sidecar_within_one_percent_agree(tmp_path, phantom):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR, interval=1.51))
    assert series.frame_interval_s == 1.5


@pytest.mark.parametrize("key", ["VolumeTiming", "FrameTimesStart"])
def test_listed_frame_times_are_used_as_they_are(tmp_path, phantom, key):
    uneven = np.cumsum(np.linspace(1.0, 2.0, 16))
    sidecar = {"EchoTime": 0.03, key: uneven.tolist()}
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii.gz", sidecar))
    np.testing.assert_allclose(series.times_s, uneven)


def test_fewer_listed_times_than_frames_are_refused(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", {"VolumeTiming": [0.0, 1.5, 3.0]})
    refused(path, TimingError, "lists 3 times for 16 frames")


def test_what_the_user_gives_overrides_the_sidecar_and_says_so(tmp_path, phantom):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR), echo_time_s=0.041)
    assert series.acquisition.echo_time_s == 0.041
    assert series.acquisition.sources["echo_time_s"] == "given by the user"


def test_milliseconds_in_the_sidecar_are_refused_naming_file_and_likely_value(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", {**SIDECAR, "EchoTime": 45})
    refused(path, TimingError, "45 s", "dsc.json", "looks like milliseconds", "0.045 s")
    assert load_series(path, echo_time_s=0.045).acquisition.echo_time_s == 0.045
    path = write_nifti(phantom, tmp_path / "tr.nii.gz", {**SIDECAR, "RepetitionTime": 1500})
    refused(path, TimingError, "1500 s", "tr.json", "looks like milliseconds")


def test_milliseconds_from_the_user_are_refused(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR)
    refused(path, TimingError, "given by the user", "milliseconds", "--echo-time", echo_time_s=30.0)
    refused(path, TimingError, "given by the user", "milliseconds", "--repetition-time", repetition_time_s=1500.0)


def test_scale_of_stored_values_is_applied(tmp_path, phantom):
    image = nibabel.Nifti1Image(phantom.signal.astype(np.int16), phantom.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    image.header.set_slope_inter(0.25, 10.0)
    stored = image.to_bytes()
    (tmp_path / "dsc.nii").write_bytes(stored)
    raw = np.asanyarray(nibabel.load(tmp_path / "dsc.nii").dataobj.get_unscaled())
    np.testing.assert_allclose(load_series(tmp_path / "dsc.nii").signal, raw * 0.25 + 10.0, rtol=1e-6)


def test_time_in_the_fifth_dimension_is_read(tmp_path, phantom):
    image = nibabel.Nifti1Image(phantom.signal[:, :, :, None, :], phantom.affine)
    nibabel.save(image, tmp_path / "dsc.nii.gz")
    refused(tmp_path / "dsc.nii.gz", TimingError, "--repetition-time")
    series = load_series(tmp_path / "dsc.nii.gz", repetition_time_s=1.5)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)


def test_metres_in_the_header_become_millimetres(tmp_path, phantom):
    affine = phantom.affine.copy()
    affine[:3] /= 1000
    image = nibabel.Nifti1Image(phantom.signal, affine)
    image.header.set_xyzt_units("meter", "sec")
    nibabel.save(image, tmp_path / "dsc.nii")
    np.testing.assert_allclose(load_series(tmp_path / "dsc.nii").affine, phantom.affine, atol=1e-4)


def test_missing_orientation_is_remarked_on(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii")
    assert not any("left and right" in note for note in load_series(path).notes)
    image = nibabel.load(path)
    image.header["sform_code"] = image.header["qform_code"] = 0
    with (tmp_path / "bare.nii").open("wb") as stream:
        stream.write(image.header.binaryblock + b"\0" * 4 + phantom.signal.astype(np.int16).tobytes(order="F"))
    assert any("left and right" in note for note in load_series(tmp_path / "bare.nii").notes)


def test_input_hashes_are_those_of_the_files(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR)
    expected = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("dsc.nii.gz", "dsc.json")}
    assert dict(load_series(path).input_sha256) == expected


def test_reading_needs_less_than_three_times_the_memory_of_the_series(tmp_path):
    path = write_nifti(make_phantom((64, 64, 12, 40)), tmp_path / "dsc.nii.gz", SIDECAR)
    tracemalloc.start()
    try:
        series = load_series(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * series.signal.nbytes  # one float64 copy would already be 2


# Refused


def test_missing_path_is_refused(tmp_path):
    refused(tmp_path / "nothing.nii.gz", UnreadableInputError, "no file or folder", "nothing.nii.gz")


def test_unknown_extension_is_refused(tmp_path):
    (tmp_path / "scan.mat").write_bytes(b"MATLAB 5.0")
    refused(tmp_path / "scan.mat", UnreadableInputError, "scan.mat", "DICOM folder or .zip", ".nii.gz", ".seq.nrrd")


def test_empty_folder_and_folder_of_pictures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", UnreadableInputError, "empty is empty")
    (tmp_path / "pictures").mkdir()
    for count in range(3):
        (tmp_path / "pictures" / f"{count}.JPG").write_bytes(b"\xff\xd8\xff\xe0")
    refused(tmp_path / "pictures", UnreadableInputError, "no DICOM", "3 × .jpg")


def test_folder_with_a_nifti_is_refused_with_advice(tmp_path, phantom):
    write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR)
    refused(tmp_path, UnreadableInputError, "dsc.nii.gz", "Pass the file itself")


def test_single_volume_is_refused(tmp_path, phantom):
    nibabel.save(nibabel.Nifti1Image(phantom.signal[..., 0], phantom.affine), tmp_path / "t1.nii.gz")
    refused(tmp_path / "t1.nii.gz", GeometryError, "3 dimensions (16 x 18 x 4)", "x, y, z, time")
    nibabel.save(nibabel.Nifti1Image(phantom.signal[..., :1], phantom.affine), tmp_path / "one.nii.gz")
    refused(tmp_path / "one.nii.gz", GeometryError, "single volume")


def test_too_few_frames_are_refused(tmp_path):
    path = write_nifti(make_phantom((8, 8, 3, 14)), tmp_path / "short.nii.gz", SIDECAR)
    refused(path, TimingError, "14 frames", "at least 15")
    assert load_series(write_nifti(make_phantom((8, 8, 3, 15)), tmp_path / "enough.nii.gz", SIDECAR)).frames == 15


def test_zero_negative_or_nan_signal_in_bulk_is_refused(tmp_path, phantom):
    for name, bad in (("nan", np.nan), ("negative", -1.0)):
        signal = phantom.signal.copy()
        signal[:8] = np.where(np.arange(16) % 2, signal[:8], bad)
        nibabel.save(nibabel.Nifti1Image(signal, phantom.affine), tmp_path / f"{name}.nii.gz")
        refused(tmp_path / f"{name}.nii.gz", QualityError, "magnitude series", repetition_time_s=1.5)


def test_complex_and_colour_images_are_refused(tmp_path, phantom):
    nibabel.save(nibabel.Nifti1Image(phantom.signal.astype(np.complex64), phantom.affine), tmp_path / "c.nii.gz")
    refused(tmp_path / "c.nii.gz", UnreadableInputError, "complex")
    colour = np.zeros(phantom.signal.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, phantom.affine), tmp_path / "rgb.nii.gz")
    refused(tmp_path / "rgb.nii.gz", UnreadableInputError, "colour")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.002, 0.5, 0.99])
def test_truncated_nifti_is_refused(tmp_path, phantom, suffix, kept):
    whole = write_nifti(phantom, tmp_path / f"whole{suffix}", SIDECAR).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, UnreadableInputError, path.name, "truncated", repetition_time_s=1.5)


def test_damaged_compressed_nifti_is_refused(tmp_path, phantom):
    whole = bytearray(write_nifti(phantom, tmp_path / "dsc.nii.gz").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    (tmp_path / "dsc.nii.gz").write_bytes(whole)
    refused(tmp_path / "dsc.nii.gz", UnreadableInputError, "damaged")


def test_what_libraries_say_of_an_odd_header_is_not_heard(tmp_path, phantom):
    """In a process of its own: under pytest, which listens to logging, nothing would reach the terminal anyway."""
    write_nifti(phantom, tmp_path / "dsc.nii")
    content = bytearray((tmp_path / "dsc.nii").read_bytes())
    content[0:4] = (340).to_bytes(4, "little")  # sizeof_hdr
    content[252:256] = (77).to_bytes(2, "little") + (2).to_bytes(2, "little")  # an unknown qform code, and a sform with
    content[312:316] = (0x7FA00000).to_bytes(4, "little")  # a signalling NaN
    (tmp_path / "dsc.nii").write_bytes(content)
    command = [sys.executable, "-W", "error", "-m", "PerfusionCBVLib", "check", str(tmp_path / "dsc.nii")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1, done.stderr
    assert "no usable geometry" in done.stderr


def test_text_named_nifti_is_refused(tmp_path):
    (tmp_path / "x.nii").write_text("not an image" * 100)
    refused(tmp_path / "x.nii", UnreadableInputError, "x.nii")


def test_header_that_announces_terabytes_is_refused_before_memory_is_taken(tmp_path, phantom):
    header = bytearray(write_nifti(phantom, tmp_path / "dsc.nii").read_bytes())
    header[42:50] = struct.pack("<4h", 32000, 32000, 4000, 60)
    (tmp_path / "dsc.nii").write_bytes(header)
    refused(tmp_path / "dsc.nii", GeometryError, "32000 x 32000 x 4000 x 60")


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"EchoTime": "0.03"}', '{"EchoTime": [0.01, 0.03]}'])
def test_broken_sidecar_is_refused_not_ignored(tmp_path, phantom, content):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz")
    (tmp_path / "dsc.json").write_text(content)
    refused(path, UnreadableInputError, "dsc.json")


# Slicer sequences


@pytest.mark.parametrize("list_axis", [0, 3])
@pytest.mark.parametrize("name", ["dsc.seq.nrrd", "dsc.nrrd", "dsc.nhdr"])
def test_slicer_sequence_keeps_every_value_at_its_place(tmp_path, phantom, list_axis, name):
    series = load_series(write_sequence(phantom, tmp_path / name, list_axis=list_axis))
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    assert series.name == "dsc"
    assert len(series.input_sha256) == (2 if name.endswith(".nhdr") else 1)


def test_slicer_sequence_in_ras_is_the_same_series(tmp_path, phantom):
    path = write_sequence(phantom, tmp_path / "lps.seq.nrrd")
    data, header = nrrd.read(str(path))
    header["space"] = "right-anterior-superior"
    header["space directions"][:, :2] *= -1
    header["space origin"][:2] *= -1
    nrrd.write(str(tmp_path / "ras.seq.nrrd"), data, header)
    np.testing.assert_allclose(load_series(tmp_path / "ras.seq.nrrd").affine, load_series(path).affine)


def test_sequence_times_in_milliseconds_are_converted(tmp_path, phantom):
    series = load_series(
        write_sequence(phantom, tmp_path / "d.seq.nrrd", unit="ms", values=phantom.times_s * 1e3 + 37200500)
    )
    np.testing.assert_allclose(series.times_s, phantom.times_s)


def test_multi_volume_labels_and_acquisition_are_read_in_milliseconds(tmp_path, phantom):
    extra = {
        "MultiVolume.FrameLabels": ",".join(f"{time:g}" for time in phantom.times_s * 1e3),
        "MultiVolume.FrameIdentifyingDICOMTagName": "AcquisitionTime",
        "MultiVolume.FrameIdentifyingDICOMTagUnits": "ms",
        "MultiVolume.NumberOfFrames": "16",
        "MultiVolume.DICOM.EchoTime": "30",
        "MultiVolume.DICOM.RepetitionTime": "1500",
        "MultiVolume.DICOM.FlipAngle": "60",
    }
    path = write_sequence(phantom, tmp_path / "mv.nrrd", unit="", **extra)
    data, header = nrrd.read(str(path))
    del header["axis 0 index values"]
    nrrd.write(str(path), data, header)
    series = load_series(path)
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    assert series.acquisition.echo_time_s == 0.03
    assert series.acquisition.repetition_time_s == 1.5
    assert series.acquisition.flip_angle_deg == 60
    assert series.acquisition.sources["echo_time_s"] == "mv.nrrd: MultiVolume.DICOM.EchoTime"


def test_sequence_without_unit_of_time_asks_for_the_interval(tmp_path, phantom):
    path = write_sequence(phantom, tmp_path / "d.seq.nrrd", unit="", values=np.arange(16))
    refused(path, TimingError, "without a unit", "--repetition-time")
    assert load_series(path, repetition_time_s=1.5).frame_interval_s == 1.5


def test_sequence_over_echo_times_is_no_time_series(tmp_path, phantom):
    extra = {
        "MultiVolume.FrameIdentifyingDICOMTagName": "EchoTime",
        "MultiVolume.FrameIdentifyingDICOMTagUnits": "ms",
    }
    path = write_sequence(phantom, tmp_path / "d.nrrd", unit="ms", values=np.arange(1, 17) * 500, **extra)
    refused(path, TimingError, "EchoTime, which is no time")


def test_sequence_with_fewer_index_values_than_frames_is_refused(tmp_path, phantom):
    path = write_sequence(phantom, tmp_path / "d.seq.nrrd", values=phantom.times_s[:-1])
    refused(path, TimingError, "16 frames but 15 values")


def test_single_volume_nrrd_is_refused(tmp_path, phantom):
    nrrd.write(str(tmp_path / "t1.nrrd"), phantom.signal[..., 0])
    refused(tmp_path / "t1.nrrd", GeometryError, "3 dimensions")


def test_nrrd_without_orientation_or_time_axis_is_refused(tmp_path, phantom):
    nrrd.write(str(tmp_path / "bare.nrrd"), phantom.signal)
    refused(tmp_path / "bare.nrrd", GeometryError, "which of its 4 axes is time")
    nrrd.write(str(tmp_path / "list.nrrd"), phantom.signal, {"kinds": ["domain"] * 3 + ["list"]})
    refused(tmp_path / "list.nrrd", GeometryError, "no position and orientation")


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6, 0.99])
def test_truncated_nrrd_is_refused(tmp_path, phantom, encoding, kept):
    whole = write_sequence(phantom, tmp_path / "whole.nrrd", encoding=encoding).read_bytes()
    (tmp_path / "cut.nrrd").write_bytes(whole[: int(kept * len(whole))])
    refused(tmp_path / "cut.nrrd", UnreadableInputError, "cut.nrrd", "truncated")


# Archives


def test_zip_of_one_nifti_with_its_sidecar_is_read(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "study/dsc.nii.gz")
        archive.write(tmp_path / "dsc.json", "study/dsc.json")
        archive.writestr("__MACOSX/study/._dsc.nii.gz", b"resource fork")
    series = load_series(tmp_path / "a.zip")
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    assert series.acquisition.echo_time_s == 0.03
    assert set(series.input_sha256) == {"a.zip", "dsc.nii.gz", "dsc.json"}


def test_zip_without_images_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "a.zip", UnreadableInputError, "a.zip", "readme.txt")
    with zipfile.ZipFile(tmp_path / "b.zip", "w"):
        pass
    refused(tmp_path / "b.zip", UnreadableInputError, "found nothing")


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "a/../../evil.dcm", "/tmp/evil.dcm", "C:\\evil.dcm", "..\\evil.dcm", "C:evil.dcm"]
)
def test_archive_that_escapes_its_folder_is_refused_and_nothing_is_written(tmp_path, name, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "deep" / "temporary"))
    (tmp_path / "deep" / "temporary").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.dcm", b"x")
        archive.writestr(zipfile.ZipInfo(name), b"x")
    refused(tmp_path / "a.zip", UnreadableInputError, "outside its folder")
    assert not list(tmp_path.rglob("*evil*"))
    assert not list((tmp_path / "deep" / "temporary").iterdir())


def test_archive_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.dcm")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", UnreadableInputError, "link")


def test_archive_that_explodes_is_refused_without_unpacking(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x", "w") as member:
        for _ in range(101):
            member.write(bytes(1024**2))
    start = time.process_time()
    refused(tmp_path / "bomb.zip", UnreadableInputError, "would unpack", "106 MB")
    assert time.process_time() - start < 1


def test_archive_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("PerfusionCBVLib.archive.MOST_MEMBERS", 5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for count in range(6):
            archive.writestr(f"{count}", b"x")
    refused(tmp_path / "a.zip", UnreadableInputError, "6 files")


def test_archive_that_understates_its_size_does_not_write_more_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.nii", bytes(5000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content = content.replace(struct.pack("<L", 5000), struct.pack("<L", 100))
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", UnreadableInputError, "damaged")


def test_encrypted_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.dcm", b"x")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[content.index(b"PK\x03\x04") + 6] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", UnreadableInputError, "password")


def test_truncated_or_damaged_archive_is_refused_and_cleaned_up(tmp_path, phantom, monkeypatch):
    folder = write_classic(phantom, tmp_path / "dicom")
    whole = shutil.make_archive(str(tmp_path / "whole"), "zip", folder)
    with open(whole, "rb") as stream:
        content = bytearray(stream.read())
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    content[2000:2040] = bytes(40)
    (tmp_path / "bad.zip").write_bytes(content)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    refused(tmp_path / "cut.zip", UnreadableInputError, "cut.zip", "truncated")
    refused(tmp_path / "bad.zip", UnreadableInputError, "bad.zip", "damaged")
    assert not list((tmp_path / "temporary").iterdir())


def test_notes_and_hashes_are_ready_for_json(tmp_path, phantom):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR))
    assert json.loads(json.dumps([series.notes, dict(series.input_sha256), series.acquisition.as_dict()]))
