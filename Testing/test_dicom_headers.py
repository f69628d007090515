"""What lies among the files of a series: other objects, copies, private elements alone, damage."""

import io
import shutil
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_fixtures import at_positions_of, write_classic
from dicom_kinds import edit_all, make_ramp, write_other_objects
from PerfusionCBVLib.errors import GeometryError, InputRefusedError, UnreadableInputError
from PerfusionCBVLib.load import load_series


@pytest.fixture(scope="module")
def ramp():
    return make_ramp((12, 10, 2, 15))


@pytest.fixture
def folder(tmp_path, ramp):
    return write_classic(ramp, tmp_path / "d")


def test_reports_documents_and_a_directory_among_the_images_are_passed_over(folder, ramp):
    write_other_objects(folder)
    (folder / "empty").touch()
    (folder / "notes.txt").write_text("DICM" * 100)
    np.testing.assert_array_equal(at_positions_of(load_series(folder), ramp), ramp.signal)


def test_reports_and_documents_alone_are_refused(tmp_path):
    write_other_objects(tmp_path)
    with pytest.raises(UnreadableInputError, match="no DICOM images"):
        load_series(tmp_path)


def test_a_file_that_ends_after_its_preamble_holds_nothing_and_is_passed_over(folder, ramp):
    (folder / "stub.dcm").write_bytes(bytes(128) + b"DICM")
    np.testing.assert_array_equal(at_positions_of(load_series(folder), ramp), ramp.signal)


def test_a_copy_with_other_pixels_or_another_time_is_refused_and_one_with_another_name_is_not(folder, ramp):
    def copy_of(edit):
        dataset = pydicom.dcmread(folder / "IM00009.dcm")
        edit(dataset)
        dataset.save_as(folder / "copy.dcm")

    copy_of(lambda d: setattr(d, "InstitutionName", "Elsewhere"))
    series = load_series(folder)
    np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)
    assert "1 images occur more than once (same SOPInstanceUID) and were read once." in series.notes
    for edit in (
        lambda d: setattr(d, "PixelData", d.PixelData[:-2] + b"\1\1"),
        lambda d: setattr(d, "TemporalPositionIdentifier", 3),
    ):
        copy_of(edit)
        with pytest.raises(UnreadableInputError, match=r"copy\.dcm|IM00009\.dcm"):
            load_series(folder)


def test_instances_with_private_elements_alone_are_refused(folder):
    def strip(dataset):
        keep = {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "BitsAllocated", "BitsStored"}
        keep |= {"HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"}
        for element in list(dataset):
            if element.keyword not in keep:
                del dataset[element.tag]
        block = dataset.private_block(0x0021, "SOME MAKER", create=True)
        block.add_new(0x10, "DS", "1500")

    with pytest.raises(InputRefusedError) as caught:
        load_series(edit_all(folder, strip))
    assert caught.value.exit_code == 3


def test_a_deflated_file_is_refused_before_it_is_inflated(folder):
    path = folder / "IM00001.dcm"
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    with pytest.raises(UnreadableInputError, match="deflated"):
        load_series(folder)
    # The same with a body that would inflate to 256 MB.
    stream = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(stream, dataset.file_meta)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    path.write_bytes(bytes(128) + b"DICM" + stream.getvalue() + body)
    with pytest.raises(UnreadableInputError, match="deflated"):
        load_series(folder)


def test_a_big_endian_series_is_the_same_series(folder, ramp):
    for file in folder.iterdir():
        read = pydicom.dcmread(file)
        dataset = Dataset()
        dataset.update(read)
        dataset.PixelData = np.frombuffer(read.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta = read.file_meta
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    np.testing.assert_array_equal(at_positions_of(load_series(folder), ramp), ramp.signal)


def test_values_with_line_breaks_and_escapes_stay_one_legible_line(folder):
    edit_all(folder, lambda d: setattr(d, "SeriesDescription", "DSC\x1b[31m perf"))
    series = load_series(folder)
    assert series.name.isprintable()


def test_texts_in_latin_1_are_read(folder):
    def edit(dataset):
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.SeriesDescription = "Schädel Perfusion"

    assert load_series(edit_all(folder, edit)).name.startswith("Schädel Perfusion")


@pytest.mark.parametrize(("word", "component"), [("P", "phase"), ("R", "real"), ("IMAGINARY", "imaginary")])
def test_what_is_no_magnitude_is_refused_alone_or_mixed(folder, word, component):
    def edit(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", word, "ND"]

    victim = pydicom.dcmread(folder / "IM00003.dcm")
    edit(victim)
    victim.save_as(folder / "IM00003.dcm")
    with pytest.raises(UnreadableInputError, match=f"magnitude and {component}|{component} and magnitude"):
        load_series(folder)
    with pytest.raises(UnreadableInputError, match=f"holds {component} images"):
        load_series(edit_all(folder, edit))


@pytest.mark.parametrize("change", [{"Rows": 12, "Columns": 10}, {"PixelSpacing": ["2.5", "2.5"]}])
def test_one_image_of_another_size_is_refused(folder, change):
    victim = pydicom.dcmread(folder / "IM00003.dcm")
    for keyword, value in change.items():
        setattr(victim, keyword, value)
    victim.save_as(folder / "IM00003.dcm")
    with pytest.raises(GeometryError, match="images of different size: "):
        load_series(folder)


def test_a_matrix_beyond_all_bounds_is_refused(folder):
    def grow(dataset):
        dataset.Rows = dataset.Columns = 65535

    with pytest.raises(InputRefusedError):
        load_series(edit_all(folder, grow))


@pytest.mark.parametrize("name", ["-o evil", "a b", "ä ☢", "new\nline", "--help", "%s%n", "'; rm -rf x"])
def test_no_name_of_a_folder_or_file_reaches_dcm2niix(tmp_path, folder, ramp, name):
    shutil.copytree(folder, tmp_path / name / name)
    for count, file in enumerate(sorted((tmp_path / name / name).iterdir())):
        file.rename(file.with_name(f"{name}{count}"))
    np.testing.assert_array_equal(at_positions_of(load_series(tmp_path / name), ramp), ramp.signal)
