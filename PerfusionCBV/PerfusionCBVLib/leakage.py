"""Contrast agent that leaves the vessels: its share of ΔR2* is fitted per voxel and taken out of the blood volume.

Curves are (V, T): one row per voxel of the mask. Rows with NaN give NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.errors import QualityError, TimingError, UsageError
from PerfusionCBVLib.integral import area, trapezoid_weights
from PerfusionCBVLib.timing import BolusTiming

TAIL_FRAMES = 10
MINIMUM_TAIL_FRAMES = 3
MINIMUM_REFERENCE_VOXELS = 50
LARGEST_KEP_PER_S = 0.05
"""3/min, the upper end of what is measured in gliomas.

Faster washout (1/kep near the width of the first pass) looks like a later or wider first pass, so that normal tissue
whose transit differs from the reference's would be "corrected" for leakage that it does not have.
"""
SIGNIFICANT_K2_IN_SE = 3.0
LEAKING_Z = 3.0
"""|K2| above this many standard errors, and above the brain's spread, counts as leaking."""

_KEP_NODES = 72
_ROWS_AT_ONCE = 8192  # keeps the float64 work of one block in a few MB
_MAD_TO_SD = 1.4826


@dataclass(frozen=True, eq=False)
class LeakageFit:
    """Result of a leakage correction, one value per voxel, float32; NaN where a curve holds NaN.

    Attributes
    ----------
    k1 : (V,) array, dimensionless
        Blood volume relative to the reference curve's.
    k2 : (V,) array, 1/s
        Leakage: positive where T1 effects prevail, negative where T2* effects do.
    corrected_integral : (V,) array, dimensionless (1/s × s)
        Area under the leakage-corrected ΔR2* over the window.
    integral : (V,) array, dimensionless
        Area under the measured ΔR2* over the window.
    residual_sd : (V,) array, 1/s
        SD of the measured curve about the fitted one.
    k2_standard_error : (V,) array, 1/s
        From the residuals, for the fitted kep.
    corrected_standard_error : (V,) array, dimensionless
        Of `corrected_integral`, from the residuals, for the fitted kep. Some 10 to 20 % too small where the signal
        drops far, since noise in ΔR2* then grows during the pass.
    kep : (V,) array, 1/s, or None
        Washout rate back into the blood; None for the unidirectional model. NaN where |K2| is below three standard
        errors: without leakage there is nothing to wash out.
    """

    k1: np.ndarray
    k2: np.ndarray
    corrected_integral: np.ndarray
    integral: np.ndarray
    residual_sd: np.ndarray
    k2_standard_error: np.ndarray
    corrected_standard_error: np.ndarray
    kep: np.ndarray | None = None


def leak_free_reference(
    delta_r2s: np.ndarray, times_s: np.ndarray, timing: BolusTiming
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ΔR2* curve of the voxels that do not leak, and which voxels these are.

    Boxerman et al. take voxels whose tail (mean of the last 10 frames) lies within one SD of their baseline. That holds
    when the noise hides the contrast agent that still circulates. With little noise it does not: blood alone keeps the
    tail up, in proportion to blood volume, so that nearly every voxel fails, those with the most blood first. Two
    changes, which vanish when noise prevails:

    - the tail is compared with what circulating blood predicts, the brain's median ratio of tail to first-pass area
      times the voxel's own first-pass area;
    - the tolerance is the voxel's baseline SD or, where larger, the robust SD of that deviation over the brain, which
      contains the true differences in delay and transit between tissues.

    Parameters
    ----------
    delta_r2s : (V, T) array, 1/s
        Voxels of the mask.
    times_s : (T,) array, s
    timing : BolusTiming

    Returns
    -------
    reference : (T,) float64 array, 1/s
    used : (V,) bool array

    Raises
    ------
    TimingError
        Fewer than 3 frames follow the first pass.
    QualityError
        Fewer than 50 voxels remain, or their mean curve has no positive area.

    References
    ----------
    Boxerman, Schmainda, Weisskoff 2006, AJNR 27:859.
    """
    frames = delta_r2s.shape[1]
    tail_frames = min(TAIL_FRAMES, frames - 1 - timing.end)
    if tail_frames < MINIMUM_TAIL_FRAMES:
        raise TimingError(
            f"{max(tail_frames, 0)} frame(s) follow the first pass; leakage correction needs at least "
            f"{MINIMUM_TAIL_FRAMES}. Use the method integral, or a series that runs longer after the bolus."
        )
    finite = np.isfinite(delta_r2s).all(axis=1)
    used = np.zeros(delta_r2s.shape[0], dtype=bool)
    if finite.any():
        curves = delta_r2s if finite.all() else delta_r2s[finite]  # no second copy of the series when all are
        baseline_sd = curves[:, timing.baseline].std(axis=1, ddof=1)
        tail = curves[:, -tail_frames:].mean(axis=1)
        first_pass = area(curves, times_s, timing.first_pass)
        # The upper half by area: there the ratio is well determined. Leaking voxels are too few to move a median.
        strong = first_pass > max(float(np.median(first_pass)), 0.0)
        tail_per_area = float(np.median(tail[strong] / first_pass[strong])) if strong.any() else 0.0
        deviation = tail - tail_per_area * first_pass
        spread = _MAD_TO_SD * float(np.median(np.abs(deviation - np.median(deviation))))
        used[finite] = np.abs(deviation) <= np.maximum(baseline_sd, spread)
    if used.sum() < MINIMUM_REFERENCE_VOXELS:
        raise QualityError(
            f"Only {int(used.sum())} voxels without leakage were found; at least {MINIMUM_REFERENCE_VOXELS} are needed "
            "for the reference curve. Check the brain mask, or use the method integral."
        )
    reference = delta_r2s[used].mean(axis=0, dtype=np.float64)
    if not area(reference, times_s, timing.first_pass) > 0:
        raise QualityError(
            "The mean curve of the voxels without leakage has no positive first pass, so leakage can't be corrected. "
            "Check the brain mask and that contrast was given."
        )
    return reference, used


def correct_unidirectional(
    delta_r2s: np.ndarray,
    reference: np.ndarray,
    times_s: np.ndarray,
    *,
    fit: slice,
    window: slice,
    baseline: slice | None = None,
) -> LeakageFit:
    """Return the blood volume corrected for leakage out of the vessels only.

    Fits ΔR2*(t) = K1·ref(t) − K2·∫ref dτ by least squares over the `fit` frames; the running integral starts at the
    first of them. The corrected area is ∫ΔR2* + K2·∬ref over the `window`. The measured curve is corrected, not
    replaced by the model: tissue with another transit time than the reference keeps its own first pass.

    Parameters
    ----------
    delta_r2s : (V, T) array, 1/s
    reference : (T,) array, 1/s
        Mean curve of leak-free tissue, see `leak_free_reference`.
    times_s : (T,) array, s
    fit : slice
        Frames to fit, from bolus arrival on.
    window : slice
        Frames to integrate over.
    baseline : slice or None
        The frames that S0 was averaged from. S0's noise shifts a whole curve; given the frames, K2's standard error
        includes that, otherwise only the noise of the fitted frames.

    Raises
    ------
    TimingError
        Too few frames to fit or integrate.
    QualityError
        The reference curve is flat or not finite.

    References
    ----------
    Boxerman, Schmainda, Weisskoff 2006, AJNR 27:859, eqs 2–6.
    """
    basis = _LeakageBasis(reference, times_s, np.zeros(1), fit=fit, window=window, baseline=baseline)
    return _fit_in_blocks(delta_r2s, basis, with_kep=False)


def correct_bidirectional(
    delta_r2s: np.ndarray,
    reference: np.ndarray,
    times_s: np.ndarray,
    *,
    fit: slice,
    window: slice,
    baseline: slice | None = None,
    largest_kep_per_s: float = LARGEST_KEP_PER_S,
) -> LeakageFit:
    """Return the blood volume corrected for leakage out of the vessels and washout back into them.

    Fits ΔR2*(t) = K1·ref(t) − K2·∫ref(τ)·exp(−kep·(t−τ))dτ with kep ≥ 0. For a given kep the model is linear, so the
    residual is found for a set of kep values with one matrix product, and its minimum between them by a parabola.
    kep = 0, one of the values, is the unidirectional model. The convolution is exact for a reference that is linear
    between frames.

    Parameters
    ----------
    delta_r2s, reference, times_s, fit, window, baseline
        See `correct_unidirectional`.
    largest_kep_per_s : float
        Upper end of the search.

    Raises
    ------
    TimingError, QualityError
        See `correct_unidirectional`.
    UsageError
        `largest_kep_per_s` is not positive.

    References
    ----------
    Leu et al. 2016, J Magn Reson Imaging 44:1229 and AJNR 37:1031.
    """
    if not largest_kep_per_s > 0:
        raise UsageError(f"The largest kep is {largest_kep_per_s:g} 1/s; it must be above 0.")
    # Dense near 0, where a change of kep by the inverse of the series' length already matters. The first step is so
    # short (kep × minutes ≪ 1) that taking 0 for anything below it changes nothing visible.
    kep = largest_kep_per_s * np.expm1(np.linspace(0.0, 4.0, _KEP_NODES)) / np.expm1(4.0)
    basis = _LeakageBasis(reference, times_s, kep, fit=fit, window=window, baseline=baseline)
    return _fit_in_blocks(delta_r2s, basis, with_kep=True)


def leaking_voxels(fit: LeakageFit) -> np.ndarray:
    """Return which of the V voxels leak: K2 beyond its own error and beyond what the brain as a whole shows.

    Returns
    -------
    (V,) bool array
    """
    centre = np.nanmedian(fit.k2)
    spread = _MAD_TO_SD * np.nanmedian(np.abs(fit.k2 - centre))
    with np.errstate(invalid="ignore"):
        return (np.abs(fit.k2) > LEAKING_Z * fit.k2_standard_error) & (np.abs(fit.k2 - centre) > LEAKING_Z * spread)


def washout_convolution(curve: np.ndarray, times_s: np.ndarray, kep_per_s: float) -> np.ndarray:
    """Return ∫ curve(τ)·exp(−kep·(t−τ))dτ from the first frame to each, exact for a curve linear between frames.

    Parameters
    ----------
    curve : (T,) array
    times_s : (T,) array, s
        Not necessarily uniform.
    kep_per_s : float
        0 gives the running integral by the trapezoid rule.

    Returns
    -------
    (T,) float64 array, the curve's unit × s
    """
    curve = np.asarray(curve, dtype=np.float64)
    interval_s = np.diff(np.asarray(times_s, dtype=np.float64))
    x = kep_per_s * interval_s
    small = x < 0.1  # there the closed forms lose digits, and eight terms of their series are exact to 1e-13
    safe = np.where(small, 1.0, x)
    decay = np.exp(-x)
    powers = [(-x) ** k for k in range(8)]
    old_series = sum(p / (math.factorial(k) * (k + 2)) for k, p in enumerate(powers))
    new_series = sum(p / math.factorial(k + 2) for k, p in enumerate(powers))
    old = np.where(small, old_series, (1 - np.exp(-safe) * (1 + safe)) / safe**2)
    new = np.where(small, new_series, (safe + np.expm1(-safe)) / safe**2)
    steps = interval_s * (old * curve[:-1] + new * curve[1:])
    out = np.zeros(curve.size)
    for i, step in enumerate(steps):
        out[i + 1] = out[i] * decay[i] + step
    return out


class _LeakageBasis:
    """What the fit needs of the reference, for each of G values of kep.

    The two model curves, ref and its washout convolution L, are made orthonormal, so that coefficients and residual
    follow from one product with the data: q = ref/|ref|, u = (L − (L·q)q)/|…|.
    """

    def __init__(
        self,
        reference: np.ndarray,
        times_s: np.ndarray,
        kep_per_s: np.ndarray,
        *,
        fit: slice,
        window: slice,
        baseline: slice | None,
    ) -> None:
        reference = np.asarray(reference, dtype=np.float64)
        times_s = np.asarray(times_s, dtype=np.float64)
        start, stop, _ = fit.indices(times_s.size)
        self.fit = slice(start, stop)
        self.window_weights = trapezoid_weights(times_s, window)  # (T,)
        self.degrees_of_freedom = stop - start - (2 if kep_per_s.size == 1 else 3)
        if self.degrees_of_freedom < 2:
            raise TimingError(
                f"{stop - start} frames from the bolus on are too few to fit leakage. Use the method integral, or a "
                "series that runs longer after the bolus."
            )
        self.kep = kep_per_s  # (G,)
        leaked = np.zeros((kep_per_s.size, times_s.size))
        leaked[:, start:] = [washout_convolution(reference[start:], times_s[start:], k) for k in kep_per_s]
        self.leaked_area = leaked @ self.window_weights  # (G,)
        in_fit = leaked[:, self.fit]  # (G, F)
        self.reference_norm = float(np.linalg.norm(reference[self.fit]))
        if not (np.isfinite(self.reference_norm) and self.reference_norm > 0):
            raise QualityError("The reference curve is flat or not finite, so leakage can't be corrected.")
        self.q = reference[self.fit] / self.reference_norm  # (F,)
        self.overlap = in_fit @ self.q  # (G,)
        rest = in_fit - self.overlap[:, np.newaxis] * self.q
        self.rest_norm = np.linalg.norm(rest, axis=1)  # (G,)
        if not (self.rest_norm > 1e-9 * np.linalg.norm(in_fit, axis=1)).all():
            raise QualityError(
                "The reference curve has the same shape as its own integral, so leakage can't be told from blood. "
                "Check the bolus window."
            )
        self.u = (rest / self.rest_norm[:, np.newaxis]).T  # (F, G)
        # Variance of y·u for unit noise per frame; S0's noise adds the same error to every frame.
        # The corrected area is linear in the data too: y·c with c = window weights − leaked area / |rest| · u.
        c = np.repeat(self.window_weights[:, np.newaxis], kep_per_s.size, axis=1)  # (T, G)
        c[self.fit] -= self.u * (self.leaked_area / self.rest_norm)
        self.variance = np.ones(kep_per_s.size)
        self.corrected_variance = np.sum(c**2, axis=0)
        if baseline is not None:
            baseline_frames = len(range(*baseline.indices(times_s.size)))
            self.variance += self.u.sum(axis=0) ** 2 / baseline_frames
            self.corrected_variance += c.sum(axis=0) ** 2 / baseline_frames


def _fit_in_blocks(delta_r2s: np.ndarray, basis: _LeakageBasis, *, with_kep: bool) -> LeakageFit:
    voxels = delta_r2s.shape[0]
    out = np.empty((8, voxels), dtype=np.float32)
    for start in range(0, voxels, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        out[:, rows] = _fit_block(np.asarray(delta_r2s[rows], dtype=np.float64), basis)
    k1, k2, corrected, integral, residual_sd, standard_error, corrected_error, kep = out
    with np.errstate(invalid="ignore"):
        kep[~(np.abs(k2) >= SIGNIFICANT_K2_IN_SE * standard_error)] = np.nan
    return LeakageFit(
        k1, k2, corrected, integral, residual_sd, standard_error, corrected_error, kep if with_kep else None
    )


def _fit_block(curves: np.ndarray, basis: _LeakageBasis) -> np.ndarray:
    """Return the fields of `LeakageFit` in their order as (8, v), from (v, T) curves."""
    integral = curves @ basis.window_weights
    fitted = curves[:, basis.fit]
    along_reference = fitted @ basis.q  # (v,)
    along_leakage = fitted @ basis.u  # (v, G)
    node, weights = _best_node(along_leakage**2)  # (v, 3), (v, 3)

    def at_best(per_node: np.ndarray) -> np.ndarray:
        return np.einsum("vn,vn->v", weights, per_node)

    leakage = np.take_along_axis(along_leakage, node, axis=1) / basis.rest_norm[node]  # coefficient of L at the nodes
    k2 = at_best(-leakage)
    k1 = (along_reference - at_best(leakage * basis.overlap[node])) / basis.reference_norm
    corrected = integral + at_best(-leakage * basis.leaked_area[node])
    explained = along_reference**2 + at_best(np.take_along_axis(along_leakage, node, axis=1)) ** 2
    total = np.einsum("vt,vt->v", fitted, fitted)
    residual_sd = np.sqrt(np.maximum(total - explained, 0.0) / basis.degrees_of_freedom)
    standard_error = residual_sd * at_best((np.sqrt(basis.variance) / basis.rest_norm)[node])
    corrected_error = residual_sd * at_best(np.sqrt(basis.corrected_variance)[node])
    kep = at_best(basis.kep[node])
    return np.stack([k1, k2, corrected, integral, residual_sd, standard_error, corrected_error, kep])


def _best_node(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return three neighbouring nodes about the maximum of each row, and the weights that interpolate at it.

    The maximum of the parabola through three nodes; where the largest value lies at either end, that end itself.
    """
    rows, nodes = gain.shape
    best = np.argmax(gain, axis=1)
    if nodes < 3:
        return best[:, np.newaxis], np.ones((rows, 1))
    middle = np.clip(best, 1, nodes - 2)
    node = middle[:, np.newaxis] + np.array([-1, 0, 1])
    left, centre, right = np.take_along_axis(gain, node, axis=1).T
    curvature = left - 2.0 * centre + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(curvature < 0, 0.5 * (left - right) / curvature, 0.0)
    shift = np.clip(np.where(best == middle, shift, best - middle), -1.0, 1.0)
    weights = np.stack([0.5 * shift * (shift - 1.0), 1.0 - shift**2, 0.5 * shift * (shift + 1.0)], axis=1)
    return node, weights
