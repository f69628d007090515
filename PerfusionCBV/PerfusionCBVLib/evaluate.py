"""How far maps are from a known truth: error, agreement and tumour bias for every method on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from skimage.metrics import structural_similarity

from PerfusionCBVLib.errors import QualityError, UnreadableInputError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.settings import Settings

TEST_SEED = 90_000_000
"""Simulated patients for evaluation start here; training and validation never draw these."""

ENHANCING_IN_OBJECT = 4
"""Label of enhancing tumour in an object's ``tumour.nii.gz``."""


def nrmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the RMSE over the RMS of the truth (eq. 1 of Diumin & Alkhimova 2026)."""
    return float(np.sqrt(np.mean((estimate - truth) ** 2) / np.mean(truth**2)))


def concordance(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return Lin's concordance correlation coefficient (Lin 1989, Biometrics 45:255)."""
    covariance = np.mean((estimate - estimate.mean()) * (truth - truth.mean()))
    return float(2 * covariance / (estimate.var() + truth.var() + (estimate.mean() - truth.mean()) ** 2))


def score(rcbv: np.ndarray, truth: np.ndarray, tissue: np.ndarray, enhancing: np.ndarray) -> dict[str, float]:
    """Return NRMSE, CCC and mean bias in tissue, and the enhancing tumour's bias in per cent of its true mean.

    Parameters
    ----------
    rcbv, truth : (x, y, z) arrays
    tissue : (x, y, z) bool array
        Brain without large vessels.
    enhancing : (x, y, z) bool array
        Enhancing tumour; NaN is returned for its bias where it is empty.
    """
    defined = tissue & np.isfinite(rcbv) & np.isfinite(truth)
    a, b = rcbv[defined].astype(np.float64), truth[defined].astype(np.float64)
    lesion = enhancing & defined
    bias = 100 * (float(rcbv[lesion].mean()) / float(truth[lesion].mean()) - 1) if lesion.sum() >= 20 else float("nan")
    return {
        "nrmse": nrmse(a, b),
        "ccc": concordance(a, b),
        "bias": float(np.mean(a - b)),
        "enhancing_bias_percent": bias,
        "mapped_fraction": float(defined.sum() / max(tissue.sum(), 1)),
    }


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
        ``nrmse_range`` (RMSE over the range), ``psnr_db`` (−20·log10 of it), ``ssim`` (mean over slices, Wang et al.
        2004) and ``mae`` (on a scale from −1 to 1, as the paper gives it).
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
    }


def evaluate_object(
    folder: Path, methods: Sequence[str], progress: Progress = silent, *, reference: Path | None = None
) -> list[dict[str, Any]]:
    """Return one row of scores a method for a digital reference object.

    The mask is found automatically, and so is the reference region unless a NIfTI of one is given.
    """
    series = load_series(folder / "dsc.nii.gz")
    region = None if reference is None else read_mask(reference, series)
    files = ("truth_rcbv", "brain", "vessel", "tumour")
    try:
        truth, brain, vessel, tumour = (np.asarray(nib.load(folder / f"{n}.nii.gz").dataobj) for n in files)  # type: ignore[attr-defined]
    except (FileNotFoundError, nib.filebasedimages.ImageFileError) as error:
        raise UnreadableInputError(
            f"{folder} is no reference object ({error}); it needs {', '.join(files)}."
        ) from error
    tissue = (brain > 0) & (vessel == 0)
    rows = []
    for position, method in enumerate(methods):
        progress(position / len(methods), method)
        rcbv = compute_maps(series, Settings(method=method), reference=region).maps["rcbv"].values
        scores = score(rcbv, truth, tissue, tumour == ENHANCING_IN_OBJECT)
        rows.append({"method": method, **scores, **slice_scores(rcbv, truth, brain > 0)})
    return rows


def evaluate_simulated(subjects: int, methods: Sequence[str], progress: Progress = silent) -> list[dict[str, Any]]:
    """Return one row of mean scores a method, over simulated patients that no network was trained on.

    ``nrmse_low`` and ``nrmse_high`` are the 95 % interval of the mean NRMSE over patients.

    Patients whose series is refused, by any method, count in ``refused`` and are left out for all.
    """
    from PerfusionCBVLib.simulate import draw_subject, simulate
    from PerfusionCBVLib.simulate.anatomy import TISSUES

    collected: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    refused = 0
    for number in range(subjects):
        progress(number / subjects, f"Patient {number + 1} of {subjects}")
        subject = simulate(draw_subject(np.random.default_rng(TEST_SEED + number)))
        enhancing = subject.tissue == TISSUES.index("enhancing")
        tissue = subject.brain & ~subject.vessel
        try:
            rows = []
            for method in methods:
                rcbv, truth = _rcbv(subject.series, method), subject.truth["rcbv"]
                rows.append({**score(rcbv, truth, tissue, enhancing), **slice_scores(rcbv, truth, subject.brain)})
        except QualityError:
            refused += 1
            continue
        for method, row in zip(methods, rows, strict=True):
            collected[method].append(row)
    if refused == subjects:
        raise QualityError(f"All {subjects} simulated series were refused; there is nothing to compare.")
    table = []
    for method, rows in collected.items():
        low, high = bootstrap_interval([row["nrmse"] for row in rows])
        means = {key: finite_mean([row[key] for row in rows]) for key in rows[0]}
        interval = {"nrmse_low": low, "nrmse_high": high}
        table.append({"method": method, "nrmse": means.pop("nrmse"), **interval, **means, "subjects": len(rows)})
    return [{**row, "refused": refused} for row in table]


def bootstrap_interval(values: Sequence[float], *, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over subjects, by resampling them (Efron 1979, percentile method)."""
    known = np.array([v for v in values if np.isfinite(v)])
    if known.size == 0:
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(known.size, size=(draws, known.size))
    low, high = np.percentile(known[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rcbv(series: DynamicSeries, method: str) -> np.ndarray:
    return compute_maps(series, Settings(method=method)).maps["rcbv"].values


def finite_mean(values: list[float]) -> float:
    """Return the mean of the finite values; NaN when there is none."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")
