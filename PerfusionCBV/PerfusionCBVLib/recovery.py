"""Percentage signal recovery: how far the signal comes back after the bolus."""

from __future__ import annotations

import numpy as np

from PerfusionCBVLib.concentration import noise_sd
from PerfusionCBVLib.errors import TimingError
from PerfusionCBVLib.leakage import MINIMUM_TAIL_FRAMES, TAIL_FRAMES
from PerfusionCBVLib.timing import BolusTiming

MINIMUM_DROP_IN_SD = 5.0
"""A smaller drop is told from noise only by its lowest frame, which is the noise's."""


def percentage_signal_recovery(signal: np.ndarray, timing: BolusTiming) -> np.ndarray:
    """Return (S_post − S_min) / (S_pre − S_min) · 100, in per cent.

    S_pre is the mean over the baseline, S_min the lowest frame of the first pass, S_post the mean over the last 10
    frames (over those after the first pass, where it is followed by fewer; at least 3). 100 is full recovery; T1
    leakage overshoots it, T2* leakage falls short of it. The lowest of several noisy frames lies about one SD of the
    noise too low, so that PSR of single voxels comes out too close to 100; the mean curve of a region has less noise.

    Parameters
    ----------
    signal : (..., T) array
        Magnitude signal, arbitrary units: voxels, or the mean curve of a region.
    timing : BolusTiming

    Returns
    -------
    (...) float32 array, %
        NaN where a baseline or later frame is not positive and finite, and where the drop is below 5 SD of the noise.

    Raises
    ------
    TimingError
        Fewer than 3 frames follow the first pass.

    References
    ----------
    Cha et al. 2007, AJNR 28:1078 (percentage of signal intensity recovery).
    """
    frames = signal.shape[-1]
    tail = min(TAIL_FRAMES, frames - 1 - timing.end)
    if tail < MINIMUM_TAIL_FRAMES:
        raise TimingError(
            f"{max(tail, 0)} frame(s) follow the first pass; percentage signal recovery needs at least "
            f"{MINIMUM_TAIL_FRAMES}. Use a series that runs longer after the bolus."
        )
    used = signal[..., timing.first_steady :]
    with np.errstate(invalid="ignore", divide="ignore"):
        valid = (used.min(axis=-1) > 0) & np.isfinite(used.max(axis=-1))
        before = signal[..., timing.baseline].mean(axis=-1, dtype=np.float64)
        lowest = signal[..., timing.first_pass].min(axis=-1).astype(np.float64)
        after = signal[..., -tail:].mean(axis=-1, dtype=np.float64)
        drop = before - lowest
        smallest = MINIMUM_DROP_IN_SD * noise_sd(signal[..., timing.baseline][valid]) if valid.any() else 0.0
        recovery = 100.0 * (after - lowest) / drop
    return np.where(valid & (drop > 0) & (drop >= smallest), recovery, np.nan).astype(np.float32)
