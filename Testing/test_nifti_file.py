"""NIfTI headers as programs get them wrong: the right series, or one sentence that says why not."""

import gzip
import json
import struct

import nibabel
import numpy as np
import pytest

from dicom_fixtures import at_positions_of, make_phantom, write_nifti
from PerfusionCBVLib.errors import GeometryError, InputRefusedError, QualityError, TimingError, UnreadableInputError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.measures.region_files import read_regions

SHAPE = (8, 6, 3, 16)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SHAPE, oblique=True)


def edited(path, **fields):
    """Change fields of the header on disk, by the layout of the standard."""
    with path.open("rb") as stream:
        header = nibabel.Nifti1Header.from_fileobj(stream, check=False)
    for name, value in fields.items():
        header[name] = value
    content = header.structarr.tobytes()
    path.write_bytes(content + path.read_bytes()[len(content) :])
    return path


def refused(path, error_class=InputRefusedError, words=None):
    with pytest.raises(error_class, match=words) as caught:
        load_series(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# The right series


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_either_byte_order_and_any_real_type_is_the_same_series(tmp_path, phantom, order, kind):
    image = nibabel.Nifti1Image(phantom.signal.astype(kind), phantom.affine, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(kind)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nibabel.save(image, tmp_path / "dsc.nii")
    assert nibabel.load(tmp_path / "dsc.nii").header.endianness == order
    np.testing.assert_array_equal(load_series(tmp_path / "dsc.nii").signal, phantom.signal)


@pytest.mark.parametrize(
    ("slope", "intercept", "factor", "offset"),
    [(0.5, 10, 0.5, 10), (0, 99, 1, 0), (np.nan, 0, 1, 0), (-1, 5000, -1, 5000)],
)
def test_a_scale_is_applied_and_none_or_no_number_means_none(tmp_path, phantom, slope, intercept, factor, offset):
    path = edited(write_nifti(phantom, tmp_path / "dsc.nii"), scl_slope=slope, scl_inter=intercept)
    np.testing.assert_allclose(load_series(path).signal, phantom.signal * factor + offset, rtol=1e-6)


def test_a_scale_with_an_offset_that_is_no_number_is_refused(tmp_path, phantom):
    refused(edited(write_nifti(phantom, tmp_path / "dsc.nii"), scl_slope=1, scl_inter=np.nan), UnreadableInputError)


def test_singleton_axes_around_time_change_nothing(tmp_path, phantom):
    for place, shape in enumerate([(*SHAPE, 1), (*SHAPE, 1, 1), (*SHAPE[:3], 1, 16), (*SHAPE[:3], 1, 1, 16)]):
        image = nibabel.Nifti1Image(phantom.signal.reshape(shape), phantom.affine)
        nibabel.save(image, tmp_path / f"{place}.nii")
        (tmp_path / f"{place}.json").write_text(json.dumps({"RepetitionTime": 1.5}))
        np.testing.assert_array_equal(load_series(tmp_path / f"{place}.nii").signal, phantom.signal)


def test_negative_zooms_do_not_turn_the_image(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii")
    edited(path, pixdim=[1, -2, -2.5, -6, 1.5, 1, 1, 1])
    series = load_series(path)
    np.testing.assert_allclose(series.affine, phantom.affine, atol=1e-5)
    np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)


# Refused


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [0, 0, 0, 0]},
        {"srow_x": [2, 0, 0, 0], "srow_y": [2, 0, 0, 0]},
        {"srow_z": [np.nan, 0, 0, 0]},
        {"srow_x": [np.inf, 0, 0, 0]},
        {"srow_x": [1e30, 0, 0, 0]},
        {"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 0, 0, 1.5, 1, 1, 1]},
    ],
)
def test_an_affine_that_is_singular_or_no_number_is_refused(tmp_path, phantom, fields):
    refused(edited(write_nifti(phantom, tmp_path / "dsc.nii"), **fields), InputRefusedError, "geometry|no size")


@pytest.mark.parametrize(
    "dim",
    [
        [4, 32767, 32767, 32767, 32767, 1, 1, 1],
        [4, -8, 6, 3, 16, 1, 1, 1],
        [4, 0, 6, 3, 16, 1, 1, 1],
        [4, 8, 6, 3, 17, 1, 1, 1],
        [5, 8, 6, 3, 4, 4, 1, 1],
        [0, 8, 6, 3, 16, 1, 1, 1],
        [77, 8, 6, 3, 16, 1, 1, 1],
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_dimensions_that_the_file_does_not_hold_are_refused(tmp_path, phantom, dim, suffix):
    path = edited(write_nifti(phantom, tmp_path / "dsc.nii"), dim=dim)
    if suffix == ".nii.gz":
        path = tmp_path / "dsc.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "dsc.nii").read_bytes()))
    refused(path)


@pytest.mark.parametrize("offset", [np.nan, np.inf, -352, 100, 1e30, 2**31])
def test_data_that_begin_nowhere_are_refused(tmp_path, phantom, offset):
    refused(edited(write_nifti(phantom, tmp_path / "dsc.nii"), vox_offset=offset))


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path, phantom):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2, 16), np.int16), phantom.affine)
    header = image.header.copy()
    header.set_data_shape((512, 512, 64, 50))
    header["vox_offset"] = 352
    with gzip.open(tmp_path / "dsc.nii.gz", "wb") as stream:
        stream.write(header.binaryblock + bytes(4))
        for _ in range(101):
            stream.write(bytes(2**20))
    refused(tmp_path / "dsc.nii.gz", UnreadableInputError, "would unpack from 0.1 MB to 1678 MB")


def test_signal_that_ran_over_its_integers_is_refused(tmp_path):
    phantom = make_phantom(SHAPE)
    wrapped = (phantom.signal * 20).astype(np.int64).astype(np.int16)  # up to 50060 where 32767 is the largest
    nibabel.save(nibabel.Nifti1Image(wrapped, phantom.affine), tmp_path / "dsc.nii")
    (tmp_path / "dsc.json").write_text('{"RepetitionTime": 1.5}')
    refused(tmp_path / "dsc.nii", QualityError, "zero, negative or not a number")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_series_of_nothing_but_one_bad_value_is_refused(tmp_path, phantom, value):
    image = nibabel.Nifti1Image(np.full(SHAPE, value, np.float32), phantom.affine)
    nibabel.save(image, tmp_path / "dsc.nii")
    (tmp_path / "dsc.json").write_text('{"RepetitionTime": 1.5}')
    refused(tmp_path / "dsc.nii", QualityError)


@pytest.mark.parametrize("interval", [np.nan, np.inf, -1.5, 0])
def test_an_interval_that_is_no_time_is_asked_for(tmp_path, phantom, interval):
    path = write_nifti(phantom, tmp_path / "dsc.nii", interval=interval)
    refused(path, TimingError, "--repetition-time")


@pytest.mark.parametrize("name", ["dsc.nii.gz", "dsc.nii", "dsc.seq.nrrd", "dsc.zip", "dsc"])
def test_a_file_with_the_suffix_of_another_kind_is_refused(tmp_path, phantom, name):
    whole = write_nifti(phantom, tmp_path / "whole.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(whole) if name == "dsc.nii" else whole)
    refused(tmp_path / name, UnreadableInputError)


# Sidecars


@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        ("[" * 200_000, UnreadableInputError),
        ('{"EchoTime": 1' + "0" * 400 + "}", UnreadableInputError),
        ('{"EchoTime": "' + "x" * 100_000 + '"}', UnreadableInputError),
        ('{"RepetitionTime": NaN}', UnreadableInputError),
        ('{"VolumeTiming": [' + ", ".join(["1" + "0" * 400] * 16) + "]}", TimingError),
        ('{"VolumeTiming": ' + json.dumps([1.5] * 16) + "}", TimingError),
        ('{"VolumeTiming": ' + json.dumps([1.5 * t for t in range(16)][::-1]) + "}", TimingError),
        ('{"VolumeTiming": {"a": 1}}', TimingError),
        ("\x00", UnreadableInputError),
    ],
)
def test_a_hostile_sidecar_is_refused_in_one_short_sentence(tmp_path, phantom, text, error_class):
    path = write_nifti(phantom, tmp_path / "dsc.nii")
    (tmp_path / "dsc.json").write_text(text)
    refused(path, error_class)


def test_a_sidecar_longer_than_any_is_refused_unread(tmp_path, phantom, monkeypatch):
    monkeypatch.setattr("PerfusionCBVLib.load_nifti.LARGEST_SIDECAR_BYTES", 100)
    refused(write_nifti(phantom, tmp_path / "dsc.nii", {"Comment": "x" * 200}), UnreadableInputError)


# Masks and label maps


@pytest.fixture(scope="module")
def labels():
    return (np.indices(SHAPE[:3]).sum(axis=0) % 3).astype(np.int16)


def test_a_mask_with_a_singleton_fourth_axis_is_the_mask(tmp_path, phantom, labels):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii"))
    nibabel.save(nibabel.Nifti1Image(labels[..., np.newaxis], phantom.affine), tmp_path / "mask.nii")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii", series), labels > 0)


@pytest.mark.parametrize("damage", ["colour", "truncated", "singular", "deflate", "folder", "missing", "text"])
def test_a_mask_or_label_map_that_is_none_is_refused(tmp_path, phantom, labels, damage):
    series = load_series(write_nifti(phantom, tmp_path / "dsc.nii"))
    values = np.zeros(SHAPE[:3], [("R", "u1"), ("G", "u1"), ("B", "u1")]) if damage == "colour" else labels
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, phantom.affine), path)
    inner = bytearray(gzip.decompress(path.read_bytes()))
    if damage == "truncated":
        path.write_bytes(gzip.compress(inner[:-100]))
    elif damage == "singular":
        inner[280:312] = bytes(32)
        path.write_bytes(gzip.compress(inner))
    elif damage == "deflate":
        path.write_bytes(path.read_bytes()[:60] + bytes(30) + path.read_bytes()[90:])
    elif damage == "text":
        path.write_bytes(b"mask")
    elif damage in ("folder", "missing"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    for read in (lambda: read_mask(path, series), lambda: read_regions(path, SHAPE[:3], phantom.affine)):
        with pytest.raises((UnreadableInputError, GeometryError)) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_layout_of_the_standard_is_what_the_tests_edit(tmp_path, phantom):
    content = edited(write_nifti(phantom, tmp_path / "dsc.nii"), scl_slope=2.5).read_bytes()
    assert struct.unpack_from("<f", content, 112) == (2.5,)
