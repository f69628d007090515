"""DICOM files to series of two-dimensional frames: headers only, classic and enhanced multi-frame alike.

No patient's name, identifier or birth date is read.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import cannot_open, shown

PARSE_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    NotImplementedError,
    OverflowError,
    IndexError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged headers, by its version and the kind of damage."""

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName"),
    *("Modality", "ImageType", "Manufacturer", "MagneticFieldStrength", "FlipAngle", "EchoTime", "RepetitionTime"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusVolume", "ContrastBolusTotalDose"),
    *("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "TriggerTime", "TemporalPositionIdentifier"),
    *("NumberOfTemporalPositions", "TemporalResolution", "InstanceNumber", "ImagePositionPatient"),
    *(
        "ImageOrientationPatient",
        "PixelSpacing",
        "DiffusionBValue",
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "BitsAllocated",
    ),
    *("NumberOfFrames", "MRAcquisitionType", "ScanningSequence", "EchoPulseSequence", "PixelData"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True)
class Frame:
    """One two-dimensional image and what orders it; None where the header is silent."""

    file: Path
    index: int
    """Place in its file, 0 in classic instances."""
    position_mm: tuple[float, ...] | None
    """Centre of the first pixel, LPS."""
    orientation: tuple[float, ...] | None
    temporal_position: int | None
    acquisition_us: int | None
    """Clock time, µs."""
    trigger_us: int | None
    instance_number: int | None
    echo_time_ms: float | None
    b_value: float | None


class Format(NamedTuple):
    """What all images of a series must have in common."""

    columns: int
    rows: int
    spacing_mm: tuple[float, ...] | None
    component: str
    """``colour``, ``phase``, ``real`` or ``imaginary``; ``magnitude`` where the header names none of them."""


@dataclass
class SeriesHeaders:
    """What the headers of one series say."""

    uid: str
    header: Dataset
    """Of the first instance read."""
    frames: list[Frame] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    """SOPInstanceUID to file."""
    file_sha256: dict[str, str] = field(default_factory=dict)
    truncated: list[str] = field(default_factory=list)
    duplicates: int = 0
    conflicting: list[str] = field(default_factory=list)
    """Duplicates whose image, place or time differs from the first copy's."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    formats: set[Format] = field(default_factory=set)
    """One where all images are alike."""

    @property
    def description(self) -> str:
        """SeriesDescription and, where it says more, ProtocolName."""
        words = [shown(self.header.get(key, "") or "", 100) for key in ("SeriesDescription", "ProtocolName")]
        return " / ".join(dict.fromkeys(word for word in words if word)) or "no description"

    @property
    def sha256(self) -> str:
        """Hash over SOPInstanceUID and file hash of every instance, in the order of the UIDs."""
        lines = [f"{uid} {self.file_sha256[uid]}\n" for uid in sorted(self.files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def is_mosaic(self) -> bool:
        """Whether each frame shows all slices side by side (Siemens)."""
        return "MOSAIC" in self.image_type

    @property
    def image_type(self) -> list[str]:
        """Values of ImageType, upper case."""
        return image_type(self.header)

    def is_diffusion_weighted(self) -> bool:
        """Whether any frame has a b-value above 0."""
        return any((frame.b_value or 0) > 0 for frame in self.frames)

    def slice_positions(self) -> dict[float, list[Frame]]:
        """Return frames by position along the slice normal, mm, ascending; frames without position at 0."""
        by_position: dict[float, list[Frame]] = {}
        places = [(_along_normal(frame), frame) for frame in self.frames]
        last = None
        for place, frame in sorted(places, key=lambda pair: pair[0]):
            # Positions are written with few digits; slices are never closer than this.
            if last is None or place - last > 0.05:
                last = place
                by_position[last] = []
            by_position[last].append(frame)
        return by_position

    def time_points(self) -> int:
        """Return the largest number of frames at one slice position."""
        return max((len(frames) for frames in self.slice_positions().values()), default=0)


def is_dicom_file(path: Path) -> bool:
    """Return whether a file has the DICOM mark after its preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError as error:
        raise cannot_open(path, error) from error


def read_headers(files: Iterable[Path]) -> list[SeriesHeaders]:
    """Return the image series among `files`, sorted by number; other files are passed over.

    Parameters
    ----------
    files : iterable of Path
        In any order; an instance that occurs twice is taken once.

    Raises
    ------
    UnreadableInputError
        A DICOM file whose header is damaged.
    """
    series: dict[str, SeriesHeaders] = {}
    for path in files:
        if not is_dicom_file(path):  # before all of what may be a large file of another kind is read
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise cannot_open(path, error) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
            parsed = _parse(content, path)
        if parsed is None:
            continue
        one = series.setdefault(parsed.series_uid, SeriesHeaders(parsed.series_uid, parsed.dataset))
        digest = hashlib.sha256(content).hexdigest()
        if parsed.instance_uid in one.files:
            one.duplicates += 1
            if parsed.fingerprint != one.fingerprints[parsed.instance_uid]:
                one.conflicting.append(path.name)
            continue
        if not parsed.is_whole:
            one.truncated.append(path.name)
        one.formats.add(_format(parsed.dataset))
        one.files[parsed.instance_uid] = path
        one.file_sha256[parsed.instance_uid] = digest
        one.fingerprints[parsed.instance_uid] = parsed.fingerprint
        one.frames.extend(parsed.frames)
    return sorted(series.values(), key=lambda one: (number(one.header, "SeriesNumber") or 0, one.uid))


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return an element as a finite float, None where it is missing, empty or illegible."""
    try:
        value = float(dataset.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def image_type(dataset: Dataset) -> list[str]:
    """Return the values of ImageType, upper case."""
    value = dataset.get("ImageType")
    return [str(v).upper() for v in ([value] if isinstance(value, str) else value or [])]


def functional_group(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """Return a functional group's macro of one frame, from the frame or else shared; empty where there is none."""
    for groups, item in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if item < len(items) and items[item].get(sequence):
            return items[item].get(sequence)[0]
    return Dataset()


@dataclass(frozen=True)
class _Parsed:
    dataset: Dataset
    series_uid: str
    instance_uid: str
    frames: list[Frame]
    is_whole: bool
    fingerprint: str
    """Of the images, their places and times: equal in copies that differ in nothing that matters."""


def _parse(content: bytes, path: Path) -> _Parsed | None:
    """Return what one file holds, None for what is no image: a DICOMDIR, report or presentation state."""
    try:
        # Before it is inflated: a deflated file may hold a thousand times its size, and dcm2niix reads none.
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnreadableInputError(
                f"The DICOM file {path.name} is deflated as a whole, which is not read here. Export it uncompressed."
            )
        dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=_TAGS)
        has_pixels = "PixelData" in dataset
        if not has_pixels and "Image Storage" not in UID(dataset.file_meta.get("MediaStorageSOPClassUID", "")).name:
            return None
        # Elements are decoded when first used: do it here, where damage can be reported.
        for keyword in _TAGS:
            dataset.get(keyword)
        is_whole = has_pixels and _has_all_pixels(dataset)
        frames = list(_frames(dataset, path)) if has_pixels else []
        series_uid, instance_uid = (str(dataset.get(key, "") or "") for key in ("SeriesInstanceUID", "SOPInstanceUID"))
    except PARSE_ERRORS as error:
        raise _damaged(path) from error
    if not series_uid or not instance_uid:
        raise _damaged(path)
    digest = hashlib.sha256(repr([replace(frame, file=Path()) for frame in frames]).encode())
    if has_pixels:
        digest.update(dataset.PixelData)
        del dataset.PixelData
    return _Parsed(dataset, series_uid, instance_uid, frames, is_whole, digest.hexdigest())


_COMPONENTS = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "phase"),
    **dict.fromkeys(("R", "REAL"), "real"),
    **dict.fromkeys(("I", "IMAGINARY"), "imaginary"),
}


def _format(dataset: Dataset) -> Format:
    words = image_type(dataset)[2:]
    component = next((_COMPONENTS[word] for word in words if word in _COMPONENTS), "magnitude")
    if (_integer(dataset, "SamplesPerPixel") or 1) > 1:
        component = "colour"
    columns, rows = (_integer(dataset, keyword) or 0 for keyword in ("Columns", "Rows"))
    return Format(columns, rows, _vector(dataset, "PixelSpacing", 2), component)


def _damaged(path: Path) -> UnreadableInputError:
    return UnreadableInputError(f"The DICOM file {path.name} is damaged or truncated. Export the series again.")


def _has_all_pixels(dataset: Dataset) -> bool:
    if UID(dataset.file_meta.get("TransferSyntaxUID", "")).is_compressed:
        return True  # pydicom refuses a compressed element without its end
    sizes = [number(dataset, key) or 1 for key in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    return len(dataset.PixelData) >= math.prod(sizes) * (number(dataset, "BitsAllocated") or 16) / 8


def _frames(dataset: Dataset, path: Path) -> Iterator[Frame]:
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        yield Frame(
            file=path,
            index=0,
            position_mm=_vector(dataset, "ImagePositionPatient", 3),
            orientation=_vector(dataset, "ImageOrientationPatient", 6),
            temporal_position=_integer(dataset, "TemporalPositionIdentifier"),
            acquisition_us=_clock_us(
                dataset.get("AcquisitionDateTime")
                if not dataset.get("AcquisitionTime")
                else f"{dataset.get('AcquisitionDate') or '19700101'}{dataset.get('AcquisitionTime')}"
            ),
            trigger_us=_microseconds(number(dataset, "TriggerTime"), 1e3),
            instance_number=_integer(dataset, "InstanceNumber"),
            echo_time_ms=number(dataset, "EchoTime"),
            b_value=number(dataset, "DiffusionBValue"),
        )
        return
    instance = _integer(dataset, "InstanceNumber") or 0
    count = len(dataset.PerFrameFunctionalGroupsSequence)
    for index in range(count):
        content = functional_group(dataset, index, "FrameContentSequence")
        offset_s = number(functional_group(dataset, index, "TemporalPositionSequence"), "TemporalPositionTimeOffset")
        yield Frame(
            file=path,
            index=index,
            position_mm=_vector(functional_group(dataset, index, "PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=_vector(
                functional_group(dataset, index, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
            ),
            temporal_position=_integer(content, "TemporalPositionIndex"),
            acquisition_us=_clock_us(content.get("FrameAcquisitionDateTime") or content.get("FrameReferenceDateTime")),
            trigger_us=_microseconds(offset_s, 1e6),
            # Numbered on through the series' instances, of which each may hold one time point.
            instance_number=instance * count + index,
            echo_time_ms=number(functional_group(dataset, index, "MREchoSequence"), "EffectiveEchoTime"),
            b_value=number(functional_group(dataset, index, "MRDiffusionSequence"), "DiffusionBValue"),
        )


def _along_normal(frame: Frame) -> float:
    if frame.position_mm is None or frame.orientation is None:
        return 0.0
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return float(np.dot(normal, frame.position_mm))


def _vector(dataset: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(v) for v in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == length and all(map(math.isfinite, values)) else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = number(dataset, keyword)
    return None if value is None else int(value)


def _microseconds(value: float | None, factor: float) -> int | None:
    return None if value is None else round(value * factor)


def _clock_us(value: Any) -> int | None:
    """Return a DICOM date and time (YYYYMMDDHHMMSS.FFFFFF, an offset from UTC ignored) as µs."""
    text = str(value or "").split("&")[0].split("+")[0].split("-")[0].replace(":", "").strip()
    whole, _, fraction = text.partition(".")
    try:
        moment = datetime.strptime(whole, "%Y%m%d%H%M%S")
        microseconds = round(float(f"0.{fraction or 0}") * 1e6)
    except ValueError:
        return None
    return (
        (moment - datetime(1970, 1, 1)).days * 86_400_000_000
        + ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000
        + microseconds
    )
