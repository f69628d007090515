"""Means per tissue of every method on one simulated patient: what a release must not change unnoticed.

    python Testing/golden_summary.py --renew

writes golden_summary.json anew, after a change that is meant to move the maps; test_golden_summary.py compares with it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib import Settings, __version__, compute_maps
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.settings import METHODS, NETWORK_METHODS
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.anatomy import TISSUES

GOLDEN = Path(__file__).with_name("golden_summary.json")
SEED = 11
SCAN = {"matrix": (72, 72, 10), "voxel_size_mm": (3.0, 3.0, 6.0), "frames": 45, "repetition_time_s": 1.5}
TOLERANCE = 0.002
"""Largest change of a tissue's mean rCBV. Another processor rounds differently, which moves means by some 1e-5."""

MINIMUM_VOXELS = 20


def summary() -> dict[str, Any]:
    """Return the means now, with hashes of everything that they follow from but the code."""
    subject = simulate(draw_subject(np.random.default_rng(SEED), scan=SCAN))
    maps = {"truth": subject.truth["rcbv"]}
    for method in METHODS:
        maps[method] = compute_maps(subject.series, Settings(method=method)).maps["rcbv"].values
    tissues = {name: (subject.tissue == k) & subject.brain for k, name in enumerate(TISSUES) if name != "background"}
    means = {
        method: {
            tissue: round(float(np.nanmean(values[where])), 5)
            for tissue, where in tissues.items()
            if where.sum() >= MINIMUM_VOXELS and np.isfinite(values[where]).any()
        }
        for method, values in maps.items()
    }
    return {
        "version": __version__,
        "patient_sha256": _sha256(subject.parameters.to_json()),
        "settings_sha256": _sha256(json.dumps([asdict(Settings(method=m)) for m in METHODS], sort_keys=True)),
        "weights_sha256": {name: read_card(name)["sha256"] for name in NETWORK_METHODS},
        "mean_rcbv": means,
    }


def changes(golden: dict[str, Any], now: dict[str, Any], tolerance: float = TOLERANCE) -> str:
    """Return a table of all that differs by more than the tolerance; empty where nothing does."""
    lines = []
    for key in ("patient_sha256", "settings_sha256", "weights_sha256"):
        if golden[key] != now[key]:
            lines.append(f"{key} is not the golden one: patient, settings or weights were changed.")
    rows = []
    before, after = golden["mean_rcbv"], now["mean_rcbv"]
    for method, tissue in dict.fromkeys((m, t) for means in (before, after) for m in means for t in means[m]):
        a, b = (means.get(method, {}).get(tissue) for means in (before, after))
        if a is None or b is None or not abs(a - b) <= tolerance:
            change = "" if a is None or b is None else f"{b - a:+.5f}"
            rows.append(f"{method:15} {tissue:13} {_number(a):>9} {_number(b):>9} {change:>9}")
    if rows:
        lines += [f"{'method':15} {'tissue':13} {'golden':>9} {'now':>9} {'change':>9}", *rows]
    if lines:
        lines.append(
            f"Means of rCBV may change by {tolerance:g} unnoticed. If this is meant, say so in CHANGELOG.md and run "
            "python Testing/golden_summary.py --renew"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.5f}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    """Compare, or renew."""
    now = summary()
    if sys.argv[1:] == ["--renew"]:
        GOLDEN.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        print(f"Written to {GOLDEN}")
        return 0
    found = changes(json.loads(GOLDEN.read_text(encoding="utf-8")), now, tolerance=0.0)
    print(found or "Nothing changed.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
