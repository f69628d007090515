"""The tasks by our library."""

from __future__ import annotations

import importlib.util

import numpy as np

from comparison.cases import Case
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.arterial import ArterialCurve
from PerfusionCBVLib.concentration import delta_r2s
from PerfusionCBVLib.deconvolution import Deconvolver
from PerfusionCBVLib.flow import residue_times
from PerfusionCBVLib.integral import area
from PerfusionCBVLib.leakage import correct_unidirectional
from PerfusionCBVLib.series import Acquisition, DynamicSeries

if importlib.util.find_spec("torch") is not None:
    import PerfusionCBVLib.networks.inference  # noqa: F401  imports are not timed, of no package


def volume(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass."""
    curves = delta_r2s(case.signal[case.mask], echo_time_s=case.echo_time_s, baseline=case.baseline)
    return case.volume(area(curves, case.times_s, case.window))


def leakage(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass, corrected by Boxerman, Schmainda and Weisskoff's model."""
    fit = correct_unidirectional(
        case.curves_per_s,
        case.leak_free_per_s,
        case.times_s,
        fit=slice(case.arrival, None),
        window=case.window,
        baseline=case.baseline,
    )
    return case.volume(fit.corrected_integral)


def ssvd(case: Case) -> np.ndarray:
    """Return rCBF by truncated SVD."""
    return _flow(case, "ssvd")


def osvd(case: Case) -> np.ndarray:
    """Return rCBF by oSVD."""
    return _flow(case, "osvd")


def path_bsw(case: Case) -> np.ndarray:
    """Return rCBV as `map --method bsw --aif` makes it, with all maps and findings beside it."""
    return _path(case, "bsw")


def path_network(case: Case) -> np.ndarray:
    """Return rCBV as `map --aif` makes it, with all maps and findings beside it."""
    return _path(case, "anchored-unet")


def _flow(case: Case, method: str) -> np.ndarray:
    interval_s = float(np.median(np.diff(case.times_s)))
    residues = Deconvolver(case.arterial_per_s, interval_s, method).residues(case.curves_per_s)
    return case.volume(residue_times(residues, interval_s, causal=method == "ssvd")[0])


def _path(case: Case, method: str) -> np.ndarray:
    interval_s = float(np.median(np.diff(case.times_s)))
    acquisition = Acquisition(
        echo_time_s=case.echo_time_s,
        repetition_time_s=interval_s,
        flip_angle_deg=case.flip_angle_deg,
        field_strength_t=case.field_strength_t,
    )
    series = DynamicSeries(case.signal, case.affine, case.times_s, acquisition)
    arterial = ArterialCurve(case.times_s, case.arterial_per_s, "truth")
    settings = Settings(method=method, device="cpu")
    return compute_maps(series, settings, mask=case.mask, reference=case.reference, aif=arterial).maps["rcbv"].values
