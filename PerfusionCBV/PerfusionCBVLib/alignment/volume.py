"""One three-dimensional image with its place in the patient: anatomy, baseline, labels; from NIfTI, NRRD or DICOM."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documentation's name
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from PerfusionCBVLib.dicom_headers import SeriesHeaders, is_dicom_file, read_headers
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import cannot_open, require_plausible_size, sha256_of_file

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
        values = np.asarray(self.values, dtype=np.float32).view()
        affine = np.array(self.affine, dtype=np.float64)
        if values.ndim != 3:
            raise GeometryError(
                f"{self.name} has {values.ndim} dimensions ({' x '.join(map(str, values.shape))}); a single volume "
                "with 3 (x, y, z) is needed."
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError(
                f"{self.name} has no usable geometry (its affine is not an invertible 4 × 4 matrix). Export it again."
            )
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
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise _damaged(path)
        require_plausible_size(image.shape, path.name)
        if not (image.header["sform_code"] or image.header["qform_code"]):
            raise GeometryError(
                f"{path.name} gives no orientation in the patient (sform and qform code 0), so left and right can't be "
                "told. Export it again with its orientation."
            )
        if image.get_data_dtype().kind not in "iuf":
            raise UnreadableInputError(f"{path.name} holds complex or colour values; one number a voxel is needed.")
        values = np.asanyarray(image.dataobj, dtype=np.float32)
        unit = image.header.get_xyzt_units()[0]
    except (ImageFileError, HeaderDataError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, KeyError) as error:
        raise _damaged(path) from error
    except OSError as error:
        raise (cannot_open(path, error) if error.errno else _damaged(path)) from error
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= {"meter": 1e3, "micron": 1e-3}.get(unit, 1.0)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return Volume(values, affine, _stem(path), {path.name: sha256_of_file(path)})


def _read_nrrd(path: Path) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        require_plausible_size(tuple(reader.GetSize()), path.name)
        image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path) from error
    if not any(key.lower() in ("nrrd_space", "nrrd_space dimension") for key in image.GetMetaDataKeys()):
        raise GeometryError(
            f"{path.name} gives no position and orientation in the patient (no space). Save it again from Slicer, or "
            "as NIfTI."
        )
    return _from_itk(image, _stem(path), {path.name: sha256_of_file(path)})


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
    ordered = _ordered_files(series, folder.name)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in ordered])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise UnreadableInputError(
            f"The DICOM series with UID {series.uid} in {folder.name} can't be read. Export it again, or convert it "
            "to NIfTI."
        ) from error
    return _from_itk(image, series.description, {series.uid: series.sha256})


def _ordered_files(series: SeriesHeaders, folder: str) -> list[Path]:
    """Return the files of a series by position, after checking that its slices are parallel, even and single."""
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
    return [frames[0].file for frames in by_position.values()]


def _from_itk(image: sitk.Image, name: str, hashes: Mapping[str, str]) -> Volume:
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise UnreadableInputError(f"{name} holds several numbers a voxel (colour); one is needed.")
    if image.GetDimension() != 3:
        raise GeometryError(f"{name} has {image.GetDimension()} dimensions; a single volume with 3 is needed.")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, _LPS_TO_RAS @ affine, name, hashes)


def _stem(path: Path) -> str:
    name = path.name
    for end in (".gz", ".nii", ".nrrd", ".nhdr"):
        name = name[: -len(end)] if name.lower().endswith(end) else name
    return name


def _damaged(path: Path) -> UnreadableInputError:
    return UnreadableInputError(f"{path.name} is truncated, damaged or no image of its kind. Copy or export it again.")
