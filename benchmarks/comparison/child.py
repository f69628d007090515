"""One contender on one case, in a process of its own: `python -m comparison.child KEY CASE.npz MAP.npy` prints JSON.

Seconds and memory count from after imports and reading of the case. Peak memory is what the process grew by (Linux with
glibc).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

from comparison.cases import Case
from comparison.tasks import contender

ENOUGH_S, MOST_RUNS = 2.0, 5
"""Short runs are repeated and their median taken."""


def main(key: str, case_path: str, map_path: str) -> None:
    """Run, write the map, print what was measured."""
    logging.disable(logging.CRITICAL)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  packages may talk
    entry = contender(key)
    module, function = entry.function.split(".")
    run = getattr(importlib.import_module(f"comparison.{module}"), function)
    case = Case.load(Path(case_path))
    if entry.task in ("leakage", "ssvd", "osvd"):
        _ = case.curves_per_s, case.leak_free_per_s
    ctypes.CDLL(None).malloc_trim(0)  # what reading left free would be used again, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = _resident_bytes("VmRSS")
    runs, peak = [], 0
    while not runs or (len(runs) < MOST_RUNS and sum(wall for wall, _ in runs) < ENOUGH_S):
        wall, processor = time.perf_counter(), time.process_time()
        found = run(case)
        runs.append((time.perf_counter() - wall, time.process_time() - processor))
        peak = peak or _resident_bytes("VmHWM") - before  # of the first run alone
    np.save(map_path, found)
    seconds, processor_seconds = np.median(runs, axis=0)
    measured = {"seconds": seconds, "processor_seconds": processor_seconds, "bytes": peak, "runs": len(runs)}
    print(json.dumps(measured), file=sys.__stdout__)


def _resident_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
