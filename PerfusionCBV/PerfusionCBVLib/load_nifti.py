"""NIfTI with or without a BIDS sidecar to `DynamicSeries`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from PerfusionCBVLib.errors import GeometryError, TimingError, UnreadableInputError
from PerfusionCBVLib.json_text import read_json_object
from PerfusionCBVLib.load_common import (
    GIVEN_BY_USER,
    AcquisitionCollector,
    ask_for_interval,
    require_seconds,
    require_usable_affine,
    sha256_of_file,
    shown,
    start_collecting,
    uniform_times_s,
)
from PerfusionCBVLib.nifti_file import BROKEN_NIFTI, affine_mm, damaged_nifti, has_orientation, open_nifti
from PerfusionCBVLib.series import DynamicSeries

_SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}

FRAMES_AT_ONCE = 8

LARGEST_SIDECAR_BYTES = 16 * 1024**2

LARGEST_INTERVAL_DISAGREEMENT = 0.01
"""Between header and sidecar; more is a contradiction, less is rounding."""


def load_nifti(
    path: Path,
    *,
    echo_time_s: float | None = None,
    repetition_time_s: float | None = None,
    extra_sha256: Mapping[str, str] | None = None,
) -> DynamicSeries:
    """Return the series in a NIfTI file; a .json of the same name beside it is read as its BIDS sidecar.

    Parameters
    ----------
    path : Path
        .nii or .nii.gz.
    echo_time_s, repetition_time_s : float, optional
        Override what the files say, s.
    extra_sha256 : mapping, optional
        Hashes of what the file came out of.

    Raises
    ------
    UnreadableInputError, GeometryError, TimingError, QualityError
        As `load.load_series` describes.
    """
    image, signal, affine, notes = read_nifti(path)
    hashes = {**(extra_sha256 or {}), path.name: sha256_of_file(path)}
    sidecar_path = path.with_name(path.name.removesuffix(".gz").removesuffix(".GZ")[: -len(".nii")] + ".json")
    sidecar: dict[str, Any] = {}
    if sidecar_path.exists():
        sidecar = read_sidecar(sidecar_path)
        hashes[sidecar_path.name] = sha256_of_file(sidecar_path)
    else:
        notes.append(f"There is no sidecar {sidecar_path.name} beside the NIfTI file.")

    collector = start_collecting(echo_time_s, repetition_time_s)
    times_s, times_source = _frame_times_s(
        signal.shape[-1], image, path.name, sidecar, sidecar_path.name, repetition_time_s
    )
    notes.append(f"Frame times: {times_source}.")
    _collect_sidecar(collector, sidecar, sidecar_path.name)
    interval_s = float(np.median(np.diff(times_s))) if times_s.size > 1 else None
    collector.add("repetition_time_s", interval_s, f"frame interval ({times_source})")
    return DynamicSeries(
        signal=signal,
        affine=affine,
        times_s=times_s,
        acquisition=collector.acquisition(),
        name=path.name.removesuffix(".gz").removesuffix(".nii"),
        source=path.name,
        input_sha256=hashes,
        notes=tuple(notes),
    )


def read_nifti(path: Path) -> tuple[nibabel.Nifti1Image, np.ndarray, np.ndarray, list[str]]:
    """Return image, signal (x, y, z, T) float32, affine in RAS mm, and remarks on them.

    Raises
    ------
    UnreadableInputError
        Truncated, damaged, complex or colour data.
    GeometryError
        Not four-dimensional.
    """
    image = open_nifti(path)
    shape = image.shape
    # Some programs write time as the fifth dimension, as NIfTI prescribes for vectors.
    spatial_and_time = tuple(n for axis, n in enumerate(shape) if axis < 3 or n > 1)
    if len(spatial_and_time) != 4:
        raise GeometryError(
            f"{path.name} has {len(shape)} dimensions ({' x '.join(map(str, shape))}); a DSC-MRI series has 4 (x, y, "
            "z, time). Choose the dynamic (perfusion) series, not a single volume."
        )
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise UnreadableInputError(
            f"{path.name} holds {'complex' if kind.kind == 'c' else 'colour'} values; a magnitude series is needed."
        )
    try:
        with np.errstate(all="ignore"):  # what overflows is infinite, and counts as invalid
            signal = _read_in_blocks(image, spatial_and_time)
    except (*BROKEN_NIFTI, OSError) as error:
        raise damaged_nifti(path) from error

    affine = affine_mm(image)
    require_usable_affine(affine, path.name)
    notes = []
    if not has_orientation(image):
        notes.append(
            "The NIfTI header gives no orientation (sform and qform code 0): left and right can't be told from it."
        )
    return image, signal, affine, notes


def _read_in_blocks(image: nibabel.Nifti1Image, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values, float32, in the order that `DynamicSeries` keeps, a few frames at a time.

    A file has frame after frame, the series curve after curve; turning it round in one go takes the memory of three
    series.
    """
    signal = np.empty(shape, dtype=np.float32)
    time_axis = next(axis for axis, n in enumerate(image.shape) if axis >= 3 and n > 1)
    for start in range(0, shape[-1], FRAMES_AT_ONCE):
        frames = slice(start, start + FRAMES_AT_ONCE)
        wanted = tuple(frames if axis == time_axis else slice(None) for axis in range(image.ndim))
        signal[..., frames] = np.asarray(image.dataobj[wanted]).reshape((*shape[:3], -1))
    return signal


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the contents of a BIDS sidecar.

    Raises
    ------
    UnreadableInputError
    """
    # Not strict: dcm2niix copies control characters of DICOM texts as they are.
    return read_json_object(path, LARGEST_SIDECAR_BYTES, "Correct this sidecar or move it away.", strict=False)


def sidecar_number(sidecar: Mapping[str, Any], key: str, name: str) -> float | None:
    """Return a finite number from a sidecar, or None where the key is missing.

    Raises
    ------
    UnreadableInputError
        The value is no number; several echo times are the usual case.
    """
    value = sidecar.get(key)
    if value is None:
        return None
    # JSON knows whole numbers of any length, which no float holds.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        more = " Dual-echo series are not supported yet; pass one echo." if isinstance(value, list) else ""
        raise UnreadableInputError(
            f"{key} in {name} is {shown(repr(value))}, but one number is needed.{more} Correct the sidecar."
        )
    return float(value)


def _collect_sidecar(collector: AcquisitionCollector, sidecar: Mapping[str, Any], name: str) -> None:
    for value_name, key in (
        ("echo_time_s", "EchoTime"),
        ("repetition_time_s", "RepetitionTimeExcitation"),
        ("flip_angle_deg", "FlipAngle"),
        ("field_strength_t", "MagneticFieldStrength"),
    ):
        # What the user gives replaces the file's value, even one that could not be read.
        if value_name not in collector.values:
            collector.add(value_name, sidecar_number(sidecar, key, name), f"{name}: {key}")
    for value_name, key in (("manufacturer", "Manufacturer"), ("contrast_agent", "ContrastBolusIngredient")):
        if sidecar.get(key):
            collector.add(value_name, shown(sidecar[key], 200), f"{name}: {key}")


def _frame_times_s(
    frames: int,
    image: nibabel.Nifti1Image,
    image_name: str,
    sidecar: Mapping[str, Any],
    sidecar_name: str,
    repetition_time_s: float | None,
) -> tuple[np.ndarray, str]:
    if repetition_time_s is not None:
        return uniform_times_s(frames, repetition_time_s), GIVEN_BY_USER
    for key in ("VolumeTiming", "FrameTimesStart"):
        if sidecar.get(key) is not None:
            return _listed_times_s(sidecar[key], frames, f"{key} in {sidecar_name}"), f"{sidecar_name}: {key}"
    header_s = _header_interval_s(image)
    sidecar_s = sidecar_number(sidecar, "RepetitionTime", sidecar_name)
    if sidecar_s is not None:
        require_seconds("repetition_time_s", sidecar_s, f"{sidecar_name}: RepetitionTime")
        if header_s is not None and abs(header_s - sidecar_s) > LARGEST_INTERVAL_DISAGREEMENT * sidecar_s:
            raise ask_for_interval(
                f"The frame interval is {sidecar_s:g} s in {sidecar_name} but {header_s:g} s in the header of "
                f"{image_name}."
            )
        return uniform_times_s(frames, sidecar_s), f"{sidecar_name}: RepetitionTime"
    if header_s is None:
        raise ask_for_interval(f"The header of {image_name} gives no time between frames, and no sidecar does.")
    # Programs that know no frame interval write exactly 1 s, so this value deserves a word.
    doubt = ", exactly 1 s, which many programs write when they do not know it: please check" if header_s == 1 else ""
    return uniform_times_s(frames, header_s), f"{image_name}: header pixdim[4]{doubt}"


def _listed_times_s(values: Any, frames: int, where: str) -> np.ndarray:
    try:
        times_s = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TimingError(f"{where} is no list of times. Correct it, or pass --repetition-time.") from error
    if times_s.shape != (frames,):
        raise TimingError(
            f"{where} lists {times_s.size} times for {frames} frames. Frames or times are missing: use the complete "
            "series, or pass --repetition-time."
        )
    return times_s


def _header_interval_s(image: nibabel.Nifti1Image) -> float | None:
    try:
        unit = image.header.get_xyzt_units()[1]
    except KeyError:  # a code that NIfTI does not define
        return None
    zooms = image.header.get_zooms()
    # Time is the fourth dimension where NIfTI has its unit; a fifth dimension has none.
    if unit not in _SECONDS_PER_UNIT or image.shape[3] == 1 or not 0 < zooms[3] < math.inf:
        return None
    return float(np.float64(str(zooms[3])) * _SECONDS_PER_UNIT[unit])
