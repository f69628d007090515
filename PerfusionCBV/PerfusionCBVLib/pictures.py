"""Maps as pictures: slices as a radiologist expects them, in colour over the baseline image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel import affines, orientations
from PIL import Image, ImageDraw, ImageFont

from PerfusionCBVLib.charts import nice_ticks, tick_label
from PerfusionCBVLib.colours import apply, colour_table
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import ParameterMap

OPACITY = 0.8
"""Share of the map's colour in an overlay; the rest is the baseline image."""

MINIMUM_RCBV_CEILING = 4.0
"""The top of the rCBV window is at least this, so that pictures of different patients mostly share one scale."""

_CROP_MARGIN_MM = 12.0
_OUTLINE_COLOUR = (0, 229, 255)


@dataclass(frozen=True, eq=False)
class SliceView:
    """How to cut and turn a volume for display.

    Axial slices are seen from the feet: the patient's right is on the left of the picture, anterior is up. Coronal
    slices have superior up, sagittal ones superior up and anterior on the left.

    Attributes
    ----------
    orientation : (3, 2) array
        Canonical axis and direction of each voxel axis, as `nibabel.orientations.io_orientation` gives them.
    slice_axis : int
        Axis of the canonical (right, anterior, superior) volume across which slices are taken.
    columns, rows : slice
        What is shown of the two other canonical axes: the head, with a margin.
    aspect : float
        Height over width of the shown field, in mm.
    slices : tuple of int
        Slices along `slice_axis` that contain brain.
    """

    orientation: np.ndarray
    slice_axis: int
    columns: slice
    rows: slice
    aspect: float
    slices: tuple[int, ...]
    depth: int

    @property
    def side_labels(self) -> tuple[str, str]:
        """What lies at the left and at the right edge of a picture."""
        return ("A", "P") if self.slice_axis == 0 else ("R", "L")

    def plane(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Return one slice of an (x, y, z) volume as (rows, columns), top row first."""
        canonical = orientations.apply_orientation(volume, self.orientation)
        plane = np.take(canonical, index, axis=self.slice_axis)[self.columns, self.rows]
        return plane[::-1, ::-1].T

    def input_number(self, index: int) -> int:
        """Return the slice's number in the input's own order, counted from 1."""
        axis = int(np.flatnonzero(self.orientation[:, 0] == self.slice_axis)[0])
        return index + 1 if self.orientation[axis, 1] > 0 else self.depth - index

    def choose(self, count: int, within: np.ndarray | None = None) -> list[int]:
        """Return up to `count` evenly spaced slices, of those that the (x, y, z) bool array `within` touches."""
        slices = list(self.slices)
        if within is not None:
            slices = [index for index in slices if self.plane(within, index).any()] or slices
        if len(slices) <= count:
            return slices
        return [slices[round(position)] for position in np.linspace(0, len(slices) - 1, count)]


def slice_view(affine: np.ndarray, mask: np.ndarray) -> SliceView:
    """Return how to show volumes of this geometry.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel index to RAS, mm. Oblique volumes are shown along their closest canonical axes, without resampling.
    mask : (x, y, z) bool array
        Brain. Without any brain voxel the whole volume is shown.
    """
    orientation = orientations.io_orientation(affine)
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = affines.voxel_sizes(affine)
    inside = orientations.apply_orientation(np.asarray(mask, dtype=bool), orientation)
    if not inside.any():
        inside = np.ones_like(inside)
    # The widest spacing is the acquisition's slice axis; volumes with (nearly) cubic voxels are shown axially.
    slice_axis = 2 if spacing[2] > 0.98 * spacing.max() else int(np.argmax(spacing))
    horizontal, vertical = (axis for axis in range(3) if axis != slice_axis)
    columns = _extent(inside, horizontal, spacing[horizontal])
    rows = _extent(inside, vertical, spacing[vertical])
    area = inside.sum(axis=(horizontal, vertical))
    slices = np.flatnonzero(area >= max(1, 0.15 * area.max()))  # thinner caps of the brain show nothing to judge
    return SliceView(
        orientation=orientation,
        slice_axis=slice_axis,
        columns=columns,
        rows=rows,
        aspect=float(
            (rows.stop - rows.start) * spacing[vertical] / ((columns.stop - columns.start) * spacing[horizontal])
        ),
        slices=tuple(int(index) for index in slices),
        depth=inside.shape[slice_axis],
    )


def overlay_mosaic(
    values: np.ndarray,
    baseline: np.ndarray,
    view: SliceView,
    *,
    slices: Sequence[int],
    columns: int,
    table: np.ndarray,
    window: tuple[float, float],
    mask: np.ndarray,
    tile_width: int = 200,
    opacity: float = OPACITY,
) -> Image.Image:
    """Return slices of a map in colour over the baseline image, labelled with sides and slice numbers.

    Parameters
    ----------
    values : (x, y, z) array
        NaN shows the baseline image alone. Values are interpolated linearly between voxels, then coloured.
    baseline : (x, y, z) array
    view : SliceView
    slices : sequence of int
    columns : int
        Slices in a row.
    table : (256, 3) uint8 array
    window : (float, float)
        Values of the first and the last colour.
    mask : (x, y, z) bool array
        Brain, which sets the grey window.
    tile_width : int
        Pixels.
    opacity : float
        0 to 1.
    """
    ceiling = _grey_ceiling(baseline, mask)

    def tile(index: int, size: tuple[int, int]) -> np.ndarray:
        grey = _grey(view.plane(baseline, index), ceiling, size)
        colour = apply(_interpolate(view.plane(values, index), size), table, *window)
        alpha = opacity * (colour[..., 3:] / np.float32(255.0))
        return np.rint(grey[..., None] * (1.0 - alpha) + colour[..., :3] * alpha).astype(np.uint8)

    return _mosaic(tile, view, slices, columns, tile_width)


def region_mosaic(
    region: np.ndarray,
    baseline: np.ndarray,
    view: SliceView,
    *,
    slices: Sequence[int],
    columns: int,
    mask: np.ndarray,
    tile_width: int = 200,
) -> Image.Image:
    """Return slices of the baseline image with the outline of an (x, y, z) bool `region`, lightly filled."""
    ceiling = _grey_ceiling(baseline, mask)

    def tile(index: int, size: tuple[int, int]) -> np.ndarray:
        grey = _grey(view.plane(baseline, index), ceiling, size)
        shown = Image.fromarray(view.plane(region, index).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        inside = np.pad(np.asarray(shown, dtype=bool), 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = inside[1:-1, 1:-1]
        alpha = np.where(inside & ~core, 1.0, np.where(inside, 0.25, 0.0))[..., None]
        return np.rint(grey[..., None] * (1.0 - alpha) + np.array(_OUTLINE_COLOUR) * alpha).astype(np.uint8)

    return _mosaic(tile, view, slices, columns, tile_width)


def rcbv_window(result: MapResult) -> tuple[float, float]:
    """Return the display window that all rCBV maps of a result share.

    From 0 to the 99th percentile inside the brain, rounded up; to at least `MINIMUM_RCBV_CEILING` for a ratio.
    """
    maps = [result.maps[name] for name in ("rcbv", "rcbv_classical") if name in result.maps]
    high = max(_percentile(np.abs(one.values[result.mask]), 99.0) for one in maps)
    if maps[0].unit == "{ratio}":
        high = max(high, MINIMUM_RCBV_CEILING)
    return 0.0, _round_up(high)


def symmetric_window(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return a window around 0 that holds 99 % of the values inside the mask, rounded up."""
    high = _round_up(_percentile(np.abs(values[mask]), 99.0))
    return -high, high


def unit_label(parameter_map: ParameterMap) -> str:
    """Return the map's unit for a reader: UCUM annotations lose their braces."""
    return parameter_map.unit.strip("{}") or "no unit"


def write_pictures(result: MapResult, folder: Path | str) -> list[Path]:
    """Write ``rcbv.png`` and, for a network, ``comparison.png`` with the classical map and the difference.

    Parameters
    ----------
    result : MapResult
    folder : path
        Must exist.

    Returns
    -------
    list of Path
    """
    folder = Path(folder)
    view = slice_view(result.series.affine, result.mask)
    window = rcbv_window(result)
    rcbv = result.maps["rcbv"]
    label = f"rCBV ({unit_label(rcbv)})"
    perfusion = colour_table("perfusion")

    def panel(values: np.ndarray, table: np.ndarray, limits: tuple[float, float], bar: str, **layout: int) -> Image.Image:
        count = layout["count"]
        picture = overlay_mosaic(
            values,
            result.baseline,
            view,
            slices=view.choose(count),
            columns=layout["columns"],
            table=table,
            window=limits,
            mask=result.mask,
            opacity=OPACITY if table is perfusion else 1.0,
        )
        return _with_colour_bar(picture, table, limits, bar)

    written = [folder / "rcbv.png"]
    panel(rcbv.values, perfusion, window, label, count=12, columns=4).save(written[0])
    if "rcbv_classical" in result.maps:
        classical = result.maps["rcbv_classical"].values
        difference = rcbv.values - classical
        limits = symmetric_window(difference, result.mask)
        panels = [
            panel(rcbv.values, perfusion, window, f"Network: {label}", count=6, columns=2),
            panel(classical, perfusion, window, f"Classical: {label}", count=6, columns=2),
            panel(difference, colour_table("diverging"), limits, "Network − classical", count=6, columns=2),
        ]
        gap = 12
        sheet = Image.new("RGB", (sum(p.width for p in panels) + 2 * gap, panels[0].height))
        for number, picture in enumerate(panels):
            sheet.paste(picture, (number * (picture.width + gap), 0))
        written.append(folder / "comparison.png")
        sheet.save(written[1])
    return written


def _mosaic(
    tile: Callable[[int, tuple[int, int]], np.ndarray],
    view: SliceView,
    slices: Sequence[int],
    columns: int,
    tile_width: int,
) -> Image.Image:
    width, height = tile_width, round(tile_width * view.aspect)
    columns = min(columns, len(slices))
    sheet = Image.new("RGB", (columns * width, -(-len(slices) // columns) * height))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(11, tile_width // 14))
    left, right = view.side_labels
    for position, index in enumerate(slices):
        x, y = (position % columns) * width, (position // columns) * height
        sheet.paste(Image.fromarray(tile(index, (width, height))), (x, y))
        for place, anchor, text in (
            ((x + 4, y + 3), "la", left),
            ((x + width - 4, y + 3), "ra", right),
            ((x + 4, y + height - 3), "ld", str(view.input_number(index))),
        ):
            draw.text(place, text, font=font, anchor=anchor, fill="white", stroke_width=1, stroke_fill="black")
    return sheet


def _with_colour_bar(
    picture: Image.Image, table: np.ndarray, window: tuple[float, float], label: str
) -> Image.Image:
    margin, height = 16, 66
    sheet = Image.new("RGB", (picture.width, picture.height + height))
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    top, span = picture.height + 26, picture.width - 2 * margin
    draw.text((margin, top - 5), label, font=font, anchor="ld", fill="white")
    bar = Image.fromarray(table[None, :, :]).resize((span, 16), Image.Resampling.NEAREST)
    sheet.paste(bar, (margin, top))
    draw.rectangle((margin, top, margin + span - 1, top + 15), outline="grey")
    low, high = window
    for value in nice_ticks(low, high):
        x = margin + (span - 1) * (value - low) / (high - low)
        draw.line((x, top + 16, x, top + 20), fill="white")
        draw.text((x, top + 21), tick_label(value), font=font, anchor="ma", fill="white")
    return sheet


def _extent(inside: np.ndarray, axis: int, spacing_mm: float) -> slice:
    touched = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
    margin = round(_CROP_MARGIN_MM / spacing_mm)
    return slice(max(int(touched[0]) - margin, 0), min(int(touched[-1]) + 1 + margin, inside.shape[axis]))


def _interpolate(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the plane, (rows, columns), at `size` (width, height) in pixels; NaN where the nearest voxel is NaN."""
    plane = np.ascontiguousarray(plane, dtype=np.float32)
    finite = np.isfinite(plane)

    def resize(array: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize(size, how))

    if finite.all():
        return resize(plane, Image.Resampling.BILINEAR)
    # Undefined voxels take no part: the weighted mean of their defined neighbours, not a blend towards 0.
    total = resize(np.where(finite, plane, np.float32(0.0)), Image.Resampling.BILINEAR)
    weight = resize(finite.astype(np.float32), Image.Resampling.BILINEAR)
    defined = resize(finite.astype(np.uint8), Image.Resampling.NEAREST).astype(bool) & (weight > 0)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=defined)


def _grey(plane: np.ndarray, ceiling: float, size: tuple[int, int]) -> np.ndarray:
    """Return the plane as grey levels, 0–255, at `size` (width, height); black where undefined."""
    grey = np.clip(np.nan_to_num(np.asarray(plane, dtype=np.float32)) * np.float32(255.0 / ceiling), 0.0, 255.0)
    resized = Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0.0, 255.0)


def _grey_ceiling(baseline: np.ndarray, mask: np.ndarray) -> float:
    ceiling = _percentile(baseline[mask] if mask.any() else baseline.ravel(), 99.5)
    return ceiling if ceiling > 0 else 1.0


def _percentile(values: np.ndarray, percent: float) -> float:
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if values.size else 0.0


def _round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 2.5, … 9.5 times a power of ten; 1 for nothing."""
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(np.ceil(2.0 * value / power - 1e-9) / 2.0 * power)
