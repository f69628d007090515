"""When the bolus comes and goes: baseline, arrival, peak and end of the first pass, found per case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from PerfusionCBVLib.errors import QualityError

MINIMUM_DEPTH = 0.03
"""Fractional drop of the mean brain signal below which there is no bolus; a diagnostic one drops it by 10 % or more."""

MINIMUM_BASELINE_FRAMES = 3
MAXIMUM_NON_STEADY_FRAMES = 4


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

    The search runs on a running median over three frames, so that a single-frame glitch is neither an arrival nor a
    peak.

    Parameters
    ----------
    mean_signal : (T,) array, arbitrary units
    times_s : (T,) array, s

    Raises
    ------
    NoBolusError
        The drop is too shallow, too noisy, too close to either end, or repeats; the message says which.
    """
    signal = np.asarray(mean_signal, dtype=np.float64)
    times_s = np.asarray(times_s, dtype=np.float64)
    if not (np.isfinite(signal).all() and (signal > 0).all()):
        raise NoBolusError("The mean brain signal is not positive in every frame; check the mask and the series.")

    first_steady = _first_steady_frame(signal)
    # Height is −ln(S/S0), proportional to ΔR2*.
    smooth = -np.log(median_filter(signal[first_steady:], size=3, mode="nearest"))
    smooth -= np.median(smooth)  # provisional zero; replaced once the baseline is known
    peak = int(np.argmax(smooth))
    if peak < MINIMUM_BASELINE_FRAMES:
        raise NoBolusError(
            f"The signal is lowest at frame {first_steady + peak}, so there is no baseline before the bolus; at least "
            f"{MINIMUM_BASELINE_FRAMES} steady frames are needed. Check that the first frames were not cut off."
        )
    smooth -= _baseline_level(smooth, peak)
    height = smooth[peak]
    depth = 1.0 - float(np.exp(-height))
    if depth < MINIMUM_DEPTH:
        raise NoBolusError(
            f"The mean brain signal drops by at most {max(depth, 0):.1%}; a contrast bolus drops it by at least "
            f"{MINIMUM_DEPTH:.0%}. Check that contrast was given and that this is the perfusion series."
        )

    before = smooth[:peak]
    noise = _noise_of_differences(signal[first_steady : first_steady + peak])
    threshold = max(0.08 * height, 3.0 * noise)
    below = np.flatnonzero(before < threshold)
    if below.size == 0 or below[-1] < MINIMUM_BASELINE_FRAMES:
        raise NoBolusError(
            f"Fewer than {MINIMUM_BASELINE_FRAMES} steady frames lie before the bolus; the baseline can't be measured. "
            "Check that the first frames were not cut off."
        )
    arrival = int(below[-1])
    if height < 4.0 * noise:
        raise NoBolusError(
            f"The deepest drop ({depth:.1%}) does not stand out from the frame-to-frame noise ({noise:.1%}). Check the "
            "series for motion and that contrast was given."
        )
    if peak >= smooth.size - 2:
        raise NoBolusError(
            "The signal is lowest in the last frames, so the first pass is not over when the series ends, or the "
            "signal only drifts. A series that covers the whole first pass is needed."
        )
    trough = float(smooth[peak:].min())
    if trough > 0.7 * height:
        raise NoBolusError(
            f"After its lowest point the signal recovers by only {1 - trough / height:.0%} of the drop; a first pass "
            "recovers by more than 30 %. The series may end too early, or show drift instead of a bolus."
        )
    times = times_s[first_steady:]
    end = _end_of_first_pass(smooth, times, peak)
    half = smooth[arrival : end + 1] >= 0.5 * height
    width_s = float(np.sum(np.gradient(times)[arrival : end + 1][half]))
    # A second, separate drop of nearly the same height means fluctuation (functional MRI, breathing), not a bolus.
    others = np.concatenate([smooth[:arrival], smooth[end + 1 :] - trough])
    if others.size and others.max() > 0.6 * (height - max(trough, 0.0)):
        raise NoBolusError(
            "The mean brain signal drops more than once by about the same amount; a bolus passes once. Check that this "
            "is the perfusion series and not functional MRI, and that the patient did not move."
        )
    if width_s > 45.0:
        raise NoBolusError(
            f"The signal stays low for {width_s:.0f} s; a first pass lasts less than 45 s. Check the frame times "
            "and that this is the perfusion series."
        )
    rise = (threshold - smooth[arrival]) / max(smooth[arrival + 1] - smooth[arrival], 1e-12)
    arrival_s = float(times[arrival] + np.clip(rise, 0.0, 1.0) * (times[arrival + 1] - times[arrival]))
    return BolusTiming(
        first_steady=first_steady,
        arrival=first_steady + arrival,
        peak=first_steady + peak,
        end=first_steady + end,
        arrival_s=arrival_s,
        peak_s=float(times[peak]),
        end_s=float(times[end]),
        depth=depth,
        width_s=width_s,
    )


def _first_steady_frame(signal: np.ndarray) -> int:
    """Return the first frame in steady state: gradient-echo EPI starts 25–60 % too high and settles within a few TR."""
    following = signal[MAXIMUM_NON_STEADY_FRAMES : MAXIMUM_NON_STEADY_FRAMES + 5]
    level = float(np.median(following))
    tolerance = max(0.03, 4.0 * _noise_of_differences(following))
    high = np.flatnonzero(signal[:MAXIMUM_NON_STEADY_FRAMES] > level * (1.0 + tolerance))
    # Only an unbroken run from the first frame is saturation settling; a lone later spike is a glitch.
    run = 0
    while run < high.size and high[run] == run:
        run += 1
    return run


def _end_of_first_pass(height: np.ndarray, times_s: np.ndarray, peak: int) -> int:
    """Return where the washout ends: the first frame after the steepest fall at which the fall has all but stopped.

    A fixed fraction of the peak would not do: recirculation and T2* leakage keep the curve up, T1 leakage pulls it
    down.
    """
    fall = -np.gradient(height, times_s)
    steepest = peak + int(np.argmax(fall[peak:]))
    slow = np.flatnonzero(fall[steepest:] < 0.1 * fall[steepest])
    return steepest + int(slow[0]) if slow.size else height.size - 1


def _baseline_level(height: np.ndarray, peak: int) -> float:
    """Return the level before the bolus: the median of the frames that lie in the lower half before the peak."""
    before = height[:peak]
    middle = 0.5 * (before.min() + height[peak])
    return float(np.median(before[before < middle]))


def _noise_of_differences(signal: np.ndarray) -> float:
    """Return the relative noise of a curve, from its successive differences (robust to slow drift and to outliers)."""
    differences = np.diff(np.log(signal))
    if differences.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2.0))
