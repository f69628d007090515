"""The images of one DICOM file, decoded here and scaled as its headers say: what a conversion is compared with."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  its own documentation's name
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage, RLELossless

from PerfusionCBVLib.dicom_headers import PARSE_ERRORS, functional_group, number
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import require_plausible_size

_PHILIPS = "Philips MR Imaging DD 001"

_PIXEL_MODULE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData"),
)


def read_images(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a file, and by how much Philips' second scale differs from the first.

    Returns
    -------
    images : (frames, rows, columns) array
        Stored values × rescale slope + intercept, each frame with its own.
    precise : (frames,) array
        Rescale slope × Philips' private scale slope, which divides `images` into Philips' comparable ("floating point")
        values; 1 where there is none.

    Raises
    ------
    UnreadableInputError
        Colour, a damaged image, or a compression that nothing here decodes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
            dataset = pydicom.dcmread(file)
            if (number(dataset, "SamplesPerPixel") or 1) != 1:
                raise UnreadableInputError(f"The images of {file.name} are in colour; a magnitude series is needed.")
            sizes = [int(number(dataset, key) or 1) for key in ("Columns", "Rows", "NumberOfFrames")]
            require_plausible_size(tuple(sizes), file.name)
            syntax = dataset.file_meta.TransferSyntaxUID
            is_packed = syntax.is_compressed and syntax != RLELossless
            stored = _decompressed(dataset) if is_packed else dataset.pixel_array
            stored = stored.reshape(-1, *stored.shape[-2:])
            scales = np.array([_scale(dataset, frame) for frame in range(len(stored))])
    except PARSE_ERRORS as error:
        raise UnreadableInputError(f"The image in {file.name} can't be read. Export the series again.") from error
    except RuntimeError as error:  # SimpleITK
        raise UnreadableInputError(
            f"The image in {file.name} is compressed ({syntax.name}) in a way that can't be decoded here, or damaged. "
            "Export the series uncompressed."
        ) from error
    slopes, intercepts, private = scales.T[:, :, np.newaxis, np.newaxis]
    return stored * slopes + intercepts, (np.where(private > 0, slopes * private, 1.0)).ravel()


def _decompressed(dataset: Dataset) -> np.ndarray:
    """Return the stored values, decoded by GDCM from a copy with nothing but the pixels, so that none is rescaled."""
    copy = Dataset()
    for keyword in _PIXEL_MODULE:
        copy[keyword] = dataset[keyword]
    copy.NumberOfFrames = int(number(dataset, "NumberOfFrames") or 1)
    copy.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    copy.SOPInstanceUID = pydicom.uid.generate_uid()
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = copy.SOPClassUID, copy.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="perfusion-cbv-") as temporary:
        path = Path(temporary, "pixels.dcm")
        FileDataset(str(path), copy, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
        image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError("several values in each pixel")
    return sitk.GetArrayFromImage(image)


def _scale(dataset: Dataset, frame: int) -> tuple[float, float, float]:
    """Return rescale slope and intercept of one frame, and Philips' scale slope, 0 where there is none."""
    group = functional_group(dataset, frame, "PixelValueTransformationSequence")
    holder = group if "RescaleSlope" in group else dataset
    slope = number(holder, "RescaleSlope")
    intercept = number(holder, "RescaleIntercept")
    try:
        private = float(dataset.private_block(0x2005, _PHILIPS)[0x0E].value)
    except (KeyError, TypeError, ValueError):
        private = 0.0
    # A slope of 0 is written for "no scale".
    return slope or 1.0, intercept or 0.0, private if np.isfinite(private) else 0.0
