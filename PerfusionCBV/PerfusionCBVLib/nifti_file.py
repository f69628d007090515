"""A NIfTI file opened and checked before its array is read: what it announces must fit what it is."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load_common import cannot_open, require_plain_file, require_plausible_ratio, require_plausible_size

BROKEN_NIFTI = (ImageFileError, HeaderDataError, EOFError, zlib.error, ValueError, OverflowError)
"""What nibabel raises on damaged files besides OSError, when it opens them or reads their array."""


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
        # What nibabel says while it mends a header would stand between the user and our one sentence.
        with LoggingOutputSuppressor():
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


def _require_voxel_size(image: nibabel.Nifti1Image, path: Path) -> None:
    """Refuse voxels without a size where the affine is made of it: nibabel takes them to be 1 mm."""
    if image.header["sform_code"] > 0:
        return
    with Opener(str(path)) as stream:
        as_written = type(image.header).from_fileobj(stream, check=False)
    if not as_written["pixdim"][1:4].all():
        raise GeometryError(f"The header of {path.name} gives a voxel no size (pixdim is 0). Export it again.")


def read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a mask or label map, of the file's own type, and its affine in RAS mm.

    Axes of one element behind the third are left out.

    Raises
    ------
    UnreadableInputError, GeometryError
        As `open_nifti`; also colour or complex values.
    """
    image = open_nifti(path)
    if image.get_data_dtype().kind not in "iuf":
        raise UnreadableInputError(f"{path.name} holds colour or complex values; a mask or label map is needed.")
    try:
        with np.errstate(all="ignore"):  # a scale that overflows gives values that are then refused
            values = np.asanyarray(image.dataobj)
    except (*BROKEN_NIFTI, OSError) as error:
        raise damaged_nifti(path) from error
    keep = tuple(n for axis, n in enumerate(values.shape) if axis < 3 or n > 1)
    return values.reshape(keep), np.asarray(image.affine, dtype=np.float64)


def damaged_nifti(path: Path) -> UnreadableInputError:
    """Return the error for a file whose contents are no whole NIfTI."""
    return UnreadableInputError(f"{path.name} is truncated, damaged or no NIfTI file. Copy or export it again.")
