"""The tasks by osipy, OSIPI's library: it has all of them."""

from __future__ import annotations

import numpy as np
from osipy.dsc import (
    LeakageCorrectionParams,
    SVDDeconvolutionParams,
    compute_cbv,
    correct_leakage,
    get_deconvolver,
    signal_to_delta_r2,
)
from osipy.pipeline import DSCPipeline, DSCPipelineConfig

from comparison.cases import Case


def volume(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass, over the artery's (which cancels)."""
    curves = signal_to_delta_r2(
        case.signal[case.mask], te=1000 * case.echo_time_s, baseline_indices=np.arange(case.arrival)
    )
    return _blood_volume(case, curves)


def leakage_bsw(case: Case) -> np.ndarray:
    """Return rCBV, leakage corrected.

    Its model is ΔR2* − ref = K1·a + K2·∫a, and it takes both terms away. With the leak-free mean as `a` and as ref, and
    K1 left in place, that is Boxerman, Schmainda and Weisskoff's: ΔR2* = (1 + K1)·ref + K2·∫ref, less K2·∫ref.
    """
    params = LeakageCorrectionParams(
        method="bsw",
        use_t1_correction=False,
        reference_tissue="custom",
        custom_reference_mask=case.leak_free[case.mask],
        fitting_range=(case.arrival, len(case.times_s)),
    )
    reference = np.where(np.arange(len(case.times_s)) < case.arrival, 0.0, case.leak_free_per_s)
    return _blood_volume(
        case, correct_leakage(case.curves_per_s, reference, case.times_s, None, params).corrected_delta_r2
    )


def leakage_default(case: Case) -> np.ndarray:
    """Return rCBV, leakage corrected with the arterial curve and nothing else said."""
    return _blood_volume(case, correct_leakage(case.curves_per_s, case.arterial_per_s, case.times_s).corrected_delta_r2)


def ssvd(case: Case) -> np.ndarray:
    """Return rCBF by truncated SVD."""
    return _deconvolved(case, SVDDeconvolutionParams(method="sSVD", threshold=0.2))


def osvd(case: Case) -> np.ndarray:
    """Return rCBF by its oSVD."""
    return _deconvolved(case, SVDDeconvolutionParams(method="oSVD", oscillation_index=0.035))


def path(case: Case) -> np.ndarray:
    """Return rCBV of its pipeline."""
    return _path(case, corrected=True)


def path_uncorrected(case: Case) -> np.ndarray:
    """Return rCBV of its pipeline without leakage correction."""
    return _path(case, corrected=False)


def _blood_volume(case: Case, curves: np.ndarray) -> np.ndarray:
    window = case.window
    return case.volume(compute_cbv(curves[:, window], case.arterial_per_s[window], case.times_s[window]))


def _deconvolved(case: Case, params: SVDDeconvolutionParams) -> np.ndarray:
    deconvolver = get_deconvolver(params.method)
    return case.volume(deconvolver.deconvolve(case.curves_per_s, case.arterial_per_s, case.times_s, params=params).cbf)


def _path(case: Case, *, corrected: bool) -> np.ndarray:
    config = DSCPipelineConfig(
        te=1000 * case.echo_time_s, baseline_frames=case.arrival, apply_leakage_correction=corrected
    )
    arterial_signal = 100 * np.exp(-case.echo_time_s * case.arterial_per_s)
    maps = DSCPipeline(config).run(case.signal, case.times_s, aif_signal=arterial_signal, mask=case.mask).perfusion_maps
    return case.volume(maps.cbv.values[case.mask])
