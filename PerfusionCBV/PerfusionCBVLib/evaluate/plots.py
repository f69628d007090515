"""Pictures of an evaluation as PNG, by matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from PerfusionCBVLib.colours import colour_table
from PerfusionCBVLib.evaluate.runs import Row, arrays_path
from PerfusionCBVLib.evaluate.summary import bootstrap_interval
from PerfusionCBVLib.settings import METHOD_TITLES, NETWORK_METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, told apart by colour-blind readers; the markers tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_MARKERS = "osD^vPX*"
_SNR_EDGES = (10.0, 20.0, 40.0, 80.0, 160.0)
_WORST_SHOWN = 4
_BEHIND_TEXT = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}


def why_no_plots() -> str | None:
    """Return a sentence on how to get plots where matplotlib is missing, else None."""
    if find_spec("matplotlib") is not None:
        return None
    return "No plots were made, because matplotlib is not installed: pip install 'perfusion-cbv[train]'."


def plot_evaluation(folder: Path, table: Sequence[Row], seeds: Sequence[int], rows: Sequence[Row]) -> list[Path]:
    """Write all plots of simulated patients into their folder; return their paths, none without matplotlib.

    Parameters
    ----------
    folder : Path
        With the patients' arrays.
    table : sequence of dict
        Of `summary.summarise`.
    seeds : sequence of int
    rows : sequence of dict
        One a patient and method.
    """
    if why_no_plots():
        return []
    arrays = {}
    for seed in seeds:
        with np.load(arrays_path(folder, seed)) as kept:
            arrays[seed] = dict(kept)
    return [
        *_plot_voxels(folder, table, list(arrays.values())),
        _save(folder / "nrmse_against_snr.png", _against_snr(rows, [row["method"] for row in table])),
        *_plot_worst(folder, {f"patient {seed}": kept for seed, kept in arrays.items()}),
    ]


def plot_object(folder: Path, table: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> list[Path]:
    """Write the plots of a reference object; return their paths, none without matplotlib.

    Parameters
    ----------
    folder : Path
    table : sequence of dict
        Of `objects.evaluate_object`.
    arrays : mapping of str to array
        Of `examples.plot_arrays`.
    """
    if why_no_plots():
        return []
    return [*_plot_voxels(folder, table, [arrays]), *_plot_worst(folder, {"object": arrays})]


def _plot_voxels(folder: Path, table: Sequence[Row], arrays: Sequence[Mapping[str, np.ndarray]]) -> list[Path]:
    truth = np.concatenate([kept["voxels_truth"] for kept in arrays])
    maps = {row["method"]: np.concatenate([kept[f"voxels_{row['method']}"] for kept in arrays]) for row in table}
    low, high = np.nanpercentile(np.concatenate([truth, *maps.values()]), [0.5, 99.5])
    bottom, top = min(0.0, float(np.floor(2 * low) / 2)), float(np.ceil(2 * high) / 2)

    def scatter(axes: Axes, row: Row) -> Any:
        values = maps[row["method"]]
        defined = np.isfinite(values)
        picture = axes.hexbin(
            truth[defined],
            values[defined],
            gridsize=60,
            extent=(0, top, bottom, top),
            bins="log",
            mincnt=1,
            cmap="cividis",
        )
        axes.plot([bottom, top], [bottom, top], color="#D55E00", linewidth=1)
        text = f"NRMSE {row['nrmse']:.3f}, CCC {row['ccc']:.3f}"
        axes.text(0.04, 0.92, text, transform=axes.transAxes, bbox=_BEHIND_TEXT)
        axes.set(xlim=(0, top), ylim=(bottom, top), aspect="equal")
        return picture

    def bland_altman(axes: Axes, row: Row) -> Any:
        values = maps[row["method"]]
        defined = np.isfinite(values)
        x, y = (values + truth)[defined] / 2, (values - truth)[defined]
        reach = top / 2
        picture = axes.hexbin(
            x, y, gridsize=60, extent=(bottom, top, -reach, reach), bins="log", mincnt=1, cmap="cividis"
        )
        for key, dash in (("bias", "-"), ("loa_low", "--"), ("loa_high", "--")):
            axes.axhline(row[key], color="#D55E00", linewidth=1.2, linestyle=dash)
            side = "top" if key == "loa_low" else "bottom"
            text = f"{row[key]:+z.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(0.98 * top, row[key], text, ha="right", va=side, color="#A04000", bbox=_BEHIND_TEXT)
        axes.set(xlim=(bottom, top), ylim=(-reach, reach))
        return picture

    return [
        _save(
            folder / "scatter.png",
            _panels(table, scatter, "true rCBV (ratio to white matter)", "rCBV of the map", "rCBV of voxels"),
        ),
        _save(
            folder / "bland_altman.png",
            _panels(
                table,
                bland_altman,
                "mean of map and truth (rCBV, ratio to white matter)",
                "map minus truth (rCBV)",
                "Bland-Altman: bias (solid) and 95 % limits of agreement (dashed)",
            ),
        ),
    ]


def _panels(table: Sequence[Row], draw: Callable[[Axes, Row], Any], x: str, y: str, title: str) -> Figure:
    """Return a figure with one panel a method, on common axes."""
    columns = min(3, len(table))
    lines = -(-len(table) // columns)
    figure = _figure(4.0 * columns + 0.8, 3.7 * lines + 0.6)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(table) :]:
        axes.set_visible(False)
    pictures = []
    for axes, row in zip(grid.flat, table, strict=False):
        pictures.append(draw(axes, row))
        axes.set_title(METHOD_TITLES[row["method"]])
    most = max(picture.get_clim()[1] for picture in pictures)
    for picture in pictures:
        picture.set_clim(1, most)
    figure.colorbar(pictures[0], ax=grid, label="voxels (logarithmic)", shrink=0.8)
    figure.suptitle(f"{title}, brain without large vessels")
    figure.supxlabel(x)
    figure.supylabel(y)
    return figure


def _against_snr(rows: Sequence[Row], methods: Sequence[str]) -> Figure:
    """Return NRMSE against SNR: a point a patient, and per method the mean of each SNR range with its 95 % interval."""
    figure = _figure(10.5, 5.2)
    axes = figure.subplots()
    for position, method in enumerate(methods):
        style: Any = {"color": _COLOURS[position % len(_COLOURS)], "marker": _MARKERS[position % len(_MARKERS)]}
        own = [row for row in rows if row["method"] == method]
        snr, error = (np.array([row[key] for row in own]) for key in ("snr", "nrmse"))
        axes.scatter(snr, error, s=14, alpha=0.35, linewidths=0, **style)
        places, means, below, above = [], [], [], []
        for start, end in pairwise(_SNR_EDGES):
            here = error[(snr >= start) & (snr < end)]
            if here.size == 0:
                continue
            low, high = bootstrap_interval(here)
            places.append(np.sqrt(start * end) * 1.025 ** (position - (len(methods) - 1) / 2))  # side by side
            means.append(here.mean())
            below.append(here.mean() - low)
            above.append(high - here.mean())
        axes.errorbar(places, means, (below, above), capsize=2, linewidth=1.6, label=METHOD_TITLES[method], **style)
    axes.set(xscale="log", xlabel="SNR of the baseline (brain mean over noise SD)", ylabel="NRMSE (eq. 1)")
    axes.set_xticks(_SNR_EDGES, [f"{edge:.0f}" for edge in _SNR_EDGES])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_title("Error against noise: patients (faint), mean of each SNR range with 95 % interval")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _plot_worst(folder: Path, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> list[Path]:
    """Write for each network the worst slices, one a patient."""
    written = []
    for method in NETWORK_METHODS:
        cases = [(name, kept) for name, kept in arrays.items() if f"worst_{method}" in kept]
        cases.sort(key=lambda case: -case[1][f"worst_facts_{method}"][1])
        if cases:
            figure = _worst(method, cases[:_WORST_SHOWN])
            written.append(_save(folder / f"worst_{method}.png", figure))
    return written


def _worst(method: str, cases: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> Figure:
    from matplotlib.colors import ListedColormap

    uniform = ListedColormap(colour_table("uniform") / 255.0).with_extremes(bad="#8c8c8c")
    diverging = ListedColormap(colour_table("diverging") / 255.0).with_extremes(bad="#8c8c8c")
    figure = _figure(11.0, 2.8 * len(cases) + 0.9)
    grid = figure.subplots(len(cases), 4, squeeze=False)
    titles = ("truth", "classical (bsw)", METHOD_TITLES[method], f"{METHOD_TITLES[method]} minus truth")
    for column, title in enumerate(titles):
        grid[0, column].set_title(title, fontsize=10)
    for line, (name, kept) in zip(grid, cases, strict=True):
        truth, classical, network = kept[f"worst_{method}"].astype(np.float32)
        number, error, classical_error, aspect = kept[f"worst_facts_{method}"]
        top = float(np.nanpercentile(truth, 99))
        for axes, image in zip(line, (truth, classical, network), strict=False):
            shown = axes.imshow(image, cmap=uniform, vmin=0, vmax=top, aspect=aspect)
        wrong = line[3].imshow(network - truth, cmap=diverging, vmin=-top / 2, vmax=top / 2, aspect=aspect)
        for axes in line:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(f"{name}\nslice {number:.0f}", fontsize=9)
        line[1].set_xlabel(f"NRMSE {classical_error:.2f}", fontsize=9)
        line[2].set_xlabel(f"NRMSE {error:.2f}", fontsize=9)
        figure.colorbar(shown, ax=line[2], shrink=0.8).set_label("rCBV", fontsize=9)
        figure.colorbar(wrong, ax=line[3], shrink=0.8).set_label("difference", fontsize=9)
    several = f"Worst slices of {METHOD_TITLES[method]}: one a patient, the {len(cases)} worst patients"
    figure.suptitle(several if len(cases) > 1 else f"Worst slice of {METHOD_TITLES[method]}")
    figure.supxlabel("The patient's right is at the left. Grey: outside the brain, large vessels.", fontsize=9)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(path: Path, figure: Figure) -> Path:
    figure.savefig(path, dpi=120)  # a figure without a window is drawn by Agg
    return path
