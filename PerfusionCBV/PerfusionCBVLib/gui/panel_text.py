"""What the panel says: facts of a series, findings, the method's measured error, why Apply waits, time left."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PerfusionCBVLib.errors import ModelError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.gui.words import in_the_panel
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.settings import NETWORK_METHODS

if TYPE_CHECKING:
    from PerfusionCBVLib.gui.input_nodes import NodeSeries

ICONS = Path(__file__).resolve().parents[2] / "Resources" / "Icons"
SEVERITIES = ("error", "warning", "info")
SHORTEST_ESTIMATE_S = 1.0
"""Of work done, before its rate says anything about the rest."""


def facts_text(facts: NodeSeries) -> str:
    """Return the facts of a series as rich text: size, frames, scanner."""
    x, y, z = facts.shape
    lines = [f"{x} × {y} × {z} " + _("voxels of {size} mm").format(size=_times(facts.voxel_size_mm))]
    frames = _("{frames} frames").format(frames=facts.frames)
    if facts.times_s is not None and facts.frames > 1:
        frames += ", " + _("one every {interval} s, {whole} s in all").format(
            interval=f"{(facts.times_s[-1] - facts.times_s[0]) / (facts.frames - 1):.3g}",
            whole=f"{facts.times_s[-1] - facts.times_s[0]:.0f}",
        )
    lines.append(frames)
    known = facts.acquisition
    scanner = [known.manufacturer, known.field_strength_t and f"{known.field_strength_t:g} T"]
    scanner.append(known.flip_angle_deg and _("flip angle {angle}°").format(angle=f"{known.flip_angle_deg:g}"))
    scanner.append(known.contrast_agent)
    if any(scanner):
        lines.append(", ".join(str(part) for part in scanner if part))
    return "<br>".join(escape(line) for line in lines)


def known_text(facts: NodeSeries | None, name: str) -> tuple[str, str]:
    """Return a time of the acquisition in ms, and where it comes from; two "" where the series does not say it."""
    value_s = getattr(facts.acquisition, name) if facts is not None else None
    if facts is None or value_s is None:
        return "", ""
    return f"{1000 * value_s:.4g} ms", _("Source: {source}").format(source=facts.acquisition.sources.get(name, "–"))


def findings_html(findings: Sequence[Finding] | None) -> str:
    """Return findings, the gravest first, each with its icon and what to do; None: not checked yet."""
    if findings is None:
        return "<i>" + escape(_("Not checked yet.")) + "</i>"
    rows = []
    for finding in sorted(findings, key=lambda each: SEVERITIES.index(each.severity)):
        icon = (ICONS / f"{finding.severity}.png").as_posix()
        text = escape(in_the_panel(finding.message))
        if finding.severity != "info":
            text = f"<b>{text}</b>"
        if finding.advice:
            text += "<br>" + escape(in_the_panel(finding.advice))
        image = f'<img src="{icon}" width="16" height="16" alt="{finding.severity}">'
        rows.append(f'<tr><td width="22">{image}</td><td style="padding-bottom:5px">{text}</td></tr>')
    return f'<table cellspacing="0">{"".join(rows)}</table>' if rows else escape(_("Nothing to warn about."))


def method_note(method: str) -> str:
    """Return one or two sentences about a method of the library, for a network with the measured error of its card."""
    if method not in NETWORK_METHODS:
        return {
            "bsw": _("A formula, nothing was trained. The usual choice: leakage out of the vessels is corrected."),
            "bidirectional": _("A formula, nothing was trained. Also corrects contrast agent that flows back."),
            "integral": _("A formula, nothing was trained. Too low or too high where contrast agent leaks."),
            "captk": _("The operator behind the UPENN-GBM maps: to compare with them, without leakage correction."),
        }[method]
    try:
        card = read_card(method)
    except ModelError as error:
        return escape(str(error))
    measured = card.get("measured", {})
    if not {"test", "other_simulator"} <= measured.keys():
        return _("Its card has no measured error.") + " " + escape(card.get("intended_use", ""))
    test, heads = measured["test"], measured["other_simulator"]
    note = _(
        "Measured error: {error} on {count} simulated patients that it was not trained on (classical map {classical}), "
        "{times} times the classical map's on heads of another simulator."
    ).format(
        error=f"<b>{test['nrmse']:.0%}</b>",
        count=test["patients"],
        classical=f"{test['nrmse_classical']:.0%}",
        times=f"<b>{heads['to_classical']:.1f}</b>",
    )
    return f"{note} {escape(card['intended_use'][:1].upper() + card['intended_use'][1:])}."


def error_meaning() -> str:
    """Return what the measured error is, for a tooltip."""
    return _(
        "Root of the mean squared difference from the true rCBV, over the root of the mean squared truth, in the brain "
        "without large vessels (NRMSE)."
    )


def why_not(
    facts: NodeSeries | None,
    *,
    dynamic: bool,
    findings: Sequence[Finding] | None = None,
    segment_missing: bool = False,
    busy: bool = False,
) -> str:
    """Return why no map can be made now, or "" when it can.

    Parameters
    ----------
    facts : NodeSeries or None
        With the times that the user entered; None when no series is chosen.
    dynamic : bool
        Whether the chosen node can be a series at all.
    findings : of the last check, or None
    segment_missing : bool
        The reference region shall be a segment, and none is chosen.
    busy : bool
        Work is running.
    """
    if busy:
        return _("Wait for the running work to end, or cancel it.")
    if not dynamic:
        return _("The chosen node is no dynamic series: select a sequence of volumes.")
    if facts is None:
        return _("Select or load a series first.")
    if facts.problem:
        return in_the_panel(facts.problem)
    if facts.acquisition.echo_time_s is None:
        return _("The echo time is unknown: enter it above. The scan protocol states it.")
    refused = next((finding for finding in findings or () if finding.severity == "error"), None)
    if refused is not None:
        return in_the_panel(f"{refused.message} {refused.advice}".strip())
    if segment_missing:
        return _("Choose the segment that is the reference region.")
    return ""


def checked_text(findings: Sequence[Finding]) -> str:
    """Return one line about a check of a series."""
    if any(finding.severity == "error" for finding in findings):
        return _("Checked: no map can be made of this series.")
    warnings = sum(finding.severity == "warning" for finding in findings)
    return (
        _("Checked: {warnings} warnings.").format(warnings=warnings)
        if warnings
        else _("Checked: nothing to warn about.")
    )


def time_left_text(fraction: float, elapsed_s: float) -> str:
    """Return how long the rest of the work takes if it goes on at the same rate; "" while that can't be said."""
    if elapsed_s < SHORTEST_ESTIMATE_S or not 0.05 < fraction < 1:
        return ""
    left_s = elapsed_s * (1 - fraction) / fraction
    if left_s < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(left_s)))
    return _("about {minutes} min left").format(minutes=round(left_s / 60))


def done_text(provenance: dict[str, Any]) -> str:
    """Return one line about a finished run."""
    seconds = sum(provenance.get("timings_s", {}).values())
    summary = provenance.get("summary", {})
    return _("Done in {seconds} s. rCBV of the brain: median {median}.").format(
        seconds=f"{seconds:.1f}", median=f"{summary.get('rcbv_median', float('nan')):.2f}"
    )


def _times(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:.3g}" for number in numbers)
