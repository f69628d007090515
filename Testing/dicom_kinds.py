"""DICOM as manufacturers and archives write it: mosaics, compressed images, own scales, objects without images."""

import io
import math
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

from dicom_fixtures import Phantom, make_phantom, write_classic

PHILIPS = "Philips Medical Systems"


def make_ramp(shape=(12, 10, 3, 16)) -> Phantom:
    """Return images each brighter than those before it: by 200 a frame and 40 a slice, with up to 39 within one."""
    phantom = make_phantom(shape, oblique=True)
    x, y, z, t = np.indices(shape)
    signal = 200.0 + 200 * t + 40 * z + (7 * x + 3 * y) % 40
    signal[0, 0, 0, 0] = 4095  # the DICOM writer then scales by 1
    return Phantom(signal.astype(np.float32), phantom.affine, phantom.times_s)


def edit_all(folder: Path, edit: Callable[[Dataset], None]) -> Path:
    for file in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(file)
        edit(dataset)
        dataset.save_as(file)
    return folder


def compress(folder: Path, method: str) -> Path:
    """Compress every instance without loss: RLE and JPEG-LS by pydicom, the others by GDCM within SimpleITK."""
    return edit_all(folder, lambda dataset: _compress(dataset, method))


def _compress(dataset: Dataset, method: str) -> None:
    if method in ("RLE", "JPEG-LS"):
        dataset.compress(RLELossless if method == "RLE" else JPEGLSLossless, generate_instance_uid=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.dcm")
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(path))
        writer.SetUseCompression(True)
        writer.SetCompressor({"JPEG 2000": "JPEG2000", "JPEG lossless": "JPEG"}[method])
        stored = dataset.pixel_array
        writer.Execute(sitk.GetImageFromArray(stored if stored.ndim == 3 else stored[np.newaxis]))
        packed = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    dataset.BitsStored, dataset.HighBit = packed.BitsStored, packed.HighBit
    dataset.PixelData = packed.PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def scaled(phantom: Phantom, folder: Path, *, slope, intercept=lambda t: 0.0, private=None, maker=PHILIPS) -> Path:
    """Write a classic series whose scale is a function of the time point; `private` is Philips' scale slope."""

    def edit(dataset):
        t = dataset.TemporalPositionIdentifier - 1
        dataset.Manufacturer = maker
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope(t):.10g}", f"{intercept(t):.10g}"
        dataset.RescaleType = "normalized"
        if private is not None:
            block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0D, "FL", 0.0)
            block.add_new(0x0E, "FL", private(t))

    return write_classic(phantom, folder, edit)


def scale_enhanced(path: Path, slope: Callable[[int], float], maker: str = PHILIPS) -> Path:
    """Give each frame of an enhanced file the scale of its time point."""
    dataset = pydicom.dcmread(path)
    dataset.Manufacturer = maker
    for group in dataset.PerFrameFunctionalGroupsSequence:
        item = Dataset()
        t = group.FrameContentSequence[0].TemporalPositionIndex - 1
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = f"{slope(t):.10g}", "0", "US"
        group.PixelValueTransformationSequence = Sequence([item])
    dataset.save_as(path)
    return path


def write_mosaic(phantom: Phantom, folder: Path) -> Path:
    """Write a Siemens mosaic series: all slices of a time point in one image, their number in the private header."""
    classic = write_classic(phantom, folder / "classic")
    files = sorted(classic.iterdir())
    columns, rows, slices, frames = phantom.signal.shape
    side = math.ceil(math.sqrt(slices))
    uid = generate_uid(entropy_srcs=["mosaic"])
    for t in range(frames):
        d = pydicom.dcmread(files[t * slices])
        d.Manufacturer = "SIEMENS"
        d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        d.SeriesInstanceUID, d.SOPInstanceUID = uid, generate_uid(entropy_srcs=["mosaic", str(t)])
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        d.InstanceNumber = d.AcquisitionNumber = t + 1
        del d.TemporalPositionIdentifier, d.NumberOfTemporalPositions, d.TriggerTime
        mosaic = np.zeros((side * rows, side * columns), "<u2")
        for k in range(slices):
            at = k // side * rows, k % side * columns
            mosaic[at[0] : at[0] + rows, at[1] : at[1] + columns] = phantom.signal[:, :, k, t].T
        along_row, along_column = np.array(d.ImageOrientationPatient, float).reshape(2, 3)
        spacing = [float(v) for v in d.PixelSpacing]
        # Siemens gives the place of an image as large as the mosaic around the centre of the first tile.
        position = np.array(d.ImagePositionPatient, float)
        position -= (
            along_row * spacing[1] * (side - 1) * columns / 2 + along_column * spacing[0] * (side - 1) * rows / 2
        )
        d.ImagePositionPatient = [f"{v:.9g}" for v in position]
        d.Rows, d.Columns = mosaic.shape
        d.AcquisitionMatrix = [0, columns, rows, 0]
        d.PixelData = mosaic.tobytes()
        normal = np.cross(along_row, along_column)
        block = d.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", _csa(slices, normal))
        d.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", slices)
        d.save_as(folder / f"{t:04d}.dcm")
    for file in files:
        file.unlink()
    classic.rmdir()
    return folder


def _csa(slices: int, normal: np.ndarray) -> bytes:
    """Return Siemens' private image header (CSA2) with the two values that a mosaic needs."""
    tags = [
        ("NumberOfImagesInMosaic", "US", [str(slices)]),
        ("SliceNormalVector", "FD", [f"{v:.8f}" for v in normal]),
    ]
    content = b"SV10\4\3\2\1" + struct.pack("<2i", len(tags), 77)
    for name, vr, values in tags:
        content += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 0, max(6, len(values)), 77)
        for place in range(max(6, len(values))):
            text = values[place].encode() + b"\0" if place < len(values) else b""
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return content


def write_other_objects(folder: Path) -> None:
    """Write what lies beside images: a structured report, a PDF, a DICOMDIR, and a file that only begins as DICOM."""
    for name, sop_class, extra in (
        ("report.dcm", BasicTextSRStorage, {"Modality": "SR"}),
        ("letter.dcm", EncapsulatedPDFStorage, {"Modality": "DOC", "EncapsulatedDocument": b"%PDF-1.4 "}),
        ("DICOMDIR", MediaStorageDirectoryStorage, {"FileSetID": "STUDY"}),
    ):
        d = Dataset()
        d.SOPClassUID, d.SOPInstanceUID, d.SeriesInstanceUID = sop_class, generate_uid(), generate_uid()
        for keyword, value in extra.items():
            setattr(d, keyword, value)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = io.BytesIO()
        FileDataset(stream, d, file_meta=meta, preamble=b"\0" * 128).save_as(stream, enforce_file_format=True)
        (folder / name).write_bytes(stream.getvalue())
