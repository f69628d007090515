"""A NIfTI file opened and checked before its array is read: what it announces must fit what it is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import cannot_open, require_plain_file, require_plausible_ratio, require_plausible_size

BROKEN_NIFTI = (ImageFileError, HeaderDataError, EOFError, zlib.error, ValueError, OverflowError)
"""What nibabel raises on damaged files besides OSError, when it opens them or reads their array."""

_MM_PER_UNIT = {"mm": 1.0, "meter": 1e3, "micron": 1e-3, "unknown": 1.0}


def open_nifti(path: Path) -> nibabel.Nifti1Image:
    """Return a NIfTI image of plausible size, its array unread.

    Raises
    ------
    UnreadableInputError
        Missing, truncated or damaged, no NIfTI, or compressed out of all proportion.
    GeometryError
        It announces no data, or more than any series has, or voxels without a size.
    """
    require_plain_file(path)
    try:
        with _quiet():
            image = nibabel.load(path, keep_file_open=True)  # frames are read one after the other
        size = path.stat().st_size
    except BROKEN_NIFTI as error:
        raise damaged_nifti(path) from error
    except OSError as error:
        raise (cannot_open(path, error) if error.errno else damaged_nifti(path)) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise UnreadableInputError(f"{path.name} is no NIfTI image but {type(image).__name__}. Convert it to NIfTI.")
    require_plausible_size(image.shape, path.name)
    _require_voxel_size(image, path)
    if path.name.lower().endswith(".gz"):
        require_plausible_ratio(math.prod(image.shape) * image.get_data_dtype().itemsize, size, path.name)
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what nibabel and numpy say of an odd header off the terminal, where one sentence of ours shall stand.

    nibabel's own suppressor takes its handlers away, and Python then prints the remarks all the same.
    """
    before = imageglobals.logger.disabled
    imageglobals.logger.disabled = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        imageglobals.logger.disabled = before


def _require_voxel_size(image: nibabel.Nifti1Image, path: Path) -> None:
    """Refuse voxels without a size where the affine is made of it: nibabel takes them to be 1 mm."""
    if image.header["sform_code"] > 0:
        return
    with Opener(str(path)) as stream:
        as_written = type(image.header).from_fileobj(stream, check=False)
    if not as_written["pixdim"][1:4].all():
        raise GeometryError(f"The header of {path.name} gives a voxel no size (pixdim is 0). Export it again.")


def read_volume_values(path: Path) -> tuple[nibabel.Nifti1Image, np.ndarray, np.ndarray]:
    """Return a NIfTI image, its values, of the file's own type where it has no scale, and its affine in RAS mm.

    Axes of one element behind the third are left out.

    Raises
    ------
    UnreadableInputError, GeometryError
        As `open_nifti`; also colour or complex values.
    """
    image = open_nifti(path)
    if image.get_data_dtype().kind not in "iuf":
        raise UnreadableInputError(f"{path.name} holds colour or complex values; one number for each voxel is needed.")
    try:
        with np.errstate(all="ignore"):  # a scale that overflows gives values that are then refused
            values = np.asanyarray(image.dataobj)
    except (*BROKEN_NIFTI, OSError) as error:
        raise damaged_nifti(path) from error
    keep = tuple(n for axis, n in enumerate(values.shape) if axis < 3 or n > 1)
    return image, values.reshape(keep), affine_mm(image)


def affine_mm(image: nibabel.Nifti1Image) -> np.ndarray:
    """Return voxel index to RAS in mm, (4, 4), whatever the header's unit of length; without one it is mm."""
    try:
        unit = image.header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT[unit]
    return affine


def has_orientation(image: nibabel.Nifti1Image) -> bool:
    """Return whether the header says where left and right are."""
    return bool(image.header["sform_code"] or image.header["qform_code"])


def damaged_nifti(path: Path) -> UnreadableInputError:
    """Return the error for a file whose contents are no whole NIfTI."""
    return UnreadableInputError(f"{path.name} is truncated, damaged or no NIfTI file. Copy or export it again.")
