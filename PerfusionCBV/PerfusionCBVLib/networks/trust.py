"""When not to believe a network: its map against the classical one, and its training against the series at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from PerfusionCBVLib.axis_order import AxisOrder
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.networks.domain import DESCRIPTION, describe, distance
from PerfusionCBVLib.preparation import find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.settings import NETWORK_METHODS

DISAGREEMENT = 0.25
"""RMS difference beyond noise, over the classical map's RMS, that is worth a warning: a judgement from simulation."""


def agreement(network: np.ndarray, classical: np.ndarray, noise: np.ndarray) -> tuple[dict[str, Any], Finding | None]:
    """Return how far network and classical map agree in the brain, and a finding when noise does not explain it.

    Parameters
    ----------
    network, classical : (x, y, z) arrays
        rCBV on one scale; NaN where there is none.
    noise : (x, y, z) array
        The classical map's standard error, on the same scale.

    Returns
    -------
    dict
        ``text`` for a reader; RMS values are over the RMS of the classical map.
    Finding or None
    """
    both = np.isfinite(network) & np.isfinite(classical)
    # The hottest voxels are large vessels, where neither map means tissue.
    both &= classical < np.percentile(classical[both], 98)
    a, b, error = (x[both].astype(np.float64) for x in (network, classical, noise))
    power = np.mean(b**2)
    rms, expected = float(np.sqrt(np.mean((a - b) ** 2) / power)), float(np.sqrt(np.mean(error**2) / power))
    unexplained = float(np.sqrt(max(rms**2 - expected**2, 0.0)))
    correlation = float(np.corrcoef(a, b)[0, 1])
    shift = float(np.median(a - b))
    text = (
        f"Network and classical map: correlation {correlation:.2f}, RMS difference {rms:.0%} of the classical map "
        f"(noise explains {min(expected, rms):.0%}), median difference {shift:+.2f}."
    )
    facts = {
        "text": text,
        "rms_difference": rms,
        "rms_noise": expected,
        "rms_unexplained": unexplained,
        "correlation": correlation,
        "median_difference": shift,
    }
    if unexplained <= DISAGREEMENT:
        return facts, None
    return facts, Finding(
        "network-disagrees",
        "warning",
        f"The network's map differs from the classical one by {unexplained:.0%} (RMS) beyond what noise explains; up "
        f"to {DISAGREEMENT:.0%} is expected.",
        "Read the classical map, and the network's only where both agree.",
        unexplained,
    )


def calibrated_deviation(
    deviation: np.ndarray, rcbv: np.ndarray, leakage: np.ndarray, calibration: dict[str, float]
) -> np.ndarray:
    """Return a network's standard deviation with what it can't know of: the scale's error and the leakage model's.

    Parameters
    ----------
    deviation, rcbv, leakage : (x, y, z) arrays
        The network's own SD, its map, and the leakage that the classical map corrected, all on one scale.
    calibration : dict
        From the network's card: factor on its own SD (``own``), relative error of the reference region and kinetics
        (``scale``), and share of the corrected leakage (``leakage``), fitted on simulated patients that it was not
        trained on.
    """
    parts = ((calibration["own"], deviation), (calibration["scale"], rcbv), (calibration["leakage"], leakage))
    return np.sqrt(sum((np.float32(factor) * values) ** 2 for factor, values in parts)).astype(np.float32)


def familiarity(description: np.ndarray, card: dict[str, Any]) -> tuple[dict[str, Any], Finding | None]:
    """Return how far a series is from what a network was trained on, and a finding when it is too far.

    Parameters
    ----------
    description : (n,) array
        See `domain.describe`.
    card : dict
        The network's; what it was trained on stands under ``training.domain``.

    Returns
    -------
    dict
        ``distance`` (Mahalanobis, over the limit of the training patients) and ``outside``, what lies beyond all of
        them.
    Finding or None
    """
    away, outside = distance(description, card["training"]["domain"])
    facts = {"distance": away, "outside": outside}
    if away <= 1 and not outside:
        return facts, None
    what = "; ".join(DESCRIPTION[name].split(",")[0] for name in outside[:3])
    reason = f" Beyond every series that it was trained on: {what}." if outside else ""
    return facts, Finding(
        "network-unfamiliar",
        "warning",
        f"This series is unlike those that the network {card['name']} was trained on (distance {away:.1f}, up to 1 is "
        f"usual).{reason}",
        "Read the classical map; don't rely on the network's without looking at both.",
        away,
    )


def check_networks(series: DynamicSeries) -> list[Finding]:
    """Return a finding for every embedded network whose training does not cover a series that can be mapped."""
    series = AxisOrder.of(series.affine).series(series)
    prepared = prepare(series, *find_mask_and_bolus(series))
    description = describe(prepared, fit_leakage(prepared))
    findings = (familiarity(description, read_card(name))[1] for name in NETWORK_METHODS)
    return [finding for finding in findings if finding is not None]
