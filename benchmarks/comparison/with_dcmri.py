"""The tasks by dcmri: signal to concentration and deconvolution; it has no leakage correction and no oSVD for DSC."""

from __future__ import annotations

import dcmri
import numpy as np
from scipy.integrate import trapezoid

from comparison.cases import Case


def volume(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass. `conc_t2w` averages the baseline over all that it is given: one curve."""
    curves = [dcmri.conc_t2w(signal, TE=case.echo_time_s, r2=1.0, n0=case.arrival) for signal in case.signal[case.mask]]
    return case.volume(trapezoid(np.array(curves)[:, case.window], case.times_s[case.window]))


def ssvd(case: Case) -> np.ndarray:
    """Return rCBF by truncated SVD of the rectangle rule's matrix, which is sSVD."""
    return _deconvolved(case, order=1)


def ssvd_second_order(case: Case) -> np.ndarray:
    """Return rCBF by truncated SVD of the matrix for curves that are linear between frames."""
    return _deconvolved(case, order=2)


def _deconvolved(case: Case, order: int) -> np.ndarray:
    interval_s = float(case.times_s[1] - case.times_s[0])
    residues = dcmri.deconv(
        case.curves_per_s.T, case.arterial_per_s, dt=interval_s, order=order, method="TSVD", tol=0.2
    )
    return case.volume(residues.max(axis=0))
