"""Small series whose every voxel and frame differs, so that no swap or flip can go unnoticed, and files of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.simulate.dicom import write_dicom_series

INTERVAL_S = 1.5
ECHO_TIME_S = 0.03


@dataclass(frozen=True)
class Phantom:
    signal: np.ndarray
    affine: np.ndarray
    times_s: np.ndarray


def make_phantom(shape=(16, 18, 4, 16), *, oblique=False, flips=(1, 1, 1), seed=0) -> Phantom:
    rng = np.random.default_rng(seed)
    signal = rng.permutation(np.prod(shape)).reshape(shape) % 3700 + 200.0
    signal.flat[0] = 4095  # the DICOM writer scales its largest value to 4095, so its scale is 1 here
    affine = np.diag([2.0, 2.5, 6.0, 1.0])
    if oblique:
        a, b = np.deg2rad(18), np.deg2rad(-11)
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        affine[:3, :3] = about_z @ about_x @ affine[:3, :3]
    affine[:3, :3] *= flips
    affine[:3, 3] = [-14.0, 21.0, -9.0]
    return Phantom(signal.astype(np.float32), affine, INTERVAL_S * np.arange(shape[3]))


def write_classic(phantom: Phantom, folder: Path, edit: Callable[[Dataset], None] | None = None, **keywords) -> Path:
    """Write with the simulator's writer; `edit` then changes the header of each instance."""
    values = {
        "echo_time_s": ECHO_TIME_S,
        "repetition_time_s": INTERVAL_S,
        "flip_angle_deg": 60.0,
        "field_strength_t": 3.0,
        **keywords,
    }
    write_dicom_series(phantom.signal, phantom.affine, phantom.times_s, folder, **values)
    if edit is not None:
        edit_headers(folder, edit)
    return folder


def edit_headers(folder: Path, edit: Callable[[Dataset], None]) -> None:
    for file in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(file)
        edit(dataset)
        dataset.save_as(file)


def write_nifti(phantom: Phantom, path: Path, sidecar: dict | None = None, *, unit="sec", interval=INTERVAL_S) -> Path:
    image = nibabel.Nifti1Image(phantom.signal.astype(np.int16), phantom.affine)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = interval
    nibabel.save(image, path)
    if sidecar is not None:
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        path.with_name(f"{stem}.json").write_text(json.dumps(sidecar))
    return path


def write_sequence(phantom: Phantom, path: Path, *, unit="s", values=None, list_axis=0, **extra) -> Path:
    """Write as Slicer does: LPS, the frames on a list axis, their times among the custom fields."""
    to_lps = np.array([-1.0, -1.0, 1.0])
    directions = [tuple(to_lps * column[:3]) for column in phantom.affine.T[:3]]
    times = phantom.times_s if values is None else values
    rows: list = [*directions]
    rows.insert(list_axis, (np.nan,) * 3)
    kinds, labels, units = ["domain"] * 3, [""] * 3, [""] * 3
    kinds.insert(list_axis, "list")
    labels.insert(list_axis, "time")
    units.insert(list_axis, unit)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array(rows),
        "space origin": to_lps * phantom.affine[:3, 3],
        "kinds": kinds,
        "labels": labels,
        f"axis {list_axis} index type": "numeric",
        f"axis {list_axis} index values": " ".join(f"{time:g}" for time in times),
        **extra,
    }
    if unit:
        header["units"] = units
    nrrd.write(str(path), np.moveaxis(phantom.signal.astype(np.int16), -1, list_axis), header, index_order="F")
    return path


def write_enhanced(phantom: Phantom, path: Path, *, time_first=True) -> Path:
    """Write one Enhanced MR multi-frame object, its frames ordered by time then slice or the other way."""
    nx, ny, nz, frames = phantom.signal.shape
    to_lps = np.array([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    directions = to_lps[:, None] * phantom.affine[:3, :3] / spacing

    d = Dataset()
    d.SOPClassUID = EnhancedMRImageStorage
    d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID = (
        generate_uid(entropy_srcs=["enhanced fixture", which]) for which in ("instance", "series", "study", "frame")
    )
    d.PatientName, d.PatientID = "Phantom^Enhanced", "PHANTOM"
    d.Modality, d.Manufacturer, d.MagneticFieldStrength = "MR", "Philips Medical Systems", 3.0
    d.ImageType = ["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"]
    d.SeriesDescription = d.ProtocolName = "DSC perfusion"
    d.SeriesNumber = d.InstanceNumber = d.AcquisitionNumber = 1
    d.StudyDate = d.SeriesDate = d.ContentDate = "20260102"
    d.StudyTime = d.SeriesTime = d.ContentTime = "102000"
    d.AcquisitionDateTime = "20260102102000.000000"
    d.MRAcquisitionType, d.EchoPulseSequence = "2D", "GRADIENT"
    d.PatientPosition = "HFS"
    d.Rows, d.Columns, d.NumberOfFrames = ny, nx, nz * frames
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0

    organisation = Dataset()
    organisation.DimensionOrganizationUID = generate_uid(entropy_srcs=["enhanced fixture", "dimensions"])
    d.DimensionOrganizationSequence = Sequence([organisation])
    pointers = []
    for pointer in (0x00209056, 0x00209057, 0x00209128):  # StackID, InStackPositionNumber, TemporalPositionIndex
        item = Dataset()
        item.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        item.DimensionIndexPointer = pointer
        item.FunctionalGroupPointer = 0x00209111
        pointers.append(item)
    d.DimensionIndexSequence = Sequence(pointers)

    shared = Dataset()
    timing, echo, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle = INTERVAL_S * 1e3, 60.0
    echo.EffectiveEchoTime = ECHO_TIME_S * 1e3
    orientation.ImageOrientationPatient = [f"{v:.10g}" for v in (*directions[:, 0], *directions[:, 1])]
    measures.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{spacing[2]:.10g}"
    shared.MRTimingAndRelatedParametersSequence = Sequence([timing])
    shared.MREchoSequence = Sequence([echo])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    d.SharedFunctionalGroupsSequence = Sequence([shared])

    order = [(t, z) for t in range(frames) for z in range(nz)]
    if not time_first:
        order.sort(key=lambda pair: (pair[1], pair[0]))
    groups, pixels = [], []
    for t, z in order:
        content, position, group = Dataset(), Dataset(), Dataset()
        seconds = 20 * 60 + phantom.times_s[t]
        content.FrameAcquisitionDateTime = f"2026010210{int(seconds // 60):02d}{seconds % 60:09.6f}"
        content.StackID, content.InStackPositionNumber, content.TemporalPositionIndex = "1", z + 1, t + 1
        content.DimensionIndexValues = [1, z + 1, t + 1]
        origin = to_lps * (phantom.affine @ [0, 0, z, 1])[:3]
        position.ImagePositionPatient = [f"{v:.10g}" for v in origin]
        group.FrameContentSequence = Sequence([content])
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
        pixels.append(phantom.signal[:, :, z, t].T.astype("<u2"))
    d.PerFrameFunctionalGroupsSequence = Sequence(groups)
    d.PixelData = np.stack(pixels).tobytes()

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset(str(path), d, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
    return path


def at_positions_of(series: DynamicSeries, phantom: Phantom) -> np.ndarray:
    """Return the loaded signal at the phantom's voxel positions, found by their place in the patient."""
    to_index = np.linalg.inv(series.affine) @ phantom.affine
    index = np.stack(np.meshgrid(*map(np.arange, phantom.signal.shape[:3]), indexing="ij"), axis=-1)
    places = index @ to_index[:3, :3].T + to_index[:3, 3]
    nearest = np.rint(places).astype(int)
    assert np.abs(places - nearest).max() < 0.01, "the grids do not coincide"
    assert (nearest >= 0).all()
    assert (nearest < series.signal.shape[:3]).all(), "the loaded grid lies elsewhere"
    return series.signal[nearest[..., 0], nearest[..., 1], nearest[..., 2]]
