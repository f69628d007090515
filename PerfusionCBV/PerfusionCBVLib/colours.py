"""Colour tables for maps, computed here so that every picture of this library agrees with its colour bar."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

TableName = Literal["perfusion", "uniform", "diverging"]

# Position along the bar and sRGB, 0–255: the order of hues that perfusion consoles use, with dark ends left out at the
# top so that the hottest voxels stay visible on black.
_PERFUSION_ANCHORS = (
    (0.00, (0, 0, 0)),
    (0.14, (16, 10, 128)),
    (0.30, (0, 92, 232)),
    (0.44, (0, 190, 180)),
    (0.56, (24, 200, 40)),
    (0.74, (248, 236, 0)),
    (0.87, (255, 126, 0)),
    (1.00, (226, 0, 0)),
)

# Control points of a Bézier curve as lightness, chroma, hue in degrees (OKLab). Lightness rises from point to point, so
# it rises along the whole curve; dark blue through magenta and orange to pale yellow keeps hues apart for
# red-green-blind readers.
_UNIFORM_CONTROL_POINTS = (
    (0.13, 0.03, 280.0),
    (0.30, 0.19, 285.0),
    (0.50, 0.24, 345.0),
    (0.72, 0.21, 40.0),
    (0.84, 0.14, 80.0),
    (0.97, 0.08, 105.0),
)

_DIVERGING_ENDS = ((0.42, 0.15, 258.0), (0.42, 0.15, 28.0))
_DIVERGING_MIDDLE_LIGHTNESS = 0.95

# Ottosson, B. (2020) "A perceptual color space for image processing": OKLab to cone response, cone response to linear
# sRGB.
_OKLAB_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONES_TO_LINEAR_SRGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LINEAR_SRGB_TO_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@cache
def colour_table(name: TableName) -> np.ndarray:
    """Return a colour table by name.

    Parameters
    ----------
    name : "perfusion", "uniform" or "diverging"
        ``perfusion`` is the rainbow that readers of perfusion maps know (black, blue, green, yellow, red); ``uniform``
        has lightness that rises in equal steps; ``diverging`` runs from blue through a light grey, exactly in
        the middle, to red.

    Returns
    -------
    (256, 3) uint8 array, sRGB, read-only
    """
    tables = {"perfusion": _perfusion, "uniform": _uniform, "diverging": _diverging}
    table = tables[name]()
    table.setflags(write=False)
    return table


def apply(values: np.ndarray, table: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the colours of `values` between `low` and `high`.

    Parameters
    ----------
    values : (...) array
    table : (256, 3) uint8 array
    low, high : float
        Values that take the first and the last colour; values beyond take the same.

    Returns
    -------
    (..., 4) uint8 array, RGBA
        Fully transparent where the value is not a number.

    Raises
    ------
    ValueError
        `high` is not above `low`.
    """
    if not high > low:
        raise ValueError(f"the colour window {low:g} to {high:g} is empty; its end must lie above its start")
    values = np.asarray(values, dtype=np.float32)
    undefined = np.isnan(values)
    position = np.clip((values - low) / (high - low), 0.0, 1.0) * (len(table) - 1)
    index = np.where(undefined, 0.0, np.rint(position)).astype(np.intp)
    rgba = np.empty((*values.shape, 4), dtype=np.uint8)
    rgba[..., :3] = table[index]
    rgba[..., 3] = np.where(undefined, 0, 255)
    return rgba


def _perfusion() -> np.ndarray:
    positions = [position for position, _ in _PERFUSION_ANCHORS]
    colours = np.array([colour for _, colour in _PERFUSION_ANCHORS], dtype=float)
    x = np.linspace(0.0, 1.0, 256)
    return np.rint(np.stack([np.interp(x, positions, channel) for channel in colours.T], axis=-1)).astype(np.uint8)


def _uniform() -> np.ndarray:
    points = np.array([_polar_to_oklab(*point) for point in _UNIFORM_CONTROL_POINTS])
    return _srgb(_equal_lightness_steps(_bezier(points, 2001), 256))


def _diverging() -> np.ndarray:
    blue, red = (np.array(_polar_to_oklab(*end)) for end in _DIVERGING_ENDS)
    middle = np.array([_DIVERGING_MIDDLE_LIGHTNESS, 0.0, 0.0])
    # 256 has no middle entry: entries 127 and 128 straddle zero with the same, neutral grey.
    share = np.linspace(0.0, 1.0, 128)[:, None]
    return np.concatenate([_srgb(blue + share * (middle - blue)), _srgb(middle + share * (red - middle))])


def _polar_to_oklab(lightness: float, chroma: float, hue_deg: float) -> tuple[float, float, float]:
    hue = np.deg2rad(hue_deg)
    return lightness, float(chroma * np.cos(hue)), float(chroma * np.sin(hue))


def _bezier(points: np.ndarray, count: int) -> np.ndarray:
    """Return `count` points of the Bézier curve with the given control points, by de Casteljau's construction."""
    t = np.linspace(0.0, 1.0, count)[:, None, None]
    layer = np.broadcast_to(points, (count, *points.shape))
    while layer.shape[1] > 1:
        layer = (1.0 - t) * layer[:, :-1] + t * layer[:, 1:]
    return layer[:, 0]


def _equal_lightness_steps(curve: np.ndarray, count: int) -> np.ndarray:
    """Return `count` points of the curve, (N, 3) in OKLab, between which CIE lightness rises by equal amounts.

    Lightness, not colour difference, carries fine detail (Kovesi 2015, arXiv:1509.03700), so it sets the pace.
    """
    luminance = _linear_srgb(curve) @ _LINEAR_SRGB_TO_LUMINANCE
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    at = np.linspace(lightness[0], lightness[-1], count)
    return np.stack([np.interp(at, lightness, channel) for channel in curve.T], axis=-1)


def _linear_srgb(oklab: np.ndarray) -> np.ndarray:
    return np.clip((oklab @ _OKLAB_TO_CONES.T) ** 3 @ _CONES_TO_LINEAR_SRGB.T, 0.0, 1.0)


def _srgb(oklab: np.ndarray) -> np.ndarray:
    """Return OKLab colours, (N, 3), as 8-bit sRGB (IEC 61966-2-1 transfer curve)."""
    linear = _linear_srgb(oklab)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * encoded).astype(np.uint8)
