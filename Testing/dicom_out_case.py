"""A patient with a planted name, as DICOM, and the maps that the command line makes of them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dicom_fixtures import Phantom, edit_headers, write_classic
from dsc_phantom import GradedHead, graded_head
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.stored import StoredResult, read_result

FAMILY_NAME, PATIENT_ID = "Wüstenfrau", "GEHEIM-4711"


@dataclass(frozen=True, eq=False)
class Case:
    source: Path
    maps: Path
    head: GradedHead
    phantom: Phantom

    @property
    def result(self) -> StoredResult:
        return read_result(self.maps)


def plant_name(header: Dataset) -> None:
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName, header.PatientID = f"{FAMILY_NAME}^Ada", PATIENT_ID
    header.PatientBirthDate, header.PatientSex, header.AccessionNumber = "19500102", "F", "ACC77"
    header.StudyDescription, header.SeriesNumber = "Brain tumour", 7


def oblique(voxel_mm, shape) -> np.ndarray:
    """A grid whose rows and columns differ in spacing, turned about two axes, its rows mirrored."""
    a, b = np.deg2rad(14), np.deg2rad(-9)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(voxel_mm)
    affine[:3, 3] = [3.25, -7.5, 11.125] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@cache
def make_case(folder: Path) -> Case:
    head = graded_head(shape=(48, 56, 6), frames=36, leakage_per_s=0.02)
    signal = head.series.signal
    phantom = Phantom(signal, oblique((3.4, 3.1, 6.0), signal.shape[:3]), head.series.times_s)
    source = write_classic(phantom, folder / "dicom")
    edit_headers(source, plant_name)
    assert main(["map", str(source), "--output", str(folder / "maps"), "--method", "bsw"]) == 0
    return Case(source, folder / "maps", head, phantom)


def pixel_places_lps(position, orientation, spacing, rows, columns) -> np.ndarray:
    """Centre of every pixel, mm, by PS3.3 equation C.7.6.2.1-1; (rows, columns, 3)."""
    orientation = np.array(orientation, float)
    along_row = np.outer(np.arange(columns) * float(spacing[1]), orientation[:3])
    along_column = np.outer(np.arange(rows) * float(spacing[0]), orientation[3:])
    return np.array(position, float) + along_column[:, None] + along_row[None]


def values_at(places_lps: np.ndarray, volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What a volume holds at places in the patient; the places must be those of its voxels."""
    flat = np.c_[places_lps.reshape(-1, 3) * (-1, -1, 1), np.ones(places_lps[..., 0].size)]
    index = np.linalg.solve(affine, flat.T)[:3].T
    nearest = np.rint(index).astype(int)
    assert np.abs(index - nearest).max() < 1e-3
    return volume[tuple(nearest.T)].reshape(places_lps.shape[:-1])
