"""Scores as Markdown: what the command prints and ``summary.md`` holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from PerfusionCBVLib.evaluate.scores import (
    COVERAGE_LEVELS,
    COVERAGE_MEASURES,
    TISSUE_MEASURES,
    TISSUES_SCORED,
)
from PerfusionCBVLib.evaluate.summary import BASELINE

MINIMUM_FOR_VERDICT = 6
"""With fewer patients all differences have one sign too often by chance (1 in 16 with 5) to call a method better."""

_SMALLER_IS_BETTER = {
    "nrmse": True,
    "ccc": False,
    "enhancing_abs_bias_percent": True,
    "nrmse_range": True,
    "psnr_db": False,
    "ssim": False,
    "mae": True,
}
_KEPT_OF_TISSUES = ("enhancing_bias_percent", "enhancing_abs_bias_percent")

# Column title, key, format.
Column = tuple[str, str, str]
_PAPER: tuple[Column, ...] = (
    ("NRMSE (range)", "nrmse_range", ".4f"),
    ("PSNR, dB", "psnr_db", ".2f"),
    ("SSIM", "ssim", ".3f"),
    ("MAE", "mae", ".4f"),
    ("NRMSE (eq. 1)", "nrmse_slices", ".3f"),
)
_BRAIN: tuple[Column, ...] = (
    ("NRMSE (eq. 1)", "nrmse", ".3f"),
    ("CCC", "ccc", ".3f"),
    ("bias", "bias", "+.3f"),
    ("lower limit", "loa_low", "+.2f"),
    ("upper limit", "loa_high", "+.2f"),
    ("enhancing, %", "enhancing_bias_percent", "+.1f"),
    ("enhancing, % either way", "enhancing_abs_bias_percent", ".1f"),
    ("mapped", "mapped_fraction", ".3f"),
)
_PAIRED: tuple[Column, ...] = (
    ("NRMSE", "nrmse", "+.3f"),
    ("CCC", "ccc", "+.3f"),
    ("enhancing, % either way", "enhancing_abs_bias_percent", "+.1f"),
    ("NRMSE (range)", "nrmse_range", "+.4f"),
    ("PSNR, dB", "psnr_db", "+.2f"),
    ("SSIM", "ssim", "+.3f"),
    ("MAE", "mae", "+.4f"),
)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, numbers with three decimals."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *cells]
    lines.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report_markdown(table: Sequence[dict[str, Any]]) -> str:
    """Return all tables of an evaluation.

    Parameters
    ----------
    table : sequence of dict
        Of `summary.summarise` (intervals are shown) or of `objects.evaluate_object` (there are none).
    """
    first = table[0]
    blocks = []
    if "subjects" in first:
        interval = (
            "mean over patients (95 % bootstrap interval)" if first["subjects"] > 1 else "one patient, no interval"
        )
        blocks.append(f"{first['subjects']} simulated patients, {first['refused']} more refused; {interval}.")
    blocks += [
        "**Whole slices, as Table 1 of Diumin & Alkhimova 2026** (NRMSE by range is what its table holds; by eq. 1 it "
        "is over the truth's RMS)",
        _table(table, _PAPER),
        "**Inside the brain without large vessels** (bias and Bland-Altman 95 % limits of agreement are map minus "
        "truth, in units of rCBV; enhancing: bias of the tumour's mean, and the same without its sign)",
        _table(table, _BRAIN),
    ]
    if f"nrmse_minus_{BASELINE}" in first and len(table) > 1:
        others = [row for row in table if row["method"] != BASELINE]
        blocks += [
            f"**Minus {BASELINE}, patient by patient** (better or worse: the interval excludes 0, from "
            f"{MINIMUM_FOR_VERDICT} patients on)",
            _table(others, [(title, f"{key}_minus_{BASELINE}", form) for title, key, form in _PAIRED], _verdict),
        ]
    for title, measure, form in (
        ("Mean error, rCBV", "error", "+.3f"),
        ("Bias, % of the true mean", "bias_percent", "+.1f"),
        ("RMSE, rCBV", "rmse", ".3f"),
    ):
        columns = [(tissue, f"{tissue}_{measure}", form) for tissue in TISSUES_SCORED]
        blocks += [f"**{title}, by tissue**", _table(table, columns, interval=False)]
    with_deviation = [row for row in table if any(np.isfinite(row[name]) for name in COVERAGE_MEASURES)]
    if with_deviation:
        columns = [
            (f"{level} % interval{where}", f"{key}coverage_{level}", ".3f")
            for key, where in (("", ""), ("enhancing_", ", enhancing"))
            for level in COVERAGE_LEVELS
        ]
        blocks += [
            "**Coverage** (share of voxels whose truth lies within the interval of the map's own standard deviation)",
            _table(with_deviation, columns),
        ]
    if first.get("refusals"):
        blocks.append(f"Refused, left out for all methods. {first['refusals']}")
    return "\n\n".join(blocks)


def without_tissues(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without what ``tissues.csv`` holds, but with the tumour's bias."""
    elsewhere = tuple(f"{tissue}_{measure}" for tissue in TISSUES_SCORED for measure in (*TISSUE_MEASURES, "subjects"))
    return [
        {k: v for k, v in row.items() if k.startswith(_KEPT_OF_TISSUES) or not k.startswith(elsewhere)} for row in table
    ]


def _table(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    remark: Callable[[dict[str, Any], str], str] = lambda row, key: "",
    *,
    interval: bool = True,
) -> str:
    return markdown_table(
        [
            {
                "method": row["method"],
                **{title: _cell(row, key, form, interval=interval) + remark(row, key) for title, key, form in columns},
            }
            for row in rows
        ]
    )


def _cell(row: dict[str, Any], key: str, form: str, *, interval: bool) -> str:
    if np.isnan(row[key]):
        return "–"
    low, high = row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)
    return f"{row[key]:{form}}" + (f" ({low:{form}} to {high:{form}})" if interval and np.isfinite(low) else "")


def _verdict(row: dict[str, Any], key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    count = row["enhancing_subjects" if key.startswith("enhancing") else "subjects"]
    if count < MINIMUM_FOR_VERDICT or not (low > 0 or high < 0):
        return ""
    smaller = high < 0
    return " better" if smaller == _SMALLER_IS_BETTER[key.removesuffix(f"_minus_{BASELINE}")] else " worse"
