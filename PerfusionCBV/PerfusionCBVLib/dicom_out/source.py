"""The DICOM series that maps were made from: one image for each slice, whose patient, study and place they inherit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat, PersonName

from PerfusionCBVLib.archive import extracted
from PerfusionCBVLib.dicom_frames import arrange
from PerfusionCBVLib.dicom_headers import (
    PARSE_ERRORS,
    Frame,
    SeriesHeaders,
    functional_group,
    is_dicom_file,
    read_headers,
)
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load import files_in
from PerfusionCBVLib.load_dicom import choose_series

LARGEST_MISFIT = 0.05
"""Of a voxel, between the centre of a DICOM pixel and that of the map's voxel; dcm2niix rounds no worse."""

LARGEST_SHIFT_MM = 1e-4
"""How far a pixel may move when all slices are given the first one's orientation."""

_TYPE_2 = ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
_MULTI_FRAME = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"),
    *("DimensionIndexSequence", "DimensionOrganizationSequence"),
)


@dataclass(frozen=True, eq=False)
class SourceImage:
    """The image of the source at one slice.

    Attributes
    ----------
    header : Dataset
        Its header without pixels, always as of a classic single-frame instance: that of an enhanced frame is made flat,
        under a UID of its own.
    sop_class_uid, sop_instance_uid : str
        Of the instance that holds it.
    frame_number : int or None
        Its place in a multi-frame instance, from 1.
    """

    header: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None


@dataclass(frozen=True, eq=False)
class Source:
    """The images that objects refer to, one for each slice, ascending along the slice normal.

    Attributes
    ----------
    images : tuple of SourceImage
        Of the first time point of the baseline: before the bolus, and in steady state.
    time_point : int
        Which one that is, from 1.
    time_points : int
        How many the series has.
    """

    images: tuple[SourceImage, ...]
    time_point: int
    time_points: int

    @property
    def headers(self) -> list[Dataset]:
        """Header of each slice."""
        return [image.header for image in self.images]

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.headers[0].SeriesInstanceUID)

    def voxels(self, shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which voxel of a grid each DICOM pixel is: three index arrays (slices, rows, columns).

        ``volume[source.voxels(volume.shape, affine)]`` is the volume in the source's own planes.

        Parameters
        ----------
        shape : (x, y, z)
        affine : (4, 4) array
            Voxel index to RAS, mm.

        Raises
        ------
        GeometryError
            The grid is not the source's.
        """
        rows, columns = int(self.headers[0].Rows), int(self.headers[0].Columns)
        found = f"{columns} × {rows} pixels on {len(self.images)} slices"
        if sorted(shape) != sorted((rows, columns, len(self.images))):
            raise GeometryError(
                f"The maps have {' × '.join(map(str, shape))} voxels, the DICOM series {found}. Pass the "
                "series that the maps were made from."
            )
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        places = np.stack([_place_lps(header, row, column) for header in self.headers]) * (-1.0, -1.0, 1.0)
        inverse = np.linalg.inv(affine)
        index = places @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.rint(index).astype(int)
        misfit = float(np.abs(index - nearest).max())
        inside = (nearest >= 0).all() and (nearest < np.array(shape)).all()
        if misfit > LARGEST_MISFIT or not inside:
            off_mm = float(
                np.linalg.norm((index - np.clip(nearest, 0, np.array(shape) - 1)) @ affine[:3, :3].T, axis=-1).max()
            )
            raise GeometryError(
                f"The maps and the DICOM series ({found}) do not lie at the same place: up to {off_mm:.3g} mm apart. "
                "Pass the series that the maps were made from."
            )
        return nearest[..., 0], nearest[..., 1], nearest[..., 2]

    def name_true_images(self, dataset: Dataset) -> None:
        """Let references to the flat headers of an enhanced source name its instance and frame, in place."""
        by_uid = {str(i.header.SOPInstanceUID): i for i in self.images if i.frame_number is not None}
        if by_uid:
            _name_true_images(dataset, by_uid)


def read_source(
    path: Path | str,
    provenance: Mapping[str, Any],
    *,
    converted_elsewhere: bool = False,
    series_uid: str | None = None,
) -> Source:
    """Return the series that a result was made from.

    Parameters
    ----------
    path : path-like
        A DICOM folder, .zip or enhanced multi-frame file.
    provenance : mapping
        Of the result; its ``input.sha256`` names the series and the hash of its files.
    converted_elsewhere : bool
        The maps were made from a file that other software converted from this series, so hashes can't agree. Place and
        number of time points still must, see `Source.voxels`.
    series_uid : str, optional
        With `converted_elsewhere`: which of several dynamic series.

    Raises
    ------
    UnreadableInputError
        Not readable, or not the series that the maps were made from.
    GeometryError, TimingError
        Slices or frames are missing, a mosaic, no frame of reference.
    """
    with _series_files(Path(path)) as files:
        found = read_headers(files)
        series = _find(found, provenance, converted_elsewhere, series_uid)
        if series.truncated:
            raise UnreadableInputError(f"The DICOM file {series.truncated[0]} is truncated. Export the series again.")
        if series.is_mosaic:
            raise GeometryError(
                "The series is stored as mosaics (all slices in one image), to whose parts DICOM objects can't refer. "
                "Export it with one image for each slice."
            )
        grid = arrange(series, trust_times=False)
        time_points = len(grid.frames[0])
        if time_points != provenance["frames"]:
            raise UnreadableInputError(
                f"The DICOM series has {time_points} time points, the maps were made from {provenance['frames']}. Pass "
                "the series that the maps were made from."
            )
        time = int(provenance["bolus"]["baseline_frames"][0])
        images = tuple(_image(frames[time]) for frames in grid.frames)
        _settle_geometry([image.header for image in images])
    return Source(images, time + 1, time_points)


def read_header(path: Path | str, provenance: Mapping[str, Any]) -> Dataset:
    """Return the header of an image of the series that a result was made from.

    Raises
    ------
    UnreadableInputError
        Not readable, or not that series.
    """
    with _series_files(Path(path)) as files:
        series = _find(read_headers(files), provenance, converted_elsewhere=False, series_uid=None)
        file = series.files[min(series.files)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
                header = pydicom.dcmread(file, stop_before_pixels=True)
                header.decode()
        except PARSE_ERRORS as error:
            raise UnreadableInputError(f"The header of {file.name} can't be used. Export the series again.") from error
    return header


@contextmanager
def _series_files(path: Path) -> Iterator[list[Path]]:
    if not path.exists():
        raise UnreadableInputError(f"There is no file or folder {path}. Check the path.")
    if path.is_dir():
        yield files_in(path)
    elif path.suffix.lower() == ".zip":
        with extracted(path) as folder:
            yield files_in(folder)
    elif is_dicom_file(path):
        yield [path]
    else:
        raise UnreadableInputError(f"{path.name} is no DICOM; a DICOM folder, .zip or file is needed.")


def _find(
    found: list[SeriesHeaders], provenance: Mapping[str, Any], converted_elsewhere: bool, series_uid: str | None
) -> SeriesHeaders:
    if converted_elsewhere:
        return choose_series(found, series_uid)[0]
    way_out = "or say that the series was converted elsewhere (--converted-elsewhere)"
    read = provenance["input"]["sha256"]
    expected = {key.removeprefix("dicom:"): value for key, value in read.items() if key.startswith("dicom:")}
    if not expected:
        raise UnreadableInputError(
            f"The maps were made from {', '.join(read) or 'an unnamed input'}, not from DICOM, so nothing shows "
            f"that this series belongs to them. Make the maps from the DICOM series, {way_out}."
        )
    (uid, sha256), *_ = expected.items()
    series = next((one for one in found if one.uid == uid), None)
    if series is None:
        there = ", ".join(f"UID {one.uid}" for one in found) or "no image series"
        raise UnreadableInputError(
            f"The maps were made from the DICOM series with UID {uid}; found: {there}. Pass that series, {way_out}."
        )
    if series.sha256 != sha256:
        raise UnreadableInputError(
            f"The {len(series.files)} files of the DICOM series are not those that the maps were made from (SHA-256 "
            f"{series.sha256[:12]}…, expected {sha256[:12]}…): some were changed, added or removed. Pass the "
            f"original files, {way_out}."
        )
    return series


def _image(frame: Frame) -> SourceImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on odd but legible values
            whole = pydicom.dcmread(frame.file, stop_before_pixels=True)
            class_uid, instance_uid = str(whole.SOPClassUID), str(whole.SOPInstanceUID)
            is_enhanced = "PerFrameFunctionalGroupsSequence" in whole
            header = _flat(whole, frame) if is_enhanced else whole
            _complete(header)
            header.Rows, header.Columns, header.PixelSpacing, header.StudyInstanceUID  # noqa: B018  needed below
    except PARSE_ERRORS as error:
        raise UnreadableInputError(
            f"The header of {frame.file.name} can't be used ({error}). Export the series again."
        ) from error
    if not header.get("FrameOfReferenceUID"):
        raise GeometryError(
            "The series has no Frame of Reference UID, without which objects can't be laid over it. Export the "
            "original series."
        )
    return SourceImage(header, class_uid, instance_uid, frame.index + 1 if is_enhanced else None)


def _settle_geometry(headers: list[Dataset]) -> None:
    """Give slices, in place, one orientation and the spacing that their positions have; refuse what that would move.

    Scanners round the orientation differently from slice to slice, and some write the gap as Spacing Between Slices.
    """
    first = headers[0]
    orientation = np.array(first.ImageOrientationPatient, dtype=np.float64)
    extent_mm = float(max(first.PixelSpacing)) * max(int(first.Rows), int(first.Columns))
    for header in headers:
        off_mm = (
            float(np.abs(np.array(header.ImageOrientationPatient, dtype=np.float64) - orientation).max()) * extent_mm
        )
        if off_mm > LARGEST_SHIFT_MM or list(header.PixelSpacing) != list(first.PixelSpacing):
            raise GeometryError(
                f"The slices of the DICOM series are turned against each other (pixels move by up to {off_mm:.2g} mm) "
                "or differ in pixel spacing, which objects with one orientation can't express. Export the original "
                "series."
            )
        header.ImageOrientationPatient = first.ImageOrientationPatient
    normal = np.cross(orientation[:3], orientation[3:])
    places_mm = [float(normal @ np.array(header.ImagePositionPatient, dtype=np.float64)) for header in headers]
    for header in headers:
        if len(headers) > 1:
            spacing_mm = (places_mm[-1] - places_mm[0]) / (len(headers) - 1)
            header.SpacingBetweenSlices = DSfloat(spacing_mm, auto_format=True)
            header.SliceThickness = header.get("SliceThickness") or header.SpacingBetweenSlices
        elif not header.get("SliceThickness"):
            raise GeometryError("The series has one slice and no Slice Thickness. Export the original series.")


def _flat(whole: Dataset, frame: Frame) -> Dataset:
    """Return the header of one enhanced frame as that of a classic image."""
    header = Dataset()
    header.update({element.tag: element for element in whole if element.keyword not in _MULTI_FRAME})
    header.SOPClassUID = MRImageStorage
    header.SOPInstanceUID = generate_uid(entropy_srcs=[str(whole.SOPInstanceUID), "frame", str(frame.index)])
    for sequence, keywords in (
        ("PlanePositionSequence", ("ImagePositionPatient",)),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
        ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")),
    ):
        group = functional_group(whole, frame.index, sequence)
        for keyword in keywords:
            if keyword in group:
                header[keyword] = copy.deepcopy(group[keyword])
    return header


def _complete(header: Dataset) -> None:
    """Give a header, in place, what DICOM asks for and exports leave out; names in Unicode, as ours are written."""
    for keyword in _TYPE_2:
        if keyword not in header:
            setattr(header, keyword, "")
    if str(header.PatientSex) not in ("M", "F", "O", ""):
        header.PatientSex = ""
    for keyword in ("PatientName", "ReferringPhysicianName"):
        setattr(header, keyword, PersonName(str(header.get(keyword, "") or "")))
    header.SpecificCharacterSet = "ISO_IR 192"


def _place_lps(header: Dataset, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the centres of pixels in LPS, mm (PS3.3, equation C.7.6.2.1-1); (rows, columns, 3)."""
    orientation = np.array(header.ImageOrientationPatient, dtype=np.float64)
    between_rows_mm, between_columns_mm = (float(v) for v in header.PixelSpacing)
    return (
        np.array(header.ImagePositionPatient, dtype=np.float64)
        + column[..., None] * between_columns_mm * orientation[:3]
        + row[..., None] * between_rows_mm * orientation[3:]
    )


def _name_true_images(dataset: Dataset, by_uid: Mapping[str, SourceImage]) -> None:
    for element in dataset:
        if element.VR != "SQ":
            continue
        is_list_of_instances = element.keyword == "ReferencedInstanceSequence"
        for item in element.value:
            image = by_uid.get(str(item.get("ReferencedSOPInstanceUID", "")))
            if image is not None:
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
                if not is_list_of_instances:
                    item.ReferencedFrameNumber = image.frame_number
            _name_true_images(item, by_uid)
        if is_list_of_instances:  # slices of one instance would name it again and again
            once = {str(item.ReferencedSOPInstanceUID): item for item in element.value}
            element.value = list(once.values())
