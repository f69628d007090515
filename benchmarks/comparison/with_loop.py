"""The tasks as people write them: a plain loop over voxels, with numpy's and scipy's own functions.

The formulas are those of our library, so that results must agree; what does not depend on the voxel stands before the
loop, as anyone would have it.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.linalg import circulant, toeplitz

from comparison.cases import Case


def volume(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass."""
    out = np.full(case.mask.shape, np.nan)
    for x, y, z in np.argwhere(case.mask):
        signal = case.signal[x, y, z]
        curve = -np.log(signal / np.mean(signal[: case.arrival])) / case.echo_time_s
        out[x, y, z] = trapezoid(curve[case.window], case.times_s[case.window])
    return case.relative(out)


def leakage(case: Case) -> np.ndarray:
    """Return rCBV: K2 of each voxel by least squares, area of the corrected first pass."""
    from_arrival = slice(case.arrival, None)
    reference = case.leak_free_per_s[from_arrival]
    times_s = case.times_s[from_arrival]
    integral = cumulative_trapezoid(reference, times_s, initial=0)
    design = np.column_stack([reference, -integral])
    frames = case.end + 1 - case.arrival
    out = np.zeros(len(case.curves_per_s))
    for voxel, curve in enumerate(case.curves_per_s):
        k1_k2 = np.linalg.lstsq(design, curve[from_arrival], rcond=None)[0]
        corrected = curve[from_arrival] + k1_k2[1] * integral
        out[voxel] = trapezoid(corrected[:frames], times_s[:frames])
    return case.volume(out)


def ssvd(case: Case) -> np.ndarray:
    """Return rCBF: highest value of the residue function, singular values below 0.2 of the largest left out."""
    interval_s = case.times_s[1] - case.times_s[0]
    u, values, vt = np.linalg.svd(toeplitz(case.arterial_per_s, np.zeros(len(case.times_s))) * interval_s)
    inverse_values = np.where(values >= 0.2 * values[0], 1 / values, 0)
    inverse = vt.T @ np.diag(inverse_values) @ u.T
    out = np.zeros(len(case.curves_per_s))
    for voxel, curve in enumerate(case.curves_per_s):
        out[voxel] = np.max(inverse @ curve)
    return case.volume(out)


def osvd(case: Case) -> np.ndarray:
    """Return rCBF: highest value of the residue function, more singular values left out until it is smooth."""
    frames = len(case.times_s)
    interval_s = case.times_s[1] - case.times_s[0]
    u, values, vt = np.linalg.svd(circulant(np.pad(case.arterial_per_s, (0, frames))) * interval_s)
    out = np.zeros(len(case.curves_per_s))
    for voxel, curve in enumerate(case.curves_per_s):
        projected = u.T @ np.pad(curve, (0, frames))
        for step in range(1, 100):
            kept = values >= 0.01 * step * values[0]
            residue = vt[kept].T @ (projected[kept] / values[kept])
            # Round the circle, like the residue itself.
            roughness = np.abs(residue - 2 * np.roll(residue, 1) + np.roll(residue, 2)).sum()
            if roughness / (2 * frames * residue.max()) < 0.035 and residue.max() > 0:
                break
        out[voxel] = residue.max()
    return case.volume(out)
