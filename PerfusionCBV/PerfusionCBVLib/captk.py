"""The ap-rCBV of CaPTk, which made the UPENN-GBM maps that the source paper trains on.

It is a baseline to compare with, not a method to prefer: no leakage correction, no reference region, and an echo time
that is not the series' own.
"""

from __future__ import annotations

import numpy as np

from PerfusionCBVLib.errors import QualityError, TimingError

MASK_FRAME = 6
MASK_THRESHOLD = 30.0
ASSUMED_ECHO_TIME_S = 0.05
"""Part of the published operator, whatever the real echo time; nothing else in this library assumes one."""
END_MARGIN_PER_S = 0.5
TOP_FRACTION = 0.001
FULL_SCALE = 255.0


def captk_ap_rcbv(signal: np.ndarray) -> np.ndarray:
    """Return CaPTk's automated-preprocessing rCBV.

    The description leaves some steps open. They are read as follows, after the behaviour of the published program:

    - Frames count from 0: the mask is the seventh frame, and voxels with a signal of exactly 30 belong to it.
    - The baseline is the mean of frames 0…⌊0.2·N⌋, both included, halves rounded up.
    - A sample with signal 0 (or less) has ΔR2* 0.
    - "Before the peak" includes the peak and takes the earliest minimum; "after the peak" includes the peak too, both
      for the minimum and for the end. The sum includes start and end.
    - The scale is taken from all voxels of the grid, background as 0. With the values in rising order and m the place
      (from 0) of the first one that equals the largest, it is the value at place round(m − 0.001·m), itself rounded to
      an integer.

    Parameters
    ----------
    signal : (x, y, z, T) array
        Magnitude signal in the scanner's units, all frames: the threshold of 30 is absolute.

    Returns
    -------
    (x, y, z) float32 array
        0 outside the mask, about 255 for the brightest thousandth of the grid, not clipped.

    Raises
    ------
    TimingError
        Fewer than 7 frames.
    QualityError
        No voxel reaches 30, or the scale is 0.

    References
    ----------
    Pati et al. 2020, Brainlesion (BrainLes 2019) 11993:380; Bakas et al. 2022, Sci Data 9:453.
    """
    signal = np.asarray(signal)
    frames = signal.shape[-1]
    if frames <= MASK_FRAME:
        raise TimingError(f"The series has {frames} frames; CaPTk's ap-rCBV needs at least {MASK_FRAME + 1}.")
    mask = signal[..., MASK_FRAME] >= MASK_THRESHOLD
    if not mask.any():
        raise QualityError(
            f"No voxel reaches a signal of {MASK_THRESHOLD:g} in frame {MASK_FRAME}, which CaPTk's ap-rCBV needs. Use "
            "another method, or export the series with the scanner's own intensity scale."
        )
    height = _capped_delta_r2s(signal[mask])  # (V, T)
    mean_curve = np.maximum(height.mean(axis=0, dtype=np.float64), 0.0)
    peak = int(np.argmax(mean_curve))
    start = int(np.argmin(mean_curve[: peak + 1]))
    after = mean_curve[peak:]
    end = peak + int(np.argmax(after < after.min() + END_MARGIN_PER_S))  # argmax of booleans: the first that is true

    rcbv = np.zeros(signal.shape[:-1], dtype=np.float32)
    rcbv[mask] = height[:, start : end + 1].sum(axis=1, dtype=np.float64)
    ordered = np.sort(rcbv, axis=None)
    place_of_largest = int(np.searchsorted(ordered, ordered[-1]))
    scale = _round_half_up(float(ordered[int(_round_half_up((1.0 - TOP_FRACTION) * place_of_largest))]))
    if scale <= 0:
        raise QualityError(
            "The largest values of CaPTk's ap-rCBV round to 0, so the map can't be scaled: hardly any voxel loses "
            "signal. Check that contrast was given, or use another method."
        )
    rcbv *= np.float32(FULL_SCALE / scale)
    return rcbv


def _capped_delta_r2s(curves: np.ndarray) -> np.ndarray:
    """Return −ln(min(S/S0, 1))/0.05 s of (V, T) curves, 0 where S is not positive."""
    last_baseline = curves.shape[1] // 5
    baseline = _round_half_up(curves[:, : last_baseline + 1].mean(axis=1, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = curves / baseline.astype(np.float32)[:, np.newaxis]
    ratio[~(ratio > 0)] = 1.0  # ΔR2* 0
    np.minimum(ratio, 1.0, out=ratio)
    np.log(ratio, out=ratio)
    ratio *= -1.0 / ASSUMED_ECHO_TIME_S
    return ratio


def _round_half_up(value: np.ndarray | float) -> np.ndarray:
    """Return the nearest integer, halves upwards, for values ≥ 0; `numpy.round` would take them to the even one."""
    return np.floor(np.asarray(value, dtype=np.float64) + 0.5)
