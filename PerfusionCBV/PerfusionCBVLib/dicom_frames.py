"""Frames of one DICOM series put in order: which slice, which time point, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from PerfusionCBVLib.dicom_headers import Frame, SeriesHeaders, number
from PerfusionCBVLib.errors import GeometryError, TimingError, UnreadableInputError
from PerfusionCBVLib.load_common import uniform_times_s

_ADVICE = "Export the complete series again."

_LONGEST_PAUSE_S = 3600.0
"""A clock that jumps further does not even order the frames."""

_DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class FrameGrid:
    """Every frame of a complete series.

    Attributes
    ----------
    frames : list of list of Frame
        By slice position (ascending along the normal), then by time.
    times_s : (T,) array or None
        From the headers, first frame at 0; None where they hold no usable times.
    resolution_s : float
        Precision with which the headers give times.
    clock : str
        Which element gave them.
    """

    frames: list[list[Frame]]
    times_s: np.ndarray | None
    resolution_s: float
    clock: str

    @property
    def is_numbered_by_time(self) -> bool:
        """Whether the instance numbers count the slices of one time point after those of the last, always alike."""
        numbers = np.array([[frame.instance_number or 0 for frame in frames] for frames in self.frames]).T
        in_time = numbers.min(axis=1)[1:] > numbers.max(axis=1)[:-1]
        return bool(in_time.all() and (np.argsort(numbers, axis=1) == np.argsort(numbers[0])).all())

    @property
    def interval_s(self) -> float | None:
        """Mean time between frames, s."""
        if self.times_s is None:
            return None
        return float(self.times_s[-1] / (self.times_s.size - 1))


def arrange(series: SeriesHeaders, *, trust_times: bool = True) -> FrameGrid:
    """Return the frames of `series` by slice and time, or say what is missing.

    Parameters
    ----------
    series : SeriesHeaders
    trust_times : bool
        False where the user gives the frame interval: the headers' times then only order the frames.

    Raises
    ------
    GeometryError
        Missing slices, unequal orientation, no positions.
    TimingError
        Missing frames.
    UnreadableInputError
        Several echoes.
    """
    _require_one_echo(series)
    _continue_past_midnight(series)
    by_position = series.slice_positions()
    if not series.is_mosaic:
        _require_regular_slices(series, list(by_position))
    key = _ordering(by_position)
    ordered = [sorted(frames, key=lambda frame: _rank(frame, key)) for frames in by_position.values()]
    _require_no_contradiction(ordered, key)
    times_us, clock = _times_us(ordered, series)
    _require_all_slices(ordered, list(by_position), key)
    _require_all_time_points(ordered, series, key)
    if times_us is None:
        return FrameGrid(ordered, None, 0.0, "")
    times_s = (times_us - times_us[0]) * 1e-6
    resolution_s = 1.0 if (times_us % 1_000_000 == times_us[0] % 1_000_000).all() else 0.01
    if trust_times or np.diff(times_s).max() > _LONGEST_PAUSE_S:
        _require_no_gap(times_s, resolution_s)
    return FrameGrid(ordered, times_s, resolution_s, clock)


def regularised(grid: FrameGrid, nominal_s: float | None) -> np.ndarray:
    """Return the times to use: evenly spaced unless the headers' times really are uneven.

    Clock times are rounded, so where they agree with the nominal interval within their precision, or with an even
    spacing within 5 % of the interval, the spacing is even.
    """
    if grid.times_s is None or grid.interval_s is None:
        raise TypeError("a grid without times has none to regularise")
    frames = grid.times_s.size
    interval_s = grid.interval_s
    if nominal_s is not None and abs(nominal_s - interval_s) * (frames - 1) <= grid.resolution_s:
        interval_s = nominal_s
    even = uniform_times_s(frames, interval_s)
    if np.abs(grid.times_s - even).max() <= max(0.05 * interval_s, grid.resolution_s):
        return even
    return grid.times_s


def _require_one_echo(series: SeriesHeaders) -> None:
    echoes = sorted({frame.echo_time_ms for frame in series.frames if frame.echo_time_ms is not None})
    if len(echoes) > 1 and echoes[-1] - echoes[0] > 0.1:
        listed = ", ".join(f"{echo:g}" for echo in echoes[:4])
        raise UnreadableInputError(
            f"The series holds several echoes (echo times {listed} ms). Dual echo is not supported yet: pass a folder "
            "with the files of one echo."
        )


def _require_regular_slices(series: SeriesHeaders, positions_mm: list[float]) -> None:
    orientations = [frame.orientation for frame in series.frames]
    if any(o is None or frame.position_mm is None for o, frame in zip(orientations, series.frames, strict=True)):
        raise GeometryError(
            "Some images of the series give no position or orientation in the patient. Export the original series."
        )
    spread = np.ptp(np.array(orientations, dtype=np.float64), axis=0).max()
    if spread > 1e-3:
        raise GeometryError("The slices of the series are not parallel. Choose the dynamic (perfusion) series.")
    gaps_mm = np.diff(positions_mm)
    if gaps_mm.size < 2:
        return
    usual_mm = float(np.quantile(gaps_mm, 0.5, method="lower"))  # a gap is wider than usual, never narrower
    uneven = np.flatnonzero(np.abs(gaps_mm - usual_mm) > 0.05 * usual_mm)
    if uneven.size:
        at = int(uneven[np.argmax(gaps_mm[uneven])])
        raise GeometryError(
            f"Slices are missing or unevenly spaced: {gaps_mm[at]:.2f} mm between slice positions "
            f"{positions_mm[at]:.1f} and {positions_mm[at + 1]:.1f} mm, {usual_mm:.2f} mm elsewhere. {_ADVICE}"
        )


def _continue_past_midnight(series: SeriesHeaders) -> None:
    """Let clock times go on past midnight where the date does not: some exports write the date of the study on all."""
    clock_us = [frame.acquisition_us for frame in series.frames]
    if None in clock_us:
        return
    times_us = np.unique(np.array(clock_us, dtype=np.int64))
    if times_us.size < 2 or times_us[0] // _DAY_US != times_us[-1] // _DAY_US:
        return
    at = int(np.argmax(np.diff(times_us)))
    if times_us[at + 1] - times_us[at] > _DAY_US // 2:
        series.frames[:] = [
            replace(frame, acquisition_us=frame.acquisition_us + _DAY_US)
            if frame.acquisition_us is not None and frame.acquisition_us <= times_us[at]
            else frame
            for frame in series.frames
        ]


def _require_no_contradiction(ordered: list[list[Frame]], key: str) -> None:
    """Refuse frames whose acquisition times run against the order that was chosen, or the other way round."""
    names = {
        "temporal_position": "temporal positions",
        "acquisition_us": "acquisition times",
        "trigger_us": "trigger times",
        "instance_number": "instance numbers",
    }
    # Numbers of instances are given anew by some exports, so they bear witness only against trigger times.
    for witness in {"acquisition_us": ["trigger_us"], "trigger_us": ["instance_number"]}.get(key, ["acquisition_us"]):
        for frames in ordered:
            values = [getattr(frame, witness) for frame in frames]
            if None in values:
                continue
            backwards = np.flatnonzero(np.diff(np.array(values, dtype=np.int64)) < 0)
            # Times within one frame, as of a heart beat, start again with each and say nothing of the order.
            if backwards.size and not (witness == "trigger_us" and len(set(values)) < len(values)):
                raise TimingError(
                    f"The order of the frames is in doubt: by {names[key]} frame {backwards[0] + 2} comes after frame "
                    f"{backwards[0] + 1}, by {names[witness]} before it. Export the original series again."
                )


def _rank(frame: Frame, key: str) -> int:
    value = getattr(frame, key)
    return 0 if value is None else int(value)


def _ordering(by_position: dict[float, list[Frame]]) -> str:
    """Return the attribute that tells the time points of every slice apart."""
    for key in ("temporal_position", "acquisition_us", "trigger_us", "instance_number"):
        if all(
            all(getattr(frame, key) is not None for frame in frames)
            and len({getattr(frame, key) for frame in frames}) == len(frames)
            for frames in by_position.values()
        ):
            return key
    raise TimingError(
        "The headers do not tell the time points of the series apart (no distinct temporal positions, acquisition "
        "times, trigger times or instance numbers at each slice). Export the original series."
    )


def _require_all_slices(ordered: list[list[Frame]], positions_mm: list[float], key: str) -> None:
    expected = max(len(frames) for frames in ordered)
    short = [at for at, frames in enumerate(ordered) if len(frames) < expected]
    if not short:
        return
    at = short[0]
    missing = _missing_time_points(ordered, at, key)
    when = f" (time point {', '.join(map(str, missing[:5]))})" if missing else ""
    others = f", and of {len(short) - 1} more slice positions" if len(short) > 1 else ""
    raise TimingError(
        f"Images are missing: slice {at + 1} of {len(ordered)}, at {positions_mm[at]:.1f} mm, has {len(ordered[at])} "
        f"of {expected} time points{when}{others}. {_ADVICE}"
    )


def _missing_time_points(ordered: list[list[Frame]], at: int, key: str) -> list[int]:
    if key == "temporal_position":
        everywhere = sorted({_rank(frame, key) for frames in ordered for frame in frames})
        there = {_rank(frame, key) for frame in ordered[at]}
        return [place + 1 for place, value in enumerate(everywhere) if value not in there]
    if key == "instance_number":
        return []
    complete = max(ordered, key=len)
    starts = np.array([_rank(frame, key) for frame in complete])
    # Slices of one time point are acquired within one interval, so the nearest complete time point may be off by
    # the slice's own delay, which the median removes.
    own = np.array([_rank(frame, key) for frame in ordered[at]])
    delay = np.median([own_time - starts[np.argmin(np.abs(starts - own_time))] for own_time in own])
    taken = {int(np.argmin(np.abs(starts + delay - own_time))) for own_time in own}
    return [place + 1 for place in range(starts.size) if place not in taken]


def _require_all_time_points(ordered: list[list[Frame]], series: SeriesHeaders, key: str) -> None:
    values = [_rank(frame, key) for frame in ordered[0]]
    frames = len(values)
    if key == "temporal_position":
        absent = sorted(set(range(values[0], values[-1] + 1)) - set(values))
        announced = number(series.header, "NumberOfTemporalPositions") or 0
        if not absent and announced > frames:
            raise TimingError(
                f"The header announces {announced:g} time points, but {frames} were found. {_ADVICE} If the scan was "
                "stopped early, pass it as NIfTI."
            )
    elif key == "instance_number":
        every = {_rank(frame, key) for frames_there in ordered for frame in frames_there}
        absent = sorted(set(range(min(every), max(every) + 1)) - every)
    else:
        absent = []
    if absent:
        listed = ", ".join(map(str, absent[:5])) + (", …" if len(absent) > 5 else "")
        what = "Time points" if key == "temporal_position" else "Instances"
        raise TimingError(f"{what} are missing from the series: number {listed}. {_ADVICE}")


def _times_us(ordered: list[list[Frame]], series: SeriesHeaders) -> tuple[np.ndarray | None, str]:
    """Return the clock times of the slice with most frames, if they tell all its frames apart in the right order."""
    frames = max(ordered, key=len)
    for key, name in (("acquisition_us", "acquisition times"), ("trigger_us", "trigger times")):
        values = [getattr(frame, key) for frame in frames]
        if len(frames) > 1 and None not in values:
            times_us = np.array(values, dtype=np.int64)
            # Below 50 ms a frame they count slices or repetitions rather than frames.
            if (np.diff(times_us) > 0).all() and np.median(np.diff(times_us)) > 50_000:
                return times_us, f"DICOM {name}"
    resolution_ms = number(series.header, "TemporalResolution")
    if resolution_ms and resolution_ms >= 50 and all(frame.temporal_position is not None for frame in frames):
        return np.arange(len(frames), dtype=np.int64) * round(resolution_ms * 1e3), "DICOM temporal resolution"
    return None, ""


def _require_no_gap(times_s: np.ndarray, resolution_s: float) -> None:
    steps_s = np.diff(times_s)
    usual_s = float(np.median(steps_s))
    long = np.flatnonzero(steps_s > 1.5 * usual_s + resolution_s)
    if long.size:
        at = int(long[0])
        raise TimingError(
            f"Time points are missing: {steps_s[at]:.2f} s pass between frames {at + 1} and {at + 2}, "
            f"{usual_s:.2f} s between others. {_ADVICE} If the scanner's clock is wrong, pass --repetition-time."
        )
