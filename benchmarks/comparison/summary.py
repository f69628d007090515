"""From one row a case and contender to one row a contender."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from comparison.tasks import CONTENDERS, measured_against

Row = dict[str, Any]
SCORES = ("nrmse", "ccc", "bias", "enhancing_bias_percent")


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each contender that ran, in the order of `CONTENDERS`.

    Parameters
    ----------
    rows : sequence of dict
        ``task``, ``name``, ``seed``, ``snr``, ``seconds``, ``processor_seconds``, ``bytes`` and `SCORES`.

    Returns
    -------
    list of dict
        Medians over cases of ``seconds``, ``processor_seconds``, ``megabytes``, ``nrmse``, ``ccc``, ``bias`` and of
        the magnitude of the enhancing tumour's bias, ``enhancing_error_percent``; ``ratio`` and ``processor_ratio``,
        medians over that of our contender; ``ratio_low`` and ``ratio_high``, the smallest and largest ratio of
        processor seconds within a case; ``nrmse_snr``, the median NRMSE at each SNR.
    """
    out = []
    for entry in CONTENDERS:
        own = _of(rows, entry.task, entry.name)
        if not own:
            continue
        ours = _of(rows, entry.task, measured_against(entry.task))
        cases = [case for case in own if case in ours]
        if not cases:
            raise ValueError(f"{entry.key} shares no case with {measured_against(entry.task)}")
        median = {
            name: _median(own, cases, name)
            for name in ("seconds", "processor_seconds", "bytes", "nrmse", "ccc", "bias")
        }
        theirs = {name: _median(ours, cases, name) for name in ("seconds", "processor_seconds")}
        within = [own[case]["processor_seconds"] / ours[case]["processor_seconds"] for case in cases]
        snrs = sorted({snr for _, snr in cases})
        out.append(
            {
                "task": entry.task,
                "name": entry.name,
                "cases": len(cases),
                "seconds": median["seconds"],
                "processor_seconds": median["processor_seconds"],
                "megabytes": median["bytes"] / 1e6,
                "ratio": median["seconds"] / theirs["seconds"],
                "processor_ratio": median["processor_seconds"] / theirs["processor_seconds"],
                "ratio_low": min(within),
                "ratio_high": max(within),
                **{name: median[name] for name in ("nrmse", "ccc", "bias")},
                "enhancing_error_percent": float(np.nanmedian([abs(own[c]["enhancing_bias_percent"]) for c in cases])),
                "nrmse_snr": {snr: _median(own, [case for case in cases if case[1] == snr], "nrmse") for snr in snrs},
            }
        )
    return out


def _of(rows: Sequence[Row], task: str, name: str) -> dict[tuple[int, float], Row]:
    return {(row["seed"], row["snr"]): row for row in rows if row["task"] == task and row["name"] == name}


def _median(rows: dict[tuple[int, float], Row], cases: Sequence[tuple[int, float]], name: str) -> float:
    return float(np.nanmedian([rows[case][name] for case in cases]))
