"""How far one map is from the truth: error, agreement, tissue by tissue, and whether a stated SD is true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats
from skimage.metrics import structural_similarity

MINIMUM_VOXELS = 20
"""A tissue with fewer voxels has no mean worth comparing."""

MINIMUM_TRUTH = 0.1
"""A true mean rCBV below this (CSF, necrosis) is too little to give a bias in per cent of."""

TISSUES_SCORED = ("csf", "grey", "white", "infiltration", "oedema", "enhancing", "necrosis")
COVERAGE_LEVELS = (50, 80, 95)

BRAIN_MEASURES = (
    "nrmse",
    "ccc",
    "bias",
    "difference_sd",
    "enhancing_bias_percent",
    "enhancing_abs_bias_percent",
    "mapped_fraction",
)
"""What `score` returns."""

SLICE_MEASURES = ("nrmse_range", "psnr_db", "ssim", "mae", "nrmse_slices")
"""What `slice_scores` returns."""

COVERAGE_MEASURES = tuple(f"{where}coverage_{level}" for where in ("", "enhancing_") for level in COVERAGE_LEVELS)

TISSUE_MEASURES = ("truth", "error", "rmse", "bias_percent")
"""What `tissue_scores` returns for each tissue, as ``grey_error`` and so on."""

MEASURES = tuple(
    dict.fromkeys(
        (
            *BRAIN_MEASURES,
            *SLICE_MEASURES,
            *COVERAGE_MEASURES,
            *(f"{tissue}_{measure}" for tissue in TISSUES_SCORED for measure in TISSUE_MEASURES),
        )
    )
)
"""What `all_scores` returns."""


def nrmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the RMSE over the RMS of the truth (eq. 1 of Diumin & Alkhimova 2026)."""
    return float(np.sqrt(np.mean((estimate - truth) ** 2) / np.mean(truth**2)))


def concordance(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return Lin's concordance correlation coefficient (Lin 1989, Biometrics 45:255)."""
    covariance = np.mean((estimate - estimate.mean()) * (truth - truth.mean()))
    return float(2 * covariance / (estimate.var() + truth.var() + (estimate.mean() - truth.mean()) ** 2))


def score(rcbv: np.ndarray, truth: np.ndarray, tissue: np.ndarray, enhancing: np.ndarray) -> dict[str, float]:
    """Return error and agreement in tissue, and the enhancing tumour's bias in per cent of its true mean.

    Parameters
    ----------
    rcbv, truth : (x, y, z) arrays
    tissue : (x, y, z) bool array
        Brain without large vessels.
    enhancing : (x, y, z) bool array
        Enhancing tumour; NaN is returned for its bias where it has less than `MINIMUM_VOXELS`.

    Returns
    -------
    dict
        ``nrmse``, ``ccc``; ``bias`` and ``difference_sd``, mean and SD of map minus truth over voxels;
        ``enhancing_bias_percent`` and its magnitude; ``mapped_fraction``, the share of tissue that has a value.
    """
    defined = tissue & np.isfinite(rcbv) & np.isfinite(truth)
    a, b = rcbv[defined].astype(np.float64), truth[defined].astype(np.float64)
    lesion = tissue_scores(rcbv, truth, {"enhancing": enhancing & defined})["enhancing_bias_percent"]
    return {
        "nrmse": nrmse(a, b),
        "ccc": concordance(a, b),
        "bias": float(np.mean(a - b)),
        "difference_sd": float(np.std(a - b)),
        "enhancing_bias_percent": lesion,
        "enhancing_abs_bias_percent": abs(lesion),
        "mapped_fraction": float(defined.sum() / max(tissue.sum(), 1)),
    }


def tissue_scores(rcbv: np.ndarray, truth: np.ndarray, regions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return for each region its true mean, mean error, RMSE, and the bias of its mean in per cent of the true one.

    Parameters
    ----------
    rcbv, truth : (x, y, z) arrays
    regions : mapping of name to (x, y, z) bool array

    Returns
    -------
    dict
        ``NAME_truth``, ``NAME_error``, ``NAME_rmse``, ``NAME_bias_percent``; NaN for less than `MINIMUM_VOXELS`, the
        last also for a true mean below `MINIMUM_TRUTH`.
    """
    scores = {}
    for name, region in regions.items():
        defined = region & np.isfinite(rcbv) & np.isfinite(truth)
        if defined.sum() < MINIMUM_VOXELS:
            values = (float("nan"),) * len(TISSUE_MEASURES)
        else:
            b = truth[defined].astype(np.float64)
            error = rcbv[defined] - b
            level, bias = float(b.mean()), float(error.mean())
            relative = 100 * bias / level if level >= MINIMUM_TRUTH else float("nan")
            values = (level, bias, float(np.sqrt(np.mean(error**2))), relative)
        scores.update({f"{name}_{key}": value for key, value in zip(TISSUE_MEASURES, values, strict=True)})
    return scores


def slice_scores(rcbv: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Return the source paper's measures over whole slices, background included.

    Both maps are clipped to 0 … the truth's 99.9th percentile in the brain, large vessels being above it, and divided
    by that; outside the brain, and where a map has no value, they are 0.

    Parameters
    ----------
    rcbv, truth : (x, y, z) arrays
    brain : (x, y, z) bool array
        Slices without brain do not count.

    Returns
    -------
    dict
        ``nrmse_range`` (RMSE over the range, which is what the paper's table holds), ``psnr_db`` (−20·log10 of it),
        ``ssim`` (mean over slices, Wang et al. 2004), ``mae`` (on a scale from −1 to 1, as the paper gives it) and
        ``nrmse_slices`` (RMSE over the truth's RMS, the paper's eq. 1).
    """
    top = float(np.percentile(truth[brain], 99.9))
    slices = np.flatnonzero(brain.any(axis=(0, 1)))
    a, b = (np.clip(np.nan_to_num(np.where(brain, m, 0))[..., slices], 0, top) / top for m in (rcbv, truth))
    rmse = float(np.sqrt(np.mean((a - b) ** 2)))
    similarity = [structural_similarity(a[..., k], b[..., k], data_range=1.0) for k in range(slices.size)]
    return {
        "nrmse_range": rmse,
        "psnr_db": float(-20 * np.log10(rmse)) if rmse > 0 else float("inf"),
        "ssim": float(np.mean(similarity)),
        "mae": float(2 * np.mean(np.abs(a - b))),
        "nrmse_slices": nrmse(a, b),
    }


def coverage(rcbv: np.ndarray, deviation: np.ndarray, truth: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Return how often the truth lies in the intervals that a map's standard deviation promises.

    Parameters
    ----------
    rcbv, deviation, truth : (x, y, z) arrays
    region : (x, y, z) bool array

    Returns
    -------
    dict
        ``coverage_50``, ``coverage_80``, ``coverage_95``: share of voxels, 0 to 1, within the central interval of a
        normal distribution of that probability in per cent; NaN for less than `MINIMUM_VOXELS`.
    """
    defined = region & np.isfinite(rcbv) & np.isfinite(truth) & (deviation > 0)
    if defined.sum() < MINIMUM_VOXELS:
        return {f"coverage_{level}": float("nan") for level in COVERAGE_LEVELS}
    z = np.abs(rcbv[defined] - truth[defined]) / deviation[defined]
    return {f"coverage_{level}": float(np.mean(z <= stats.norm.ppf(0.5 + level / 200))) for level in COVERAGE_LEVELS}


def all_scores(
    rcbv: np.ndarray,
    truth: np.ndarray,
    *,
    brain: np.ndarray,
    vessel: np.ndarray,
    regions: Mapping[str, np.ndarray],
    deviation: np.ndarray | None = None,
) -> dict[str, float]:
    """Return every one of `MEASURES` of one map; NaN for what the data do not have.

    Parameters
    ----------
    rcbv, truth : (x, y, z) arrays
    brain, vessel : (x, y, z) bool arrays
    regions : mapping of name of `TISSUES_SCORED` to (x, y, z) bool array
    deviation : (x, y, z) array, optional
        The map's own standard deviation.
    """
    tissue = brain & ~vessel
    inside = {name: region & tissue for name, region in regions.items()}
    enhancing = inside.get("enhancing", np.zeros_like(brain))
    found = {**slice_scores(rcbv, truth, brain), **tissue_scores(rcbv, truth, inside)}
    found |= score(rcbv, truth, tissue, enhancing)
    if deviation is not None:
        found |= coverage(rcbv, deviation, truth, tissue)
        found |= {f"enhancing_{k}": v for k, v in coverage(rcbv, deviation, truth, enhancing).items()}
    return {name: found.get(name, float("nan")) for name in MEASURES}
