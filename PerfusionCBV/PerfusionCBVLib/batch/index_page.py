"""The page of a batch: every case with its picture, state and findings, linked to its report; works from a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from PerfusionCBVLib.batch.case import Plan
from PerfusionCBVLib.batch.folder import PASSED_OVER, SUMMARY
from PerfusionCBVLib.batch.outcome import THUMBNAIL, Outcome, State
from PerfusionCBVLib.colours import colour_table
from PerfusionCBVLib.pictures import SMALLEST_RCBV_WINDOW
from PerfusionCBVLib.settings import METHOD_TITLES

Stage = Literal["running", "finished", "stopped"]

SECONDS_BETWEEN_RELOADS = 10
MOST_OTHERS = 20
MOST_REGION_COLUMNS = 3
_STATES: tuple[State, ...] = ("done", "refused", "failed", "running", "waiting")
_STATE_WORDS = {
    "done": "map made",
    "refused": "input refused",
    "failed": "failed",
    "running": "running",
    "waiting": "waiting",
}

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#fff;color:#1c1c1c;font:15px/1.45 system-ui,"Segoe UI","Helvetica Neue",Arial,sans-serif}
main{max-width:1500px;margin:0 auto;padding:0 24px 40px}
.notice{margin:0;padding:5px 24px;background:#7a1f1f;color:#fff;text-align:center;font-weight:600}
h1{font-size:26px;line-height:1.2;margin:20px 0 2px}.method{margin:0 0 12px;color:#444}
.now{margin:0 0 12px;padding:6px 10px;border-left:5px solid #1b5e9b;background:#eaf2fa}
.now.stopped{border-color:#c77700;background:#fdf3e0}
.tools{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:0 0 12px}
.tools button{font:inherit;padding:3px 12px;border:1px solid #bbb;border-radius:14px;background:#fff;cursor:pointer}
.tools button[aria-pressed=true]{background:#1c1c1c;color:#fff;border-color:#1c1c1c}
.tools input{font:inherit;padding:3px 10px;border:1px solid #bbb;border-radius:4px;width:220px}
.legend{margin-left:auto;font-size:13px;color:#444;display:flex;gap:6px;align-items:center}
.bar{width:150px;height:12px;border:1px solid #888}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:6px 12px 6px 0;border-bottom:1px solid #e2e2e2}
thead th{position:sticky;top:0;background:#fff;z-index:1;vertical-align:bottom;
border-bottom:2px solid #999}
thead button{font:inherit;font-weight:600;border:0;background:none;padding:0;cursor:pointer;text-align:inherit}
thead button::after{content:" \\2195";color:#aaa}th[aria-sort=ascending] button::after{content:" \\2191";color:#000}
th[aria-sort=descending] button::after{content:" \\2193";color:#000}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}td.number{white-space:nowrap}
td.case{overflow-wrap:anywhere;min-width:110px}td.case a{font-weight:600;color:#1b5e9b}
td.case small{display:block;color:#666}
td.picture{width:1px}td.picture img{display:block;width:290px;height:auto;background:#000}
.state,.finding{display:inline-block;border-radius:3px;padding:0 7px;white-space:nowrap;border:1px solid}
.done{background:#e8f4ea;border-color:#2e7d32;color:#1b5e20}.refused{background:#fdf3e0;border-color:#c77700;color:#7a4900}
.failed{background:#fbeae9;border-color:#b3261e;color:#8c1d18}.running{background:#eaf2fa;border-color:#1b5e9b;color:#123f69}
.waiting{background:#f5f5f5;border-color:#9a9a9a;color:#444}
td.findings{min-width:240px;max-width:560px}
td.regions{max-width:300px}td.regions span{white-space:nowrap;margin-right:10px}
.finding{margin:0 4px 4px 0;font-size:13px}
.finding.warning{background:#fdf3e0;border-color:#c77700;color:#7a4900}
.finding.error{background:#fbeae9;border-color:#b3261e;color:#8c1d18}
.finding.info{background:#fff;border-color:#ccc;color:#555}
.none{color:#2e7d32}.reason{margin:0}.faint{color:#666;font-size:13px}
@page{size:A4 landscape;margin:12mm}
@media print{main{max-width:none;padding:0}.notice{color:#7a1f1f;background:#fff;border-bottom:1px solid #7a1f1f}
.tools input{display:none}.tools button,.tools button[aria-pressed=true]{background:#fff;color:#1c1c1c;border:0;
padding:0 8px 0 0}body{font-size:11px}table{font-size:10.5px}.faint,.legend,td.case small{font-size:9px}
thead{display:table-header-group}thead th{position:static}thead button::after{content:"" !important}
tr{break-inside:avoid}td.picture img{width:190px}th,td{padding:3px 8px 3px 0}.finding{font-size:10px;padding:0 4px}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

_SCRIPT = """
const body=document.querySelector("tbody"),rows=[...body.rows],search=document.querySelector("input");
let state="all";
function show(){const words=search.value.toLowerCase();
for(const row of rows)row.hidden=(state!=="all"&&row.dataset.state!==state&&!(state==="warnings"&&
row.dataset.warnings>0))||!row.textContent.toLowerCase().includes(words)}
for(const button of document.querySelectorAll(".tools button"))button.onclick=()=>{state=button.dataset.show;
for(const other of document.querySelectorAll(".tools button"))other.setAttribute("aria-pressed",other===button);show()};
search.oninput=show;
document.querySelectorAll("thead th").forEach((head,column)=>{const button=head.querySelector("button");
if(!button)return;button.onclick=()=>{const down=head.getAttribute("aria-sort")==="ascending";
document.querySelectorAll("thead th").forEach(other=>other.removeAttribute("aria-sort"));
head.setAttribute("aria-sort",down?"descending":"ascending");
const value=row=>row.cells[column].dataset.value;
body.append(...rows.sort((a,b)=>{const x=value(a),y=value(b);if(x===""||y==="")return(x==="")-(y==="");
const order=isNaN(x)||isNaN(y)?x.localeCompare(y,undefined,{numeric:true}):x-y;return down?-order:order}))}});
document.querySelectorAll("[data-script]").forEach(part=>part.hidden=false);
"""


def index_html(
    outcomes: Sequence[Outcome], plan: Plan, stage: Stage, passed_over: int = 0, others: Sequence[str] = ()
) -> str:
    """Return the page, whose links and pictures lie beside it.

    Parameters
    ----------
    outcomes : sequence of Outcome
    plan : Plan
    stage : "running", "finished" or "stopped"
        While it runs, a browser loads the page again now and then.
    passed_over : int
        How many files and folders were found that are no case.
    others : sequence of str
        Folders of results that belong to no case of this cohort.
    """
    regions = list(
        dict.fromkeys(name for outcome in outcomes for name in outcome.measures if name.startswith("rcbv_mean ["))
    )
    method = METHOD_TITLES[plan.settings.method]
    weights = f", weights {plan.weights_sha256[:12]}" if plan.weights_sha256 else ""
    reload = f'<meta http-equiv="refresh" content="{SECONDS_BETWEEN_RELOADS}">' if stage == "running" else ""
    count = f"{len(outcomes)} series" if len(outcomes) != 1 else "one series"
    parts = [
        f"<h1>rCBV of {count}</h1>",
        f'<p class="method">Method: <strong>{escape(method)}</strong>{weights}, PerfusionCBV {plan.version}. All '
        f'numbers are in <a href="{SUMMARY}">{SUMMARY}</a>.</p>',
        _now(outcomes, stage),
        _tools(outcomes),
        "<table><thead><tr>" + "".join(_heads(regions)) + "</tr></thead><tbody>",
        *(_row(outcome, place, regions) for place, outcome in enumerate(outcomes)),
        "</tbody></table>",
        _rest(passed_over, others),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{reload}<title>rCBV of {count}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>"
        '<p class="notice">Research use only. Not for diagnosis or treatment.</p>\n<main>\n'
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _now(outcomes: Sequence[Outcome], stage: Stage) -> str:
    settled = sum(outcome.is_settled for outcome in outcomes)
    if stage == "finished":
        return ""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if stage == "running":
        return (
            f'<p class="now">{settled} of {len(outcomes)} settled when this page was written, {at}. The batch was '
            "running then; when this time no longer changes, it was ended, and the same command goes on.</p>"
        )
    return (
        f'<p class="now stopped">The batch was stopped at {at} with {settled} of {len(outcomes)} settled. The same '
        "command goes on.</p>"
    )


def _tools(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.state for outcome in outcomes)
    warned = sum(outcome.state == "done" and _warnings(outcome) > 0 for outcome in outcomes)
    choices: list[tuple[str, str]] = [("all", f"{len(outcomes)} cases")]
    choices += [(state, f"{counts[state]} {_STATE_WORDS[state]}") for state in _STATES if counts[state]]
    choices += [("warnings", f"{warned} with warnings")] if warned else []
    buttons = "".join(
        f'<button type="button" data-show="{name}" aria-pressed="{str(name == "all").lower()}">{text}</button>'
        for name, text in choices
    )
    shades = colour_table("perfusion")[np.linspace(0, 255, 17).round().astype(int)]
    gradient = ",".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in shades)
    legend = (
        f'<span class="legend">rCBV 0 <span class="bar" style="background:linear-gradient(to right,{gradient})">'
        f"</span> {SMALLEST_RCBV_WINDOW:g}, three slices of each map</span>"
    )
    return (
        f'<div class="tools">{buttons}<input type="search" placeholder="Find in the table" aria-label="Find in the '
        f'table" data-script hidden>{legend}</div>'
    )


def _heads(regions: Sequence[str]) -> list[str]:
    heads = ["<th>Map</th>", _head("Case"), _head("State"), _head("Findings"), _head("rCBV, median", number=True)]
    if len(regions) > MOST_REGION_COLUMNS:
        heads.append("<th>Mean rCBV of regions</th>")
    else:
        heads += [_head(f"Mean rCBV, {escape(_region(name))}", number=True) for name in regions]
    return [
        *heads,
        _head("Reference, ml", number=True),
        _head("Time, s", number=True),
        _head("Memory, MB", number=True),
    ]


def _head(text: str, *, number: bool = False) -> str:
    return f'<th{" class=number" if number else ""}><button type="button">{text}</button></th>'


def _row(outcome: Outcome, place: int, regions: Sequence[str]) -> str:
    folder = f"cases/{quote(outcome.id)}"
    done = outcome.state == "done"
    name, picture = escape(outcome.id), ""
    if done:
        name = f'<a href="{folder}/report.html">{name}</a>'
        picture = (
            f'<a href="{folder}/report.html"><img src="{folder}/{THUMBNAIL}" loading="lazy" '
            f'alt="rCBV of {escape(outcome.id)}"></a>'
        )
    source = f"<small>{escape(outcome.source)}</small>" if outcome.source != outcome.id else ""
    median = outcome.measures.get("rcbv_median")
    spread = ""
    if median is not None:
        low, high = (outcome.measures.get(f"rcbv_quartile_{end}") for end in ("low", "high"))
        spread = f'<br><span class="faint">{_number(low)} to {_number(high)}</span>'
    numbers = [
        _number_cell(median, "{:.2f}", spread),
        *_region_cells(outcome, regions),
        _number_cell(outcome.measures.get("reference_ml"), "{:.1f}"),
        _number_cell(outcome.seconds, "{:.1f}"),
        _number_cell(outcome.peak_memory_mb, "{:.0f}"),
    ]
    warnings = _warnings(outcome)
    # Sorted by findings, the cases with nothing to look at come last.
    weight = f"{_STATES.index(outcome.state)}{warnings:03d}"
    state = f'<span class="state {outcome.state}">{_STATE_WORDS[outcome.state]}</span>'
    return (
        f'<tr data-state="{outcome.state}" data-warnings="{warnings if done else 0}"><td class="picture">{picture}</td>'
        f'<td class="case" data-value="{place}">{name}{source}</td><td data-value="{_STATES.index(outcome.state)}">'
        f'{state}</td><td class="findings" data-value="{weight}">{_findings(outcome)}</td>{"".join(numbers)}</tr>'
    )


def _region_cells(outcome: Outcome, regions: Sequence[str]) -> list[str]:
    """Return a cell for each region, or one that lists them where they are many."""
    if len(regions) <= MOST_REGION_COLUMNS:
        return [_number_cell(outcome.measures.get(region), "{:.2f}") for region in regions]
    there = [region for region in regions if outcome.measures.get(region) is not None]
    words = (f"{escape(_region(region))}: {outcome.measures[region]:.2f}" for region in there)
    return [f'<td class="regions">{" ".join(f"<span>{each}</span>" for each in words)}</td>']


def _findings(outcome: Outcome) -> str:
    if outcome.state != "done":
        log = f"logs/{quote(outcome.id)}.log"
        more = f' <a href="{log}">Log</a>' if outcome.has_log else ""
        earlier = (
            f'<p class="reason faint">A result of other settings or input is kept in <a href="earlier/'
            f'{quote(outcome.id)}/report.html">earlier/{escape(outcome.id)}</a>.</p>'
            if outcome.earlier
            else ""
        )
        return f'<p class="reason">{escape(outcome.reason)}{more}</p>{earlier}' if outcome.reason else earlier
    grave = [finding for finding in outcome.findings if finding["severity"] != "info"]
    notes = [finding for finding in outcome.findings if finding["severity"] == "info"]
    pills = [
        f'<span class="finding {finding["severity"]}" title="{escape(str(finding["message"]))}">'
        f"{escape(str(finding['code']))}</span>"
        for finding in grave
    ] or ['<span class="none">nothing to warn about</span>']
    if notes:
        codes = ", ".join(str(finding["code"]) for finding in notes)
        plural = "s" if len(notes) > 1 else ""
        pills.append(f'<span class="finding info" title="{escape(codes)}">{len(notes)} remark{plural}</span>')
    return " ".join(pills)


def _rest(passed_over: int, others: Sequence[str]) -> str:
    lines = []
    if passed_over:
        lines.append(
            f'{passed_over} files and folders were passed over, see <a href="{PASSED_OVER}">{PASSED_OVER}</a>.'
        )
    if others:
        named = ", ".join(escape(name) for name in others[:MOST_OTHERS]) + (
            ", ..." if len(others) > MOST_OTHERS else ""
        )
        lines.append(f"The folder cases holds results that belong to no case of this cohort: {named}.")
    return "".join(f'<p class="faint">{line}</p>' for line in lines)


def _warnings(outcome: Outcome) -> int:
    return sum(finding["severity"] != "info" for finding in outcome.findings)


def _region(name: str) -> str:
    return name.removeprefix("rcbv_mean [").removesuffix("]")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def _number_cell(value: Any, pattern: str, more: str = "") -> str:
    if value is None:
        return '<td class="number" data-value=""></td>'
    return f'<td class="number" data-value="{value}">{pattern.format(value)}{more}</td>'
