"""Writing a result: all files or none."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.arterial import write_arterial_input
from PerfusionCBVLib.durable import sync_files, sync_folder
from PerfusionCBVLib.errors import UnreadableInputError, UsageError
from PerfusionCBVLib.json_text import read_json_object
from PerfusionCBVLib.report import write_pictures, write_report
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.sealed_record import LARGEST_BYTES, write_sealed_record
from PerfusionCBVLib.withheld import without_identifiers

PROVENANCE = "provenance.json"
CURVES = "curves.csv"
REGISTRATION = "registration.json"
RECORDS = (PROVENANCE, REGISTRATION)


def write_result(result: MapResult, folder: Path | str, *, with_identifiers: bool = False) -> list[Path]:
    """Write maps, baseline, masks, mean curves, provenance, pictures and report into a folder; return their paths.

    Everything is written beside the folder first and moved in when complete, so that a full disk or a cancelled run
    leaves no half result. Files of an earlier result in the same folder are replaced or removed; others are kept.

    Names of input files, free text of headers and the patient are left out, unless `with_identifiers`; see `withheld`.
    """
    folder = Path(folder)
    result = result if with_identifiers else without_identifiers(result)
    with whole_folder(folder, PROVENANCE) as fresh:
        affine = result.series.affine
        for name, map_ in result.maps.items():
            write_nifti(fresh / f"{name}.nii.gz", map_.values, map_.affine)
        write_nifti(fresh / "baseline.nii.gz", np.asarray(result.baseline, dtype=np.float32), affine)
        write_nifti(fresh / "mask.nii.gz", result.mask.astype(np.uint8), affine)
        write_nifti(fresh / "status.nii.gz", result.status, affine)
        if result.reference is not None:
            write_nifti(fresh / "reference.nii.gz", result.reference.astype(np.uint8), affine)
        if result.arterial is not None:
            write_arterial_input(result.arterial, fresh / "aif.csv")
            if result.arterial.mask is not None:
                write_nifti(fresh / "aif_mask.nii.gz", result.arterial.mask.astype(np.uint8), affine)
        _write_curves(fresh / CURVES, result)
        write_pictures(result, fresh)
        write_report(result, fresh / "report.html", with_identifiers=with_identifiers)
        names = sorted(path.name for path in fresh.iterdir())
        maps = {name: {"unit": map_.unit, "description": map_.description} for name, map_ in result.maps.items()}
        provenance = {**result.provenance, "maps": maps, "files": [*names, PROVENANCE]}
        write_sealed_record(fresh / PROVENANCE, provenance)
    return [folder / name for name in provenance["files"]]


@contextmanager
def whole_folder(folder: Path, record: str) -> Iterator[Path]:
    """Give a folder to write into, whose files are moved into `folder` when all of it went well; otherwise none is.

    Parameters
    ----------
    folder : Path
        Made where it does not exist. Files of an earlier result are replaced or removed, others are kept.
    record : str
        Name of the JSON file, written like the others, whose ``files`` lists what the result consists of.

    Raises
    ------
    UnreadableInputError
        A file of that name is there, but not of this program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        yield fresh
        sync_files(fresh)  # a name must not reach the disk before its content
        _remove_earlier(folder / record)
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == record):  # the record last
            os.replace(path, folder / path.name)
        sync_folder(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def require_own_folder(folder: Path, command: str) -> None:
    """Refuse a folder with the result of another command, whose files would be mixed with new ones or replaced.

    Parameters
    ----------
    folder : Path
    command : str
        What the record of the new result has as ``command``.

    Raises
    ------
    UsageError
    """
    for path in (folder / name for name in RECORDS):
        if not path.exists():
            continue
        try:
            found = read_json_object(path, LARGEST_BYTES, "").get("command")
        except UnreadableInputError:
            found = None
        if found != command:
            raise UsageError(f"{folder} holds the result of another command ({path.name}); choose another --output.")


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume or series in mm and s."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _write_curves(path: Path, result: MapResult) -> None:
    """Write the mean ΔR2* curves: ``time_s`` and a column in 1/s for each."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", *result.curves_per_s])
        writer.writerows(np.column_stack([result.series.times_s, *result.curves_per_s.values()]).tolist())


def _remove_earlier(path: Path) -> None:
    if not path.exists():
        return
    advice = "It is not a file of this program; choose another output folder."
    names = read_json_object(path, LARGEST_BYTES, advice).get("files")
    if not isinstance(names, list):
        raise UnreadableInputError(f"{path} lists no files. {advice}")
    for name in names:
        if isinstance(name, str) and Path(name).name == name:
            (path.parent / name).unlink(missing_ok=True)
