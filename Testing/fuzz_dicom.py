"""Damaged DICOM series for `fuzz_readers`: bytes, single elements, whole files; and what must hold if they are read."""

import io
import random
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from dicom_fixtures import Phantom, at_positions_of, make_phantom, write_classic, write_enhanced
from fuzz_mutations import ODD_TEXTS, bytes_damaged
from PerfusionCBVLib.series import DynamicSeries

ORDERING = ("TemporalPositionIdentifier", "AcquisitionTime", "TriggerTime", "InstanceNumber", "ContentTime")
"""Of one of these the others are the witness: whatever is done to one, the order read must be the planted one."""

OTHERS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
    *("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "Modality", "ImageType", "EchoTime"),
    *("RepetitionTime", "FlipAngle", "SeriesNumber", "SeriesDescription", "Manufacturer", "NumberOfTemporalPositions"),
    *("AcquisitionDate", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames", "MagneticFieldStrength"),
    *("AcquisitionNumber", "RescaleSlope", "RescaleIntercept", "SmallestImagePixelValue", "PatientName", "EchoNumbers"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "SpecificCharacterSet"),
)
HARMLESS = {"SeriesDescription", "PatientName", "SeriesNumber", "ImageType", "AcquisitionNumber"}
"""Whatever stands there, the images stay in order."""


@cache
def _phantom(slices: int) -> Phantom:
    return make_phantom((6, 8, slices, 15), seed=slices)


@cache
def _classic(slices: int) -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        write_classic(_phantom(slices), Path(folder))
        return tuple(file.read_bytes() for file in sorted(Path(folder).iterdir()))


@cache
def enhanced() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_enhanced(_phantom(2), Path(folder, "e.dcm")).read_bytes()


def write_damaged(rng: random.Random, folder: Path) -> tuple[Path, Phantom | None]:
    """Write one input; return where it is and, where the damage must not change the images' order, what is planted."""
    kind = rng.randrange(5)
    if kind == 0:
        path = folder / "enhanced.dcm"
        path.write_bytes(bytes_damaged(rng, enhanced()))
        return path, None
    slices = 2 if rng.random() < 0.2 else 1
    files = list(_classic(slices))
    planted: Phantom | None = _phantom(slices)
    if kind == 1:
        for at in rng.sample(range(len(files)), rng.choice((1, 1, 3, len(files)))):
            files[at] = bytes_damaged(rng, files[at])
        planted = None
    elif kind == 2:
        _damage_files(rng, files)
    else:
        planted = planted if _damage_elements(rng, files) else None
    names = [f"{place:04d}" for place in rng.sample(range(10_000), len(files))]
    if rng.random() < 0.1:
        with zipfile.ZipFile(folder / "study.zip", "w") as archive:
            for name, content in zip(names, files, strict=True):
                archive.writestr(name, content)
        return folder / "study.zip", planted
    series = folder / "series"
    series.mkdir()
    for name, content in zip(names, files, strict=True):
        (series / name).write_bytes(content)
    return series, planted


@cache
def _volume() -> tuple[bytes, ...]:
    """Return the instances of one time point of five slices."""
    with tempfile.TemporaryDirectory() as folder:
        write_classic(make_phantom((6, 8, 5, 8), seed=5), Path(folder))
        files = sorted(Path(folder).iterdir())
        return tuple(file.read_bytes() for file in files if pydicom.dcmread(file).TemporalPositionIdentifier == 1)


def write_damaged_volume(rng: random.Random, folder: Path) -> Path:
    """Write a single volume, damaged; return its folder."""
    files = list(_volume())
    kind = rng.randrange(3)
    if kind == 0:
        at = rng.randrange(len(files))
        files[at] = bytes_damaged(rng, files[at])
    elif kind == 1:
        _damage_files(rng, files)
    else:
        _damage_elements(rng, files)
    series = folder / "anatomy"
    series.mkdir()
    for at, content in enumerate(files):
        (series / f"{at:03d}").write_bytes(content)
    return series


def is_as_planted(series: DynamicSeries, planted: Phantom) -> bool:
    """Return whether every image is at its place and time; frames left out at the end would be seen by their count."""
    return series.frames == planted.signal.shape[3] and bool(
        np.array_equal(at_positions_of(series, planted), planted.signal)
    )


def _damage_files(rng: random.Random, files: list[bytes]) -> None:
    whole, copies = list(files), []
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(files))
        kind = rng.randrange(5)
        if kind == 0:
            del files[at]
        elif kind == 1:
            files.append(files[at])
        elif kind == 2:
            files.append(rng.choice((b"", b"text", bytes(200), b"DICM", bytes(128) + b"DICM")))
        elif kind == 3:
            files[at] = files[at][: rng.randrange(len(files[at]) + 1)]
        elif files[at] in whole:  # another instance with the same UID and other pixels
            copies.append(files[at])
    # Where the first copy is gone, nothing tells that the other is not the original.
    files.extend(copy[:-4] + rng.randbytes(4) for copy in copies if copy in files)


def _damage_elements(rng: random.Random, files: list[bytes]) -> bool:
    """Change, remove or swap one element in some instances; return whether the planted order must still be read."""
    keyword = rng.choice(ORDERING if rng.random() < 0.5 else OTHERS)
    chosen = rng.sample(range(len(files)), rng.choice((1, 2, len(files))))
    datasets = [pydicom.dcmread(io.BytesIO(files[at])) for at in chosen]
    kind = rng.randrange(3)
    tag = tag_for_keyword(keyword)
    if kind == 0:
        for dataset in datasets:
            dataset.pop(tag, None)
    elif kind == 1:
        elements = [dataset.pop(tag, None) for dataset in datasets]
        rng.shuffle(elements)
        for dataset, element in zip(datasets, elements, strict=True):
            if element is not None:
                dataset[tag] = element
    else:
        value = rng.choice(ODD_TEXTS).replace("\ud800", "")[:1000]
        for dataset in datasets:
            if keyword == "PixelData":
                dataset[tag] = DataElement(tag, "OB", rng.randbytes(rng.choice((0, 2, 96, 500))))
            else:
                dataset[tag] = DataElement(tag, "LO", value, validation_mode=config.IGNORE)
    for at, dataset in zip(chosen, datasets, strict=True):
        stream = io.BytesIO()
        before, config.settings.writing_validation_mode = config.settings.writing_validation_mode, config.IGNORE
        try:
            dataset.save_as(stream)
        except (ValueError, UnicodeError, TypeError):
            return False
        finally:
            config.settings.writing_validation_mode = before
        files[at] = stream.getvalue()
    return keyword in ORDERING or keyword in HARMLESS
