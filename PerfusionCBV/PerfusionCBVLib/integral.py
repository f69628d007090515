"""Areas under curves by the trapezoid rule with the real frame times."""

from __future__ import annotations

import numpy as np

from PerfusionCBVLib.errors import TimingError


def trapezoid_weights(times_s: np.ndarray, window: slice) -> np.ndarray:
    """Return the weight of each frame in the trapezoid rule over a window.

    Parameters
    ----------
    times_s : (T,) array, s
        Strictly increasing, not necessarily uniform.
    window : slice
        Frames between whose first and last the area is taken; step 1.

    Returns
    -------
    (T,) float64 array, s
        0 outside the window; ``curves @ weights`` is the area.

    Raises
    ------
    TimingError
        The window holds fewer than two frames.
    """
    times_s = np.asarray(times_s, dtype=np.float64)
    start, stop, step = window.indices(times_s.size)
    if step != 1 or stop - start < 2:
        raise TimingError(
            f"The integration window holds {max(stop - start, 0)} frame(s); at least 2 consecutive frames are needed. "
            "Check the bolus window."
        )
    half_intervals = 0.5 * np.diff(times_s[start:stop])
    weights = np.zeros(times_s.size)
    weights[start : stop - 1] += half_intervals
    weights[start + 1 : stop] += half_intervals
    return weights


def area(curves: np.ndarray, times_s: np.ndarray, window: slice) -> np.ndarray:
    """Return the area under each curve over a window; of ΔR2* curves, the uncorrected blood volume.

    Parameters
    ----------
    curves : (..., T) array
        For example ΔR2*, 1/s.
    times_s : (T,) array, s
    window : slice
        Frames to integrate over.

    Returns
    -------
    (...) array, the curves' unit × s
        In the curves' own floating-point type. NaN where a frame inside the window is NaN; frames outside it have no
        influence.

    References
    ----------
    Rosen et al. 1990, Magn Reson Med 14:249: relative blood volume is the area under the concentration curve.
    """
    curves = np.asarray(curves)
    weights = trapezoid_weights(times_s, window)[window]
    dtype = np.result_type(curves.dtype, np.float32)
    return np.asarray(curves[..., window] @ weights.astype(dtype))


def running_integral(curve: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return the integral of a curve from its first frame to each frame, by the trapezoid rule.

    Parameters
    ----------
    curve : (..., T) array
    times_s : (T,) array, s

    Returns
    -------
    (..., T) float64 array, the curve's unit × s
        0 in the first frame.
    """
    curve = np.asarray(curve, dtype=np.float64)
    steps = 0.5 * (curve[..., 1:] + curve[..., :-1]) * np.diff(np.asarray(times_s, dtype=np.float64))
    out = np.zeros_like(curve)
    np.cumsum(steps, axis=-1, out=out[..., 1:])
    return out
