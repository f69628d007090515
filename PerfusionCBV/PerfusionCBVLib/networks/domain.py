"""What a series is like as a whole, to tell whether a network's training covered it."""

from __future__ import annotations

from typing import Any

import numpy as np

from PerfusionCBVLib.integral import area
from PerfusionCBVLib.leakage import LeakageFit
from PerfusionCBVLib.networks.features import FIT_FEATURES, fit_features
from PerfusionCBVLib.preparation import Prepared

DESCRIPTION = {
    "frame_interval": "frame interval, log s",
    "frames": "number of frames, log",
    "echo_time": "echo time, log s",
    "flip_angle": "flip angle, log degrees",
    "pixel": "pixel size, log mm",
    "thickness": "slice thickness, log mm",
    "baseline": "frames before the bolus, log",
    "drop": "signal drop of the reference curve, log of TE × peak ΔR2*",
    "width": "width of the bolus, log s",
    "asymmetry": "time from peak to end over time from arrival to peak, log",
    "reference_tail": "reference curve after the first pass over its peak",
    "compactness": "area of the reference curve over peak × width, log",
    "noise": "median noise of the blood volume, log",
    "misfit": "median residual of the leakage fit over baseline noise, log",
    "misfit_high": "90th percentile of the same, log",
    "leaking": "mean leakage over its own error, squashed",
    "delay_spread": "interquartile range of delay × volume over the bolus width",
    "dispersion_spread": "interquartile range of dispersion × volume over the squared bolus width",
    "contrast": "90th over 50th percentile of the blood volume, log",
}
"""Name to meaning, in the order of `describe`."""

BEYOND = 0.5
"""Standard deviations beyond the extreme training patient: with hundreds of them, chance alone reaches the extreme."""


def describe(prepared: Prepared, fit: LeakageFit, features: np.ndarray | None = None) -> np.ndarray:
    """Return (len(DESCRIPTION),) float32 numbers of a prepared series; NaN for what its header does not tell.

    Parameters
    ----------
    prepared : Prepared
    fit : LeakageFit
        Unidirectional.
    features : (V, 10 or more) array, optional
        `features.fit_features` of the same, when they are there already.
    """
    if features is None:
        features = fit_features(prepared, fit)
    series, timing, reference = prepared.series, prepared.timing, prepared.reference_per_s
    acquisition, times_s = series.acquisition, series.times_s
    peak = prepared.reference_peak_per_s
    peak_s = float(times_s[timing.first_pass][int(np.argmax(reference[timing.first_pass]))])
    x, y, z = series.voxel_size_mm
    column = dict(zip(FIT_FEATURES, features.astype(np.float64).T, strict=False))
    after = reference[timing.end :]

    def spread(values: np.ndarray) -> float:
        low, high = np.percentile(values, [25, 75])
        return float(high - low)

    middle, high = np.percentile(column["corrected"], [50, 90])
    misfit, misfit_high = np.percentile(column["misfit"], [50, 90])
    with np.errstate(divide="ignore", invalid="ignore"):
        values = [
            np.log(series.frame_interval_s),
            np.log(series.frames),
            np.log(acquisition.echo_time_s or np.nan),
            np.log(acquisition.flip_angle_deg or np.nan),
            0.5 * np.log(x * y),
            np.log(z),
            np.log(timing.baseline.stop - timing.baseline.start),
            np.log((acquisition.echo_time_s or np.nan) * peak),
            np.log(timing.width_s),
            np.log(max(timing.end_s - peak_s, 0.1) / max(peak_s - timing.arrival_s, 0.1)),
            float(after.mean()) / peak if after.size else np.nan,
            np.log(max(float(area(reference, times_s, timing.first_pass)) / peak / timing.width_s, 1e-3)),
            np.median(column["noise"]),
            misfit,
            misfit_high,
            np.mean(np.abs(column["significance"])),
            spread(column["delay"]),
            spread(column["dispersion"]),
            np.log(max(high, 1e-3) / max(middle, 1e-3)),
        ]
    found = np.array(values, dtype=np.float32)
    return np.where(np.isfinite(found), found, np.float32(np.nan))


def training_domain(descriptions: np.ndarray) -> dict[str, Any]:
    """Return what a card keeps of the (patients, n) descriptions that a network was trained on.

    The farthest fortieth, such as patients whose bolus was mistaken, is left out, and its edge is the limit: one
    training patient in 40 would be called unfamiliar.
    """
    complete = np.unique(descriptions[np.isfinite(descriptions).all(axis=1)], axis=0).astype(np.float64)
    usual = complete
    for _ in range(2):
        mean = usual.mean(axis=0)
        scatter = np.cov(usual, rowvar=False) + 1e-6 * np.eye(mean.size)
        distances = np.sqrt([_squared_distance(row, mean, scatter) for row in complete])
        limit = float(np.percentile(distances, 97.5))
        usual = complete[distances <= limit]
    return {
        "names": list(DESCRIPTION),
        "patients": len(complete),
        "mean": mean.round(5).tolist(),
        "covariance": scatter.round(7).tolist(),
        "lowest": usual.min(axis=0).round(4).tolist(),
        "highest": usual.max(axis=0).round(4).tolist(),
        "limit": round(limit, 3),
    }


def distance(description: np.ndarray, domain: dict[str, Any]) -> tuple[float, list[str]]:
    """Return the Mahalanobis distance from the training patients over its limit, and the names that lie outside.

    Parameters
    ----------
    description : (n,) array
        From `describe`; NaN is left out.
    domain : dict
        From `training_domain`.

    Returns
    -------
    float
        Above 1 a series is unlike what the network was trained on.
    list of str
        Names whose value lies beyond every training patient's by half a standard deviation, the farthest first.
    """
    mean, scatter = np.array(domain["mean"]), np.array(domain["covariance"])
    known = np.isfinite(description)
    squared = _squared_distance(description[known], mean[known], scatter[np.ix_(known, known)])
    squared *= known.size / known.sum()  # fewer known numbers make a shorter distance
    lowest, highest, sd = np.array(domain["lowest"]), np.array(domain["highest"]), np.sqrt(np.diag(scatter))
    with np.errstate(invalid="ignore"):
        beyond = np.nan_to_num(np.maximum(lowest - description, description - highest) / sd)
    outside = [domain["names"][k] for k in np.argsort(-beyond) if beyond[k] > BEYOND]
    return float(np.sqrt(squared) / domain["limit"]), outside


def _squared_distance(row: np.ndarray, mean: np.ndarray, scatter: np.ndarray) -> float:
    away = np.asarray(row, dtype=np.float64) - mean
    return float(away @ np.linalg.solve(scatter, away))
