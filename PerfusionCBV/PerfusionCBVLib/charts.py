"""Curves as inline SVG: vector graphics that need neither a plotting library nor a second file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 920, 340
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 26, 48

# Colour and dash together, so that the curves stay apart on a black-and-white print and for colour-blind readers.
CURVE_STYLES = {
    "brain": ("brain", "#1b5e9b", ""),
    "reference": ("reference region", "#2b7a3d", "8 4"),
    "leaking": ("leaking tissue", "#c0392b", "2 3"),
    "artery": ("arterial input", "#8c1d5a", ""),
}
_OTHER_STYLES = (("#6b4fa0", "10 3 2 3"), ("#8a6d1d", "5 2"), ("#444444", "1 4"))


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round values between `low` and `high`, about `wanted` of them, steps of 1, 2 or 5 times a power of ten.

    Raises
    ------
    ValueError
        `high` is not above `low`.
    """
    if not high > low:
        raise ValueError(f"no ticks fit between {low:g} and {high:g}; the end must lie above the start")
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return a tick's label: at most four significant digits and a true minus sign."""
    return f"{value + 0.0:.4g}".replace("-", "\N{MINUS SIGN}")


def curve_chart(
    times_s: np.ndarray,
    curves_per_s: Mapping[str, np.ndarray],
    *,
    windows: Sequence[tuple[str, float, float]] = (),
) -> str:
    """Return ΔR2* curves over time as one SVG element.

    Parameters
    ----------
    times_s : (T,) array, s
    curves_per_s : mapping of str to (T,) array, 1/s
        By name; those of `CURVE_STYLES` have a fixed style. A line is broken where a value is missing.
    windows : sequence of (label, start, end), s
        Spans of time that are shaded.

    Returns
    -------
    str
        ``<svg>`` element without external references; all text is escaped.
    """
    finite = [np.asarray(curve, dtype=float)[np.isfinite(curve)] for curve in curves_per_s.values()]
    heights = np.concatenate([*finite, [0.0]])
    low, high = float(heights.min()), float(heights.max())
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    start, end = float(times_s[0]), float(times_s[-1])

    def x_of(time_s: float) -> float:
        return LEFT + (time_s - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="ΔR2* against time">']
    for index, (label, from_s, to_s) in enumerate(windows):
        x0, x1 = x_of(max(from_s, start)), x_of(min(to_s, end))
        fill = ("#e4e4e4", "#fdebc8")[index % 2]
        parts.append(
            f'<rect class="window" x="{x0:.1f}" y="{TOP}" width="{max(x1 - x0, 1):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}" fill="{fill}"/>'
            f'<text x="{(x0 + x1) / 2:.1f}" y="{TOP - 8}" text-anchor="middle" fill="#555">{escape(label)}</text>'
        )
    parts += _axes(nice_ticks(start, end, 9), nice_ticks(low, high, 6), x_of, y_of)
    others = iter(_OTHER_STYLES * (1 + len(curves_per_s)))
    for row, (name, curve) in enumerate(curves_per_s.items()):
        label, colour, dash = CURVE_STYLES.get(name) or (name, *next(others))
        stroke = f'fill="none" stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
        points = [(x_of(float(t)), y_of(float(v))) for t, v in zip(times_s, curve, strict=True)]
        parts.append(f'<path class="curve" d="{_path(points)}" {stroke}/>')
        y = TOP + 16 + 18 * row
        parts.append(
            f'<path d="M{WIDTH - 168} {y - 4}h34" {stroke}/><text x="{WIDTH - 128}" y="{y}">{escape(label)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _axes(x_ticks, y_ticks, x_of, y_of) -> list[str]:
    parts = []
    bottom = HEIGHT - BOTTOM
    for value in y_ticks:
        y = y_of(value)
        colour = "#888" if value == 0 else "#ddd"
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
    for value in x_ticks:
        x = x_of(value)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#333"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(value)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">time (s)</text>')
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">ΔR2* (1/s)</text>'
    )
    return parts


def _path(points: list[tuple[float, float]]) -> str:
    """Return an SVG path; a point that is not finite lifts the pen."""
    commands, pen = [], "M"
    for x, y in points:
        if not math.isfinite(y):
            pen = "M"
            continue
        commands.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(commands)
