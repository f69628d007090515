"""One page for the referrer: what was measured, where, how, and what stands against believing it. HTML and PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.orientations import apply_orientation

from PerfusionCBVLib.charts import curve_chart
from PerfusionCBVLib.durable import write_whole
from PerfusionCBVLib.errors import GeometryError, PerfusionError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.measures.measurement import Measurement, key_measurements
from PerfusionCBVLib.pictures import REGION_COLOURS, SliceView, inline_picture, reading_picture, slice_view, unit_text
from PerfusionCBVLib.report import REFERENCE_TEXT, by_gravity
from PerfusionCBVLib.settings import METHOD_TITLES, NETWORK_METHODS

if TYPE_CHECKING:
    from PerfusionCBVLib.pictures import AnyResult

SIZES = ((188, 8.6), (165, 8.6), (145, 8.6), (125, 8.6), (110, 8.2), (100, 7.8), (90, 7.4), (80, 7.0), (70, 6.6))
"""Width of all key slices side by side, mm, and of letters, pt; the largest that leaves everything on one sheet."""

MOST_FINDINGS = 4
MOST_REGIONS = 4
SMALLEST_SECTION = 0.25
"""Of the largest section: smaller ones can't be the hottest slice, a few voxels are always hot."""

NOTICE = "Research use only. Not for diagnosis or treatment."
LIMITS = (
    "rCBV is relative to the reference region: where that is not normal white matter, all numbers here are wrong by "
    "one factor. Cut-offs from the literature hold for the method and protocol that they were found with."
)
NETWORK_LIMITS = (
    "The network learned from simulated patients only and was not validated on real ones; the classical map of the "
    "same series stands beside it."
)

_STYLE = """
@page{size:A4;margin:9mm 11mm}
*{box-sizing:border-box}body{margin:0 auto;max-width:190mm;color:#1c1c1c;background:#fff;
font:LETTERSpt/1.3 "DejaVu Sans",system-ui,"Segoe UI",Arial,sans-serif}
.notice{margin:0 0 2mm;padding:1mm;background:#7a1f1f;color:#fff;text-align:center;font-weight:600;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
h1{font-size:14pt;margin:0}h2{font-size:9.6pt;margin:2.4mm 0 .8mm;border-bottom:1px solid #bbb}
p{margin:.6mm 0}.identity{width:100%;border:1px solid #bbb;margin:1mm 0}.identity td{padding:.4mm 1.5mm}
figure{margin:0}figure img{width:100%;height:auto;display:block}figcaption{font-size:7.6pt;color:#444}
.pictures{width:WIDTHmm;table-layout:fixed}.pictures td{vertical-align:top;padding:0 1mm 0 0}
table{border-collapse:collapse}.numbers{width:100%}
.numbers th,.numbers td{text-align:right;padding:.3mm 1.5mm;border-bottom:1px solid #e2e2e2}
.numbers th:first-child,.numbers td:first-child{text-align:left}
ul{margin:0;padding-left:4mm}li.warning{color:#8a4b00}li.error{color:#b3261e}
svg.chart{width:100%;height:36mm;font:13px "DejaVu Sans",Arial,sans-serif}
.key{display:inline-block;width:2.6mm;height:2.6mm;border:1px solid #555;margin:0 1mm 0 3mm}
"""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the page shows.

    Attributes
    ----------
    result : MapResult or StoredResult
    regions : mapping of str to (x, y, z) bool array
        What was measured, on the result's grid: outlined in the pictures.
    measurements : sequence of Measurement
    identity : mapping of str to str
        What the page says of patient and study; empty unless the user asked for it.
    """

    result: AnyResult
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)
    measurements: Sequence[Measurement] = ()
    identity: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, inside in self.regions.items():
            if inside.shape != self.result.mask.shape:
                raise GeometryError(
                    f"The region {name} has {inside.shape} voxels, the map {self.result.mask.shape}. Draw it on the "
                    "map's grid, or bring it there first."
                )


def write_page(reading: Reading, path: Path | str) -> Path:
    """Write the page, as PDF or HTML by the file's suffix; return its path. An old file is replaced whole.

    Raises
    ------
    PerfusionError, UsageError
        Another suffix, or a PDF without WeasyPrint.
    """
    path = Path(path)
    if path.suffix == ".html":
        return write_whole(path, page_html(reading).encode())
    if path.suffix == ".pdf":
        return write_whole(path, _pdf(reading))
    raise UsageError(f"{path.name} is neither .pdf nor .html; name the page with one of these endings.")


def page_html(reading: Reading, size: tuple[int, float] = SIZES[0]) -> str:
    """Return the page as one self-contained HTML document for one sheet of A4."""
    result = reading.result
    body = [
        f'<p class="notice">{NOTICE}</p>',
        "<h1>Relative cerebral blood volume (rCBV) from DSC-MRI</h1>",
        _identity(reading.identity),
        _how(result),
        _findings(result),
        _pictures(reading),
        _numbers(reading),
        _curves(result),
        _end(result),
    ]
    style = _STYLE.replace("WIDTH", str(size[0])).replace("LETTERS", str(size[1]))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>rCBV, one page</title>'
        f"<style>{style}</style></head>\n<body>" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def key_slices(result: AnyResult, regions: Mapping[str, np.ndarray]) -> list[tuple[str, SliceView]]:
    """Return the slices worth a picture, each with what it is, as views of one slice.

    With regions: the one that cuts them largest, and the one where their rCBV (its 95th percentile) is highest, among
    slices that cut at least a quarter of the largest section. Without: two from the middle of the brain.
    """
    whole = slice_view(result.affine, result.mask, count=result.mask.size)
    inside = np.logical_or.reduce([*regions.values()]) if regions else np.zeros_like(result.mask)
    if not inside.any():
        return [("Middle of the brain", _only(whole, at)) for at in _at_shares(whole, (0.45, 0.6))]
    rcbv = apply_orientation(result.maps["rcbv"].values, whole.orientation)
    turned = apply_orientation(inside, whole.orientation) & np.isfinite(rcbv)
    sections = np.array([np.count_nonzero(np.take(turned, k, axis=whole.axis)) for k in range(rcbv.shape[whole.axis])])
    largest = int(np.argmax(sections))
    hot = {
        int(k): float(np.percentile(np.take(rcbv, k, axis=whole.axis)[np.take(turned, k, axis=whole.axis)], 95))
        for k in np.flatnonzero(sections >= max(SMALLEST_SECTION * sections[largest], 1))
    }
    hottest = max(hot, key=lambda k: hot[k], default=largest)
    if hottest == largest:
        return [("Largest section and highest rCBV", _only(whole, largest))]
    return [("Largest section", _only(whole, largest)), ("Highest rCBV", _only(whole, hottest))]


def _at_shares(view: SliceView, shares: Sequence[float]) -> list[int]:
    return [view.slices[int(share * len(view.slices))] for share in shares]


def _only(view: SliceView, index: int) -> SliceView:
    """Return a view of all slices cut down to one, in the number that the series gives it."""
    if index not in view.slices:
        index = min(view.slices, key=lambda k: abs(k - index))
    at = view.slices.index(index)
    return replace(view, slices=(index,), numbers=(view.numbers[at],))


def _identity(identity: Mapping[str, str]) -> str:
    if not identity:
        return "<p>Patient and study are not named on this page: that was not asked for.</p>"
    cells = [f"<td><strong>{escape(key)}</strong> {escape(value) or '–'}</td>" for key, value in identity.items()]
    rows = "".join(f"<tr>{''.join(cells[i : i + 3])}</tr>" for i in range(0, len(cells), 3))
    return f'<table class="identity">{rows}</table>'


def _how(result: AnyResult) -> str:
    facts = result.provenance
    method = facts["settings"]["method"]
    reference = facts.get("reference", {})
    where = REFERENCE_TEXT.get(str(reference.get("kind")), "no reference region: the map is not normalised")
    volume = f", {reference['volume_ml']:.1f} ml" if reference.get("volume_ml") else ""
    known = {key: entry["value"] for key, entry in facts["acquisition"].items() if entry["value"] is not None}
    protocol = [
        f"{known['field_strength_t']:g} T" if "field_strength_t" in known else "",
        f"TE {1000 * known['echo_time_s']:.3g} ms" if "echo_time_s" in known else "",
        f"TR {1000 * known['repetition_time_s']:.4g} ms" if "repetition_time_s" in known else "",
        f"flip angle {known['flip_angle_deg']:g}°" if "flip_angle_deg" in known else "",
        f"{facts['frames']} frames, one every {facts['frame_interval_s']:.3g} s",
    ]
    scan = escape(", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in protocol if part))
    return (
        f"<p><strong>Method:</strong> {escape(METHOD_TITLES[method])}. <strong>1 is the mean of:</strong> "
        f"{escape(where)}{volume}. <strong>Protocol:</strong> {scan}.</p>"
    )


def _findings(result: AnyResult) -> str:
    grave: list[Finding] = [finding for finding in by_gravity(result.findings) if finding.severity != "info"]
    items = [
        f'<li class="{finding.severity}">{escape(finding.message)} {escape(finding.advice)}</li>'
        for finding in grave[:MOST_FINDINGS]
    ]
    if len(grave) > MOST_FINDINGS:
        items.append(f"<li>{len(grave) - MOST_FINDINGS} more in the full report.</li>")
    if not grave:
        items.append("<li>The checks found nothing to warn about.</li>")
    agreement = result.provenance.get("agreement", {})
    if agreement.get("text"):
        items.append(f"<li>{escape(str(agreement['text']))}</li>")
    return f"<h2>What to keep in mind</h2><ul>{''.join(items)}</ul>"


def _pictures(reading: Reading) -> str:
    cells = []
    for title, view in key_slices(reading.result, reading.regions):
        picture = inline_picture(reading_picture(reading.result, view, reading.regions), title)
        caption = f"{escape(title)}: slice {view.numbers[0]}"
        cells.append(f"<td><figure>{picture}<figcaption>{caption}</figcaption></figure></td>")
    shown = "baseline image and rCBV" + (", network then classical" if _is_network(reading.result) else "")
    names = "".join(
        f'<span class="key" style="background:rgb{colour}"></span>{escape(name)}'
        for name, colour in zip(reading.regions, cycle(REGION_COLOURS), strict=False)
    )
    note = f"<p>From left: {shown}. The patient's left is on the right of the picture.{names}</p>"
    return f'<h2>Key slices</h2><table class="pictures"><tr>{"".join(cells)}</tr></table>{note}'


def _numbers(reading: Reading) -> str:
    regions = list(dict.fromkeys(each.region for each in reading.measurements))
    if not regions:
        return "<h2>Measures</h2><p>None: no region was given.</p>"
    shown = regions[:MOST_REGIONS]
    by_name: dict[str, dict[str, Measurement]] = {}
    for each in key_measurements(reading.measurements):
        by_name.setdefault(each.name, {})[each.region] = each
    head = "".join(f"<th>{escape(name)}</th>" for name in shown)
    rows = []
    for measured in by_name.values():
        first = next(iter(measured.values()))
        title = f"{first.title} ({unit_text(first.unit)})"
        cells = "".join(f"<td>{_value(measured.get(region))}</td>" for region in shown)
        rows.append(f"<tr><td>{escape(title)}</td>{cells}</tr>")
    note = f"<p>{len(regions) - len(shown)} more regions are in the tables.</p>" if len(regions) > len(shown) else ""
    return f'<h2>Measures</h2><table class="numbers"><tr><th></th>{head}</tr>{"".join(rows)}</table>{note}'


def _value(measured: Measurement | None) -> str:
    if measured is None or not np.isfinite(measured.value):
        return "no value"
    error = measured.standard_error
    return f"{measured.value:.3g}" + (f" ± {error:.2g}" if error is not None and np.isfinite(error) else "")


def _curves(result: AnyResult) -> str:
    curves = result.curves_per_s
    if not curves:
        return ""
    bolus = result.provenance["bolus"]
    times_s, first = result.times_s, int(bolus["first_steady"])
    start, stop = bolus["baseline_frames"]
    windows = [("baseline", float(times_s[start]), float(times_s[stop - 1])), ("first pass", *bolus["integration_s"])]
    chart = curve_chart(times_s[first:], {name: curve[first:] for name, curve in curves.items()}, windows=windows)
    return f"<h2>Mean ΔR2* curves</h2>{chart}"


def _end(result: AnyResult) -> str:
    facts = result.provenance
    network = facts.get("network", {})
    weights = f", weights {network['weights_sha256'][:12]}" if network else ""
    series = min(facts["input"]["sha256"].values(), default="unknown")[:12]
    made = f"PerfusionCBV {facts['version']}, method {facts['settings']['method']}{weights}, series {series}."
    limits = f"{LIMITS} {NETWORK_LIMITS}" if _is_network(result) else LIMITS
    return f"<h2>Limits</h2><p>{escape(limits)}</p><p>{escape(made)} {NOTICE}</p>"


def _is_network(result: AnyResult) -> bool:
    return result.provenance["settings"]["method"] in NETWORK_METHODS


def _pdf(reading: Reading) -> bytes:
    try:
        import weasyprint
    except (ImportError, OSError) as error:  # OSError: WeasyPrint is there, the Pango library that it needs is not
        raise PerfusionError(
            f"A PDF needs WeasyPrint with the Pango library ({error}). Install 'perfusion-cbv[report]' and Pango, or "
            "write an .html and print it from a browser."
        ) from error
    # The page holds all that it shows; WeasyPrint must not follow an address that came in with a name.
    fetcher = weasyprint.urls.URLFetcher(allowed_protocols=("data",))
    for size in SIZES:
        document: Any = weasyprint.HTML(string=page_html(reading, size), url_fetcher=fetcher).render()
        if len(document.pages) == 1:
            break
    return bytes(document.write_pdf())
