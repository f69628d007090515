"""Compressed images are read as what they are, and what can't be decoded is refused in one sentence."""

import numpy as np
import pydicom
import pytest

from dicom_fixtures import at_positions_of, write_classic, write_enhanced
from dicom_kinds import compress, edit_all, make_ramp, scale_enhanced
from PerfusionCBVLib import dicom_convert
from PerfusionCBVLib.dicom_pixels import read_images
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load import load_series

METHODS = ["RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"]


@pytest.fixture(scope="module")
def ramp():
    return make_ramp((12, 10, 2, 15))


@pytest.mark.parametrize("method", METHODS)
def test_a_series_compressed_without_loss_is_the_same_series(tmp_path, ramp, method):
    folder = compress(write_classic(ramp, tmp_path / "d"), method)
    assert pydicom.dcmread(folder / "IM00001.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(at_positions_of(load_series(folder), ramp), ramp.signal)


def test_a_compressed_series_is_compared_with_its_images_too(tmp_path, ramp, monkeypatch):
    folder = compress(write_classic(ramp, tmp_path / "d"), "JPEG lossless")
    convert = dicom_convert.convert

    def exchange(series, grid):
        signal, affine, sidecar = convert(series, grid)
        return signal[..., [0, 1, 3, 2, *range(4, 15)]], affine, sidecar

    monkeypatch.setattr("PerfusionCBVLib.load_dicom.convert", exchange)
    with pytest.raises(GeometryError, match="time point 3,"):
        load_series(folder)


def test_an_enhanced_file_compressed_as_jpeg_2000_is_the_same_series(tmp_path, ramp):
    write_enhanced(ramp, tmp_path / "e.dcm")
    compress(tmp_path, "JPEG 2000")
    np.testing.assert_array_equal(at_positions_of(load_series(tmp_path), ramp), ramp.signal)


@pytest.mark.parametrize("method", [None, *METHODS[1:]])
def test_images_are_the_stored_values_under_each_frames_own_scale(tmp_path, ramp, method):
    path = scale_enhanced(write_enhanced(ramp, tmp_path / "e.dcm"), lambda t: 1.0 + t)
    if method == "JPEG 2000":
        compress(tmp_path, method)
    images, _ = read_images(path)
    expected = [ramp.signal[:, :, z, t].T * (1 + t) for t in range(15) for z in range(2)]
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_compressed_image_is_refused(tmp_path, ramp, method):
    folder = compress(write_classic(ramp, tmp_path / "d"), method)
    victim = folder / "IM00010.dcm"
    dataset = pydicom.dcmread(victim)
    data = bytearray(dataset.PixelData)
    data[40:-8] = bytes(len(data) - 48)
    dataset.PixelData = bytes(data)
    dataset.save_as(victim)
    with pytest.raises((UnreadableInputError, GeometryError)) as caught:
        load_series(folder)
    assert "\n" not in str(caught.value)


def test_a_syntax_that_nothing_decodes_is_refused(tmp_path, ramp):
    def to_video(dataset):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML

    folder = edit_all(compress(write_classic(ramp, tmp_path / "d"), "RLE"), to_video)
    with pytest.raises(UnreadableInputError):
        load_series(folder)


def test_colour_is_refused(tmp_path, ramp):
    def to_colour(dataset):
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)

    with pytest.raises((UnreadableInputError, GeometryError), match="colour"):
        load_series(edit_all(write_classic(ramp, tmp_path / "d"), to_colour))
