"""The table of a batch: one row a case, for spreadsheets and statistics."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from PerfusionCBVLib.batch.outcome import Outcome
from PerfusionCBVLib.csv_cells import harmless

FIRST = ("id", "source", "state", "method", "error", "warnings", "findings")
LAST = ("seconds", "peak_memory_mb", "finished")


def summary_csv(outcomes: Sequence[Outcome]) -> str:
    """Return the summary as CSV: state and reason, findings, measures, time and memory of every case.

    Parameters
    ----------
    outcomes : sequence of Outcome

    Returns
    -------
    str
        Columns `FIRST`, a column for each measure of any case, `LAST`. Times are UTC. A cell is empty where there is no
        value.
    """
    measures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.measures))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([*FIRST, *(harmless(name) for name in measures), *LAST])
    for outcome in outcomes:
        writer.writerow(
            [
                outcome.id,
                harmless(outcome.source),
                outcome.state,
                outcome.method,
                harmless(outcome.reason),
                *_findings(outcome),
                *(_cell(outcome.measures.get(name)) for name in measures),
                *(_cell(value) for value in (outcome.seconds, outcome.peak_memory_mb, outcome.finished)),
            ]
        )
    return stream.getvalue()


def _findings(outcome: Outcome) -> tuple[str, str]:
    """Return how many warnings there are, and severity and code of every finding, warnings first."""
    if outcome.state != "done":
        return "", ""
    ordered = sorted(outcome.findings, key=lambda finding: finding["severity"] == "info")
    warnings = sum(finding["severity"] != "info" for finding in ordered)
    return str(warnings), "; ".join(f"{finding['severity']}:{finding['code']}" for finding in ordered)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
