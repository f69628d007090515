"""One three-dimensional image with its place in the patient: anatomy, baseline, labels; from NIfTI, NRRD or DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from PerfusionCBVLib.dicom_headers import Frame, SeriesHeaders, is_dicom_file, read_headers
from PerfusionCBVLib.dicom_pixels import read_images
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import require_usable_affine, sha256_of_file
from PerfusionCBVLib.load_nrrd import nrrd_affine
from PerfusionCBVLib.nifti_file import has_orientation, read_volume_values
from PerfusionCBVLib.nrrd_file import data_file, read_nrrd

if TYPE_CHECKING:
    from PerfusionCBVLib.pictures import AnyResult

_KINDS = "a NIfTI (.nii, .nii.gz), a NRRD (.nrrd, .nhdr) or a folder with one DICOM series"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """A three-dimensional image.

    Parameters
    ----------
    values : (x, y, z) array
        Made float32 and read-only.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    name : str
        What to call it in findings, pictures and reports.
    input_sha256 : mapping
        File name (a DICOM series: its UID) to SHA-256 of what was read.

    Raises
    ------
    GeometryError
        Not three-dimensional, or no usable affine.
    """

    values: np.ndarray
    affine: np.ndarray
    name: str
    input_sha256: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what overflows is infinite
            values = np.asarray(self.values, dtype=np.float32).view()
        affine = np.array(self.affine, dtype=np.float64)
        if values.ndim != 3:
            raise GeometryError(
                f"{self.name} has {values.ndim} dimensions ({' x '.join(map(str, values.shape))}); a single volume "
                "with 3 (x, y, z) is needed."
            )
        if affine.shape != (4, 4):
            raise GeometryError(f"The affine of {self.name} is no 4 × 4 matrix.")
        require_usable_affine(affine, self.name)
        edges = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if not np.allclose(edges.T @ edges, np.eye(3), atol=0.01):
            raise GeometryError(
                f"The axes of {self.name} are not perpendicular (a tilted gantry, or an affine registration in the "
                "header); resample it to a regular grid first."
            )
        for array in (values, affine):
            array.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "input_sha256", MappingProxyType(dict(self.input_sha256)))

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def baseline_volume(result: AnyResult, name: str = "DSC baseline") -> Volume:
    """Return the baseline image of a result, which stands for its series in every registration."""
    return Volume(result.baseline, result.affine, name)


def read_volume(path: Path, *, series_uid: str | None = None) -> Volume:
    """Return the one volume that a file or DICOM folder holds.

    Parameters
    ----------
    path : Path
        .nii, .nii.gz, .nrrd, .nhdr, a DICOM file, or a folder with DICOM files.
    series_uid : str, optional
        Which series to read where a DICOM folder holds several.

    Raises
    ------
    UnreadableInputError
        Missing, damaged, of another kind, or several series.
    GeometryError
        Not three-dimensional; position and orientation in the patient missing; slices missing or not parallel.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.exists():
        raise UnreadableInputError(f"There is no file or folder {path}. Check the path.")
    if path.is_dir():
        return _read_dicom(path, series_uid)
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    if name.endswith((".nrrd", ".nhdr")):
        return _read_nrrd(path)
    if is_dicom_file(path):
        raise UnreadableInputError(f"{path.name} is a single DICOM file; pass the folder with the whole series.")
    raise UnreadableInputError(f"{path.name} is of no supported type; {_KINDS} is needed.")


def _read_nifti(path: Path) -> Volume:
    image, values, affine = read_volume_values(path)
    if not has_orientation(image):
        raise GeometryError(
            f"{path.name} gives no orientation in the patient (sform and qform code 0), so left and right can't be "
            "told. Export it again with its orientation."
        )
    return Volume(values, affine, _stem(path), {path.name: sha256_of_file(path)})


def _read_nrrd(path: Path) -> Volume:
    header, values = read_nrrd(path)
    if values.ndim != 3:
        raise GeometryError(f"{path.name} has {values.ndim} dimensions; a single volume with 3 (x, y, z) is needed.")
    files = [path, *filter(None, [data_file(path, header)])]
    hashes = {file.name: sha256_of_file(file) for file in files}
    return Volume(values, nrrd_affine(header, None, path.name), _stem(path), hashes)


def _read_dicom(folder: Path, series_uid: str | None) -> Volume:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    found = [one for one in read_headers(files) if one.frames]
    if series_uid is not None:
        found = [one for one in found if one.uid == series_uid]
    if not found:
        wanted = f"no DICOM series {series_uid}" if series_uid else "no DICOM images"
        raise UnreadableInputError(f"The folder {folder.name} holds {wanted}; {_KINDS} is needed.")
    if len(found) > 1:
        listed = "; ".join(f"{len(one.files)} files, UID {one.uid}" for one in found[:6])
        raise UnreadableInputError(
            f"The folder {folder.name} holds {len(found)} DICOM series ({listed}). Pass a folder with one of them."
        )
    series = found[0]
    if series.truncated:
        raise UnreadableInputError(f"{series.truncated[0]} and {len(series.truncated) - 1} more files are cut short.")
    ordered = _ordered_frames(series, folder.name)
    images = [read_images(frame.file)[0][0] for frame in ordered]
    values = np.stack(images, axis=-1).swapaxes(0, 1)  # columns run along x
    return Volume(values, _affine_of(ordered, series, folder.name), series.description, {series.uid: series.sha256})


def _ordered_frames(series: SeriesHeaders, folder: str) -> list[Frame]:
    """Return the images of a series by position; its slices are then known to be parallel, even, alike and single."""
    if any(frame.position_mm is None or frame.orientation is None for frame in series.frames):
        raise GeometryError(f"Some images in {folder} give no position or orientation. Export the original series.")
    if len({frame.file for frame in series.frames}) < len(series.frames):
        raise UnreadableInputError(
            f"The series with UID {series.uid} in {folder} is an enhanced multi-frame DICOM object; convert it to "
            "NIfTI (dcm2niix), or export it as single images."
        )
    orientations = np.array([frame.orientation for frame in series.frames], dtype=np.float64)
    by_position = series.slice_positions()
    if np.ptp(orientations, axis=0).max() > 1e-3 or max(len(frames) for frames in by_position.values()) > 1:
        raise GeometryError(
            f"The series with UID {series.uid} in {folder} is no single volume of parallel slices (several echoes, "
            "times or orientations). Choose a single anatomical volume."
        )
    positions_mm = np.array(list(by_position))
    gaps_mm = np.diff(positions_mm)
    if gaps_mm.size and np.ptp(gaps_mm) > 0.05 * float(np.median(gaps_mm)):
        raise GeometryError(
            f"Slices of the series with UID {series.uid} in {folder} are missing or unevenly spaced: "
            f"{gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm apart. Export the complete series."
        )
    if len(series.formats) > 1:
        raise GeometryError(
            f"The images of the series with UID {series.uid} in {folder} differ in size or pixel spacing. Export the "
            "series again."
        )
    return [frames[0] for frames in by_position.values()]


def _affine_of(ordered: list[Frame], series: SeriesHeaders, folder: str) -> np.ndarray:
    """Return voxel index (column, row, slice) to RAS, mm, (4, 4)."""
    spacing_mm = next(iter(series.formats)).spacing_mm
    if spacing_mm is None or len(ordered) < 2:
        what = "no pixel spacing" if spacing_mm is None else "a single slice"
        raise GeometryError(
            f"The series with UID {series.uid} in {folder} has {what}, so it is no volume in the patient. Export the "
            "original series."
        )
    orientation, first, last = (
        np.array(place, dtype=np.float64)
        for place in (ordered[0].orientation, ordered[0].position_mm, ordered[-1].position_mm)
    )
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * spacing_mm[1]
    affine[:3, 1] = orientation[3:] * spacing_mm[0]
    affine[:3, 2] = (last - first) / (len(ordered) - 1)
    affine[:3, 3] = first
    return _LPS_TO_RAS @ affine


def _stem(path: Path) -> str:
    name = path.name
    for end in (".gz", ".nii", ".nrrd", ".nhdr"):
        name = name[: -len(end)] if name.lower().endswith(end) else name
    return name
