"""Blood volume, blood flow and transit times in absolute units, from tissue curves and an arterial input.

All of it comes from one curve a voxel, since MTT = CBV/CBF holds only if both do. Where leakage stands out from the
brain (`leakage.leaking_voxels`) that is the corrected curve ΔR2*(t) + K2·∫ref: leaked agent is no blood, it lifts or
sinks the tail that CBV integrates and that the residue function must explain. Elsewhere it is ΔR2* as measured: tissue
later or slower than the reference gets a K2 too, and correcting for that takes some 10 % off its volume. The correction
is the unidirectional one of `rcbv_classical`, whatever the method of the rCBV map.

Areas are taken over all frames that are deconvolved, of tissue and artery alike, and not over the first pass as for
rCBV: tissue is later than the artery by delay and transit time, so that a window that ends with the pass cuts more off
the tissue (20 % of the area at 8 s).

ΔR2* stands for concentration with one relaxivity in artery and tissue. That is not so (the artery's is lower, and
quadratic), so CBV and CBF share a factor that is not known; see `scale_finding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from PerfusionCBVLib.arterial import ArterialInput
from PerfusionCBVLib.deconvolution import Deconvolver
from PerfusionCBVLib.errors import TimingError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.integral import area, running_integral
from PerfusionCBVLib.leakage import LeakageFit, leaking_voxels
from PerfusionCBVLib.preparation import Prepared
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.settings import Deconvolution

HAEMATOCRIT_LARGE = 0.45
HAEMATOCRIT_SMALL = 0.25
BRAIN_DENSITY_G_PER_ML = 1.04
LARGE_TO_SMALL_VESSEL = (1 - HAEMATOCRIT_LARGE) / (1 - HAEMATOCRIT_SMALL)
"""k_H: how much less plasma, and so agent, blood in a large vessel holds than in a capillary; 0.733."""

ML_PER_100G = 100.0 * LARGE_TO_SMALL_VESSEL / BRAIN_DENSITY_G_PER_ML
"""From a ratio of areas, ml/ml, to ml/100 g."""

UNIFORM_TOLERANCE = 1e-3
"""Frames whose intervals differ by less than this share of the interval are taken as uniform."""

WHITE_MATTER_ML_PER_100G = (1.0, 4.0)
"""CBV that normal white matter can have; PET and MRI studies give 1.5 to 3 (Ibaraki 2007, Wenz 1996, Leenders 1990)."""

_ROWS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class FlowMaps:
    """One value per voxel, float32.

    Attributes
    ----------
    cbv : (V,) array, ml/100 g
        (k_H/ρ)·∫C_t/∫C_a over the frames that are deconvolved.
    cbf : (V,) array, ml/100 g/min
        (k_H/ρ)·max k.
    mtt : (V,) array, s
        CBV/CBF; NaN where either is not positive.
    tmax : (V,) array, s
        When k is highest; negative where the tissue is earlier than the arterial input.
    ttp : (V,) array, s
        When the curve is highest in the first pass, after the bolus' arrival in the brain.
    delay : (V,) array, s
        When k rises through half its maximum; unlike Tmax it does not move with the transit time.
    """

    cbv: np.ndarray
    cbf: np.ndarray
    mtt: np.ndarray
    tmax: np.ndarray
    ttp: np.ndarray
    delay: np.ndarray


def flow_maps(
    prepared: Prepared,
    leakage: LeakageFit,
    arterial: ArterialInput,
    method: Deconvolution,
    progress: Progress = silent,
) -> tuple[FlowMaps, dict[str, Any]]:
    """Return CBV, CBF, MTT, Tmax, TTP and delay of every usable voxel, and how they were made.

    Parameters
    ----------
    prepared : Prepared
    leakage : LeakageFit
        Of `leakage.correct_unidirectional`.
    arterial : ArterialInput
    method : str
        See `deconvolution.Deconvolver`.

    Returns
    -------
    maps : FlowMaps
    provenance : dict
        Constants, frames, and what was resampled.

    Raises
    ------
    QualityError, TimingError
        The arterial input can't be deconvolved.
    """
    times_s, timing = prepared.series.times_s, prepared.timing
    known = arterial.known
    frames = slice(max(timing.first_steady, known.start), known.stop)
    grid = _Grid(times_s[frames])
    deconvolver = Deconvolver(grid.resample(arterial.curve_per_s[frames]), grid.interval_s, method)
    arterial_area = float(area(arterial.curve_per_s, times_s, frames))

    leaked = np.zeros(times_s.size)
    fitted = timing.after_arrival
    leaked[fitted] = running_integral(prepared.reference_per_s[fitted], times_s[fitted])
    leaked = leaked.astype(np.float32)
    leaking = leaking_voxels(leakage)
    k2 = np.where(leaking, leakage.k2, np.float32(0))
    out = np.empty((6, prepared.delta_r2s_per_s.shape[0]), dtype=np.float32)
    for start in range(0, out.shape[1], _ROWS_AT_ONCE):
        progress(start / out.shape[1], "Computing flow")
        rows = slice(start, start + _ROWS_AT_ONCE)
        curves = prepared.delta_r2s_per_s[rows] + k2[rows, np.newaxis] * leaked
        cbv = ML_PER_100G * area(curves, times_s, frames) / arterial_area
        residue = deconvolver.residues(grid.resample(curves[:, frames]))
        highest, tmax, delay = residue_times(residue, grid.interval_s, causal=method == "ssvd")
        cbf = 60.0 * ML_PER_100G * highest
        ttp = _peak_time(curves[:, timing.first_pass], times_s[timing.first_pass]) - timing.arrival_s
        with np.errstate(divide="ignore", invalid="ignore"):
            mtt = np.where((cbv > 0) & (cbf > 0), 60.0 * cbv / cbf, np.nan)
        out[:, rows] = cbv, cbf, mtt, tmax, ttp, delay
    provenance = {
        "deconvolution": method,
        "curve": "ΔR2*; where leakage stands out corrected for it, unidirectionally (Boxerman et al. 2006)",
        "corrected_voxels": int(leaking.sum()),
        "k_H": LARGE_TO_SMALL_VESSEL,
        "haematocrit_large": HAEMATOCRIT_LARGE,
        "haematocrit_small": HAEMATOCRIT_SMALL,
        "density_g_per_ml": BRAIN_DENSITY_G_PER_ML,
        "frames_deconvolved": [frames.start, frames.stop],
        "interval_s": grid.interval_s,
        "resampled": grid.note,
        "arterial_area": arterial_area,
        "ttp_counts_from_s": float(timing.arrival_s),
    }
    return FlowMaps(*out), provenance


def residue_times(residue: np.ndarray, interval_s: float, *, causal: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return height, time of the maximum, and time of the half-rise of residue functions.

    Parameters
    ----------
    residue : (V, L) array, 1/s
    interval_s : float
    causal : bool
        k starts at time 0 (sSVD). Otherwise k is periodic, its second half stands for negative times, and its maximum
        lies between samples: truncated Fourier modes are smooth, so that the parabola through the three highest
        samples finds it. A causal k may begin with a jump, where no parabola fits; there the highest sample is taken.

    Returns
    -------
    highest : (V,) array, 1/s
    tmax, half_rise : (V,) arrays, s
        The half-rise is where k, going back from its maximum, first falls below half of it, linear between samples.
    """
    voxels, length = residue.shape
    every = np.arange(voxels)
    peak = residue.argmax(axis=1)
    highest = residue[every, peak]
    shift = np.zeros(voxels)
    if not causal:
        before, after = residue[every, peak - 1], residue[every, (peak + 1) % length]
        shift = _vertex(before, highest, after)
        highest = highest - 0.25 * (before - after) * shift
    steps = np.arange(length if causal else length // 2)
    at = peak[:, np.newaxis] - steps  # from the maximum back
    earlier = np.take_along_axis(residue, at % length, axis=1)
    if causal:
        earlier = np.where(at >= 0, earlier, 0.0)
    below = earlier < 0.5 * highest[:, np.newaxis]
    below[:, -1] = True
    step = np.maximum(below.argmax(axis=1), 1)
    low, high = earlier[every, step], earlier[every, step - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(high > low, (high - 0.5 * highest) / (high - low), 0.0)
    half = peak - (step - 1) - np.clip(share, 0.0, 1.0)
    if causal:
        return highest, peak * interval_s, np.maximum(half, 0.0) * interval_s
    wrapped = np.where(peak >= length // 2, length, 0)
    return highest, (peak + shift - wrapped) * interval_s, (half - wrapped) * interval_s


def scale_finding(cbv: np.ndarray, reference: np.ndarray) -> Finding:
    """Return whether CBV in the reference region is what normal white matter can have.

    Parameters
    ----------
    cbv : (x, y, z) array, ml/100 g
    reference : (x, y, z) bool array
        White matter.
    """
    level = float(np.nanmean(cbv[reference]))
    low, high = WHITE_MATTER_ML_PER_100G
    text = f"CBV in the reference region is {level:.2f} ml/100 g"
    if low <= level <= high:
        return Finding(
            "flow-scale", "info", f"{text}; {low:g} to {high:g} is expected.", "", round(level, 3), "ml/100 g"
        )
    return Finding(
        "flow-scale",
        "warning",
        f"{text}; normal white matter has {low:g} to {high:g}.",
        "CBV and CBF share a wrong factor, since the arterial voxels hold tissue too or their relaxivity differs. Read "
        "them as ratios to the reference region; MTT, Tmax, TTP and delay don't depend on that factor.",
        round(level, 3),
        "ml/100 g",
    )


class _Grid:
    """Frame times, and the uniform ones that deconvolution needs."""

    def __init__(self, times_s: np.ndarray) -> None:
        if times_s.size < 4:
            raise TimingError(
                f"The arterial input shares {times_s.size} frames with the series; at least 4 are needed."
            )
        steps_s = np.diff(times_s)
        self.interval_s = float(np.median(steps_s))
        self.weights: np.ndarray | None = None
        self.note = "no: the frames are uniform"
        if np.max(np.abs(steps_s - self.interval_s)) <= UNIFORM_TOLERANCE * self.interval_s:
            return
        uniform_s = np.arange(times_s[0], times_s[-1] + 1e-6, self.interval_s)
        # (T, U): a curve times this is that curve, linear between frames, at the uniform times.
        self.weights = np.stack([np.interp(uniform_s, times_s, row) for row in np.eye(times_s.size)])
        self.note = (
            f"linearly to {uniform_s.size} times {self.interval_s:g} s apart: frame intervals vary from "
            f"{steps_s.min():g} to {steps_s.max():g} s"
        )

    def resample(self, curves: np.ndarray) -> np.ndarray:
        """Return (..., T) curves at the uniform times."""
        return curves if self.weights is None else curves @ self.weights.astype(curves.dtype)


def _peak_time(curves: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return when each curve is highest, s, by the parabola through its highest sample and the neighbours."""
    every = np.arange(curves.shape[0])
    peak = curves.argmax(axis=1)
    inner = np.clip(peak, 1, curves.shape[1] - 2)
    shift = _vertex(curves[every, inner - 1], curves[every, inner], curves[every, inner + 1])
    shift = np.where(peak == inner, shift, 0.0)
    return np.interp(peak + shift, np.arange(times_s.size), times_s)


def _vertex(before: np.ndarray, highest: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where the parabola through three samples is highest, in samples from the middle one, −0.5 to 0.5."""
    curvature = before - 2.0 * highest + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(curvature < 0, 0.5 * (before - after) / curvature, 0.0)
    return np.clip(shift, -0.5, 0.5)
