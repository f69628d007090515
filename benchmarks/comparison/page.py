"""The figures of the page in docs/, between two marks, so that a rerun replaces them and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comparison.summary import Row
from comparison.tasks import CONTENDERS, TASKS

BEGIN = "<!-- Figures, written by benchmarks/compare.py: begin -->"
END = "<!-- Figures: end -->"


def write_figures(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises
    ------
    ValueError
        The page lacks the marks.
    """
    old = page.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise ValueError(f"{page} needs the two marks once each, in this order: {BEGIN} and {END}")
    before, rest = old.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def figures(table: Sequence[Row], about: str) -> str:
    """Return the figures as Markdown: how they were made, then a table for each task."""
    parts = [about]
    for key, task in TASKS.items():
        rows = [row for row in table if row["task"] == key]
        if not rows:
            continue
        snrs = list(rows[0]["nrmse_snr"])
        head = ["", "s", "over ours", "processor s", "over ours (range)", "MB"]
        head += [f"NRMSE at SNR {snr:g}" for snr in snrs] + ["CCC", "bias", "error in enhancing tumour"]
        lines = [f"**{task.title}.** Given: {task.given}.", "", _line(head), _line(["---"] * len(head))]
        lines += [_line(_cells(row, snrs)) for row in rows]
        parts.append("\n".join(lines))
    calls = [
        _line([TASKS[each.task].title, each.name, each.note or "", f"`{each.function}`"])
        for each in CONTENDERS
        if any(row["task"] == each.task and row["name"] == each.name for row in table)
    ]
    head = ["task", "contender", "how it was called", "in `benchmarks/comparison/`"]
    parts.append("\n".join(["**How each was called.**", "", _line(head), _line(["---"] * len(head)), *calls]))
    return "\n\n".join(parts)


def _cells(row: Row, snrs: Sequence[float]) -> list[str]:
    return [
        row["name"],
        short(row["seconds"]),
        short(row["ratio"]),
        short(row["processor_seconds"]),
        f"{short(row['processor_ratio'])} ({short(row['ratio_low'])} to {short(row['ratio_high'])})",
        f"{row['megabytes']:.0f}",
        *(f"{row['nrmse_snr'][snr]:.3f}" for snr in snrs),
        f"{row['ccc']:.3f}",
        f"{row['bias']:+.3f}",
        f"{row['enhancing_error_percent']:.1f} %",
    ]


def short(value: float) -> str:
    """Return a number with two digits, and whole from 10 on."""
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
