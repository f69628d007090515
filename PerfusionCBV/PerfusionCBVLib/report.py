"""The report: one self-contained page with findings, maps, curves and everything needed to reproduce them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from PerfusionCBVLib.charts import curve_chart
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.durable import write_whole
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.pictures import (
    FLOW_LABELS,
    SliceView,
    comparison_picture,
    difference_window,
    flow_picture,
    inline_picture,
    is_comparable,
    k2_picture,
    rcbv_picture,
    rcbv_window,
    reference_picture,
    slice_view,
    symmetric_window,
    uncertainty_picture,
    uncertainty_window,
    unit_text,
    write_pictures,
)
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.withheld import IDENTITY, without_identifiers

__all__ = ["report_html", "summary_rows", "write_pictures", "write_report"]

FINDINGS_ON_TOP = 5
_SEVERITIES = ("error", "warning", "info")

_ACQUISITION_ROWS = {
    "echo_time_s": ("Echo time TE", "s"),
    "repetition_time_s": ("Repetition time TR", "s"),
    "flip_angle_deg": ("Flip angle", "degrees"),
    "field_strength_t": ("Field strength", "T"),
    "manufacturer": ("Manufacturer", ""),
    "contrast_agent": ("Contrast agent", ""),
    "contrast_dose_ml": ("Contrast dose", "ml"),
}
REFERENCE_TEXT = {
    "nawm": "normal-appearing white matter, found automatically",
    "given": "the given reference region",
    "brain": "the whole brain as reference",
}
_STATUS_TEXT = {
    Status.NO_SIGNAL: "Brain voxels without a value: no baseline signal",
    Status.INVALID_SAMPLES: "Brain voxels without a value: invalid samples",
    Status.SATURATED: "Brain voxels at the noise floor (read as at least)",
    Status.FIT_FAILED: "Brain voxels without a value: no finite result",
}

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#fff;color:#1c1c1c;font:15px/1.45 system-ui,"Segoe UI","Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:0 24px 40px}
.notice{position:sticky;top:0;z-index:1;margin:0;padding:5px 24px;background:#7a1f1f;color:#fff;text-align:center;
font-weight:600}
h1{font-size:26px;line-height:1.2;margin:20px 0 2px;overflow-wrap:anywhere}h2{font-size:18px;margin:30px 0 8px;
border-bottom:1px solid #ccc;padding-bottom:3px}
.method{margin:0 0 14px;color:#444}
.first{list-style:none;margin:0;padding:0}.first li{margin:0 0 6px;padding:6px 10px;border-left:5px solid #9a9a9a;
background:#f5f5f5}.first li.error{border-color:#b3261e;background:#fbeae9}.first li.warning{border-color:#c77700;
background:#fdf3e0}.first li.agreement{border-color:#1b5e9b;background:#eaf2fa}
.advice{display:block;color:#333}.value{white-space:nowrap;font-weight:600}
figure{margin:10px 0 18px;break-inside:avoid}figure img{display:block;max-width:100%;height:auto;background:#000}
figcaption{font-size:13px;color:#444;margin-top:4px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;
padding:4px 10px 4px 0;border-bottom:1px solid #e2e2e2;overflow-wrap:anywhere}
th{font-weight:600}td.number{font-variant-numeric:tabular-nums}
.chart{width:100%;height:auto;font:13px system-ui,Arial,sans-serif}
@media print{main{max-width:none;padding:0}.notice{position:fixed;top:auto;bottom:0;left:0;right:0;color:#7a1f1f;
background:#fff;border-top:1px solid #7a1f1f}main{padding-bottom:40px}*{print-color-adjust:exact;
-webkit-print-color-adjust:exact}tr{break-inside:avoid}}
"""


def write_report(result: MapResult, path: Path | str, *, with_identifiers: bool = False) -> Path:
    """Write one self-contained HTML page about a result; return its path.

    Parameters
    ----------
    result : MapResult
        ``maps["rcbv"]`` is needed; ``rcbv_classical``, ``k2``, the reference region and the curves are shown where they
        exist. Of `provenance`, ``method`` (or ``settings.method``), ``reference`` and ``agreement`` have their own
        place, everything else stands in the settings table.
    path : Path or str
        Usually ``report.html``, in an existing folder. An existing file is replaced, whole or not at all.
    with_identifiers : bool
        Whether names of files and series may stand on the page, see `withheld`.
    """
    shown = result if with_identifiers else without_identifiers(result)
    return write_whole(Path(path), report_html(shown).encode())


def report_html(result: MapResult) -> str:
    """Return the page that `write_report` writes, with all names that the result holds."""
    view = slice_view(result.affine, result.mask)
    name = escape(result.series.name)
    description = escape(_sentence(result.maps["rcbv"].description))
    sections = [
        f"<h1>rCBV of {name}</h1>",
        _identity_line(result.provenance.get(IDENTITY) or {}),
        f'<p class="method">Method: <strong>{escape(_method(result))}</strong>. {description}</p>',
        _first_lines(result),
        _maps_section(result, view),
        _comparison_section(result, view),
        _uncertainty_section(result),
        _reference_section(result),
        _leakage_section(result),
        _curves_section(result),
        _arterial_section(result),
        _flow_section(result),
        "<h2>Summary</h2>" + _table(("Quantity", "Value", "Unit"), summary_rows(result)),
        "<h2>Acquisition</h2>" + _table(("Quantity", "Value", "Unit", "Source"), _acquisition_rows(result)),
        "<h2>Settings and provenance</h2>" + _table(("Key", "Value"), _provenance_rows(result.provenance)),
        _findings_section(result.findings),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>rCBV of {name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>"
        '<p class="notice">Research use only. Not for diagnosis or treatment.</p>\n<main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def summary_rows(result: MapResult) -> list[tuple[str, str, str]]:
    """Return the numbers that describe a result: (quantity, value, unit), as text."""
    timing, mask = result.timing, result.mask
    rcbv = result.maps["rcbv"]
    unit = unit_text(rcbv.unit)
    inside = rcbv.values[mask]
    finite = inside[np.isfinite(inside)]
    rows = [
        ("Bolus arrival", f"{timing.arrival_s:.1f}", "s"),
        ("Bolus peak", f"{timing.peak_s:.1f}", "s"),
        ("End of first pass", f"{timing.end_s:.1f}", "s"),
        ("Signal lost at the peak (mean of brain)", f"{100 * timing.depth:.1f}", "%"),
        ("Width of the first pass at half its height", f"{timing.width_s:.1f}", "s"),
        ("Baseline frames", str(timing.arrival - timing.first_steady), "frames"),
        ("Brain mask", f"{mask.sum() * _voxel_ml(result):.0f}", "ml"),
        ("Brain voxels with a value", _share(finite.size, inside.size), "%"),
    ]
    brain_status = result.status[mask]
    for status, label in _STATUS_TEXT.items():
        count = int(np.count_nonzero(brain_status == status))
        if count:
            rows.append((label, _share(count, inside.size), "%"))
    if finite.size:
        low, median, high = np.percentile(finite, (5, 50, 95))
        rows.append(("rCBV in brain, median (5th to 95th percentile)", f"{median:.2f} ({low:.2f} to {high:.2f})", unit))
    if result.reference is not None:
        rows.append(("rCBV in the reference region, mean", _number(_mean(rcbv.values[result.reference])), unit))
    if is_comparable(result):
        rows += _agreement_rows(inside, result.maps["rcbv_classical"].values[mask], unit)
    if "k2" in result.maps:
        k2 = result.maps["k2"].values[mask]
        k2 = k2[np.isfinite(k2)]
        if k2.size:
            rows.append(("K2 in brain, median", f"{np.median(k2):.3g}", unit_text(result.maps["k2"].unit)))
    return rows


def _agreement_rows(network: np.ndarray, classical: np.ndarray, unit: str) -> list[tuple[str, str, str]]:
    both = np.isfinite(network) & np.isfinite(classical)
    if np.count_nonzero(both) < 2:
        return []
    x, y = network[both].astype(float), classical[both].astype(float)
    difference = x - y
    rows = [
        ("Network − classical in brain, mean", f"{difference.mean():.3f}", unit),
        ("Network − classical in brain, standard deviation", f"{difference.std(ddof=1):.3f}", unit),
    ]
    # Lin 1989, Biometrics 45:255: agreement with the line of identity, not only correlation.
    spread = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    if spread > 0:
        ccc = 2 * np.mean((x - x.mean()) * (y - y.mean())) / spread
        rows.append(("Concordance (CCC) of network and classical in brain", f"{ccc:.3f}", ""))
    return rows


def _method(result: MapResult) -> str:
    settings = result.provenance.get("settings")
    nested = settings.get("method") if isinstance(settings, Mapping) else None
    return str(result.provenance.get("method") or nested or "not stated")


def _identity_line(identity: Mapping[str, str]) -> str:
    """Return whose series it is, where that was asked for."""
    known = [f"{escape(key)} <strong>{escape(value)}</strong>" for key, value in identity.items() if value]
    return f'<p class="method">{", ".join(known)}</p>' if known else ""


def _first_lines(result: MapResult) -> str:
    worst = [finding for finding in by_gravity(result.findings) if finding.severity != "info"]
    items = [
        f'<li class="{finding.severity}"><strong>{finding.severity.capitalize()}:</strong> {escape(finding.message)}'
        f"{_value_html(finding)}"
        + (f'<span class="advice">What to do: {escape(finding.advice)}</span>' if finding.advice else "")
        + "</li>"
        for finding in worst[:FINDINGS_ON_TOP]
    ]
    if len(worst) > FINDINGS_ON_TOP:
        items.append(f"<li>{len(worst) - FINDINGS_ON_TOP} more in the table of findings at the end.</li>")
    if not worst:
        items.append("<li>The checks found nothing to warn about.</li>")
    agreement = result.provenance.get("agreement")
    if isinstance(agreement, Mapping) and agreement.get("text"):
        items.append(f'<li class="agreement">{escape(str(agreement["text"]))}</li>')
    return f'<ul class="first">{"".join(items)}</ul>'


def _value_html(finding: Finding) -> str:
    if finding.value is None:
        return ""
    return f' <span class="value">[{escape(f"{_text(finding.value)} {finding.unit}".strip())}]</span>'


def _maps_section(result: MapResult, view: SliceView) -> str:
    low, high = rcbv_window(result)
    total = result.mask.shape[int(np.flatnonzero(view.orientation[:, 0] == view.axis)[0])]
    where = (
        "Radiological convention: the patient's left is on the right of the picture."
        if view.edges == ("R", "L")
        else "Sagittal slices: front (A) on the left of the picture."
    )
    caption = (
        f"rCBV over the baseline image, {len(view.slices)} of {total} slices. {where} Window {low:g} to {high:.2f} "
        f"({unit_text(result.maps['rcbv'].unit)}); higher values have the last colour. Voxels without a value show the "
        "baseline image."
    )
    return (
        "<h2>Blood volume map</h2>"
        + _figure(rcbv_picture(result, "perfusion", view), caption, "rCBV map, perfusion colours")
        + _figure(
            rcbv_picture(result, "uniform", view),
            "The same slices and window in perceptually uniform colours: equal steps in rCBV look equal.",
            "rCBV map, uniform colours",
        )
    )


def _comparison_section(result: MapResult, view: SliceView) -> str:
    if "rcbv_classical" not in result.maps:
        return ""
    if is_comparable(result):
        low, high = rcbv_window(result)
        half = difference_window(result)[1]
        caption = (
            f"The same slices: network and classical map with one window, {low:g} to {high:.2f}, and their difference, "
            f"−{half:.2f} to {half:.2f} (red: the network gives more)."
        )
    else:
        caption = "The same slices. The maps have different units, so each has its own window and none is subtracted."
    caption += f" Classical: {_sentence(result.maps['rcbv_classical'].description)}"
    return "<h2>Network and classical map</h2>" + _figure(comparison_picture(result, view), caption, "Comparison")


def _uncertainty_section(result: MapResult) -> str:
    if "uncertainty" not in result.maps:
        return ""
    deviation = result.maps["uncertainty"]
    high = uncertainty_window(result)[1]
    caption = f"{_sentence(deviation.description)} Window 0 to {high:.2f} {unit_text(deviation.unit)}."
    return "<h2>Uncertainty</h2>" + _figure(uncertainty_picture(result), caption, "Uncertainty of rCBV")


def _reference_section(result: MapResult) -> str:
    facts = result.provenance.get("reference")
    facts = facts if isinstance(facts, Mapping) else {}
    if result.reference is None or not result.reference.any():
        return "<h2>Reference region</h2><p>None: the map is not relative to a region.</p>"
    voxels = int(result.reference.sum())
    volume_ml = voxels * _voxel_ml(result)
    kind = REFERENCE_TEXT.get(str(facts.get("kind")), "reference region")
    caption = (
        f"{kind.capitalize()}, where rCBV is 1, outlined on the baseline image: {volume_ml:.1f} ml, {voxels} voxels"
    )
    if facts.get("side"):
        caption += f", the patient's side: {facts['side']}"
    caption += "."
    return "<h2>Reference region</h2>" + _figure(reference_picture(result), caption, "Reference region")


def _leakage_section(result: MapResult) -> str:
    if "k2" not in result.maps:
        return ""
    k2 = result.maps["k2"]
    half = symmetric_window(k2.values[result.mask])[1]
    caption = f"{_sentence(k2.description)} Window −{half:.3g} to {half:.3g} {unit_text(k2.unit)}."
    return "<h2>Leakage</h2>" + _figure(k2_picture(result), caption, "Leakage map K2")


def _curves_section(result: MapResult) -> str:
    title = "<h2>Curves</h2>"
    if not result.curves_per_s:
        return title + "<p>No curves in 1/s: the echo time is unknown.</p>"
    times_s, first = result.series.times_s, result.timing.first_steady
    curves = {name: np.asarray(curve)[first:] for name, curve in result.curves_per_s.items()}
    baseline, first_pass = times_s[result.timing.baseline], times_s[result.timing.first_pass]
    windows = [
        (label, float(frames[0]), float(frames[-1]))
        for label, frames in (("baseline", baseline), ("first pass", first_pass))
        if frames.size
    ]
    caption = "Mean change of R2*, before leakage correction, with the baseline and the first pass shaded."
    if first:
        caption += f" The first {first} frames, not in steady state, are left out."
    chart = curve_chart(times_s[first:], curves, windows=windows)
    return f"{title}<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def _arterial_section(result: MapResult) -> str:
    arterial = result.arterial
    if arterial is None:
        return ""
    times_s, first = arterial.times_s, result.timing.first_steady
    curves = {"artery": arterial.curve_per_s[first:]}
    if "brain" in result.curves_per_s:
        curves["brain"] = np.asarray(result.curves_per_s["brain"])[first:]
    pass_s = times_s[result.timing.first_pass]
    chart = curve_chart(times_s[first:], curves, windows=[("first pass", float(pass_s[0]), float(pass_s[-1]))])
    where = f"Source: {arterial.source}"
    if arterial.mask is not None:
        where += f", mean of {int(arterial.mask.sum())} voxels"
    caption = f"{escape(where)}. ΔR2* of the arterial input and, beside it, of the brain."
    rows = [(f.severity, f.message, f"{_text(f.value)} {f.unit}".strip(), f.advice) for f in arterial.checks]
    return f"<h2>Arterial input</h2><figure>{chart}<figcaption>{caption}</figcaption></figure>" + _table(
        ("Severity", "Check", "Value", "What to do"), rows
    )


def _flow_section(result: MapResult) -> str:
    figures = [
        _figure(flow_picture(result, name), f"{label}: {_sentence(result.maps[name].description)}", label)
        for name, label in FLOW_LABELS.items()
        if name in result.maps
    ]
    return "<h2>Flow</h2>" + "".join(figures) if figures else ""


def _acquisition_rows(result: MapResult) -> list[tuple[str, str, str, str]]:
    series = result.series
    rows = []
    for key, entry in series.acquisition.as_dict().items():
        label, unit = _ACQUISITION_ROWS.get(key, (key.replace("_", " "), ""))
        known = entry["value"] is not None
        rows.append(
            (label, _text(entry["value"]) if known else "unknown", unit if known else "", entry["source"] or "")
        )
    shape, size = series.signal.shape, series.voxel_size_mm
    rows += [
        ("Frames", str(series.frames), "", series.source),
        ("Frame interval (median)", f"{series.frame_interval_s:.4g}", "s", series.source),
        ("Matrix", " × ".join(str(n) for n in shape[:3]), "voxels", series.source),
        ("Voxel size", " × ".join(f"{mm:.4g}" for mm in size), "mm", series.source),
    ]
    return rows


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown_elsewhere = {"findings", "acquisition", "agreement", IDENTITY}
    return list(_flat({key: value for key, value in provenance.items() if key not in shown_elsewhere}))


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in entries.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _findings_section(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<h2>Findings</h2><p>None.</p>"
    rows = [
        (
            finding.severity,
            finding.code,
            finding.message,
            f"{_text(finding.value)} {finding.unit}".strip() if finding.value is not None else "",
            finding.advice,
        )
        for finding in by_gravity(findings)
    ]
    return "<h2>Findings</h2>" + _table(("Severity", "Code", "Finding", "Value", "What to do"), rows)


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """Return the worst first; of equal ones those about the network, which may make the whole map untrue."""
    return sorted(findings, key=lambda f: (_SEVERITIES.index(f.severity), not f.code.startswith("network-")))


def _figure(picture: Image.Image, caption: str, alternative: str) -> str:
    return f"<figure>{inline_picture(picture, alternative)}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>None.</p>"
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}." if text else ""


def _voxel_ml(result: MapResult) -> float:
    return abs(float(np.linalg.det(result.affine[:3, :3]))) / 1000.0


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.5g}"
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(_text(item) for item in value) or "–"
    return str(value)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "no value"


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0"
