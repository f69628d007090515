"""Statistics of values that count by their weight: voxels of which a segment covers a share.

Values and weights are (V,); weights are positive. Equal weights give the usual statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean."""
    return float(values @ weights / weights.sum())


def weighted_sd(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the standard deviation between voxels; NaN for a single voxel.

    The unbiased form for weights that say how much a value counts: equal weights give the divisor n − 1.
    """
    share = weights / weights.sum()
    freedom = 1.0 - float(share @ share)
    if freedom < 1e-9:
        return float("nan")
    return float(np.sqrt((values - values @ share) ** 2 @ share / freedom))


def weighted_percentiles(values: np.ndarray, weights: np.ndarray, percent: Sequence[float]) -> np.ndarray:
    """Return percentiles, (len(percent),).

    A value stands at the middle of its own weight in the sorted sum of weights, and percentiles are interpolated
    between values. Equal weights give NumPy's ``method="hazen"``.
    """
    order = np.argsort(values)
    sorted_weights = weights[order]
    place = (np.cumsum(sorted_weights) - 0.5 * sorted_weights) / weights.sum()
    return np.interp(np.asarray(percent, dtype=np.float64) / 100.0, place, values[order])


def weighted_class_shares(
    values: np.ndarray, weights: np.ndarray, cut_offs: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the shares of the weight with values ≤ the first cut-off, between both, and ≥ the second; sum 1."""
    low, high = cut_offs
    total = weights.sum()
    below, above = float(weights[values <= low].sum() / total), float(weights[values >= high].sum() / total)
    return below, float(weights[(values > low) & (values < high)].sum() / total), above
