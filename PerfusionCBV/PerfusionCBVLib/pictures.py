"""Maps as pictures: slices in radiological convention, in colour over the baseline image, with a colour bar."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from PIL import Image, ImageDraw, ImageFont

from PerfusionCBVLib.charts import nice_ticks
from PerfusionCBVLib.colours import TableName, apply, colour_table
from PerfusionCBVLib.durable import write_whole

if TYPE_CHECKING:
    from PerfusionCBVLib.result import MapResult
    from PerfusionCBVLib.stored import StoredResult

    AnyResult: TypeAlias = MapResult | StoredResult

MAXIMUM_SLICES = 12
COLUMNS = 6
CROP_MARGIN_MM = 12.0
PICTURE_WIDTH, LARGEST_TILE = 1320, 260
BAR_WIDTH, TITLE_HEIGHT, FOOTER_HEIGHT, GAP = 96, 26, 22, 2
NOTICE = "Research use only"
OUTLINE_COLOUR = (255, 210, 0)
REGION_COLOURS = ((255, 255, 255), (255, 120, 255), (120, 255, 255), (255, 210, 0))
SMALLEST_RCBV_WINDOW = 4.0
THUMBNAIL_SLICES, THUMBNAIL_SIZE = 3, (540, 240)
RATIO = "{ratio}"
FLOW_LABELS = {"cbv": "CBV", "cbf": "CBF", "mtt": "MTT", "tmax": "Tmax"}
"""Flow maps that reports show."""

_UNIT_TEXTS = {"1": "no unit", "": "no unit", "ml/(100.g)": "ml/100 g", "ml/(100.g)/min": "ml/100 g/min"}

_EDGES = {0: ("A", "P"), 1: ("R", "L"), 2: ("R", "L")}


@dataclass(frozen=True, eq=False)
class SliceView:
    """Which slices are shown, and how a voxel grid is turned, cropped and scaled for the screen.

    Attributes
    ----------
    orientation : (3, 2) array
        From the series' axes to the closest of right, anterior, superior (nibabel's convention).
    axis : int
        Anatomical axis across the slices: 0 left-right, 1 back-front, 2 foot-head.
    slices : tuple of int
        Along `axis` after turning, from 0.
    numbers : tuple of int
        The same slices as the series itself counts them, from 1.
    rows, columns : slice
        What is left after cropping, in picture rows and columns.
    spacing_mm : (row, column)
    """

    orientation: np.ndarray
    axis: int
    slices: tuple[int, ...]
    numbers: tuple[int, ...]
    rows: slice
    columns: slice
    spacing_mm: tuple[float, float]

    @property
    def edges(self) -> tuple[str, str]:
        """Letters of the picture's left and right edge."""
        return _EDGES[self.axis]

    def plane(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Return slice `index` (after turning) of a volume as picture rows and columns, cropped."""
        return self._whole_plane(volume, index)[self.rows, self.columns]

    def _whole_plane(self, volume: np.ndarray, index: int) -> np.ndarray:
        turned = np.take(apply_orientation(volume, self.orientation), index, axis=self.axis)
        # Front or head at the top; the patient's right, or front, at the left.
        return turned[::-1, ::-1].T

    def keep(self, count: int) -> SliceView:
        """Return the same view with at most `count` of its slices, evenly spaced."""
        chosen = _evenly(range(len(self.slices)), count)
        return replace(
            self, slices=tuple(self.slices[i] for i in chosen), numbers=tuple(self.numbers[i] for i in chosen)
        )


def slice_view(affine: np.ndarray, inside: np.ndarray, count: int = MAXIMUM_SLICES) -> SliceView:
    """Return the view of a volume: slices across its coarsest axis that touch `inside`, cropped around it.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel index to RAS, mm.
    inside : (x, y, z) bool array
        What must be seen, e.g. the brain. All slices count when it is empty.
    count : int
        Largest number of slices.
    """
    orientation = io_orientation(affine)
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    # Axial where the voxels are (nearly) cubes: the usual way to look at a brain.
    axis = 2 if spacing[2] > 0.99 * spacing.max() else int(np.argmax(spacing))
    first, second = (i for i in range(3) if i != axis)
    if not inside.any():
        inside = np.ones(inside.shape, dtype=bool)
    turned = apply_orientation(inside, orientation)
    slices = _evenly(np.flatnonzero(turned.any(axis=(first, second))), count)

    series_axis = int(np.flatnonzero(orientation[:, 0] == axis)[0])
    length, flipped = inside.shape[series_axis], orientation[series_axis, 1] < 0
    whole = SliceView(
        orientation=orientation,
        axis=axis,
        slices=slices,
        numbers=tuple((length - index) if flipped else (index + 1) for index in slices),
        rows=slice(None),
        columns=slice(None),
        spacing_mm=(float(spacing[second]), float(spacing[first])),
    )
    shadow = turned.any(axis=axis)[::-1, ::-1].T
    return replace(
        whole,
        rows=_span(shadow.any(axis=1), CROP_MARGIN_MM / whole.spacing_mm[0]),
        columns=_span(shadow.any(axis=0), CROP_MARGIN_MM / whole.spacing_mm[1]),
    )


def rcbv_window(result: AnyResult) -> tuple[float, float]:
    """Return the values of rCBV at the two ends of the colour bar, one pair for every rCBV picture of a result.

    From 0 to the 99th percentile in the brain, but at least to 4 for a ratio, so that a healthy brain does not look
    hot. A classical map in another unit (without a reference region) does not count.
    """
    names = ["rcbv", "rcbv_classical"] if is_comparable(result) else ["rcbv"]
    return max((_window(result, name) for name in names), key=lambda window: window[1])


def is_comparable(result: AnyResult) -> bool:
    """Return whether there is a classical map beside the network's in the same unit, so that they can be subtracted."""
    return "rcbv_classical" in result.maps and result.maps["rcbv_classical"].unit == result.maps["rcbv"].unit


def _window(result: AnyResult, name: str) -> tuple[float, float]:
    chosen = result.maps[name]
    values = chosen.values[result.mask]
    values = values[np.isfinite(values)]
    top = float(np.percentile(values, 99.0)) if values.size else 0.0
    smallest = SMALLEST_RCBV_WINDOW if chosen.unit == RATIO else 0.0
    return 0.0, max(top, smallest) or 1.0


def symmetric_window(values: np.ndarray, smallest: float = 0.0, percent: float = 99.0) -> tuple[float, float]:
    """Return −h and h, where h is that percentile of the magnitude of the finite values, but at least `smallest`."""
    finite = np.abs(values[np.isfinite(values)])
    half = max(float(np.percentile(finite, percent)) if finite.size else 0.0, smallest) or 1.0
    return -half, half


def difference_window(result: AnyResult) -> tuple[float, float]:
    """Return the window of the picture network − classical: symmetric, at least ±1 for a ratio."""
    difference = (result.maps["rcbv"].values - result.maps["rcbv_classical"].values)[result.mask]
    return symmetric_window(difference, 1.0 if result.maps["rcbv"].unit == RATIO else 0.0)


def rcbv_picture(result: AnyResult, table: TableName, view: SliceView | None = None) -> Image.Image:
    """Return a mosaic of rCBV over the baseline image with a colour bar."""
    view = view or slice_view(result.affine, result.mask)
    rcbv = result.maps["rcbv"]
    tiles = _map_tiles(view, result, rcbv.values, table, *rcbv_window(result))
    bar = colour_bar(table, *rcbv_window(result), f"rCBV ({unit_text(rcbv.unit)})")
    return _stack([_block(tiles, "", bar)])


def thumbnail_picture(result: AnyResult) -> Image.Image:
    """Return a strip of rCBV slices for a list of many results, at most `THUMBNAIL_SIZE` wide and high.

    Ratios have one window, 0 to `SMALLEST_RCBV_WINDOW`, in every case, so that cases can be compared; a map that is
    relative to nothing has its own.
    """
    view = slice_view(result.affine, result.mask, THUMBNAIL_SLICES)
    rcbv = result.maps["rcbv"]
    window = (0.0, SMALLEST_RCBV_WINDOW) if rcbv.unit == RATIO else rcbv_window(result)
    strip = _block(_map_tiles(view, result, rcbv.values, "perfusion", *window), "", None)
    strip.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return strip


def comparison_picture(result: AnyResult, view: SliceView | None = None) -> Image.Image:
    """Return network, classical map and their difference, one under the other on the same slices.

    Both maps have one window. Where their units differ, each has its own and there is no difference.

    Raises
    ------
    KeyError
        The result has no ``rcbv_classical``.
    """
    view = (view or slice_view(result.affine, result.mask)).keep(COLUMNS)
    network, classical = result.maps["rcbv"], result.maps["rcbv_classical"]
    comparable = is_comparable(result)
    blocks = []
    for title, chosen in (("Network", network), ("Classical", classical)):
        window = rcbv_window(result) if comparable else _window(result, chosen.name)
        bar = colour_bar("perfusion", *window, f"rCBV ({unit_text(chosen.unit)})")
        blocks.append(_block(_map_tiles(view, result, chosen.values, "perfusion", *window), title, bar))
    if comparable:
        window = difference_window(result)
        bar = colour_bar("diverging", *window, f"difference ({unit_text(network.unit)})")
        tiles = _map_tiles(view, result, network.values - classical.values, "diverging", *window)
        blocks.append(_block(tiles, "Network - classical", bar))
    return _stack(blocks)


def reference_picture(result: AnyResult) -> Image.Image:
    """Return the baseline image with the reference region outlined, on slices that hold it.

    Raises
    ------
    ValueError
        The result has no reference region.
    """
    if result.reference is None or not result.reference.any():
        raise ValueError("the result has no reference region to draw")
    chosen = slice_view(result.affine, result.reference, COLUMNS)
    brain = slice_view(result.affine, result.mask | result.reference)
    view = replace(chosen, rows=brain.rows, columns=brain.columns)
    grey = grey_baseline(result)
    tiles = []
    for index, number in zip(view.slices, view.numbers, strict=True):
        tile = np.array(_zoomed(view, np.repeat(view.plane(grey, index)[..., None], 3, axis=-1)))
        tile[_outline(np.array(_zoomed(view, view.plane(result.reference, index).astype(np.uint8))) > 0)] = (
            OUTLINE_COLOUR
        )
        tiles.append(_lettered(Image.fromarray(tile), view, number))
    return _stack([_block(tiles, "", None)])


def k2_picture(result: AnyResult) -> Image.Image:
    """Return a strip of the leakage map K2 over the baseline image.

    Raises
    ------
    KeyError
        The result has no ``k2``.
    """
    window = symmetric_window(result.maps["k2"].values[result.mask])
    return _strip(result, "k2", "diverging", window, "K2")


def uncertainty_window(result: AnyResult) -> tuple[float, float]:
    """Return the window of the uncertainty map: 0 to its 99th percentile in the brain."""
    values = result.maps["uncertainty"].values[result.mask]
    return 0.0, max(float(np.nanpercentile(values, 99)), 1e-3)


def map_window(result: AnyResult, name: str) -> tuple[tuple[float, float], TableName]:
    """Return the window of a map and the colour table that it is shown with."""
    inside = result.maps[name].values[result.mask]
    if name == "rcbv" or (name == "rcbv_classical" and is_comparable(result)):
        return rcbv_window(result), "perfusion"
    if name == "disagreement":
        return difference_window(result), "diverging"
    if name == "uncertainty":
        return uncertainty_window(result), "uniform"
    if name == "k2":
        return symmetric_window(inside), "diverging"
    return (0.0, symmetric_window(inside)[1]), "uniform"


def uncertainty_picture(result: AnyResult) -> Image.Image:
    """Return a strip of the network's own standard deviation over the baseline image.

    Raises
    ------
    KeyError
        The result has no ``uncertainty``.
    """
    return _strip(result, "uncertainty", "uniform", uncertainty_window(result), "SD")


def flow_picture(result: AnyResult, name: str) -> Image.Image:
    """Return a strip of a flow map over the baseline image, from 0 to its 98th percentile in the brain.

    Parameters
    ----------
    result : MapResult or StoredResult
    name : str
        Of `FLOW_LABELS`.

    Raises
    ------
    KeyError
        The result has no such map.
    """
    values = result.maps[name].values[result.mask]
    finite = values[np.isfinite(values)]
    top = float(np.percentile(finite, 98.0)) if finite.size else 0.0
    return _strip(result, name, "perfusion", (0.0, top if top > 0 else 1.0), FLOW_LABELS[name])


def _strip(result: AnyResult, name: str, table: TableName, window: tuple[float, float], label: str) -> Image.Image:
    """Return one row of slices of a map over the baseline image, with its colour bar."""
    map_ = result.maps[name]
    view = slice_view(result.affine, result.mask, COLUMNS)
    bar = colour_bar(table, *window, f"{label} ({unit_text(map_.unit)})")
    return _stack([_block(_map_tiles(view, result, map_.values, table, *window), "", bar)])


def map_strips(
    result: AnyResult, rows: Sequence[tuple[str, np.ndarray, TableName, tuple[float, float], str]]
) -> Image.Image:
    """Return maps on a result's grid over its baseline image, one under the other on the same slices.

    Parameters
    ----------
    result : MapResult or StoredResult
    rows : sequence of (title, values, colour table, window, label)
        Values are (x, y, z); the label ends with the unit in brackets, as in "rCBV (ratio)".
    """
    view = slice_view(result.affine, result.mask, COLUMNS)
    return _stack(
        [
            _block(_map_tiles(view, result, values, table, *window), title, colour_bar(table, *window, label))
            for title, values, table, window, label in rows
        ]
    )


def write_pictures(result: AnyResult, folder: Path | str) -> list[Path]:
    """Write ``rcbv.png`` and, for a network, ``comparison.png`` into an existing folder; return their paths."""
    folder = Path(folder)
    pictures = {"rcbv.png": rcbv_picture(result, "perfusion")}
    if "rcbv_classical" in result.maps:
        pictures["comparison.png"] = comparison_picture(result)
    for name, picture in pictures.items():
        content = io.BytesIO()
        picture.save(content, format="PNG")
        write_whole(folder / name, content.getvalue())
    return [folder / name for name in pictures]


def unit_text(unit: str) -> str:
    """Return a UCUM code as a reader expects it: ``{ratio}`` becomes "ratio"."""
    return _UNIT_TEXTS.get(unit, unit.strip("{}"))


def _evenly(items: Sequence[int] | np.ndarray, count: int) -> tuple[int, ...]:
    """Return `count` of the items, from the middles of equal parts, so that the outermost ones are left out."""
    count = min(count, len(items))
    return tuple(int(items[int((i + 0.5) * len(items) / count)]) for i in range(count))


def _span(occupied: np.ndarray, margin: float) -> slice:
    where = np.flatnonzero(occupied)
    pad = int(np.ceil(margin))
    return slice(max(int(where[0]) - pad, 0), int(where[-1]) + pad + 1)


def grey_baseline(result: AnyResult) -> np.ndarray:
    """Return the baseline image, (x, y, z) uint8, white at the brain's 99.5th percentile."""
    baseline = np.nan_to_num(np.asarray(result.baseline, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    inside = baseline[result.mask] if result.mask.any() else baseline
    white = float(np.percentile(inside, 99.5)) or 1.0
    return np.clip(baseline * (255.0 / white), 0.0, 255.0).astype(np.uint8)


def _map_tiles(
    view: SliceView, result: AnyResult, values: np.ndarray, table: TableName, low: float, high: float
) -> list[Image.Image]:
    grey, colours, tiles = grey_baseline(result), colour_table(table), []
    # Colours stay inside the brain mask; a network may give values outside it.
    shown = np.where(result.mask, values, np.float32(np.nan))
    for index, number in zip(view.slices, view.numbers, strict=True):
        rgba = apply(view.plane(shown, index), colours, low, high)
        rgb = np.where(rgba[..., 3:] > 0, rgba[..., :3], view.plane(grey, index)[..., None])
        tiles.append(_lettered(_zoomed(view, rgb), view, number))
    return tiles


def _zoomed(view: SliceView, plane: np.ndarray) -> Image.Image:
    """Return a plane as a picture in which a millimetre is as long across as down; voxels stay sharp squares."""
    height_mm, width_mm = plane.shape[0] * view.spacing_mm[0], plane.shape[1] * view.spacing_mm[1]
    columns = min(len(view.slices), COLUMNS)
    pixels_per_mm = min(PICTURE_WIDTH / columns, LARGEST_TILE) / max(width_mm, 0.8 * height_mm)
    size = max(round(width_mm * pixels_per_mm), 1), max(round(height_mm * pixels_per_mm), 1)
    return Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.NEAREST)


def _outline(region: np.ndarray) -> np.ndarray:
    """Return the 2-pixel inner edge of a region."""
    inner = region.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return the font of all pictures, at a size in pixels."""
    return ImageFont.load_default(size)


def _lettered(tile: Image.Image, view: SliceView, number: int) -> Image.Image:
    draw, (left, right), middle = ImageDraw.Draw(tile), view.edges, tile.height // 2
    for place, text, anchor in (
        ((4, middle), left, "lm"),
        ((tile.width - 4, middle), right, "rm"),
        ((4, 3), str(number), "la"),
    ):
        draw.text(place, text, anchor=anchor, font=font(14), fill="white", stroke_width=1, stroke_fill="black")
    return tile


def colour_bar(table: TableName, low: float, high: float, label: str) -> Image.Image:
    """Return a colour bar with numbers, white on black; `label` is "name (unit)"."""
    bar = Image.new("RGB", (BAR_WIDTH, 210), "black")
    draw, top, bottom = ImageDraw.Draw(bar), 34, 200
    shades = colour_table(table)[np.linspace(255, 0, bottom - top).round().astype(int)]
    bar.paste(Image.fromarray(np.repeat(shades[:, None], 18, axis=1)), (8, top))
    draw.rectangle((7, top - 1, 26, bottom), outline="#888888")
    for value in nice_ticks(low, high, 5):
        y = bottom - (value - low) / (high - low) * (bottom - top)
        draw.line((26, y, 31, y), fill="white")
        draw.text((34, y), f"{value:.3g}", anchor="lm", font=font(13), fill="white")
    name, _, unit = label.partition(" (")
    draw.text((6, 1), name, font=font(13), fill="white")
    draw.text((6, 15), f"({unit}", font=font(13), fill="white")
    return bar


def _block(tiles: list[Image.Image], title: str, bar: Image.Image | None) -> Image.Image:
    """Return tiles in rows with a title above and a colour bar at the right."""
    columns = min(len(tiles), COLUMNS)
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].width + GAP, tiles[0].height + GAP
    top = TITLE_HEIGHT if title else 0
    body = max(rows * height, bar.height if bar else 0)
    block = Image.new("RGB", (columns * width + (bar.width if bar else 0), top + body), "black")
    for i, tile in enumerate(tiles):
        block.paste(tile, ((i % columns) * width, top + (i // columns) * height))
    if bar:
        block.paste(bar, (columns * width, top))
    if title:
        ImageDraw.Draw(block).text((6, 4), title, font=font(16), fill="white")
    return block


def _stack(blocks: list[Image.Image]) -> Image.Image:
    """Return blocks one under the other, with the notice burned in: a picture leaves its report."""
    width, height = max(block.width for block in blocks), sum(block.height for block in blocks)
    picture = Image.new("RGB", (width, height + FOOTER_HEIGHT), "black")
    y = 0
    for block in blocks:
        picture.paste(block, (0, y))
        y += block.height
    ImageDraw.Draw(picture).text((6, y + 3), NOTICE, font=font(13), fill="#dddddd")
    return picture


def inline_picture(picture: Image.Image, alternative: str) -> str:
    """Return an HTML image that needs no second file; `alternative` stands for it where it can't be seen."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=4)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(alternative)}" width="{picture.width}" src="data:image/png;base64,{data}">'


def reading_picture(result: AnyResult, view: SliceView, regions: Mapping[str, np.ndarray]) -> Image.Image:
    """Return one slice side by side: baseline image, rCBV and, beside a network's, the classical rCBV.

    Regions are outlined on all of them, each in its own colour; both maps have one window where their units agree.

    Parameters
    ----------
    result : MapResult or StoredResult
    view : SliceView
        Of one slice.
    regions : mapping of str to (x, y, z) bool array
    """
    names = ["rcbv", *(["rcbv_classical"] if is_comparable(result) else [])]
    window = rcbv_window(result)
    view = replace(view, slices=view.slices[:1] * (1 + len(names)), numbers=view.numbers[:1] * (1 + len(names)))
    grey = view.plane(grey_baseline(result), view.slices[0])
    tiles = [_lettered(_zoomed(view, np.repeat(grey[..., None], 3, axis=-1)), view, view.numbers[0])]
    for name in names:
        tiles.append(_map_tiles(view.keep(1), result, result.maps[name].values, "perfusion", *window)[0])
    tiles = [_outlined(tile, view, regions) for tile in tiles]
    bar = colour_bar("perfusion", *window, f"rCBV ({unit_text(result.maps['rcbv'].unit)})")
    return _stack([_block(tiles, "", bar)])


def _outlined(tile: Image.Image, view: SliceView, regions: Mapping[str, np.ndarray]) -> Image.Image:
    pixels = np.array(tile)
    for colour, inside in zip(cycle(REGION_COLOURS), regions.values(), strict=False):
        plane = np.array(_zoomed(view, view.plane(inside, view.slices[0]).astype(np.uint8)))
        pixels[_outline(plane > 0)] = colour
    return Image.fromarray(pixels)
