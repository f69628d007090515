"""All DICOM objects of a result, put together and written: all files or none."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from PerfusionCBVLib.dicom_out.source import Source
from PerfusionCBVLib.errors import MissingPackageError, UnreadableInputError, UsageError
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.output import PROVENANCE
from PerfusionCBVLib.progress import Progress, silent

if TYPE_CHECKING:
    from PerfusionCBVLib.dicom_out.common import Author
    from PerfusionCBVLib.pictures import AnyResult

CAPTURED = ("rcbv", "rcbv_classical")
"""Maps that are also stored as coloured pictures: a network's beside the classical one, as everywhere."""

_PACKAGES = ("highdicom", "pynetdicom", "dicomweb_client")


@dataclass(frozen=True, eq=False)
class DicomObject:
    """A DICOM instance with the name of its file and what to call it."""

    file_name: str
    title: str
    dataset: Dataset


def require_packages() -> None:
    """Refuse to go on without the extra ``dicom``.

    Raises
    ------
    MissingPackageError
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"DICOM output needs {', '.join(missing)}, not installed here. Install the extra dicom: "
            "pip install 'perfusion-cbv[dicom]'."
        )


def made_at(folder: Path) -> datetime:
    """Return when the maps in a folder were made: when their provenance was written."""
    try:
        return datetime.fromtimestamp((folder / PROVENANCE).stat().st_mtime).replace(microsecond=0)
    except OSError as error:
        raise UnreadableInputError(f"{folder} holds no {PROVENANCE}. Choose the folder that `map` wrote.") from error


def make_objects(
    result: AnyResult,
    source: Source,
    made: datetime,
    *,
    segments: Sequence[Region] = (),
    measures: Sequence[Measurement] = (),
    progress: Progress = silent,
) -> list[DicomObject]:
    """Return the objects of a result: a Parametric Map for each map, regions, measures if any, coloured captures.

    Parameters
    ----------
    result : MapResult or StoredResult
    source : Source
        `source.read_source`.
    made : datetime
        When the maps were made; it is the objects' date, and they are the same objects only with the same date.
    segments : sequence of Region
        Beside brain and reference region, on the maps' grid.
    measures : sequence of Measurement
        Of those regions.
    progress : callable (fraction, message), optional

    Returns
    -------
    list of DicomObject

    Raises
    ------
    MissingPackageError
        The extra ``dicom`` is not installed.
    GeometryError
        The result does not lie where the source does.
    UnreadableInputError, UsageError
        Measures of no segment; two segments of one name.
    """
    require_packages()
    from PerfusionCBVLib.dicom_out.common import Author

    with warnings.catch_warnings():
        # highdicom remarks on names without a given name, and repeats them.
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
        return _made_by(Author(result, source, made), segments, measures, progress)


def _made_by(
    author: Author, segments: Sequence[Region], measures: Sequence[Measurement], progress: Progress
) -> list[DicomObject]:
    from PerfusionCBVLib.dicom_out.parametric_map import parametric_map
    from PerfusionCBVLib.dicom_out.secondary_capture import secondary_captures
    from PerfusionCBVLib.dicom_out.segmentation import all_segments, segmentation
    from PerfusionCBVLib.dicom_out.structured_report import segment_numbers, structured_report

    result = author.result
    regions = all_segments(author, segments)
    segment_numbers(measures, regions)  # refused before the work
    objects = []
    for place, name in enumerate(result.maps, start=1):
        progress(0.5 * place / len(result.maps), f"Parametric map {name}")
        objects.append(DicomObject(f"map_{name}.dcm", f"Parametric Map {name}", parametric_map(author, name, place)))
    progress(0.6, "Segmentation")
    drawn = segmentation(author, regions, 81)
    objects.append(DicomObject("regions.dcm", "Segmentation", drawn))
    if measures:
        report = structured_report(author, measures, regions, drawn, 82)
        objects.append(DicomObject("measures.dcm", "Structured Report", report))
    progress(0.7, "Coloured pictures")
    for place, name in enumerate((name for name in CAPTURED if name in result.maps), start=91):
        for number, capture in enumerate(secondary_captures(author, name, place), start=1):
            title = f"Secondary Capture {name}, slice {number}"
            objects.append(DicomObject(f"colour_{name}_{number:03d}.dcm", title, capture))
    progress(0.9, "Objects are ready")
    return objects


def write_objects(objects: Sequence[DicomObject], folder: Path | str) -> list[Path]:
    """Write objects into a folder, all or none; return their paths in the same order.

    Raises
    ------
    UsageError
        The folder already holds DICOM files, among which those of another result would go unnoticed.
    """
    folder = Path(folder)
    require_no_objects(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        for each in objects:
            each.dataset.save_as(fresh / each.file_name, enforce_file_format=True)
        for each in objects:
            os.replace(fresh / each.file_name, folder / each.file_name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return [folder / each.file_name for each in objects]


def require_no_objects(folder: Path) -> None:
    """Refuse a folder that already holds DICOM files.

    Raises
    ------
    UsageError
    """
    if next(folder.glob("*.dcm"), None) is not None:
        raise UsageError(f"{folder} already holds DICOM files. Choose an empty folder, so that results don't mix.")
