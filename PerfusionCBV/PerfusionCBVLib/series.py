"""The data that travels: a DSC-MRI series, its acquisition, and the maps made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from PerfusionCBVLib.errors import GeometryError, QualityError, TimingError, UsageError

MINIMUM_FRAMES = 15
"""Fewer frames can't hold a baseline, a first pass and a tail."""

MAXIMUM_INVALID_FRACTION = 0.1
"""Share of non-positive or non-finite samples inside the imaged head above which a series is refused."""


@dataclass(frozen=True)
class Acquisition:
    """How the series was acquired; `None` means unknown, never a guess.

    `sources` says where each known value came from, for example ``{"echo_time_s": "dsc.json: EchoTime"}``.

    `repetition_time_s` is the time between excitations of one slice, which sets T1 weighting. For single-shot EPI
    it equals the frame interval; for multi-shot and 3-D sequences it is shorter. The frame interval itself is in
    `DynamicSeries.times_s`.
    """

    echo_time_s: float | None = None
    repetition_time_s: float | None = None
    flip_angle_deg: float | None = None
    field_strength_t: float | None = None
    manufacturer: str | None = None
    contrast_agent: str | None = None
    contrast_dose_ml: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The bounds catch milliseconds passed as seconds, the commonest unit error in this field.
        _require_between("echo_time_s", self.echo_time_s, 0.001, 0.3, "s")
        _require_between("repetition_time_s", self.repetition_time_s, 0.005, 20.0, "s")
        _require_between("flip_angle_deg", self.flip_angle_deg, 1.0, 180.0, "degrees")
        _require_between("field_strength_t", self.field_strength_t, 0.01, 20.0, "T")
        known = {f.name for f in fields(self)} - {"sources"}
        stray = set(self.sources) - known
        if stray:
            raise UsageError(f"sources for unknown acquisition values: {sorted(stray)}; known: {sorted(known)}")
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    def with_value(self, name: str, value: Any, source: str) -> Acquisition:
        """Return a copy in which `name` has `value` and says that it came from `source`."""
        return replace(self, **{name: value}, sources={**self.sources, name: source})

    def as_dict(self) -> dict[str, Any]:
        """Return the values with their sources, ready for JSON."""
        return {
            f.name: {"value": getattr(self, f.name), "source": self.sources.get(f.name)}
            for f in fields(self)
            if f.name != "sources"
        }

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, f.name) for f in fields(self)]
        values[-1] = dict(self.sources)
        return (Acquisition, tuple(values))


@dataclass(frozen=True, eq=False)
class DynamicSeries:
    """A validated DSC-MRI series.

    Parameters
    ----------
    signal : (x, y, z, T) float32 array, arbitrary units
        Made read-only. A view (turned, cropped) is kept as it is where each curve lies in one piece.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    times_s : (T,) array, s
        Mid-time of each frame, strictly increasing, first frame at its own time (usually 0).
    acquisition : Acquisition
    name : str
        What to call the series in reports and on screen.
    source : str
        Which file, folder or series was read.
    input_sha256 : mapping
        File name to SHA-256 of what was read.
    notes : tuple of str
        What the reader decided, e.g. which of several series it picked.

    Raises
    ------
    GeometryError, TimingError, QualityError
    """

    signal: np.ndarray
    affine: np.ndarray
    times_s: np.ndarray
    acquisition: Acquisition
    name: str = "DSC series"
    source: str = ""
    input_sha256: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        signal = np.asarray(self.signal, dtype=np.float32).view()  # the caller's own array stays writable
        if signal.ndim != 4:
            raise GeometryError(
                f"A DSC-MRI series has 4 dimensions (x, y, z, time), but this one has {signal.ndim} "
                f"{tuple(np.shape(self.signal))}. Choose the dynamic (perfusion) series, not a single volume."
            )
        if signal.strides[-1] != signal.itemsize:  # curves are read whole; a turned or cropped view needs no copy
            signal = np.ascontiguousarray(signal)
        times_s = np.array(self.times_s, dtype=np.float64)
        frames = signal.shape[-1]
        if frames < MINIMUM_FRAMES:
            raise TimingError(
                f"The series has {frames} frames; at least {MINIMUM_FRAMES} are needed to see a baseline, the bolus "
                "and its tail. Choose the dynamic (perfusion) series, or check that the export is complete."
            )
        if times_s.shape != (frames,):
            raise TimingError(f"{times_s.size} frame times for {frames} frames; give one time for each frame.")
        if not (np.isfinite(times_s).all() and (np.diff(times_s) > 0).all()):
            raise TimingError(
                "The frame times do not increase from frame to frame. Export the series again with its original "
                "acquisition times."
            )
        interval = float(np.median(np.diff(times_s)))
        if not 0.1 <= interval <= 10.0:
            raise TimingError(
                f"The frame interval is {interval:g} s; between 0.1 s and 10 s is expected. Check that the times are "
                "in seconds, or pass --repetition-time in seconds."
            )
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("The image has no usable geometry (its affine is not an invertible 4 × 4 matrix).")
        _refuse_invalid_in_bulk(signal)
        for array in (signal, affine, times_s):
            array.setflags(write=False)
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "times_s", times_s)
        object.__setattr__(self, "input_sha256", MappingProxyType(dict(self.input_sha256)))

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, f.name) for f in fields(self)]
        values[6] = dict(self.input_sha256)
        return (DynamicSeries, tuple(values))

    @property
    def frames(self) -> int:
        """Number of time frames."""
        return self.signal.shape[-1]

    @property
    def frame_interval_s(self) -> float:
        """Median time between frames, s."""
        return float(np.median(np.diff(self.times_s)))

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True, eq=False)
class ParameterMap:
    """One map on the series' own grid.

    Parameters
    ----------
    name : str
        File stem, e.g. ``rcbv`` or ``k2``.
    values : (x, y, z) float32 array
        NaN where the map is undefined.
    affine : (4, 4) array
        Voxel index to RAS, mm.
    unit : str
        UCUM code: ``{ratio}``, ``1/s``, ...
    description : str
        One sentence for reports and DICOM.
    """

    name: str
    values: np.ndarray
    affine: np.ndarray
    unit: str
    description: str

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise GeometryError(f"map {self.name} has {self.values.ndim} dimensions; a map has 3 (x, y, z)")
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float32))


def _require_between(name: str, value: float | None, low: float, high: float, unit: str) -> None:
    if value is not None and not low <= value <= high:
        quantity = name.rsplit("_", 1)[0].replace("_", " ")
        raise TimingError(
            f"The {quantity} is {value:g} {unit}; between {low:g} and {high:g} {unit} is expected. "
            "Check the unit (times are in seconds here)."
        )


def _refuse_invalid_in_bulk(signal: np.ndarray) -> None:
    # Head voxels are those above a tenth of the brightest signal in the temporal maximum, so that empty background
    # (exactly 0 or NaN after some exports) does not count against a good series, however much of it there is.
    # Plane by plane: a second array of the series' size would be a second series in memory.
    largest = np.stack([np.max(plane, axis=-1, initial=0.0, where=np.isfinite(plane)) for plane in signal])
    if not largest.any():
        raise QualityError(
            "No voxel has a positive signal. A magnitude series is needed; check that this is not a phase or "
            "subtraction series."
        )
    head = largest > 0.1 * np.percentile(largest[largest > 0], 99.0)
    positive = sum(np.count_nonzero(plane[inside] > 0) for plane, inside in zip(signal, head, strict=True))
    invalid = 1.0 - positive / (np.count_nonzero(head) * signal.shape[-1])
    if invalid > MAXIMUM_INVALID_FRACTION:
        raise QualityError(
            f"{invalid:.0%} of the signal in the head is zero, negative or not a number; at most "
            f"{MAXIMUM_INVALID_FRACTION:.0%} is accepted. "
            "A magnitude series is needed; check that this is not a phase, subtraction or already computed series."
        )
