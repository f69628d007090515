"""From one row a patient and method to one row a method: means, their intervals, and differences to ``bsw``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from PerfusionCBVLib.evaluate.scores import MEASURES, TISSUE_MEASURES, TISSUES_SCORED

BASELINE = "bsw"
"""The method that the others are compared with, patient by patient."""

DRAWS = 2000
_Z95 = 1.959964

Values = Sequence[float] | np.ndarray


def finite_mean(values: Values) -> float:
    """Return the mean of the finite values; NaN when there is none."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def bootstrap_interval(values: Values, *, draws: int = DRAWS) -> tuple[float, float]:
    """Return the 95 % interval of the mean over subjects, by resampling them (Efron 1979, percentile method).

    Values that are not finite are left out; fewer than two give no interval, but NaN.
    """
    known = np.array([v for v in values if np.isfinite(v)])
    if known.size < 2:
        return float("nan"), float("nan")
    return _central(known[_chosen(known.size, draws)].mean(axis=1))


def limits_of_agreement(bias: Values, deviation: Values) -> tuple[float, float]:
    """Return between which differences 95 % of all voxels lie when every subject counts the same.

    Bland & Altman 2007 (J Biopharm Stat 17:571) for many measurements a subject: the variance of a difference is the
    mean variance within subjects plus the variance of their biases.

    Parameters
    ----------
    bias, deviation : (n,) sequences
        Each subject's mean and SD of map minus truth.
    """
    low, high = _limits(np.asarray(bias, dtype=float)[None], np.asarray(deviation, dtype=float)[None])
    return float(low[0]), float(high[0])


def summarise(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a method.

    Parameters
    ----------
    rows : sequence of dict
        One a subject and method with ``seed``, ``method``, ``refused`` (empty, or why the series was refused) and
        `scores.MEASURES`.
    methods : sequence of str

    Returns
    -------
    list of dict
        For every measure the mean over subjects with its 95 % interval (``nrmse``, ``nrmse_low``, ``nrmse_high``) and
        the mean difference to ``bsw`` on the same subjects with its interval (``nrmse_minus_bsw``, …); ``loa_low`` and
        ``loa_high``, the limits of agreement, with their intervals; how many subjects have a tissue
        (``grey_subjects``, …); how many ``subjects`` count, how many were ``refused``, and the ``refusals`` of
        `name_refusals`.
    """
    kept = [row for row in rows if not row["refused"]]
    refused = {row["seed"] for row in rows if row["refused"]}
    columns = {m: {k: np.array([row[k] for row in kept if row["method"] == m]) for k in MEASURES} for m in methods}
    table = []
    for method in methods:
        values = columns[method]
        summary: dict[str, Any] = {"method": method}
        for name in MEASURES:
            summary |= _with_interval(name, values[name])
            if name == "difference_sd":
                summary |= _agreement(values["bias"], values[name])
        if BASELINE in methods:
            for name in MEASURES:
                with np.errstate(invalid="ignore"):  # two maps without error have an infinite PSNR
                    difference = values[name] - columns[BASELINE][name]
                if method == BASELINE:
                    difference = np.full(len(difference), np.nan)
                summary |= _with_interval(f"{name}_minus_{BASELINE}", difference)
        for tissue in TISSUES_SCORED:
            summary[f"{tissue}_subjects"] = int(np.isfinite(values[f"{tissue}_truth"]).sum())
        counts = {"subjects": len(values["nrmse"]), "refused": len(refused), "refusals": name_refusals(rows)}
        table.append({**summary, **counts})
    return table


def name_refusals(rows: Sequence[dict[str, Any]]) -> str:
    """Return which patients were refused and why, one sentence each; empty when none was."""
    reasons = {row["seed"]: row["refused"] for row in rows if row["refused"]}
    return " ".join(f"Patient {seed}: {reason}" for seed, reason in reasons.items())


def tissue_rows(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a method and tissue of the rows of `summarise` or `evaluate_object`."""
    rows = []
    for row in table:
        for tissue in TISSUES_SCORED:
            prefix = f"{tissue}_"
            wanted = tuple(prefix + measure for measure in (*TISSUE_MEASURES, "subjects"))
            values = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(wanted)}
            rows.append({"method": row["method"], "tissue": tissue, **values})
    return rows


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {name: finite_mean(values), f"{name}_low": low, f"{name}_high": high}


def _agreement(bias: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
    """Return the limits of agreement, each with its bootstrap interval."""
    chosen = _chosen(len(bias), DRAWS)
    resampled = _limits(bias[chosen], deviation[chosen])
    found: dict[str, float] = {}
    for name, value, draws in zip(
        ("loa_low", "loa_high"), limits_of_agreement(bias, deviation), resampled, strict=True
    ):
        low, high = _central(draws) if len(bias) > 1 else (float("nan"), float("nan"))
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


def _limits(bias: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of each of the rows of (rows, subjects) arrays."""
    centre = bias.mean(axis=1)
    spread = _Z95 * np.sqrt((deviation**2).mean(axis=1) + bias.var(axis=1))
    return centre - spread, centre + spread


def _chosen(size: int, draws: int) -> np.ndarray:
    return np.random.default_rng(0).integers(size, size=(draws, size))


def _central(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
