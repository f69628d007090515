"""What the readers of every format share: hashing, units of time, and where acquisition values came from."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib.errors import GeometryError, TimingError, UnreadableInputError, one_line
from PerfusionCBVLib.series import Acquisition

GIVEN_BY_USER = "given by the user"

LARGEST_SERIES_SAMPLES = 4 * 1024**3
"""Above this a header is damaged or hostile rather than a DSC series; 16 GiB as float32."""

LARGEST_RATIO = 200
"""Unpacked over packed size; images rarely exceed 10, empty ones reach about 100."""

RATIO_MATTERS_ABOVE_BYTES = 100 * 1024**2

SECONDS_PER_UNIT = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "µs"), 1e-6),
}

CLOCKS = {"acquisitiontime", "triggertime", "contenttime", "seriestime", "time", ""}
"""Slicer can order frames by any DICOM attribute; only these are clocks."""

_BOUNDS_S = {"echo_time_s": (0.001, 0.3), "repetition_time_s": (0.005, 20.0)}
_OPTIONS = {"echo_time_s": "--echo-time", "repetition_time_s": "--repetition-time"}


@dataclass
class AcquisitionCollector:
    """Gathers acquisition values with their sources; the first source named for a value wins."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any, source: str) -> None:
        """Record `value` for `name` unless it is unknown (None) or already recorded.

        Raises
        ------
        TimingError
            An echo or repetition time that can't be in seconds.
        """
        if value is None or name in self.values:
            return
        if name in _BOUNDS_S:
            require_seconds(name, value, source)
        self.values[name] = value
        self.sources[name] = source

    def acquisition(self) -> Acquisition:
        """Return what was gathered."""
        return Acquisition(**self.values, sources=self.sources)


def start_collecting(echo_time_s: float | None, repetition_time_s: float | None) -> AcquisitionCollector:
    """Return a collector that already holds what the user gave, which overrides every file."""
    collector = AcquisitionCollector()
    collector.add("echo_time_s", echo_time_s, GIVEN_BY_USER)
    collector.add("repetition_time_s", repetition_time_s, GIVEN_BY_USER)
    return collector


def collect_multi_volume(collector: AcquisitionCollector, attributes: Mapping[str, Any], where: str) -> None:
    """Record what Slicer's multi-volume attributes say about the acquisition.

    Raises
    ------
    UnreadableInputError
        A value is no number.
    TimingError
        A time out of bounds.
    """
    # Slicer copies these from DICOM, so times are in ms.
    for value_name, key, factor in (
        ("echo_time_s", "MultiVolume.DICOM.EchoTime", 1e-3),
        ("repetition_time_s", "MultiVolume.DICOM.RepetitionTime", 1e-3),
        ("flip_angle_deg", "MultiVolume.DICOM.FlipAngle", 1.0),
    ):
        text = str(attributes.get(key, "")).strip()
        if not text or value_name in collector.values:
            continue
        try:
            value = float(text)
        except ValueError as error:
            raise UnreadableInputError(
                f"{key} in {where} is {shown(text)!r}, but one number is needed. Save it again from Slicer."
            ) from error
        collector.add(value_name, value * factor, f"{where}: {key}")


def require_seconds(name: str, value_s: float, source: str) -> None:
    """Refuse an echo or repetition time out of bounds, saying so when it looks like milliseconds.

    Raises
    ------
    TimingError
    """
    low, high = _BOUNDS_S[name]
    if low <= value_s <= high:
        return
    quantity = name.removesuffix("_s").replace("_", " ")
    hint = "Check the value"
    if low <= value_s / 1000 <= high:
        hint = f"It looks like milliseconds ({value_s / 1000:g} s would fit): correct it"
    raise TimingError(
        f"The {quantity} is {value_s:g} s ({source}); between {low:g} and {high:g} s is expected. "
        f"{hint}, or pass {_OPTIONS[name]} in seconds."
    )


def uniform_times_s(frames: int, interval_s: float) -> np.ndarray:
    """Return (frames,) times of frames `interval_s` apart, the first at 0."""
    return np.arange(frames, dtype=np.float64) * interval_s


def ask_for_interval(why: str) -> TimingError:
    """Return the error that asks the user for the frame interval, `why` saying what was found."""
    return TimingError(f"{why} Pass the time between frames with --repetition-time, in seconds.")


def require_plausible_size(shape: tuple[int, ...], name: str) -> None:
    """Refuse a header that announces no data or more than any DSC series has, before memory is reserved for it.

    Raises
    ------
    GeometryError
    """
    if not 0 < math.prod(shape) <= LARGEST_SERIES_SAMPLES or min(shape) < 0:
        raise GeometryError(
            f"The header of {name} announces {' x '.join(map(str, shape))} samples, which no DSC-MRI series has. "
            "Check that the file is not damaged and export it again."
        )


def require_plausible_ratio(unpacked_bytes: int, packed_bytes: int, name: str) -> None:
    """Refuse compressed content that is out of all proportion to its file, before it is unpacked.

    Raises
    ------
    UnreadableInputError
    """
    if unpacked_bytes > RATIO_MATTERS_ABOVE_BYTES and unpacked_bytes > LARGEST_RATIO * packed_bytes:
        raise UnreadableInputError(
            f"{name} would unpack from {packed_bytes / 1e6:.1f} MB to {unpacked_bytes / 1e6:.0f} MB, which images do "
            "not; it was not unpacked. Unpack it yourself, if you trust where it comes from."
        )


def require_plain_file(path: Path) -> None:
    """Refuse what is missing and what is no plain file: reading a pipe or a device may never end.

    Raises
    ------
    UnreadableInputError
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise cannot_open(path, error) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UnreadableInputError(f"{shown(path.name)} is {what}, but a file is needed. Pass the file itself.")


def read_text(path: Path, most_bytes: int) -> str:
    """Return the text (UTF-8) of a small file.

    Raises
    ------
    UnreadableInputError
        It can't be opened.
    ValueError
        It is longer than `most_bytes`, or no text.
    """
    require_plain_file(path)
    try:
        if path.stat().st_size > most_bytes:
            raise ValueError(f"it is longer than {most_bytes} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise cannot_open(path, error) from error


def shown(value: object, most: int = 60) -> str:
    """Return a value from a file as a message can show it: on one line, legible, not longer than `most` characters."""
    text = one_line(value)
    return text if len(text) <= most else f"{text[:most]}…"


def require_usable_affine(affine: np.ndarray, name: str) -> None:
    """Refuse an affine that is not finite or can't be inverted, or that no patient fits into.

    Raises
    ------
    GeometryError
    """
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e9 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(
            f"{name} has no usable geometry (its affine is not an invertible 4 × 4 matrix in mm). Export it again."
        )


def grid_shift_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance, mm, between the corners of two grids of one shape, given by their affines."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    shift = (one - other)[:3, :3] @ corners + (one - other)[:3, 3:]
    return float(np.max(np.linalg.norm(shift, axis=0)))


def same_grid(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether two grids of one shape lie within a tenth of a voxel of each other."""
    return grid_shift_mm(one, other, shape) <= 0.1 * float(np.linalg.norm(other[:3, :3], axis=0).min())


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise cannot_open(path, error) from error


def cannot_open(path: Path, error: OSError | ValueError) -> UnreadableInputError:
    """Return the error for a file that the system does not let us read."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return UnreadableInputError(
        f"{shown(path.name)} can't be opened ({reason}). Check that it exists, is complete and that you may read it."
    )
