"""The histograms of rCBV of regions as one picture, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from PerfusionCBVLib.charts import nice_ticks
from PerfusionCBVLib.measures.measure import RegionMeasures
from PerfusionCBVLib.pictures import NOTICE, font

WIDTH, PANEL_HEIGHT, FOOTER_HEIGHT = 760, 220, 26
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 30, 44
BAR, AXIS, GRID, CUT = "#1b5e9b", "#333333", "#dddddd", "#c0392b"


def histogram_picture(measured: Sequence[RegionMeasures], cut_offs: tuple[float, float]) -> Image.Image:
    """Return a panel for each region with a histogram, one under the other on common axes; cut-offs are dashed lines.

    Raises
    ------
    ValueError
        No region has a histogram.
    """
    drawn = [(each.region.name, each.histogram) for each in measured if each.histogram is not None]
    if not drawn:
        raise ValueError("no region has a histogram to draw")
    top = max(float(histogram.percent.max()) for _, histogram in drawn) * 1.08 or 1.0
    picture = Image.new("RGB", (WIDTH, PANEL_HEIGHT * len(drawn) + FOOTER_HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, histogram) in enumerate(drawn):
        start, end = float(histogram.edges[0]), float(histogram.edges[-1])
        bottom = PANEL_HEIGHT * (row + 1) - BOTTOM
        height = PANEL_HEIGHT - TOP - BOTTOM

        def x_of(value: float, start: float = start, end: float = end) -> float:
            return LEFT + (value - start) / (end - start) * (WIDTH - LEFT - RIGHT)

        def y_of(percent: float, bottom: int = bottom, height: int = height) -> float:
            return bottom - percent / top * height

        for tick in nice_ticks(0.0, top, 4):
            draw.line((LEFT, y_of(tick), WIDTH - RIGHT, y_of(tick)), fill=GRID)
            draw.text((LEFT - 6, y_of(tick)), f"{tick:g} %", anchor="rm", font=font(13), fill=AXIS)
        for low, high, percent in zip(histogram.edges[:-1], histogram.edges[1:], histogram.percent, strict=True):
            if percent > 0:
                draw.rectangle((x_of(low), y_of(percent), x_of(high) - 1, bottom), fill=BAR)
        for cut in cut_offs:
            if start < cut < end:
                for y in range(bottom - height, bottom, 8):
                    draw.line((x_of(cut), y, x_of(cut), min(y + 4, bottom)), fill=CUT)
        draw.line((LEFT, bottom, WIDTH - RIGHT, bottom), fill=AXIS)
        for tick in nice_ticks(start, end, 7):
            draw.line((x_of(tick), bottom, x_of(tick), bottom + 5), fill=AXIS)
            draw.text((x_of(tick), bottom + 8), f"{tick:g}", anchor="ma", font=font(13), fill=AXIS)
        draw.text((WIDTH - RIGHT, bottom + 24), "rCBV (ratio)", anchor="ra", font=font(13), fill=AXIS)
        outside = [(histogram.below, f"below {start:g}"), (histogram.above, f"above {end:g}")]
        rest = "".join(f", {percent:.1f} % {where}" for percent, where in outside if percent > 0)
        draw.text((LEFT, bottom - height - 22), f"{name}: volume by rCBV{rest}", font=font(15), fill=AXIS)
    draw.text((LEFT, picture.height - FOOTER_HEIGHT + 4), NOTICE, font=font(13), fill=AXIS)
    return picture
