"""A dynamic series as DICOM files, as a scanner exports it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from PerfusionCBVLib.errors import GeometryError, TimingError, UsageError

LARGEST_STORED_VALUE = 4095
"""Scanners store 12 bits."""

_START_S = 10 * 3600 + 20 * 60
_DATE = "20260102"


def write_dicom_series(
    signal: np.ndarray,
    affine: np.ndarray,
    times_s: np.ndarray,
    folder: Path,
    *,
    echo_time_s: float,
    repetition_time_s: float,
    flip_angle_deg: float,
    field_strength_t: float,
    description: str = "DSC perfusion (simulated)",
    seed: int = 0,
) -> float:
    """Write classic single-frame MR instances IM00001.dcm, IM00002.dcm, ... and return the scale of the stored values.

    The patient is called Simulated^Patient. The same input gives the same bytes.

    Parameters
    ----------
    signal : (x, y, z, T) array, arbitrary units, not negative
    affine : (4, 4) array
        Voxel index to RAS, mm; its axes are perpendicular, as DICOM requires.
    times_s : (T,) array, s
    folder : Path
        Made if needed.
    echo_time_s, repetition_time_s : float
    flip_angle_deg, field_strength_t : float
    description : str
        SeriesDescription.
    seed : int
        Enters the UIDs, so that series of different seeds are different series.

    Returns
    -------
    float
        Stored value = round(signal × this); it is also written as ImageComments.

    Raises
    ------
    GeometryError
        Not four-dimensional, or oblique axes that are not perpendicular.
    TimingError
        Not one time for each frame.
    UsageError
        A negative or non-finite signal.
    """
    signal = np.asarray(signal)
    if signal.ndim != 4:
        raise GeometryError(f"A dynamic series has 4 dimensions (x, y, z, time), but this one has {signal.ndim}.")
    if np.shape(times_s) != signal.shape[3:]:
        raise TimingError(f"{np.size(times_s)} frame times for {signal.shape[3]} frames; give one for each frame.")
    if not (np.isfinite(signal).all() and (signal >= 0).all() and signal.any()):
        raise UsageError("DICOM stores magnitudes: the signal must be finite and not negative, and not all zero.")
    directions_lps, spacing_mm, origin_lps = _geometry_lps(np.asarray(affine, dtype=np.float64))
    scale = float(LARGEST_STORED_VALUE / signal.max())
    # Row by row, as DICOM orders pixels: (T, z, y, x).
    stored = np.rint(signal.T.astype(np.float64) * scale).astype("<u2")

    entropy = [description, str(seed), hashlib.sha256(stored.tobytes()).hexdigest()]
    common = _common_header(description, stored.shape, scale)
    common.StudyInstanceUID = generate_uid(entropy_srcs=[*entropy, "study"])
    common.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    common.FrameOfReferenceUID = generate_uid(entropy_srcs=[*entropy, "frame of reference"])
    common.EchoTime = _decimal(echo_time_s * 1e3)
    common.RepetitionTime = _decimal(repetition_time_s * 1e3)
    common.FlipAngle = _decimal(flip_angle_deg)
    common.MagneticFieldStrength = _decimal(field_strength_t)
    common.PixelSpacing = [_decimal(spacing_mm[1]), _decimal(spacing_mm[0])]
    common.SliceThickness = common.SpacingBetweenSlices = _decimal(spacing_mm[2])
    common.ImageOrientationPatient = [_decimal(v) for v in (*directions_lps[:, 0], *directions_lps[:, 1])]

    folder.mkdir(parents=True, exist_ok=True)
    slices = stored.shape[1]
    for frame, time_s in enumerate(np.asarray(times_s, dtype=np.float64)):
        for z in range(slices):
            count = frame * slices + z + 1
            instance = Dataset()
            instance.update(common)
            instance.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, str(count)])
            instance.InstanceNumber = count
            instance.ImagePositionPatient = [_decimal(v) for v in origin_lps + z * spacing_mm[2] * directions_lps[:, 2]]
            instance.AcquisitionTime = instance.ContentTime = _clock(_START_S + time_s)
            instance.TriggerTime = _decimal((time_s - times_s[0]) * 1e3)
            instance.TemporalPositionIdentifier = frame + 1
            instance.PixelData = stored[frame, z].tobytes()
            _save(instance, folder / f"IM{count:05d}.dcm")
    return scale


def _geometry_lps(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return direction cosines (3, 3) by column, spacing (3,) in mm and origin (3,) in mm, all LPS."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing_mm > 0).all():
        raise GeometryError("The affine gives a voxel no size along one of its axes.")
    to_lps = np.array([-1.0, -1.0, 1.0])
    directions = to_lps[:, None] * affine[:3, :3] / spacing_mm
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise GeometryError("The axes of the image are not perpendicular; DICOM can't describe them.")
    return directions, spacing_mm, to_lps * affine[:3, 3]


def _common_header(description: str, shape: tuple[int, ...], scale: float) -> Dataset:
    frames, _, rows, columns = shape
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    header.Modality = "MR"
    header.Manufacturer = "PerfusionCBV simulator"
    header.PatientName = "Simulated^Patient"
    header.PatientID = "SIMULATED"
    header.PatientBirthDate = header.ReferringPhysicianName = header.AccessionNumber = ""
    header.PatientSex = "O"
    header.PatientPosition = "HFS"
    header.StudyID = "1"
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = _DATE
    header.StudyTime = header.SeriesTime = _clock(_START_S)
    header.SeriesDescription = header.ProtocolName = description
    header.SeriesNumber = header.AcquisitionNumber = 1
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "EP", "SK", ""
    header.MRAcquisitionType = "2D"
    header.EchoTrainLength = 1
    header.NumberOfTemporalPositions = frames
    header.ImageComments = f"Simulated. Stored value = signal x {scale:.9g}"
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = rows, columns
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    return header


def _save(instance: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = instance.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), instance, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> str:
    # A DICOM decimal string has at most 16 characters.
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.8e}"


def _clock(seconds: float) -> str:
    microseconds = round(seconds * 1e6)
    minutes, microseconds = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}{minutes:02d}{microseconds // 1_000_000:02d}.{microseconds % 1_000_000:06d}"
