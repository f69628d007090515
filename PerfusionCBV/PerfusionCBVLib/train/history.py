"""How a training went: a table that grows with every validation, and its picture."""

from __future__ import annotations

import csv
from pathlib import Path

MATPLOTLIB_MISSING = (
    "history.png was not drawn, because matplotlib is not installed: pip install 'perfusion-cbv[train]'; "
    "history.csv holds the same numbers."
)


def record(path: Path, row: dict[str, float]) -> None:
    """Append a row to a table, which gets its header from its first row."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(row)
        writer.writerow(row.values())


def draw_history(table: Path, picture: Path) -> bool:
    """Draw loss and validation measures over minutes, one below the other; return False without matplotlib.

    Parameters
    ----------
    table : Path
        Written by `record`: columns ``step``, ``minutes``, ``patients``, ``loss`` and one for each measure.
    picture : Path
        PNG.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    with table.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    names = [name for name in rows[0] if name not in ("step", "minutes", "patients")]
    figure = Figure(figsize=(7, 1.8 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        panel.plot([row["minutes"] for row in rows], [row[name] for row in rows], marker=".")
        panel.set_ylabel(name if name == "loss" else f"{name}\n(validation)")
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("minutes of training")
    figure.savefig(picture, dpi=120)
    return True
