"""Signal to ΔR2*, which is proportional to the contrast agent's concentration, and which voxels allow it."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from PerfusionCBVLib.errors import TimingError

NOISE_FLOOR_IN_SD = 3.0
"""Signal below this many noise SD is taken as noise: there the Rician mean is 5 % too high, and rising as it falls."""

_LONGEST_ECHO_TIME_S = 0.3
_MAD_TO_SD = 1.4826


class Status(IntEnum):
    """Why a voxel of a map has, or has not, a value."""

    OUTSIDE = 0
    """Outside the brain mask; not computed."""
    VALID = 1
    """Computed."""
    NO_SIGNAL = 2
    """The baseline is not positive in any frame (air, drop-out); no value."""
    INVALID_SAMPLES = 3
    """A frame is zero, negative or not a number. No value: bridging the gap would invent a part of the bolus."""
    SATURATED = 4
    """The bolus takes the signal down to the noise floor. Computed, but ΔR2* is too low: read it as "at least"."""
    FIT_FAILED = 5
    """The voxel's signal is usable, but the method found no finite result; no value."""

    @property
    def has_value(self) -> bool:
        """Whether a voxel with this status has a value in the map."""
        return self in (Status.VALID, Status.SATURATED)


def delta_r2s(signal: np.ndarray, *, echo_time_s: float, baseline: slice) -> np.ndarray:
    """Return the change in R2* that the contrast agent causes.

    Parameters
    ----------
    signal : (..., T) array
        Magnitude signal, arbitrary units; time is the last axis.
    echo_time_s : float
    baseline : slice
        Steady-state frames before the bolus arrives.

    Returns
    -------
    (..., T) array, 1/s
        In the signal's own floating-point type. NaN at every sample that is not positive and finite, and in every
        frame of a voxel whose baseline holds such a sample. Negative values are kept: with T1 leakage, clipping them
        turns a negative area into a positive one.

    Raises
    ------
    TimingError
        Echo time not in (0, 0.3] s, or an empty baseline.

    References
    ----------
    Rosen et al. 1990, Magn Reson Med 14:249, eq. 2: ΔR2* = −ln(S/S0)/TE.
    """
    if not 0.0 < echo_time_s <= _LONGEST_ECHO_TIME_S:
        raise TimingError(
            f"The echo time is {echo_time_s:g} s; it must be above 0 s and at most {_LONGEST_ECHO_TIME_S:g} s. "
            "Give it in seconds (30 ms is 0.03)."
        )
    signal = np.asarray(signal)
    if not np.issubdtype(signal.dtype, np.floating):
        signal = signal.astype(np.float32)
    baseline_signal = _baseline_mean(signal, baseline).astype(signal.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = signal / baseline_signal[..., np.newaxis]
        np.log(out, out=out)  # NaN where the ratio is negative, −inf where it is 0
    out *= signal.dtype.type(-1.0 / echo_time_s)
    out[~np.isfinite(out)] = np.nan
    return out


def voxel_status(
    signal: np.ndarray,
    mask: np.ndarray,
    *,
    baseline: slice,
    first_pass: slice,
) -> np.ndarray:
    """Return for each voxel whether its signal allows a value.

    The noise SD is one number for the series: the median over the mask of the baseline's SD, taken from successive
    differences so that drift does not count.

    Parameters
    ----------
    signal : (..., T) array
    mask : (...) bool array
        Brain.
    baseline, first_pass : slice

    Returns
    -------
    (...) uint8 array of `Status`
        `FIT_FAILED` is for the caller to add.
    """
    inside = np.asarray(mask, dtype=bool)
    status = np.full(inside.shape, Status.OUTSIDE, dtype=np.uint8)
    curves = signal[inside]  # (V, T)
    if curves.shape[0] == 0:
        return status
    with np.errstate(invalid="ignore"):
        positive = curves > 0
        invalid = ~(positive.all(axis=-1) & np.isfinite(curves.max(axis=-1)))
        lowest = curves[:, first_pass].min(axis=-1)
    values = np.full(curves.shape[0], Status.VALID, dtype=np.uint8)
    usable = ~invalid
    if usable.any():
        floor = NOISE_FLOOR_IN_SD * noise_sd(curves[usable, baseline])
        values[usable & (lowest < floor)] = Status.SATURATED
    values[invalid] = Status.INVALID_SAMPLES
    values[~positive[:, baseline].any(axis=-1)] = Status.NO_SIGNAL
    status[inside] = values
    return status


def _baseline_mean(signal: np.ndarray, baseline: slice) -> np.ndarray:
    """Return S0, (...) float64; NaN unless every baseline sample is positive and finite."""
    frames = signal[..., baseline]
    if frames.shape[-1] == 0:
        raise TimingError("The baseline holds no frame; frames before the bolus are needed.")
    with np.errstate(invalid="ignore"):
        mean = np.mean(frames, axis=-1, dtype=np.float64)
        good = (frames.min(axis=-1) > 0) & np.isfinite(mean)
    return np.where(good, mean, np.nan)


def noise_sd(baseline_curves: np.ndarray) -> float:
    """Return the typical SD of a single frame, from (V, n) baseline frames; 0 where there are fewer than two."""
    differences = np.diff(baseline_curves, axis=-1)
    if differences.size == 0:
        return 0.0
    np.abs(differences, out=differences)
    return float(_MAD_TO_SD * np.median(differences, overwrite_input=True) / np.sqrt(2.0))
