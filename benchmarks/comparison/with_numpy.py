"""The tasks in numpy without a loop over voxels: what somebody writes who knows that the loop is slow."""

from __future__ import annotations

import numpy as np
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.linalg import circulant, toeplitz

from comparison.cases import Case


def volume(case: Case) -> np.ndarray:
    """Return rCBV: area of the first pass."""
    signal = case.signal[case.mask]
    curves = -np.log(signal / signal[:, : case.arrival].mean(axis=1, keepdims=True)) / case.echo_time_s
    return case.volume(trapezoid(curves[:, case.window], case.times_s[case.window]))


def leakage(case: Case) -> np.ndarray:
    """Return rCBV: K2 of all voxels by one least-squares solution, area of the corrected first pass."""
    reference, times_s = case.leak_free_per_s[case.arrival :], case.times_s[case.arrival :]
    integral = cumulative_trapezoid(reference, times_s, initial=0)
    design = np.column_stack([reference, -integral])
    curves = case.curves_per_s[:, case.arrival :]
    k2 = np.linalg.lstsq(design, curves.T, rcond=None)[0][1]
    corrected = curves + k2[:, np.newaxis] * integral
    frames = case.end + 1 - case.arrival
    return case.volume(trapezoid(corrected[:, :frames], times_s[:frames]))


def ssvd(case: Case) -> np.ndarray:
    """Return rCBF: highest value of the residue function, singular values below 0.2 of the largest left out."""
    matrix = toeplitz(case.arterial_per_s, np.zeros(len(case.times_s))) * (case.times_s[1] - case.times_s[0])
    return case.volume((case.curves_per_s @ np.linalg.pinv(matrix, rcond=0.2).T).max(axis=1))


def osvd(case: Case) -> np.ndarray:
    """Return rCBF: highest value of the residue function; at each threshold only voxels that still oscillate."""
    frames = len(case.times_s)
    u, values, vt = np.linalg.svd(
        circulant(np.pad(case.arterial_per_s, (0, frames))) * (case.times_s[1] - case.times_s[0])
    )
    highest = np.zeros(len(case.curves_per_s))
    left = np.arange(highest.size)
    for step in range(1, 100):
        kept = values >= 0.01 * step * values[0]
        residues = case.curves_per_s[left] @ ((vt[kept].T / values[kept]) @ u[:frames, kept].T).T
        roughness = np.abs(residues - 2 * np.roll(residues, 1, axis=1) + np.roll(residues, 2, axis=1)).sum(axis=1)
        highest[left] = residues.max(axis=1)
        left = left[~(roughness < 0.035 * 2 * frames * highest[left])]
    return case.volume(highest)
