"""Curves and histograms as Plotly figures: plain dictionaries, drawn by the copy that this server has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PerfusionCBVLib.gui.curves import CurveSource
    from PerfusionCBVLib.measures.measure import Histogram

VOXEL, REFERENCE, FIT = "#4fa3ff", "#ffd24d", "#ff7a6b"
WINDOWS = {"baseline": ("Baseline", "#8a8a8a"), "bolus": ("Bolus window", "#c98a1b")}
EMPTY: dict[str, Any] = {"data": [], "layout": {}}

_TEXT, _LINES = "#dfe6ee", "#3a444f"


def curve_figure(source: CurveSource, voxel: tuple[int, int, int], *, signal: bool) -> dict[str, Any]:
    """Return the curve of a voxel with the leak-free reference, its fit to the voxel, baseline and bolus window.

    Parameters
    ----------
    source : CurveSource
    voxel : (i, j, k)
    signal : bool
        The signal as measured, arbitrary units, instead of ΔR2*, 1/s. The reference, which has no signal of its own, is
        drawn as what it would be on this voxel's baseline.
    """
    first = source.timing.first_steady
    times_s = source.series.times_s
    measured = source.delta_r2s_per_s(voxel)
    lines = [
        ("Voxel", measured, VOXEL, "solid"),
        ("Reference tissue", source.reference_per_s, REFERENCE, "dot"),
        ("Fitted to the voxel", source.fitted_per_s(measured), FIT, "dash"),
    ]
    own_signal = source.signal(voxel)
    data = []
    for name, curve, colour, dash in lines:
        if curve is None:
            continue
        values = curve
        if signal:
            values = own_signal if name == "Voxel" else source.as_signal(curve, own_signal)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": _numbers(times_s[first:]),
                "y": _numbers(values[first:]),
                "line": {"color": colour, "dash": dash, "width": 2},
            }
        )
    shapes, notes = [], []
    for key, (begin, end) in source.windows_s().items():
        title, colour = WINDOWS[key]
        across = {"type": "rect", "xref": "x", "yref": "paper", "x0": begin, "x1": end, "y0": 0, "y1": 1}
        shapes.append({**across, "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}})
        notes.append(_note(title, (begin + end) / 2))
    layout = _layout("Time (s)", "Signal" if signal else "ΔR2* (1/s)")
    return {"data": data, "layout": {**layout, "shapes": shapes, "annotations": notes}}


def histogram_figure(histograms: Mapping[str, Histogram], cut_offs: tuple[float, float]) -> dict[str, Any]:
    """Return the histograms of rCBV of regions, share of the volume in %, with the cut-offs of fractional burden."""
    data = []
    for name, histogram in histograms.items():
        edges = np.asarray(histogram.edges, dtype=float)
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": _numbers((edges[:-1] + edges[1:]) / 2),
                "y": _numbers(np.asarray(histogram.percent, dtype=float)),
                "width": _numbers(np.diff(edges)),
                "opacity": 0.7,
            }
        )
    lines = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": cut,
            "x1": cut,
            "y0": 0,
            "y1": 1,
            "line": {"dash": "dash", "color": _TEXT},
        }
        for cut in cut_offs
    ]
    layout = _layout("rCBV (ratio)", "Volume (%)")
    return {"data": data, "layout": {**layout, "shapes": lines, "barmode": "overlay", "bargap": 0}}


def readout(voxel: tuple[int, int, int], values: Mapping[str, float]) -> str:
    """Return one line about a voxel: its index and what each map says there; "no value" where a map has none."""
    parts = [f"Voxel {', '.join(map(str, voxel))}"]
    parts += [f"{title} {value:.4g}" if np.isfinite(value) else f"{title} no value" for title, value in values.items()]
    return "  ·  ".join(parts)


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return values as JSON takes them; None where there is none, so that the line is broken there."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _note(text: str, x: float) -> dict[str, Any]:
    place = {"xref": "x", "yref": "paper", "x": x, "y": 1.0, "yanchor": "bottom"}
    return {**place, "text": text, "showarrow": False, "font": {"size": 11, "color": _TEXT}}


def _layout(x: str, y: str) -> dict[str, Any]:
    axis = {"gridcolor": _LINES, "zerolinecolor": _LINES, "color": _TEXT}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _TEXT, "size": 12},
        "margin": {"l": 56, "r": 12, "t": 22, "b": 38},
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
        "legend": {"x": 1, "xanchor": "right", "y": 1, "bgcolor": "rgba(0,0,0,0.35)"},
        "showlegend": True,
        "autosize": True,
    }
