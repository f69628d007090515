"""Slicer sequence (.seq.nrrd) and other NRRD with a time axis to `DynamicSeries`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.load_common import (
    CLOCKS,
    GIVEN_BY_USER,
    SECONDS_PER_UNIT,
    ask_for_interval,
    collect_multi_volume,
    sha256_of_file,
    shown,
    start_collecting,
    uniform_times_s,
)
from PerfusionCBVLib.nrrd_file import data_file, read_header, read_nrrd
from PerfusionCBVLib.series import DynamicSeries

_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
_SHORT_SPACES = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}


def load_nrrd(
    path: Path,
    *,
    echo_time_s: float | None = None,
    repetition_time_s: float | None = None,
) -> DynamicSeries:
    """Return the series in a NRRD file with one list or time axis, as Slicer writes sequences and multi-volumes.

    Parameters
    ----------
    path : Path
        .nrrd, .seq.nrrd or .nhdr.
    echo_time_s, repetition_time_s : float, optional
        Override what the file says, s.

    Raises
    ------
    UnreadableInputError, GeometryError, TimingError, QualityError
        As `load.load_series` describes.
    """
    sizes = read_header(path)["sizes"]
    if len(sizes) != 4:
        raise GeometryError(
            f"{path.name} has {len(sizes)} dimensions ({' x '.join(map(str, sizes))}); a DSC-MRI series has 4 "
            "(x, y, z, time). Choose the dynamic (perfusion) series, not a single volume."
        )
    header, data = read_nrrd(path)
    time_axis = _time_axis(header, path.name)
    affine = nrrd_affine(header, time_axis, path.name)
    signal = np.moveaxis(data, time_axis, -1)
    frames = signal.shape[-1]
    if repetition_time_s is not None:
        times_s, source = uniform_times_s(frames, repetition_time_s), GIVEN_BY_USER
    else:
        times_s, source = _frame_times_s(header, time_axis, frames, path.name)

    collector = start_collecting(echo_time_s, repetition_time_s)
    collect_multi_volume(collector, header, path.name)
    interval_s = float(np.median(np.diff(times_s))) if frames > 1 else None
    collector.add("repetition_time_s", interval_s, f"frame interval ({source})")
    hashes = {path.name: sha256_of_file(path)}
    if (detached := data_file(path, header)) is not None:
        hashes[detached.name] = sha256_of_file(detached)
    return DynamicSeries(
        signal=signal,
        affine=affine,
        times_s=times_s,
        acquisition=collector.acquisition(),
        name=re.sub(r"(\.seq)?\.(nrrd|nhdr)$", "", path.name, flags=re.IGNORECASE),
        source=path.name,
        input_sha256=hashes,
        notes=(f"Frame times: {source}.",),
    )


def _time_axis(header: Mapping[str, Any], name: str) -> int:
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    # ITK writes the frames of a multi-component image as "vector".
    axes = [axis for axis, kind in enumerate(kinds) if kind in ("list", "time", "vector")]
    if len(axes) != 1 and "space directions" in header:
        rows = header["space directions"]
        axes = [axis for axis, row in enumerate(rows) if row is None or not np.isfinite(row).all()]
    if len(axes) != 1:
        raise GeometryError(
            f"{name} does not say which of its 4 axes is time (no single axis of kind list or time). Save it from "
            "Slicer as a volume sequence (.seq.nrrd), or convert it to NIfTI."
        )
    return axes[0]


def nrrd_affine(header: Mapping[str, Any], other_axis: int | None, name: str) -> np.ndarray:
    """Return voxel index to RAS, mm, (4, 4), leaving out the axis that is not one of space (time, layers), if any.

    Raises
    ------
    GeometryError
        The header gives no position and orientation, or none in mm.
    """
    space = str(header.get("space", "")).lower().removesuffix("-time")
    space = _SHORT_SPACES.get(space, space)
    if space not in _TO_RAS or "space directions" not in header or "space origin" not in header:
        raise GeometryError(
            f"{name} gives no position and orientation in the patient (space is {shown(space) or 'missing'!r}). "
            "Save it from Slicer, or convert it to NIfTI."
        )
    units = [str(unit) for unit in header.get("space units", [])]
    if any(unit not in ("", "mm") for unit in units):
        raise GeometryError(
            f"{name} gives positions in {shown(', '.join(units))}; mm is needed. Save it again from Slicer."
        )
    rows = [row for axis, row in enumerate(header["space directions"]) if axis != other_axis]
    try:
        directions = np.array(
            [np.full(3, np.nan) if row is None else np.asarray(row)[:3] for row in rows], dtype=np.float64
        )
        affine = np.eye(4)
        affine[:3, :3] = directions.reshape(3, 3).T
        affine[:3, 3] = np.asarray(header["space origin"], dtype=np.float64)[:3]
    except ValueError as error:
        raise GeometryError(
            f"{name} gives no usable position and orientation (space directions or origin). Save it from Slicer."
        ) from error
    affine[:3] *= np.array(_TO_RAS[space])[:, None]
    return affine


def _frame_times_s(header: Mapping[str, Any], time_axis: int, frames: int, name: str) -> tuple[np.ndarray, str]:
    """Return times from the sequence's index values or the multi-volume's frame labels, the first set to 0."""
    clock = str(header.get("MultiVolume.FrameIdentifyingDICOMTagName", ""))
    candidates = []
    for key in header:
        # The number in the key is 0 or 3 by version of Slicer, whatever the place of the axis in the file.
        if match := re.fullmatch(r"axis (\d+) index values", key):
            unit = _axis_unit(header, time_axis) or str(header.get(f"axis {match[1]} index unit", ""))
            values = [unquote(value) for value in str(header[key]).split()]
            candidates.append((key, values, unit or str(header.get("MultiVolume.FrameIdentifyingDICOMTagUnits", ""))))
    if "MultiVolume.FrameLabels" in header:
        labels = str(header["MultiVolume.FrameLabels"]).replace(",", " ").split()
        unit = str(header.get("MultiVolume.FrameIdentifyingDICOMTagUnits", ""))
        candidates.append(("MultiVolume.FrameLabels", labels, unit))
    spacings = header.get("spacings")
    if spacings is not None and math.isfinite(float(spacings[time_axis])):
        values = [str(frame * float(spacings[time_axis])) for frame in range(frames)]
        candidates.append(("spacings", values, _axis_unit(header, time_axis)))

    if clock.lower() not in CLOCKS:
        raise ask_for_interval(f"The frames of {name} are labelled with {shown(clock)}, which is no time.")
    found = "no times"
    for key, values, unit in candidates:
        factor = SECONDS_PER_UNIT.get(unit.strip().lower())
        if factor is None:
            found = f"{key!r} without a unit of time" + (f" (unit {shown(unit)!r})" if unit else "")
            continue
        try:
            times = np.array([float(value) for value in values], dtype=np.float64) * factor
        except ValueError:
            found = f"{key!r} that are not numbers"
            continue
        if times.shape != (frames,):
            raise ask_for_interval(
                f"{name} has {frames} frames but {times.size} values in {key!r}; frames are missing."
            )
        if not np.isfinite(times).all():
            raise ask_for_interval(f"{name} has times in {key!r} that are no numbers.")
        return times - times[0], f"{name}: {key} in {unit.strip()}"
    raise ask_for_interval(f"{name} gives {found} for its {frames} frames.")


def _axis_unit(header: Mapping[str, Any], axis: int) -> str:
    units = header.get("units")
    return "" if units is None or len(units) <= axis else str(units[axis]).strip()
