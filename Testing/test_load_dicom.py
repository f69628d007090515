"""DICOM is read whatever its order and kind, the DSC series is found, and what is incomplete is refused."""

import re
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from dicom_fixtures import (
    ECHO_TIME_S,
    INTERVAL_S,
    at_positions_of,
    edit_headers,
    make_phantom,
    write_classic,
    write_enhanced,
    write_nifti,
    write_sequence,
)
from PerfusionCBVLib import dicom_convert
from PerfusionCBVLib.errors import GeometryError, InputRefusedError, TimingError, UnreadableInputError, UsageError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.simulate.dicom import write_dicom_series

SIDECAR = {"EchoTime": ECHO_TIME_S, "RepetitionTime": INTERVAL_S, "FlipAngle": 60, "MagneticFieldStrength": 3}
SLICES, FRAMES = 4, 16


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(oblique=True)


@pytest.fixture
def folder(tmp_path, phantom):
    return write_classic(phantom, tmp_path / "dicom")


def instance(folder, time_point, slice_number):
    """File of one image; both count from 1, slices in the order of the phantom."""
    return folder / f"IM{(time_point - 1) * SLICES + slice_number:05d}.dcm"


def refused(path, error_class, *words, **keywords):
    with pytest.raises(error_class) as caught:
        load_series(path, **keywords)
    message = str(caught.value)
    assert isinstance(caught.value, InputRefusedError)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert "Simulated^Patient" not in message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def remove(*keywords):
    def edit(dataset):
        for keyword in keywords:
            if keyword in dataset:
                delattr(dataset, keyword)

    return edit


def set_values(**values):
    def edit(dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def add_t1(folder, description="t1_mprage", prefix="T1"):
    """Add a single-volume series to a folder."""
    volume = make_phantom((16, 18, 4, 1), seed=5)
    write_classic(volume, folder / "tmp", description=description, seed=5)
    for file in sorted((folder / "tmp").iterdir()):
        file.rename(folder / f"{prefix}_{file.name}")
    (folder / "tmp").rmdir()


# The same series by every way in


@pytest.mark.parametrize(
    ("oblique", "flips"),
    [(False, (1, 1, 1)), *((True, flips) for flips in [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])],
)
def test_every_format_gives_the_same_signal_at_the_same_place_and_time(tmp_path, oblique, flips):
    phantom = make_phantom(oblique=oblique, flips=flips)
    paths = {
        "classic": write_classic(phantom, tmp_path / "classic"),
        "enhanced": write_enhanced(phantom, tmp_path / "enhanced.dcm"),
        "nifti": write_nifti(phantom, tmp_path / "dsc.nii.gz", SIDECAR),
        "sequence": write_sequence(phantom, tmp_path / "dsc.seq.nrrd"),
    }
    for kind, path in paths.items():
        series = load_series(path, echo_time_s=ECHO_TIME_S if kind == "sequence" else None)
        np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal, err_msg=kind)
        np.testing.assert_allclose(series.times_s, phantom.times_s, rtol=1e-9, err_msg=kind)
        assert series.acquisition.echo_time_s == ECHO_TIME_S, kind
        assert series.acquisition.repetition_time_s == INTERVAL_S, kind


def test_zip_gives_the_same_as_the_folder(tmp_path, folder):
    shutil.make_archive(str(tmp_path / "study"), "zip", folder)
    from_folder, from_zip = load_series(folder), load_series(tmp_path / "study.zip")
    np.testing.assert_array_equal(from_zip.signal, from_folder.signal)
    np.testing.assert_array_equal(from_zip.affine, from_folder.affine)
    np.testing.assert_array_equal(from_zip.times_s, from_folder.times_s)
    assert set(from_zip.input_sha256) == {"study.zip", *from_folder.input_sha256}


def test_file_names_order_and_subfolders_do_not_matter(tmp_path, phantom, folder):
    rng = np.random.default_rng(1)
    shuffled = tmp_path / "shuffled"
    files = sorted(folder.iterdir())
    for place, file in zip(rng.permutation(len(files)), files, strict=True):
        target = shuffled / f"part{place % 3}" / f"{place:x}"  # no extension either
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (shuffled / "notes.txt").write_text("not DICOM")
    series = load_series(shuffled)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    assert dict(series.input_sha256) == dict(load_series(folder).input_sha256)


def test_shuffled_instance_numbers_do_not_matter(phantom, folder):
    numbers = iter(np.random.default_rng(2).permutation(SLICES * FRAMES) + 1)
    edit_headers(folder, lambda dataset: setattr(dataset, "InstanceNumber", int(next(numbers))))
    np.testing.assert_array_equal(at_positions_of(load_series(folder), phantom), phantom.signal)


def test_instance_numbers_that_count_time_before_slices_do_not_matter(phantom, folder):
    def edit(dataset):
        time_point, slice_index = divmod(dataset.InstanceNumber - 1, SLICES)
        dataset.InstanceNumber = slice_index * FRAMES + time_point + 1

    edit_headers(folder, edit)
    np.testing.assert_array_equal(at_positions_of(load_series(folder), phantom), phantom.signal)


@pytest.mark.parametrize("time_first", [True, False])
def test_enhanced_frames_are_put_in_order(tmp_path, phantom, time_first):
    path = write_enhanced(phantom, tmp_path / "enhanced.dcm", time_first=time_first)
    series = load_series(path)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    np.testing.assert_array_equal(load_series(tmp_path).signal, series.signal)
    assert series.acquisition.sources["echo_time_s"] == "DICOM EffectiveEchoTime"
    assert series.acquisition.flip_angle_deg == 60
    assert series.acquisition.field_strength_t == 3


def test_implicit_transfer_syntax_is_read(phantom, folder):
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(at_positions_of(load_series(folder), phantom), phantom.signal)


def test_acquisition_is_read_with_its_sources(folder):
    edit_headers(
        folder,
        set_values(ContrastBolusAgent="gadobutrol", ContrastBolusVolume="7.5", MRAcquisitionType="2D"),
    )
    acquisition = load_series(folder).acquisition
    assert acquisition.as_dict() == {
        "echo_time_s": {"value": 0.03, "source": "DICOM EchoTime"},
        "repetition_time_s": {"value": 1.5, "source": "DICOM RepetitionTime"},
        "flip_angle_deg": {"value": 60.0, "source": "DICOM FlipAngle"},
        "field_strength_t": {"value": 3.0, "source": "DICOM MagneticFieldStrength"},
        "manufacturer": {"value": "PerfusionCBV simulator", "source": "DICOM Manufacturer"},
        "contrast_agent": {"value": "gadobutrol", "source": "DICOM ContrastBolusAgent"},
        "contrast_dose_ml": {"value": 7.5, "source": "DICOM ContrastBolusVolume"},
    }


def test_no_name_or_number_of_the_patient_travels(folder):
    edit_headers(folder, set_values(PatientName="Secret^Person", PatientID="ID-4711", PatientBirthDate="19500101"))
    add_t1(folder)
    series = load_series(folder)
    told = " ".join([series.name, series.source, *series.notes, *series.input_sha256, str(series.acquisition)])
    for secret in ("Secret", "4711", "19500101"):
        assert secret not in told
    instance(folder, 7, 2).unlink()
    message = refused(folder, TimingError)
    assert "Secret" not in message


def test_what_the_user_gives_overrides_the_headers(folder):
    series = load_series(folder, echo_time_s=0.04, repetition_time_s=1.6)
    assert series.acquisition.echo_time_s == 0.04
    assert series.acquisition.repetition_time_s == 1.6
    assert series.frame_interval_s == pytest.approx(1.6)
    assert set(series.acquisition.sources[key] for key in ("echo_time_s", "repetition_time_s")) == {"given by the user"}


# Times


def test_repetition_time_of_a_multi_shot_sequence_is_not_the_frame_interval(tmp_path, phantom):
    folder = write_classic(phantom, tmp_path / "d", set_values(MRAcquisitionType="3D"), repetition_time_s=0.025)
    series = load_series(folder)
    assert series.acquisition.repetition_time_s == 0.025
    np.testing.assert_allclose(series.times_s, phantom.times_s)


def test_times_over_midnight_go_on(tmp_path, phantom):
    def edit(dataset):
        seconds = 23 * 3600 + 59 * 60 + 50 + INTERVAL_S * (dataset.TemporalPositionIdentifier - 1)
        dataset.AcquisitionDate = "20260102" if seconds < 86400 else "20260103"
        seconds %= 86400
        clock = f"{int(seconds // 3600):02d}{int(seconds // 60 % 60):02d}{seconds % 60:09.6f}"
        dataset.AcquisitionTime = dataset.ContentTime = clock

    series = load_series(write_classic(phantom, tmp_path / "d", edit))
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)


def test_clock_times_rounded_to_seconds_give_the_nominal_interval(tmp_path, phantom):
    def edit(dataset):
        dataset.AcquisitionTime = dataset.AcquisitionTime[:6]

    series = load_series(write_classic(phantom, tmp_path / "d", edit))
    np.testing.assert_allclose(series.times_s, phantom.times_s)


def test_slices_with_their_own_acquisition_times_are_frames_of_one_interval(tmp_path, phantom):
    def edit(dataset):
        slice_index = (dataset.InstanceNumber - 1) % SLICES
        delay = [0.0, 0.75, 0.375, 1.125][slice_index]
        seconds = 20 * 60 + INTERVAL_S * (dataset.TemporalPositionIdentifier - 1) + delay
        dataset.AcquisitionTime = f"10{int(seconds // 60):02d}{seconds % 60:09.6f}"
        remove("TemporalPositionIdentifier", "NumberOfTemporalPositions", "TriggerTime")(dataset)

    folder = write_classic(phantom, tmp_path / "d", edit)
    np.testing.assert_allclose(load_series(folder).times_s, phantom.times_s)
    instance(folder, 9, 3).unlink()
    refused(folder, TimingError, "15 of 16 time points (time point 9)", "slice 3 of 4")


def test_trigger_times_serve_where_acquisition_times_stand_still(tmp_path, phantom):
    series = load_series(write_classic(phantom, tmp_path / "d", set_values(AcquisitionTime="102000")))
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    assert any("trigger times" in note for note in series.notes)


def test_without_frame_times_the_repetition_time_counts_only_for_single_shot(tmp_path, phantom):
    timeless = remove("AcquisitionTime", "TriggerTime", "ContentTime", "TemporalResolution")
    folder = write_classic(phantom, tmp_path / "d", timeless)
    series = load_series(folder)
    np.testing.assert_allclose(series.times_s, phantom.times_s)
    assert any("DICOM RepetitionTime of a 2-D echo-planar series" in note for note in series.notes)
    edit_headers(folder, set_values(ScanningSequence="GR"))
    refused(folder, TimingError, "no time between frames", "--repetition-time")
    assert load_series(folder, repetition_time_s=1.4).frame_interval_s == pytest.approx(1.4)


def test_interval_that_contradicts_the_clock_is_refused_unless_the_user_decides(folder, monkeypatch):
    convert = dicom_convert.convert

    def convert_with_other_interval(series, grid):
        signal, affine, sidecar = convert(series, grid)
        return signal, affine, {**sidecar, "RepetitionTime": 1.56}

    monkeypatch.setattr("PerfusionCBVLib.load_dicom.convert", convert_with_other_interval)
    edit_headers(folder, set_values(RepetitionTime="20"))
    refused(folder, TimingError, "1.5 s by DICOM acquisition times", "1.56 s", "--repetition-time")
    assert load_series(folder, repetition_time_s=1.56).frame_interval_s == pytest.approx(1.56)


# Missing, double, damaged


@pytest.mark.parametrize("ordered_by", ["temporal position", "acquisition time", "instance number"])
def test_one_missing_image_in_the_middle_is_named(tmp_path, phantom, ordered_by):
    edit = {
        "temporal position": remove(),
        "acquisition time": remove("TemporalPositionIdentifier", "NumberOfTemporalPositions"),
        "instance number": remove(
            "TemporalPositionIdentifier", "NumberOfTemporalPositions", "AcquisitionTime", "TriggerTime", "ContentTime"
        ),
    }[ordered_by]
    folder = write_classic(phantom, tmp_path / "d", edit)
    instance(folder, 7, 2).unlink()
    words = ["slice 2 of 4", "15 of 16 time points"]
    refused(folder, TimingError, *words, *([] if ordered_by == "instance number" else ["(time point 7)"]))


def test_missing_time_point_is_named(folder):
    for slice_number in range(1, SLICES + 1):
        instance(folder, 7, slice_number).unlink()
    refused(folder, TimingError, "missing", "number 7")
    edit_headers(folder, remove("TemporalPositionIdentifier", "NumberOfTemporalPositions", "TriggerTime"))
    refused(folder, TimingError, "3.00 s pass between frames 6 and 7")
    edit_headers(folder, remove("AcquisitionTime", "ContentTime"))
    refused(folder, TimingError, "number 25, 26, 27, 28")


def test_missing_last_time_point_is_seen_by_the_announced_number(tmp_path):
    folder = write_classic(make_phantom((16, 18, SLICES, FRAMES + 1)), tmp_path / "d")
    for slice_number in range(1, SLICES + 1):
        instance(folder, FRAMES + 1, slice_number).unlink()
    refused(folder, TimingError, "announces 17 time points, but 16 were found")


def test_missing_slice_position_is_refused(folder):
    for time_point in range(1, FRAMES + 1):
        instance(folder, time_point, 3).unlink()
    refused(folder, GeometryError, "12.00 mm", "6.00 mm elsewhere", "missing")


def test_duplicates_are_read_once_and_said(phantom, folder):
    for time_point in (2, 9):
        shutil.copyfile(instance(folder, time_point, 1), folder / f"copy{time_point}.dcm")
    series = load_series(folder)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    assert any(note.startswith("2 images occur more than once") for note in series.notes)


def test_too_few_frames_are_refused(tmp_path):
    folder = write_classic(make_phantom((16, 18, SLICES, 14)), tmp_path / "d")
    refused(folder, TimingError, "14 frames", "at least 15")


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.7, 0.97])
def test_truncated_instance_is_refused(folder, kept):
    victim = instance(folder, 8, 2)
    victim.write_bytes(victim.read_bytes()[: int(kept * victim.stat().st_size)])
    refused(folder, UnreadableInputError, victim.name, "truncated")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_truncated_enhanced_file_is_refused(tmp_path, phantom, kept):
    path = write_enhanced(phantom, tmp_path / "enhanced.dcm")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(path, UnreadableInputError, "truncated", "Export the series again")


def test_single_instance_is_refused(folder):
    refused(instance(folder, 1, 1), GeometryError, "only single volumes")


def test_several_echoes_in_one_series_are_refused(folder):
    def edit(dataset):
        if dataset.TemporalPositionIdentifier % 2:
            dataset.EchoTime = "60"

    edit_headers(folder, edit)
    refused(folder, UnreadableInputError, "30, 60 ms", "Dual echo is not supported yet")


def test_images_of_differing_orientation_are_refused(folder):
    edit_headers(folder, lambda d: d.InstanceNumber == 5 and setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]))
    refused(folder, GeometryError, "not parallel")


# Which series


def test_perfusion_is_found_beside_an_anatomical_series(phantom, folder):
    add_t1(folder)
    series = load_series(folder)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
    assert any("Of 2 series" in note and "(1 frame, UID" in note and "t1_mprage" not in note for note in series.notes)


def test_anatomical_series_alone_is_refused_with_what_was_found(tmp_path):
    (tmp_path / "d").mkdir()
    add_t1(tmp_path / "d")
    refused(tmp_path / "d", GeometryError, "no dynamic MR series", "1 frame,")


def two_series(tmp_path, phantom, first, second, edit_second=None):
    write_classic(phantom, tmp_path / "d" / "a", description=first, seed=1)
    write_classic(make_phantom(seed=3, oblique=True), tmp_path / "d" / "b", edit_second, description=second, seed=2)
    return tmp_path / "d"


def test_two_perfusion_series_are_refused_with_the_list_and_either_can_be_chosen(tmp_path, phantom):
    folder = two_series(tmp_path, phantom, "ep2d_perf first", "ep2d_perf second")
    message = refused(folder, UnreadableInputError, "2 series", "described as DSC perfusion, 16 frames")
    assert "ep2d_perf first" not in message  # people write names into descriptions
    uids = re.findall(r"UID ([0-9.]+)\)", message)
    assert len(uids) == 2
    loaded = {uid: load_series(folder, series_uid=uid) for uid in uids}
    assert {series.name for series in loaded.values()} == {"ep2d_perf first", "ep2d_perf second"}
    first = next(series for series in loaded.values() if series.name == "ep2d_perf first")
    np.testing.assert_array_equal(at_positions_of(first, phantom), phantom.signal)
    refused(folder, UnreadableInputError, "no series 1.2.3", *uids, series_uid="1.2.3")


@pytest.mark.parametrize(
    "other", ["ep2d_diff_30dir", "DTI 64", "ep2d_bold_rest", "rsfMRI", "pcasl_3d", "twist DCE", "ep2d_pasl perfusion"]
)
def test_perfusion_is_preferred_to_other_dynamic_series(tmp_path, phantom, other):
    folder = two_series(tmp_path, phantom, "DSC perfusion", other)
    series = load_series(folder)
    assert series.name == "DSC perfusion"
    kinds = "diffusion|functional MRI|arterial spin|T1-weighted|DSC perfusion"
    assert any(re.search(f"Left: .*described as ({kinds})", note) for note in series.notes)


def test_undescribed_original_series_is_preferred_to_bold_and_to_derived(tmp_path, phantom):
    folder = two_series(tmp_path, phantom, "ep2d dynamic", "ep2d_bold")
    assert load_series(folder).name == "ep2d dynamic"
    edit_headers(
        folder / "b", set_values(SeriesDescription="colour", ProtocolName="", ImageType=["DERIVED", "SECONDARY"])
    )
    assert load_series(folder).name == "ep2d dynamic"


def test_series_with_b_values_is_never_taken_for_perfusion(tmp_path, phantom):
    def edit(dataset):
        dataset.DiffusionBValue = 0.0 if dataset.TemporalPositionIdentifier == 1 else 1000.0

    folder = write_classic(phantom, tmp_path / "d", edit, description="ep2d")
    refused(folder, UnreadableInputError, "diffusion", "16 frames")


def test_series_of_another_modality_is_refused(tmp_path, phantom):
    folder = write_classic(phantom, tmp_path / "d", set_values(Modality="CT"))
    message = refused(folder, UnreadableInputError, "no MR series")
    refused(folder, UnreadableInputError, "CT, not MR", series_uid=re.findall(r"UID ([0-9.]+)\)", message)[0])


def test_a_lone_series_with_an_odd_name_is_read_with_a_remark(tmp_path, phantom):
    series = load_series(write_classic(phantom, tmp_path / "d", description="ep2d_bold"))
    assert any("suggests functional MRI" in note for note in series.notes)


# dcm2niix


def test_conversion_with_frames_or_slices_swapped_is_refused(folder, monkeypatch):
    convert = dicom_convert.convert

    def swapped(axis):
        def convert_and_swap(series, grid):
            signal, affine, sidecar = convert(series, grid)
            order = np.arange(signal.shape[axis])
            order[[1, 2]] = order[[2, 1]]
            return np.take(signal, order, axis=axis), affine, sidecar

        return convert_and_swap

    for axis in (0, 1, 2, 3):
        monkeypatch.setattr("PerfusionCBVLib.load_dicom.convert", swapped(axis))
        refused(folder, GeometryError, "does not match the DICOM images")


def test_conversion_mirrored_or_shifted_is_refused(folder, monkeypatch):
    convert = dicom_convert.convert

    def mirrored(series, grid):
        signal, affine, sidecar = convert(series, grid)
        return signal[::-1], affine, sidecar

    def shifted(series, grid):
        signal, affine, sidecar = convert(series, grid)
        affine[:3, 3] += 1.0
        return signal, affine, sidecar

    for wrong in (mirrored, shifted):
        monkeypatch.setattr("PerfusionCBVLib.load_dicom.convert", wrong)
        refused(folder, GeometryError, "does not match the DICOM images")


def test_dcm2niix_failing_is_refused_with_advice(folder, monkeypatch, tmp_path):
    def replace_with(script):
        tool = tmp_path / "tool"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setattr("dcm2niix.bin", str(tool))

    replace_with("echo 'Error: no idea'; exit 1")
    refused(folder, UnreadableInputError, "no image", "Error: no idea")
    replace_with('while [ "$1" != -o ]; do shift; done; touch "$2/a.nii" "$2/b.nii"')
    refused(folder, UnreadableInputError, "2 separate images")
    monkeypatch.setattr("PerfusionCBVLib.dicom_convert.TIMEOUT_S", 0.2)
    replace_with("exec sleep 5")
    refused(folder, UnreadableInputError, "did not finish within 0.2 s")
    monkeypatch.setattr("dcm2niix.bin", str(tmp_path / "nothing"))
    refused(folder, UnreadableInputError, "can't be started")


def test_dcm2niix_sees_only_the_chosen_files_and_leaves_nothing(tmp_path, folder, monkeypatch):
    add_t1(folder)
    before = sorted(folder.iterdir())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    seen = []
    run = dicom_convert._run

    def spy(command):
        seen.extend(Path(command[-1]).iterdir())
        return run(command)

    monkeypatch.setattr(dicom_convert, "_run", spy)
    load_series(folder)
    assert len(seen) == SLICES * FRAMES
    assert sorted(folder.iterdir()) == before
    assert not list((tmp_path / "temporary").iterdir())


# The writer


def test_written_values_are_the_signal_times_the_returned_scale(tmp_path, phantom):
    scale = write_dicom_series(
        phantom.signal * 0.37,
        phantom.affine,
        phantom.times_s,
        tmp_path / "d",
        echo_time_s=0.03,
        repetition_time_s=1.5,
        flip_angle_deg=60,
        field_strength_t=3,
    )
    assert scale == pytest.approx(1 / 0.37)
    series = load_series(tmp_path / "d")
    np.testing.assert_allclose(at_positions_of(series, phantom), phantom.signal * 0.37 * scale, atol=0.5)


def test_written_files_are_the_same_each_time_and_other_seeds_are_other_series(tmp_path, phantom):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_classic(phantom, tmp_path / name, seed=seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [f"IM{count:05d}.dcm" for count in range(1, SLICES * FRAMES + 1)]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in files)
    uid = [pydicom.dcmread(tmp_path / name / files[0]).SeriesInstanceUID for name in "abc"]
    assert uid[0] == uid[1] != uid[2]
    all_uids = {pydicom.dcmread(tmp_path / "a" / name).SOPInstanceUID for name in files}
    assert len(all_uids) == len(files)


def test_what_dicom_can_not_store_is_refused(tmp_path, phantom):
    keywords = {"echo_time_s": 0.03, "repetition_time_s": 1.5, "flip_angle_deg": 60, "field_strength_t": 3}
    sheared = phantom.affine.copy()
    sheared[:3, 0] += 0.3 * sheared[:3, 1]
    with pytest.raises(GeometryError, match="not perpendicular"):
        write_dicom_series(phantom.signal, sheared, phantom.times_s, tmp_path, **keywords)
    with pytest.raises(UsageError, match="not negative"):
        write_dicom_series(-phantom.signal, phantom.affine, phantom.times_s, tmp_path, **keywords)
    with pytest.raises(TimingError, match="15 frame times for 16 frames"):
        write_dicom_series(phantom.signal, phantom.affine, phantom.times_s[1:], tmp_path, **keywords)


# Acceptance data


@pytest.mark.shared
def test_digital_reference_object_is_the_same_from_dicom_and_nifti(shared_data):
    from_zip = load_series(shared_data / "dro_a" / "dicom.zip")
    from_nifti = load_series(shared_data / "dro_a" / "dsc.nii.gz")
    image = nibabel.load(shared_data / "dro_a" / "dsc.nii.gz")
    to_index = np.linalg.inv(from_zip.affine) @ image.affine
    assert np.allclose(to_index[:3, :3], np.diag([1, -1, 1]), atol=1e-4)  # dcm2niix turns the rows round
    np.testing.assert_array_equal(from_zip.signal[:, ::-1], from_nifti.signal)  # the scale is 1
    np.testing.assert_array_equal(from_zip.times_s, from_nifti.times_s)
    assert from_zip.frame_interval_s == 2.0
    for series in (from_zip, from_nifti):
        acquisition = series.acquisition
        assert acquisition.echo_time_s == 0.045
        assert acquisition.repetition_time_s == 2.0
        assert acquisition.flip_angle_deg == 70
        assert acquisition.field_strength_t == 3
    assert from_zip.acquisition.contrast_agent == "gadobutrol"
    assert from_zip.acquisition.contrast_dose_ml == 7.5


@pytest.mark.shared
def test_zip_of_the_reference_object_needs_no_order(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "dro_a" / "dicom.zip") as archive:
        names = [info for info in archive.infolist() if not info.is_dir()]
        first = names[0]
        with zipfile.ZipFile(tmp_path / "short.zip", "w") as short:
            for info in names:
                if info is not first:
                    short.writestr(info.filename, archive.read(info))
        missing = pydicom.dcmread(archive.open(first), stop_before_pixels=True)
    time_point = int(missing.TemporalPositionIdentifier)
    refused(tmp_path / "short.zip", TimingError, f"(time point {time_point})", "44 of 45")
