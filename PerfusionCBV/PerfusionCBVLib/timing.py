"""When the bolus comes and goes: baseline, arrival, peak and end of the first pass, found per case.

The mean curve is compared with a bolus model, robustly: a gamma-variate first pass (Thompson et al. 1964, Circ Res
14:502) on a baseline that may drift, with a tail that the pass leaves behind (recirculation, leakage in either
direction). Every frame takes part, so noise moves the result less than a threshold on single frames would let it, and
a frame far from the model (a glitch) loses its weight. What the model leaves over decides whether there was a bolus
at all: in functional MRI or with motion, other dips as large as the best one remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy.ndimage import median_filter

from PerfusionCBVLib.errors import QualityError

MINIMUM_DEPTH = 0.03
"""Fractional drop of the mean brain signal below which there is no bolus; a diagnostic one drops it by 10 % or more."""

MINIMUM_BASELINE_FRAMES = 3
MAXIMUM_NON_STEADY_FRAMES = 4
MINIMUM_WIDTH_S, MAXIMUM_WIDTH_S = 4.0, 45.0
"""Full width at half height of a first pass: nothing passes the brain faster, and slower is drift or a task."""

ARRIVAL_HEIGHT = 0.05
"""The bolus has arrived when the modelled first pass reaches this fraction of its peak."""

MAXIMUM_REPEAT = 0.35
"""A second dip of the bolus' own shape, of this fraction of its height or more, means that it is no bolus.

A second pass (recirculation) reaches 10–25 %.
"""

MAXIMUM_FLUCTUATION = 0.12
"""Standard deviation, as a fraction of the bolus height, of what a single first pass with a tail leaves unexplained.

Boluses simulated over the whole range of protocols stay below 0.05 (95th percentile), functional MRI and motion lie
above 0.14.
"""

MAXIMUM_TAIL = 0.7
"""Fraction of the peak height that may remain (or, signal above baseline, be overshot) when the first pass is over."""

_WIDTHS_S = (4.0, 5.5, 7.5, 10.0, 13.5, 18.0, 24.0, 32.0, 42.0)
_SHAPES = (2.5,)


class NoBolusError(QualityError):
    """The mean signal shows no single first pass of a contrast bolus."""


@dataclass(frozen=True)
class BolusTiming:
    """Frames that delimit the baseline and the first pass.

    Frame numbers count from 0. `arrival` is the last frame before the mean curve leaves its baseline, `end` the first
    frame after the first pass; `arrival_s` is interpolated between frames.
    """

    first_steady: int
    arrival: int
    peak: int
    end: int
    arrival_s: float
    peak_s: float
    end_s: float
    depth: float
    """Fraction of the baseline signal lost at the peak."""
    width_s: float
    """Full width of the first pass at half its height, s."""

    @property
    def baseline(self) -> slice:
        """Steady-state frames before the bolus; the arrival frame is left out, the fastest vessels may have begun."""
        return slice(self.first_steady, self.arrival)

    @property
    def first_pass(self) -> slice:
        """Frames from arrival to the end of the first pass."""
        return slice(self.arrival, self.end + 1)

    @property
    def after_arrival(self) -> slice:
        """Frames from arrival to the end of the series, over which leakage is fitted."""
        return slice(self.arrival, None)


def find_bolus(mean_signal: np.ndarray, times_s: np.ndarray) -> BolusTiming:
    """Return when the bolus passes, from the mean signal of the brain.

    Parameters
    ----------
    mean_signal : (T,) array, arbitrary units
    times_s : (T,) array, s

    Raises
    ------
    NoBolusError
        The drop is too shallow, too noisy, too short, too close to either end, or repeats; the message says which.
    """
    signal = np.asarray(mean_signal, dtype=np.float64)
    times_s = np.asarray(times_s, dtype=np.float64)
    if not (np.isfinite(signal).all() and (signal > 0).all()):
        raise NoBolusError("The mean brain signal is not positive in every frame; check the mask and the series.")

    first_steady = _first_steady_frame(signal)
    times = times_s[first_steady:]
    # Height is −ln(S/S0), proportional to ΔR2*.
    height = -np.log(signal[first_steady:])
    height -= np.median(height)
    fit = _fit_bolus(times, height)
    peak = fit.peak_frame
    depth = 1.0 - float(np.exp(-fit.curve[peak]))
    if depth < MINIMUM_DEPTH:
        raise NoBolusError(
            f"The mean brain signal drops by at most {max(depth, 0):.1%}; a contrast bolus drops it by at least "
            f"{MINIMUM_DEPTH:.0%}. Check that contrast was given and that this is the perfusion series."
        )
    arrival_s = fit.pass_rises_to(ARRIVAL_HEIGHT)
    arrival = int(np.searchsorted(times, arrival_s, side="right")) - 1
    if arrival < MINIMUM_BASELINE_FRAMES:
        raise NoBolusError(
            f"Fewer than {MINIMUM_BASELINE_FRAMES} steady frames lie before the bolus; the baseline can't be measured. "
            "Check that the first frames were not cut off."
        )
    _refuse_unfinished(fit, times, peak)
    _refuse_repeats(fit, times, height)
    _refuse_spikes(fit, height)
    end = min(int(np.searchsorted(times, fit.pass_ends())), times.size - 1)
    return BolusTiming(
        first_steady=first_steady,
        arrival=first_steady + arrival,
        peak=first_steady + peak,
        end=first_steady + end,
        arrival_s=arrival_s,
        peak_s=float(times[peak]),
        end_s=float(times[end]),
        depth=depth,
        width_s=fit.width_s,
    )


def unexplained(mean_signal: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> np.ndarray:
    """Return what the bolus model leaves of a curve: the relative excess of each frame's signal, for glitch detection.

    Parameters
    ----------
    mean_signal : (T,) array, arbitrary units
    times_s : (T,) array, s
    timing : BolusTiming
        Of the same curve.

    Returns
    -------
    (T,) array
        0 in the frames before the steady state.
    """
    steady = slice(timing.first_steady, None)
    height = -np.log(np.asarray(mean_signal, dtype=np.float64)[steady])
    height -= np.median(height)
    fit = _fit_bolus(np.asarray(times_s, dtype=np.float64)[steady], height)
    excess = np.zeros(len(mean_signal))
    excess[steady] = np.expm1(fit.base + fit.curve - height)
    return excess


@dataclass(frozen=True, eq=False)
class _Fit:
    """height ≈ base + amplitude × first pass + tail; frames with a weight near 0 do not follow it."""

    loss: float
    peak_s: float
    width_s: float
    shape: float
    amplitude: float
    first_pass: np.ndarray
    base: np.ndarray
    tail: np.ndarray
    weights: np.ndarray

    @property
    def curve(self) -> np.ndarray:
        """First pass and tail, above the baseline."""
        return self.amplitude * self.first_pass + self.tail

    @property
    def peak_frame(self) -> int:
        """Frame in which the first pass is highest; a tail that climbs higher later does not count."""
        return int(np.argmax(np.where(self.first_pass >= 0.5 * self.first_pass.max(), self.curve, -np.inf)))

    def pass_rises_to(self, fraction: float) -> float:
        """Return when the first pass reaches a fraction of its peak, s."""
        offset, rise, _ = _unit_pass(self.shape)
        before = offset < 0
        return self.peak_s + self.width_s * float(np.interp(fraction, rise[before], offset[before]))

    def pass_ends(self) -> float:
        """Return when the washout has all but stopped: it is slower than a tenth of its steepest, s."""
        offset, rise, _ = _unit_pass(self.shape)
        fall = -np.gradient(rise)
        steepest = int(np.argmax(fall))
        return self.peak_s + self.width_s * float(offset[steepest + np.argmax(fall[steepest:] < 0.1 * fall[steepest])])


def _refuse_unfinished(fit: _Fit, times_s: np.ndarray, peak: int) -> None:
    if peak >= times_s.size - 2:
        raise NoBolusError(
            "The signal is lowest in the last frames, so the first pass is not over when the series ends, or the "
            "signal only drifts. A series that covers the whole first pass is needed."
        )
    total = float(fit.curve[peak])
    left = float(np.interp(fit.pass_ends(), times_s, fit.curve))
    if left > MAXIMUM_TAIL * total:
        raise NoBolusError(
            f"After its lowest point the signal recovers by only {1 - left / total:.0%} of the drop; a first pass "
            f"recovers by more than {1 - MAXIMUM_TAIL:.0%}. The series may end too early, or show drift instead of a "
            "bolus."
        )
    if left < -MAXIMUM_TAIL * total:
        raise NoBolusError(
            f"The signal rises above its baseline by {-left / total:.0%} of the drop before it. That is no first "
            "pass in T2*-weighted images; check that this is the DSC series and not a T1-weighted (DCE) one."
        )
    if not MINIMUM_WIDTH_S <= fit.width_s <= MAXIMUM_WIDTH_S:
        raise NoBolusError(
            f"The signal stays low for {fit.width_s:.1f} s; a first pass lasts {MINIMUM_WIDTH_S:.0f} to "
            f"{MAXIMUM_WIDTH_S:.0f} s. Check the frame times and that this is the perfusion series."
        )


def _refuse_repeats(fit: _Fit, times_s: np.ndarray, height: np.ndarray) -> None:
    """Look in what the fit leaves over for the first pass' own shape (matched filter), either way up."""
    left_over = np.where(_is_glitch(fit.weights), 0.0, height - fit.base - fit.curve)
    shifted = _pass_and_integral(times_s, times_s[:, None], fit.width_s, fit.shape)[0]
    energy = np.sum(shifted**2, axis=1)
    whole = energy > 0.5 * energy.max()
    largest = float(np.max(np.abs(shifted[whole] @ left_over) / energy[whole]))
    if largest > MAXIMUM_REPEAT * fit.amplitude:
        raise NoBolusError(
            f"Apart from its deepest drop the mean brain signal changes by {largest / fit.amplitude:.0%} of that drop; "
            f"a bolus passes once and stands out, at most {MAXIMUM_REPEAT:.0%} is expected. Check that this is the "
            "perfusion series and not functional MRI, and that the patient did not move."
        )
    fluctuation = float(np.std(median_filter(left_over, size=3, mode="nearest")))
    if fluctuation > MAXIMUM_FLUCTUATION * fit.amplitude:
        raise NoBolusError(
            f"The mean brain signal fluctuates by {fluctuation:.1%} (standard deviation) beside its deepest drop of "
            f"{fit.amplitude:.1%}; at most {MAXIMUM_FLUCTUATION:.0%} of the drop is expected beside a bolus. Check "
            "that this is the perfusion series and not functional MRI, and that the patient did not move."
        )


def _refuse_spikes(fit: _Fit, height: np.ndarray) -> None:
    """Refuse a drop of one or two frames: patients jerk and scanners glitch as briefly as that."""
    seen = (fit.first_pass > 0.25) & (height - fit.base > 0.25 * fit.amplitude)
    low = int(seen.sum())
    if low:  # a glitch between low frames hides a third
        between = slice(int(np.argmax(seen)), seen.size - int(np.argmax(seen[::-1])))
        low += int(np.sum(_is_glitch(fit.weights)[between] & ~seen[between]))
    if low < 3:
        raise NoBolusError(
            f"The signal is low in {low} frames only; a first pass is seen in at least 3. Check the series for motion "
            "and that the frame times are right."
        )


def _is_glitch(weights: np.ndarray) -> np.ndarray:
    """Return frames that alone, or with one neighbour, do not follow the fit."""
    bad = weights < 0.05
    padded = np.concatenate([[False, False], bad, [False, False]])
    run = np.convolve(padded, np.ones(3, int), mode="same")[2:-2]
    return bad & (run <= 2) & (np.convolve(padded, np.ones(5, int), mode="same")[2:-2] <= 2)


def _fit_bolus(times_s: np.ndarray, height: np.ndarray) -> _Fit:
    """Return the best fit over a grid of peak times, widths and shapes, refined once around the best."""
    smooth = median_filter(height, size=3, mode="nearest")
    # Real curves differ from the model by a few per cent of their height (recirculation, dispersion), and the first,
    # coarse grid by more: that must not count as outlying.
    noise, rough_height = _noise(height), float(smooth.max() - np.median(smooth))
    coarse, fine = (max(noise, share * rough_height, 1e-6) for share in (0.12, 0.04))
    interval_s = float(np.median(np.diff(times_s)))
    fits = []
    for width_s, shape in product(_WIDTHS_S, _SHAPES):
        peaks_s = np.arange(times_s[0], times_s[-1], max(0.25 * width_s, 0.5 * interval_s))
        fits.append(_robust_fit(times_s, height, coarse, peaks_s, width_s, shape))
    refined = [_refine(times_s, height, fine, fit) for fit in sorted(fits, key=_loss)[:2]]
    return min(refined, key=_loss)


def _refine(times_s: np.ndarray, height: np.ndarray, scale: float, start: _Fit) -> _Fit:
    best = start
    for step in (0.1, 0.05, 0.025):
        trials = []
        for stretch, power in product((-1.5, 0.0, 1.5), (-5.0, 0.0, 5.0)):
            peaks_s = best.peak_s + step * best.width_s * np.arange(-2, 3)
            shape = float(np.clip(best.shape * (1.0 + power * step), 1.0, 8.0))
            width_s = best.width_s * (1.0 + stretch * step)
            trials.append(_robust_fit(times_s, height, scale, peaks_s, width_s, shape))
        best = min(trials, key=_loss)
    return best


def _loss(fit: _Fit) -> float:
    return fit.loss


def _robust_fit(
    times_s: np.ndarray, height: np.ndarray, scale: float, peaks_s: np.ndarray, width_s: float, shape: float
) -> _Fit:
    """Return the best of the fits with the peak at each of `peaks_s`, by iteratively reweighted least squares."""
    first_pass, integral = _pass_and_integral(times_s, peaks_s[:, None], width_s, shape)
    span = times_s[-1] - times_s[0]
    drift = np.broadcast_to((times_s - times_s[0]) / span - 0.5, first_pass.shape)
    ramp = np.clip(times_s - peaks_s[:, None], 0.0, None) / span
    design = np.stack([np.ones_like(first_pass), drift, integral, ramp, first_pass], axis=-1)  # (K, T, 5)
    # A little ridge keeps drift and tail small where the frames don't determine them.
    ridge = np.diag([0.0, *[0.01 * times_s.size] * 3, 1e-9])
    weights = np.ones_like(first_pass)
    for robust in (_huber, _huber, _tukey, _tukey, None):
        weighted = np.swapaxes(design * weights[..., None], 1, 2)  # (K, 5, T)
        solution = np.linalg.solve(weighted @ design + ridge, (weighted @ height)[..., None])  # (K, 5, 1)
        residual = height - (design @ solution)[..., 0]
        if robust is not None:
            weights = robust(residual / scale)
    loss = np.sum(np.minimum((residual / scale) ** 2, 16.0), axis=1)
    loss[solution[:, 4, 0] <= 0] = np.inf
    k = int(np.argmin(loss))
    a = solution[k, :, 0]
    return _Fit(
        loss=float(loss[k]),
        peak_s=float(peaks_s[k]),
        width_s=width_s,
        shape=shape,
        amplitude=float(a[4]),
        first_pass=first_pass[k],
        base=a[0] + a[1] * drift[k],
        tail=a[2] * integral[k] + a[3] * ramp[k],
        weights=weights[k],
    )


def _huber(residual):
    return 1.0 / np.maximum(np.abs(residual) / 1.5, 1.0)


def _tukey(residual):
    # Never quite 0: a frame that alone determines a term must not make the equations singular.
    return np.maximum(1.0 - (residual / 5.0) ** 2, 1e-3) ** 2


def _pass_and_integral(times_s, peak_s, width_s, shape):
    offset, rise, integral = _unit_pass(shape)
    u = (times_s - peak_s) / width_s
    return np.interp(u, offset, rise), np.interp(u, offset, integral)


@cache
def _unit_pass(shape: float):
    """Return a gamma-variate of peak 1 at 0 and full width 1 at half height: offsets, values, integral (up to 1)."""
    x = np.linspace(0.0, shape + 12.0 * np.sqrt(shape + 1.0), 2001)  # in units of the washout time
    with np.errstate(divide="ignore"):
        values = np.exp(shape * np.log(x / shape) + shape - x)
    above = x[values >= 0.5]
    integral = np.cumsum(values)
    return (x - shape) / (above[-1] - above[0]), values, integral / integral[-1]


def _first_steady_frame(signal: np.ndarray) -> int:
    """Return the first frame in steady state: gradient-echo EPI starts 25–60 % too high and settles within a few TR."""
    tolerance = max(0.02, 4.0 * _noise(np.log(signal[: 4 * MAXIMUM_NON_STEADY_FRAMES])))
    # Only an unbroken run from the first frame is saturation settling; a lone later spike is a glitch. Three frames
    # to compare with, not more: the bolus may come early.
    run = 0
    while run < MAXIMUM_NON_STEADY_FRAMES and signal[run] > np.median(signal[run + 1 : run + 4]) * (1.0 + tolerance):
        run += 1
    return run


def _noise(curve: np.ndarray) -> float:
    """Return the noise of a curve from its second differences (blind to drift, hardly touched by bolus or glitch)."""
    second = np.diff(curve, n=2)
    return float(1.4826 * np.median(np.abs(second)) / np.sqrt(6.0))
