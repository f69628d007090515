"""The report: one self-contained HTML file with the findings, the maps, the curves and how they were made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from PerfusionCBVLib.charts import colour_bar_svg, curves_svg, png_data_uri, tick_label
from PerfusionCBVLib.colours import TableName, colour_table
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.pictures import (
    OPACITY,
    overlay_mosaic,
    rcbv_window,
    region_mosaic,
    symmetric_window,
    unit_label,
)
from PerfusionCBVLib.report_style import STYLE
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.views import SliceView, slice_view

DISCLAIMER = "Research use only. Not for diagnosis or treatment decisions."

_SEVERITIES = ("error", "warning", "info")

_METHODS = {
    "unet-gru": "UNet-GRU network",
    "convlstm2d": "ConvLSTM2D network",
    "conv3d": "Conv3D network",
    "bsw": "leakage-corrected (Boxerman–Schmainda–Weisskoff)",
    "bidirectional": "bidirectional leakage correction (Leu)",
    "integral": "area under ΔR2*, no leakage correction",
    "captk": "CaPTk ap-rCBV, no leakage correction",
}

# What an acquisition value is called and how it is shown: factor and unit.
_ACQUISITION = {
    "echo_time_s": ("Echo time", 1000.0, "ms"),
    "repetition_time_s": ("Repetition time", 1000.0, "ms"),
    "flip_angle_deg": ("Flip angle", 1.0, "°"),
    "field_strength_t": ("Field strength", 1.0, "T"),
    "manufacturer": ("Manufacturer", 1.0, ""),
    "contrast_agent": ("Contrast agent", 1.0, ""),
    "contrast_dose_ml": ("Contrast dose", 1.0, "ml"),
}

# Provenance that has a place of its own in the report.
_SHOWN_ELSEWHERE = ("findings", "acquisition", "agreement")


def write_report(result: MapResult, path: Path | str) -> None:
    """Write the report of a result as one HTML file that needs no network and no script.

    The file appears whole or not at all.

    Parameters
    ----------
    result : MapResult
        Only ``rcbv`` is needed of its maps. Of its provenance, ``method``, ``version``, ``agreement`` (a mapping with
        ``text``), ``reference`` (``mean_before_normalisation``) and ``summary`` (``leaking_fraction``) have their own
        places where they are known; everything else is listed.
    path : path
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(render_report(result), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def render_report(result: MapResult) -> str:
    """Return the report as HTML text."""
    view = slice_view(result.series.affine, result.mask)
    name = escape(result.series.name)
    sections = [
        _headline(result),
        _what_matters(result),
        _main_map(result, view),
        _comparison(result, view),
        _reference_and_leakage(result, view),
        _uniform_map(result, view),
        _curves(result),
        _section("Numbers", _table(("Quantity", "Value", "Unit"), _summary_rows(result))),
        _section("Acquisition", _table(("What", "Value", "Unit", "From"), _acquisition_rows(result))),
        _section("All findings", _all_findings(result.findings)),
        _section("How it was made", _table(("What", "Value"), _provenance_rows(result.provenance))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rCBV report: {name}</title><style>{STYLE}</style></head><body>"
        f'<p class="disclaimer" role="note">{DISCLAIMER}</p><main>{"".join(sections)}</main></body></html>\n'
    )


def _headline(result: MapResult) -> str:
    details = [_method(result)]
    if result.series.source and result.series.source != result.series.name:
        details.append(f"from {result.series.source}")
    if version := result.provenance.get("version"):
        details.append(f"PerfusionCBV {version}")
    return (
        f'<header><p class="kicker">Relative cerebral blood volume (rCBV)</p><h1>{escape(result.series.name)}</h1>'
        f"<p>{escape(' · '.join(details))}</p></header>"
    )


def _what_matters(result: MapResult) -> str:
    parts = []
    agreement = result.provenance.get("agreement")
    if agreement:
        text = agreement.get("text") if isinstance(agreement, Mapping) else agreement
        if text:
            parts.append(f'<p class="agreement"><strong>Network and classical map:</strong> {escape(str(text))}</p>')
    serious = [finding for finding in _worst_first(result.findings) if finding.severity != "info"]
    parts += [_finding_box(finding) for finding in serious]
    if not serious:
        count = len(result.findings)
        notes = f" {count} {'note is' if count == 1 else 'notes are'} listed below." if count else ""
        parts.append(f'<p class="good">No warnings about this series.{notes}</p>')
    return f'<section class="matters" aria-label="What matters">{"".join(parts)}</section>'


def _finding_box(finding: Finding) -> str:
    value = _value_with_unit(finding)
    return (
        f'<div class="finding {finding.severity}"><p><strong>{finding.severity.capitalize()}:</strong> '
        f"{escape(finding.message)}"
        + (f' <span class="measured">Measured: {escape(value)}.</span>' if value else "")
        + "</p>"
        + (f"<p>{escape(finding.advice)}</p>" if finding.advice else "")
        + "</div>"
    )


def _main_map(result: MapResult, view: SliceView) -> str:
    picture = _rcbv_figure(result, view, "rcbv", "perfusion", "", slices=12, columns=4, tile_width=216)
    low, high = rcbv_window(result)
    sides = {"R": "patient's right is on the left", "A": "anterior is on the left"}[view.side_labels[0]]
    note = (
        f"Window {tick_label(low)} to {tick_label(high)}; values outside it take the end colours. Colour covers the "
        f"baseline image at {OPACITY:.0%}; voxels without a value show the baseline alone. Interpolated between "
        f"voxels for display. Radiological display: {sides}. Small numbers are slice numbers of the input."
    )
    return _section("rCBV map", picture + f'<p class="note">{escape(note)}</p>')


def _uniform_map(result: MapResult, view: SliceView) -> str:
    picture = _rcbv_figure(result, view, "rcbv", "uniform", "", slices=12, columns=6, tile_width=140)
    note = "The same map and window in colours of evenly rising lightness, which neither hide nor invent edges."
    return _section("rCBV map, perceptually uniform colours", picture + f'<p class="note">{note}</p>')


def _comparison(result: MapResult, view: SliceView) -> str:
    if "rcbv_classical" not in result.maps:
        return ""
    difference = result.maps["rcbv"].values - result.maps["rcbv_classical"].values
    limits = symmetric_window(difference, result.mask)
    figures = [
        _rcbv_figure(result, view, "rcbv", "perfusion", "Network", slices=6, columns=2, tile_width=150),
        _rcbv_figure(result, view, "rcbv_classical", "perfusion", "Classical", slices=6, columns=2, tile_width=150),
        _map_figure(
            result, view, difference, "diverging", limits, f"Difference ({unit_label(result.maps['rcbv'])})",
            "Network − classical", slices=6, columns=2, tile_width=150, opacity=1.0,
        ),
    ]  # fmt: skip
    classical = escape(result.maps["rcbv_classical"].description)
    note = f'<p class="note">Same slices, same window. Classical map: {classical}</p>' if classical else ""
    return _section("Network beside classical map", f'<div class="three">{"".join(figures)}</div>{note}')


def _reference_and_leakage(result: MapResult, view: SliceView) -> str:
    figures = []
    if result.reference is not None and result.reference.any():
        picture = region_mosaic(
            result.reference,
            result.baseline,
            view,
            slices=view.choose(6, result.reference),
            columns=3,
            mask=result.mask,
            tile_width=170,
        )
        caption = f"Reference region on the baseline image (outlined): {_reference_size(result)}. Its mean rCBV is 1."
        figures.append(_figure(picture, "Baseline image with the reference region", "Reference region", caption))
    k2 = result.maps.get("k2")
    if k2 is not None:
        figures.append(
            _map_figure(
                result, view, k2.values, "diverging", symmetric_window(k2.values, result.mask),
                f"K2 ({unit_label(k2)})", "Leakage, K2", slices=6, columns=3, tile_width=170, opacity=1.0,
            )
        )  # fmt: skip
    if result.reference is None or not result.reference.any():
        figures.insert(0, '<p class="note">No reference region: the map is not normalised.</p>')
    title = "Reference region and leakage" if k2 is not None else "Reference region"
    return _section(title, f'<div class="two">{"".join(figures)}</div>')


def _curves(result: MapResult) -> str:
    if not result.curves_per_s:
        body = '<p class="note">No curves: without an echo time the signal can\'t be expressed as ΔR2* in 1/s.</p>'
    else:
        chart = curves_svg(result.series.times_s, result.curves_per_s, result.timing)
        body = f'<div class="scroll">{chart}</div>'
    return _section("Mean curves", body)


def _rcbv_figure(result: MapResult, view: SliceView, name: str, table: TableName, title: str, **layout: int) -> str:
    parameter_map = result.maps[name]
    label = f"rCBV ({unit_label(parameter_map)})"
    return _map_figure(
        result, view, parameter_map.values, table, rcbv_window(result), label, title, opacity=OPACITY, **layout
    )


def _map_figure(
    result: MapResult,
    view: SliceView,
    values: np.ndarray,
    table_name: TableName,
    window: tuple[float, float],
    bar_label: str,
    title: str,
    *,
    slices: int,
    columns: int,
    tile_width: int,
    opacity: float,
) -> str:
    table = colour_table(table_name)
    picture = overlay_mosaic(
        values,
        result.baseline,
        view,
        slices=view.choose(slices),
        columns=columns,
        table=table,
        window=window,
        mask=result.mask,
        tile_width=tile_width,
        opacity=opacity,
    )
    return _figure(picture, f"{title or 'Map'}: {bar_label}", title, "", colour_bar_svg(table, *window, bar_label))


def _figure(picture: Image.Image, alternative: str, title: str, caption: str, bar: str = "") -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    footer = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="{png_data_uri(picture)}" alt="{escape(alternative)}">'
    return f"<figure>{heading}{image}{bar}{footer}</figure>"


def _summary_rows(result: MapResult) -> Iterator[tuple[str, str, str]]:
    rcbv = result.maps["rcbv"]
    inside = rcbv.values[result.mask]
    defined = inside[np.isfinite(inside)]
    voxel_ml = float(np.prod(result.series.voxel_size_mm)) / 1000.0
    unit = unit_label(rcbv)
    yield "Brain", f"{_number(inside.size * voxel_ml)} ({inside.size:,} voxels)", "ml"
    if defined.size:
        quarter, median, three_quarters = np.percentile(defined, [25, 50, 75])
        yield "rCBV in the brain, median", _number(median), unit
        yield "rCBV in the brain, interquartile range", f"{_number(quarter)} to {_number(three_quarters)}", unit
    if inside.size:
        yield "Brain voxels without a value", _number(100.0 * (1.0 - defined.size / inside.size)), "%"
    if result.reference is not None and result.reference.any():
        yield "Reference region", _reference_size(result), ""
    provenance = result.provenance
    mean = _lookup(provenance, "reference", "mean_before_normalisation")
    if mean is not None:
        yield "Blood volume in the reference before normalisation, mean", _text(mean), "1 (ΔR2* · s)"
    leaking = _lookup(provenance, "summary", "leaking_fraction")
    if leaking is not None:
        yield "Leaking share of the brain", _number(100.0 * float(leaking)), "%"
    timing = result.timing
    baseline_frames = timing.baseline.stop - timing.baseline.start
    yield "Baseline", f"{baseline_frames} frames ({timing.baseline.start} to {timing.baseline.stop - 1})", ""
    yield "Bolus arrival, peak, end of first pass", ", ".join(
        _number(time_s) for time_s in (timing.arrival_s, timing.peak_s, timing.end_s)
    ), "s"  # fmt: skip
    yield "Bolus depth (signal lost at the peak)", _number(100.0 * timing.depth), "%"
    yield "Bolus width at half height", _number(timing.width_s), "s"


def _acquisition_rows(result: MapResult) -> Iterator[tuple[str, str, str, str]]:
    for name, entry in result.series.acquisition.as_dict().items():
        label, factor, unit = _ACQUISITION.get(name, (name.replace("_", " "), 1.0, ""))
        value = entry["value"]
        if value is None:
            yield label, "unknown", "", "not in the input"
        else:
            shown = value if isinstance(value, str) else _number(factor * value)
            yield label, shown, unit, entry["source"] or "not recorded"
    series = result.series
    times_s = series.times_s
    yield "Frame interval", _number(series.frame_interval_s), "s", "frame times"
    yield "Frames", str(series.frames), "", f"over {_number(times_s[-1] - times_s[0])} s"
    yield "Matrix", " × ".join(str(size) for size in series.signal.shape[:3]), "voxels", "image"
    yield "Voxel size", " × ".join(_number(size) for size in series.voxel_size_mm), "mm", "image geometry"


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (label.replace("_", " "), _text(value))
        for label, value in _flatten(provenance)
        if label.split(" › ")[0] not in _SHOWN_ELSEWHERE
    ]
    return rows or [("provenance", "not recorded")]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        label = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{label} › ")
        else:
            yield label, value


def _all_findings(findings: Iterable[Finding]) -> str:
    rows = [
        (f.severity, f.message, _value_with_unit(f), f.advice, f.code)
        for f in _worst_first(findings)
    ]  # fmt: skip
    if not rows:
        return '<p class="note">No findings.</p>'
    return _table(("Severity", "Finding", "Value", "Advice", "Code"), rows)


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def _value_with_unit(finding: Finding) -> str:
    if finding.value is None:
        return ""
    return f"{_text(finding.value)} {finding.unit}".strip()


def _method(result: MapResult) -> str:
    method = result.provenance.get("method") or _lookup(result.provenance, "settings", "method")
    if method is None:
        return "method not recorded"
    return f"{_METHODS[method]} ({method})" if method in _METHODS else str(method)


def _reference_size(result: MapResult) -> str:
    assert result.reference is not None
    voxels = int(result.reference.sum())
    millilitres = voxels * float(np.prod(result.series.voxel_size_mm)) / 1000.0
    return f"{voxels:,} voxels, {_number(millilitres)} ml, {_side(result)}"


def _side(result: MapResult) -> str:
    """Return on which side of the brain's centre the reference region lies."""
    assert result.reference is not None
    to_right = result.series.affine[0, :3]
    region = np.argwhere(result.reference) @ to_right
    brain = np.argwhere(result.mask) @ to_right
    if brain.size == 0:
        return "side unknown"
    share_right = float(np.mean(region > 0.5 * (brain.min() + brain.max())))
    if share_right > 0.9:
        return "patient's right side"
    return "patient's left side" if share_right < 0.1 else "both sides"


def _lookup(tree: Mapping[str, Any], *keys: str) -> Any:
    """Return the nested value, or None where any key is missing."""
    value: Any = tree
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.number):
        return _number(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_text(item) for item in value[:12])
        return f"{shown}, … ({len(value)} in all)" if len(value) > 12 else shown or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    return str(value)


def _number(value: float) -> str:
    """Return three significant digits without exponent where that is readable."""
    if isinstance(value, int | np.integer):
        return str(value)
    value = float(value)
    if not np.isfinite(value):
        return "not a number" if np.isnan(value) else f"{value}"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    decimals = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
