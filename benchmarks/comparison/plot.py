"""One picture: a line a contender, with time, memory and error beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from comparison.page import short
from comparison.summary import Row
from comparison.tasks import OURS, TASKS

OUR_COLOUR, OTHER_COLOUR = "#0b5fa5", "#c4582b"


def plot(table: Sequence[Row], rows: Sequence[Row], path: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    table : sequence of dict
        Of `summary.summarise`.
    rows : sequence of dict
        One a case and contender, for the spread.
    """
    places, labels, headings, place = [], [], [], 0.0
    for key, task in TASKS.items():
        own = [row for row in table if row["task"] == key]
        if not own:
            continue
        headings.append((place, task.title))
        place += 1
        for row in own:
            places.append((place, row))
            labels.append(row["name"])
            place += 1
        place += 0.3
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.31 * place + 1.0), sharey=True, layout="constrained")
    panels = (
        (axes[0], "processor_seconds", "processor_seconds", 1.0, "processor seconds, all threads"),
        (axes[1], "megabytes", "bytes", 1e-6, "peak memory, MB over input"),
        (axes[2], "nrmse", "nrmse", 1.0, "error against truth (NRMSE)"),
    )
    for axis, in_table, in_rows, scale, title in panels:
        for y, row in places:
            colour = OUR_COLOUR if row["name"].startswith(OURS) else OTHER_COLOUR
            own = [case for case in rows if case["task"] == row["task"] and case["name"] == row["name"]]
            each = [case[in_rows] * scale for case in own]
            axis.plot(each, [y] * len(each), "|", color=colour, alpha=0.45, markersize=7)
            axis.plot(row[in_table], y, "o", color=colour, markersize=6)
            if in_table == "processor_seconds" and row["processor_ratio"] != 1:
                text = f"{short(row['processor_ratio'])} ×"
                axis.annotate(text, (max(each), y), (6, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_title(title, fontsize=10)
        if in_table == "nrmse":
            axis.set_xlim(left=0)
        else:
            axis.set_xscale("log")
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].margins(x=0.12)
    axes[0].set_yticks([y for y, _ in places], labels)
    for label in axes[0].get_yticklabels():
        label.set_color(OUR_COLOUR if label.get_text().startswith(OURS) else "black")
    for y, title in headings:
        axes[0].text(0.0, y, title, fontweight="bold", fontsize=9, va="center", transform=axes[0].get_yaxis_transform())
    axes[0].set_ylim(place, -0.7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
