"""The arterial input: the curve that flow is measured against, found, drawn or read, and checked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from PerfusionCBVLib.concentration import Status, delta_r2s, voxel_status
from PerfusionCBVLib.errors import QualityError, TimingError, UnreadableInputError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.integral import area
from PerfusionCBVLib.load_common import read_text, shown
from PerfusionCBVLib.masking import validate_mask
from PerfusionCBVLib.preparation import Prepared
from PerfusionCBVLib.timing import BolusTiming

DELTA_R2S_HEADER = ("time_s", "delta_r2s_per_s")
CONCENTRATION_HEADER = ("time_s", "concentration_mmol_per_l")

AREA_SHARE = 0.1
ROUGH_SHARE = 0.25
CLUSTERS = 5
MINIMUM_CLUSTER = 3
"""Voxels that a cluster needs to be taken for arteries: fewer may share nothing but noise."""

MINIMUM_CANDIDATES = 50
MINIMUM_CURVE_SAMPLES = 5
LONGEST_CURVE_INTERVAL_S = 10.0
LARGEST_CURVE_BYTES = 16 * 1024**2
MAXIMUM_START = 0.1
"""A curve from a file must begin below this fraction of its peak, so that what lies before it is known to be 0."""

MINIMUM_HEIGHT = 3.0
"""An artery is all blood and tissue a few per cent of it: its peak is several times the brain's."""

MAXIMUM_PLATEAU = 0.5
"""Time above 95 % of the peak over the time above half: 0.27 for a Gaussian, 1 for a rectangle."""


@dataclass(frozen=True, eq=False)
class ArterialCurve:
    """A curve from outside the series, as a request to `arterial_input`.

    Attributes
    ----------
    times_s : (M,) array, s
        Increasing; 0 is the series' first frame.
    curve_per_s : (M,) array, 1/s
        ΔR2* that this blood concentration would cause in tissue.
    source : str
        Where it came from, for reports.

    Raises
    ------
    TimingError, QualityError
    """

    times_s: np.ndarray
    curve_per_s: np.ndarray
    source: str

    def __post_init__(self) -> None:
        times_s, curve = (np.array(v, dtype=np.float64) for v in (self.times_s, self.curve_per_s))
        if times_s.ndim != 1 or times_s.shape != curve.shape or times_s.size < MINIMUM_CURVE_SAMPLES:
            raise TimingError(
                f"The arterial curve of {self.source} has {times_s.size} times and {curve.size} values; at least "
                f"{MINIMUM_CURVE_SAMPLES} pairs are needed."
            )
        bad = np.flatnonzero(~(np.isfinite(times_s) & np.isfinite(curve)))
        if bad.size:
            raise QualityError(
                f"The arterial curve of {self.source} has no number in sample {bad[0] + 1}. Remove or repair it; gaps "
                "are not filled."
            )
        steps_s = np.diff(times_s)
        if not (steps_s > 0).all():
            row = int(np.argmin(steps_s > 0)) + 2
            raise TimingError(
                f"The times of the arterial curve of {self.source} don't increase at sample {row}. Sort them, one "
                "value for each time."
            )
        if np.median(steps_s) > LONGEST_CURVE_INTERVAL_S:
            raise TimingError(
                f"The samples of the arterial curve of {self.source} lie {np.median(steps_s):g} s apart; at most "
                f"{LONGEST_CURVE_INTERVAL_S:g} s is accepted. Are the times in milliseconds? Give them in seconds."
            )
        for array in (times_s, curve):
            array.setflags(write=False)
        object.__setattr__(self, "times_s", times_s)
        object.__setattr__(self, "curve_per_s", curve)


ArterialRequest = Literal["auto"] | np.ndarray | ArterialCurve
"""How the arterial input is chosen: found, the mean of a mask's voxels, or a given curve."""


@dataclass(frozen=True, eq=False)
class ArterialInput:
    """The arterial curve at the series' frames.

    Attributes
    ----------
    curve_per_s : (T,) array, 1/s
        ΔR2*; NaN in frames for which nothing is known (after the end of a curve from a file).
    times_s : (T,) array, s
    mask : (x, y, z) bool array or None
        The voxels whose mean it is; None for a curve from a file.
    source : str
        "automatic", "mask" or the file's name, for reports.
    checks : tuple of Finding
        ``aif-early``, ``aif-narrow``, ``aif-high``, ``aif-saturated``, ``aif-tail``: information where all is well,
        else a warning.
    """

    curve_per_s: np.ndarray
    times_s: np.ndarray
    mask: np.ndarray | None
    source: str
    checks: tuple[Finding, ...]

    def __post_init__(self) -> None:
        curve = np.array(self.curve_per_s, dtype=np.float64)
        if curve.ndim != 1 or curve.shape != np.shape(self.times_s):
            raise TimingError(f"{np.size(self.times_s)} frame times for {curve.shape} arterial samples.")
        curve.setflags(write=False)
        object.__setattr__(self, "curve_per_s", curve)

    @property
    def known(self) -> slice:
        """Frames from the first to the last with a value."""
        where = np.flatnonzero(np.isfinite(self.curve_per_s))
        return slice(int(where[0]), int(where[-1]) + 1)


def arterial_input(prepared: Prepared, request: ArterialRequest) -> ArterialInput:
    """Return the arterial input of a series, checked.

    Parameters
    ----------
    prepared : Prepared
    request : "auto", (x, y, z) bool array, or ArterialCurve
        See `arterial_voxels` for what "auto" does. Voxels of a mask may lie outside the brain mask; those with invalid
        samples are left out.

    Raises
    ------
    QualityError, GeometryError, TimingError
        No usable arterial curve; the message says why.
    UsageError
    """
    timing, times_s = prepared.timing, prepared.series.times_s
    mask: np.ndarray | None = None
    saturated = 0.0
    if isinstance(request, ArterialCurve):
        curve, source = _at_frames(request, times_s, timing), request.source
    elif isinstance(request, np.ndarray):
        mask, curve, saturated = _mean_of(prepared, request)
        source = "mask"
    elif request == "auto":
        status = prepared.status[prepared.usable]
        candidates = np.flatnonzero(status == Status.VALID)
        chosen = candidates[arterial_voxels(prepared.delta_r2s_per_s[candidates], times_s, timing)]
        inside = np.zeros(prepared.delta_r2s_per_s.shape[0], dtype=bool)
        inside[chosen] = True
        mask = np.zeros(prepared.mask.shape, dtype=bool)
        mask[prepared.usable] = inside
        curve = prepared.delta_r2s_per_s[chosen].mean(axis=0, dtype=np.float64)
        source = "automatic"
    else:
        raise UsageError(f"Unknown arterial input {request!r}; give 'auto', a mask or a curve.")
    brain = prepared.delta_r2s_per_s.mean(axis=0, dtype=np.float64)
    return ArterialInput(curve, times_s, mask, source, _checks(curve, brain, times_s, timing, saturated))


def arterial_voxels(delta_r2s: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> np.ndarray:
    """Return which voxels are arteries, after Mouridsen et al. 2006.

    The tenth with the largest area is kept, and scaled to equal area; the roughest quarter of that (sum of the squared
    second derivative) is dropped; k-means with five clusters, of which the one with the earliest first moment is kept,
    and once more among its voxels. The clusters start from fifths by first moment, so that the same series always gives
    the same voxels.

    Three things depart from the paper. Voxels below their baseline after the first pass are left out first: blood holds
    agent then, and a negative ΔR2* means that shortened T1 distorts the whole curve, most in arteries. Roughness is
    taken before and after the first pass: within it the high and narrow curves of arteries are the roughest of all, and
    since they fill less than a quarter of a tenth of a brain, none would be left. Clusters are made of the frames up to
    the end of the first pass: the tail tells no artery from a vein and holds noise and leakage.

    Parameters
    ----------
    delta_r2s : (V, T) array, 1/s
        Voxels of the brain whose signal stays above the noise floor.
    times_s : (T,) array, s
    timing : BolusTiming

    Returns
    -------
    (n,) int array
        Row numbers, increasing.

    Raises
    ------
    QualityError
        Too few voxels to choose from.

    References
    ----------
    Mouridsen, Christensen, Gyldensted, Østergaard 2006, Magn Reson Med 55:524.
    """
    areas = area(delta_r2s, times_s, timing.first_pass).astype(np.float64)
    tail = delta_r2s[:, timing.end :].mean(axis=1)
    rows = np.flatnonzero((areas > 0) & (tail > 0))
    if rows.size:
        rows = rows[areas[rows] >= np.quantile(areas[rows], 1.0 - AREA_SHARE)]
    if rows.size < MINIMUM_CANDIDATES:
        raise QualityError(
            f"Only {rows.size} voxels have an area large enough for an artery; at least {MINIMUM_CANDIDATES} are "
            "needed to find the arterial input. Check the brain mask, or give a mask or a curve with --aif."
        )
    window = slice(timing.first_steady, timing.end + 1)
    shape = delta_r2s[rows].astype(np.float64) / areas[rows, np.newaxis]
    roughness = np.zeros(rows.size)
    for quiet in (slice(timing.first_steady, timing.arrival), slice(timing.end, None)):
        slope = np.diff(shape[:, quiet], axis=1) / np.diff(times_s[quiet])  # the frames need not be uniform
        roughness += np.sum(np.diff(slope, axis=1) ** 2, axis=1)
    smooth = roughness <= np.quantile(roughness, 1.0 - ROUGH_SHARE)
    rows, shape = rows[smooth], shape[smooth, window]
    for _ in range(2):
        moment = shape @ times_s[window] / shape.sum(axis=1)
        cluster = _clusters(shape, moment)
        sizes = np.bincount(cluster, minlength=CLUSTERS)
        means = np.bincount(cluster, weights=moment, minlength=CLUSTERS) / np.maximum(sizes, 1)
        earliest = int(np.argmin(np.where(sizes >= MINIMUM_CLUSTER, means, np.inf)))
        rows, shape = rows[cluster == earliest], shape[cluster == earliest]
    return rows


def read_arterial_curve(path: Path, *, relaxivity_per_s_per_mm: float | None = None) -> ArterialCurve:
    """Return the arterial curve of a CSV file with two columns.

    Parameters
    ----------
    path : Path
        Time in s from the series' first frame, and ΔR2* in 1/s. A header, if there is one, is
        ``time_s,delta_r2s_per_s`` or ``time_s,concentration_mmol_per_l``. Comma, semicolon or tab.
    relaxivity_per_s_per_mm : float, optional
        Transverse relaxivity of the agent in tissue, 1/s per mmol/l: needed for, and only for, a concentration. There
        is no default: it differs by field strength, sequence and agent, and scales every result.

    Raises
    ------
    UnreadableInputError, TimingError, QualityError
        No such curve; the message says what is wrong in which line.
    UsageError
        A relaxivity is missing, or given where none is needed.
    """
    try:
        text = read_text(Path(path), LARGEST_CURVE_BYTES)
        delimiter = next((mark for mark in (";", "\t") if mark in text), ",")
        lines = [
            (number, [cell.strip() for cell in cells])
            for number, cells in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), start=1)
            if any(cell.strip() for cell in cells)
        ]
    except (ValueError, csv.Error) as error:
        raise UnreadableInputError(
            f"The arterial curve {path} can't be read ({shown(error, 200)}). Give a CSV file with time in s and ΔR2* "
            "in 1/s."
        ) from error
    header = DELTA_R2S_HEADER
    if lines and not _is_number(lines[0][1][0]):
        header = tuple(cell.lower() for cell in lines[0][1])  # type: ignore[assignment]
        lines = lines[1:]
    if header not in (DELTA_R2S_HEADER, CONCENTRATION_HEADER):
        raise UnreadableInputError(
            f"The header of {path} is {shown(','.join(header))!r}; it must be {','.join(DELTA_R2S_HEADER)!r} or "
            f"{','.join(CONCENTRATION_HEADER)!r}, or be left out (then the columns are s and 1/s)."
        )
    for number, cells in lines:
        if len(cells) != 2 or not all(_is_number(cell) for cell in cells):
            raise UnreadableInputError(
                f"Line {number} of {path} is {shown(delimiter.join(cells))!r}; two numbers are needed, time in s and "
                "value."
            )
    times_s, values = np.array([cells for _, cells in lines], dtype=np.float64).reshape(-1, 2).T
    is_concentration = header == CONCENTRATION_HEADER
    if is_concentration and relaxivity_per_s_per_mm is None:
        raise UsageError(
            f"{path} holds a concentration, and flow needs ΔR2* as the tissue shows it. Give the agent's relaxivity in "
            "tissue in 1/s per mmol/l with --aif-relaxivity."
        )
    if not is_concentration and relaxivity_per_s_per_mm is not None:
        raise UsageError(f"{path} holds ΔR2* in 1/s, for which no relaxivity is needed; leave --aif-relaxivity out.")
    if relaxivity_per_s_per_mm is not None:
        if not 0.1 <= relaxivity_per_s_per_mm <= 1000.0:
            raise UsageError(
                f"The relaxivity is {relaxivity_per_s_per_mm:g} 1/s per mmol/l; between 0.1 and 1000 is expected."
            )
        values = values * relaxivity_per_s_per_mm
    return ArterialCurve(times_s, values, Path(path).name)


def write_arterial_input(arterial: ArterialInput, path: Path) -> None:
    """Write the curve as CSV that `read_arterial_curve` reads; frames without a value are left out."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(DELTA_R2S_HEADER)
        known = arterial.known
        writer.writerows(zip(arterial.times_s[known].tolist(), arterial.curve_per_s[known].tolist(), strict=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _clusters(shape: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return each row's cluster by Lloyd's k-means; a cluster that loses all rows stays empty."""
    cluster = np.empty(moment.size, dtype=np.intp)
    cluster[np.argsort(moment, kind="stable")] = np.arange(moment.size) * CLUSTERS // moment.size
    for _ in range(100):
        distance = np.full((moment.size, CLUSTERS), np.inf)
        for i in np.unique(cluster):
            distance[:, i] = np.sum((shape - shape[cluster == i].mean(axis=0)) ** 2, axis=1)
        moved = distance.argmin(axis=1)
        if np.array_equal(moved, cluster):
            break
        cluster = moved
    return cluster


def _mean_of(prepared: Prepared, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the usable voxels of a mask, their mean ΔR2*, and the share of them at the noise floor."""
    series, timing = prepared.series, prepared.timing
    inside = validate_mask(given, series)
    signal = series.signal[inside]
    # The noise floor is the brain's: a few arterial voxels don't show the noise.
    brain = voxel_status(series.signal, prepared.mask | inside, baseline=timing.baseline, first_pass=timing.first_pass)
    status = brain[inside]
    usable = (status == Status.VALID) | (status == Status.SATURATED)
    if not usable.any():
        raise QualityError(
            f"None of the {signal.shape[0]} voxels of the arterial mask has a positive signal in every frame. Draw it "
            "on an artery inside the head."
        )
    echo_time_s = series.acquisition.echo_time_s
    assert echo_time_s is not None  # `prepare` refuses a series without one
    curves = delta_r2s(signal[usable], echo_time_s=echo_time_s, baseline=timing.baseline)
    mask = np.zeros(inside.shape, dtype=bool)
    mask[inside] = usable
    return mask, curves.mean(axis=0, dtype=np.float64), float(np.mean(status[usable] == Status.SATURATED))


def _at_frames(curve: ArterialCurve, times_s: np.ndarray, timing: BolusTiming) -> np.ndarray:
    """Return a curve at the frames' times, linear between its samples; 0 before it begins, NaN after it ends."""
    first_s, last_s = float(curve.times_s[0]), float(curve.times_s[-1])
    needed_s = float(times_s[timing.arrival]), float(times_s[timing.end])
    if first_s > needed_s[0] or last_s < needed_s[1]:
        raise TimingError(
            f"The arterial curve of {curve.source} runs from {first_s:.1f} to {last_s:.1f} s and the first pass of the "
            f"series from {needed_s[0]:.1f} to {needed_s[1]:.1f} s, which it must cover. Times count from the series' "
            "first frame."
        )
    start = float(curve.curve_per_s[0]) / max(float(curve.curve_per_s.max()), 1e-12)
    if start > MAXIMUM_START and first_s > times_s[timing.first_steady]:
        raise TimingError(
            f"The arterial curve of {curve.source} begins at {first_s:.1f} s with {start:.0%} of its peak; it must "
            f"begin before the bolus, below {MAXIMUM_START:.0%}. Give it from the baseline on."
        )
    return np.interp(times_s, curve.times_s, curve.curve_per_s, left=0.0, right=np.nan)


@dataclass(frozen=True)
class _Shape:
    """Height and times of a first pass, interpolated between frames."""

    height_per_s: float
    half_rise_s: float
    width_s: float
    plateau: float


def _shape(curve: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> _Shape | None:
    """Return the shape of the highest peak from baseline to the end of the first pass; None without one."""
    window = slice(timing.first_steady, timing.end + 1)
    values, times = curve[window], times_s[window]
    peak = int(np.argmax(values))
    if not values[peak] > 0:
        return None
    rise, fall = _crossings(values, times, peak, 0.5)
    high_from, high_to = _crossings(values, times, peak, 0.95)
    return _Shape(float(values[peak]), rise, fall - rise, (high_to - high_from) / (fall - rise))


def _crossings(values: np.ndarray, times_s: np.ndarray, peak: int, share: float) -> tuple[float, float]:
    """Return when a curve last rises through, and next falls through, a share of its peak; the window's ends if not."""
    level = share * values[peak]
    before = np.flatnonzero(values[:peak] < level)
    after = np.flatnonzero(values[peak:] < level)
    rise, fall = float(times_s[0]), float(times_s[-1])
    if before.size:
        i = int(before[-1])
        rise = float(np.interp(level, values[i : i + 2], times_s[i : i + 2]))
    if after.size:
        i = peak + int(after[0])
        fall = float(np.interp(level, values[[i, i - 1]], times_s[[i, i - 1]]))
    return rise, fall


def _checks(
    curve: np.ndarray, brain: np.ndarray, times_s: np.ndarray, timing: BolusTiming, saturated: float
) -> tuple[Finding, ...]:
    """Return what can be said about an arterial curve beside the mean curve of the brain.

    Raises
    ------
    QualityError
        There is no first pass in it.
    """
    artery, tissue = _shape(curve, times_s, timing), _shape(brain, times_s, timing)
    if artery is None or tissue is None or not area(curve, times_s, timing.first_pass) > 0:
        raise QualityError(
            "The arterial input shows no first pass: it is never above its baseline, or its area is not positive. "
            "Choose voxels of an artery, or let it be found with --aif auto."
        )
    other = "Look at the curve in the report; choose other arterial voxels with --aif MASK."
    lead_s = tissue.half_rise_s - artery.half_rise_s
    width = artery.width_s / tissue.width_s
    height = artery.height_per_s / tissue.height_per_s
    tail = float(np.nanmean(curve[timing.end :])) / artery.height_per_s
    return (
        _check(
            "aif-early",
            lead_s > 0,
            f"The arterial input rises {abs(lead_s):.1f} s {'before' if lead_s > 0 else 'after'} the brain's mean curve"
            f"{'.' if lead_s > 0 else '; an artery is earlier than the tissue that it feeds.'}",
            f"{other} Of a curve from a file, check that its times count from the series' first frame.",
            round(lead_s, 2),
            "s",
        ),
        _check(
            "aif-narrow",
            width < 1,
            f"The arterial input is {artery.width_s:.1f} s wide at half its height, the brain's mean curve "
            f"{tissue.width_s:.1f} s{'.' if width < 1 else '; an artery is narrower than tissue.'}",
            f"{other} A wide one may be a vein; CBF then comes out too high and MTT too short.",
            round(artery.width_s, 2),
            "s",
        ),
        _check(
            "aif-high",
            height >= MINIMUM_HEIGHT,
            f"The arterial input is {height:.1f} times as high as the brain's mean curve"
            f"{'.' if height >= MINIMUM_HEIGHT else f'; at least {MINIMUM_HEIGHT:g} times is expected of an artery.'}",
            "The voxels share tissue with the artery: CBV and CBF come out too high by a common factor; ratios, MTT "
            "and Tmax are less affected. Choose purer voxels with --aif MASK, or read CBV and CBF as ratios.",
            round(height, 2),
            "",
        ),
        _check(
            "aif-saturated",
            saturated == 0 and artery.plateau <= MAXIMUM_PLATEAU,
            f"The arterial input stays above 95 % of its peak for {artery.plateau:.0%} of its width (a clipped peak: "
            f"more than {MAXIMUM_PLATEAU:.0%}); {saturated:.0%} of its voxels fall to the noise floor.",
            "The peak is cut off, so that CBV and CBF come out too high. Choose voxels beside the artery, where the "
            "signal does not vanish, with --aif MASK.",
            round(max(artery.plateau, saturated), 2),
            "",
        ),
        _check(
            "aif-tail",
            tail > 0,
            f"After the first pass the arterial input is at {tail:.0%} of its peak"
            f"{'.' if tail > 0 else '; blood holds agent then, so it must stay above 0.'}",
            "Shortened T1 distorts the curve, and its area, CBV and CBF with it. Choose arterial voxels whose signal "
            "stays below its baseline after the bolus, with --aif MASK.",
            round(tail, 3),
            "",
        ),
    )


def _check(code: str, good: bool, message: str, advice: str, value: float, unit: str) -> Finding:
    return Finding(code, "info" if good else "warning", message, "" if good else advice, value, unit)
