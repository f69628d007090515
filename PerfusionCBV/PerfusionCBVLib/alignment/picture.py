"""A registration as a picture: both images in squares by turns, and one's edges over the other, on three planes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from PerfusionCBVLib.alignment.registration import Registration
from PerfusionCBVLib.alignment.resampling import sample
from PerfusionCBVLib.alignment.rigid import inverse, points_of
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.pictures import NOTICE

TILE, HALF_MM, SQUARE_MM = 360, 105.0, 21.0
EDGE_COLOUR = (255, 170, 0)
WARNING_COLOUR = (255, 110, 90)
LINE_HEIGHT = 20

# Right and down in the picture, in RAS: the patient's right at the left, in sagittal planes the front.
_PLANES = (
    ("axial", (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), ("R", "L")),
    ("coronal", (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), ("R", "L")),
    ("sagittal", (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), ("A", "P")),
)


def registration_picture(registration: Registration, baseline: Volume, mask: np.ndarray, fixed: Volume) -> Image.Image:
    """Return three planes through the brain's centre in the fixed volume's space, with the numbers below.

    Above, squares of the registered baseline and of the fixed volume by turns: lines must go on from one into the next.
    Below, the fixed volume with the edges of the registered baseline.

    Parameters
    ----------
    registration : Registration
    baseline : Volume
    mask : (x, y, z) bool array
        Brain, on the baseline's grid.
    fixed : Volume
    """
    points = points_of(mask, baseline.affine)
    matrix = registration.matrix
    centre = points.mean(axis=0) @ matrix[:3, :3].T + matrix[:3, 3]
    white = float(np.percentile(baseline.values[mask], 99.5)) or 1.0
    inside = sample(fixed.values, fixed.affine, points @ matrix[:3, :3].T + matrix[:3, 3])
    fixed_white = float(np.nanpercentile(inside, 99.0)) if np.isfinite(inside).any() else float(fixed.values.max())
    back = inverse(matrix)
    lines, font = _lines(registration), ImageFont.load_default(14)
    picture = Image.new("RGB", (3 * TILE + 4, 2 * TILE + 2 + LINE_HEIGHT * (len(lines) + 1) + 8), "black")
    for column, (name, right, down, letters) in enumerate(_PLANES):
        along = np.linspace(-HALF_MM, HALF_MM, TILE)
        place = centre + along[None, :, None] * np.array(right) + along[:, None, None] * np.array(down)
        flat = place.reshape(-1, 3)
        there = _grey(sample(fixed.values, fixed.affine, flat), fixed_white)
        here = _grey(sample(baseline.values, baseline.affine, flat @ back[:3, :3].T + back[:3, 3]), white)
        known = np.isfinite(sample(baseline.values, baseline.affine, flat @ back[:3, :3].T + back[:3, 3]))
        there, here, known = (v.reshape(TILE, TILE) for v in (there, here, known))
        square = np.floor((along + HALF_MM) / SQUARE_MM).astype(int)
        swapped = ((square[:, None] + square[None, :]) % 2 == 1) & known
        checked = Image.fromarray(np.where(swapped, here, there).astype(np.uint8)).convert("RGB")
        edged = np.repeat(there[..., None], 3, axis=-1).astype(np.uint8)
        edged[_edges(here) & ndimage.binary_erosion(known, iterations=6)] = EDGE_COLOUR  # not the ends of the stack
        for row, tile in enumerate((checked, Image.fromarray(edged))):
            draw = ImageDraw.Draw(tile)
            for at, text, anchor in (
                ((4, TILE // 2), letters[0], "lm"),
                ((TILE - 4, TILE // 2), letters[1], "rm"),
                ((4, 3), name, "la"),
            ):
                draw.text(at, text, anchor=anchor, font=font, fill="white", stroke_width=1, stroke_fill="black")
            picture.paste(tile, (column * (TILE + 2), row * (TILE + 2)))
    draw = ImageDraw.Draw(picture)
    for row, (text, colour) in enumerate([*lines, (NOTICE, "#dddddd")]):
        draw.text((6, 2 * TILE + 8 + row * LINE_HEIGHT), text, font=font, fill=colour)
    return picture


def _lines(registration: Registration) -> list[tuple[str, str | tuple[int, int, int]]]:
    quality = registration.quality
    lines: list[tuple[str, str | tuple[int, int, int]]] = [
        (f"{registration.moving} registered to {registration.fixed}", "white"),
        (
            f"turned by {registration.rotation_deg:.1f}°, brain moved by {registration.displacement_mm:.1f} mm; mutual "
            f"information {quality.mutual_information:.3f} (before {quality.mutual_information_before:.3f}), "
            f"{quality.distinctness:.1f} times that 9 mm away; {quality.coverage:.0%} of the brain covered",
            "white",
        ),
    ]
    return lines + [(f"{f.code}: {f.message}", WARNING_COLOUR) for f in registration.findings]


def _grey(values: np.ndarray, white: float) -> np.ndarray:
    return np.clip(np.nan_to_num(values) * (255.0 / white), 0.0, 255.0)


def _edges(grey: np.ndarray) -> np.ndarray:
    """Return thin edges: where the gradient is steep and steepest across itself."""
    smooth = ndimage.gaussian_filter(grey, 2.5)
    down, right = np.gradient(smooth)
    steep = np.hypot(down, right)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.nan_to_num(np.stack([down, right]) / steep)
    index = np.indices(grey.shape, dtype=float)
    ahead, behind = (ndimage.map_coordinates(steep, index + sign * unit, order=1) for sign in (1, -1))
    return np.asarray((steep > max(0.2 * float(np.percentile(steep, 98)), 1e-3)) & (steep >= ahead) & (steep > behind))
