"""Our maps beside what a user would take instead: time, memory and error, in one run on one machine.

    make bench-compare
    python benchmarks/compare.py [--patients 3] [--snr 25 50 100] [--docs docs] [--tasks osvd path]

Compared are the packages osipi, osipy and dcmri (extra `bench`) and plain numpy and scipy, on simulated patients whose
truth is known. Every contender gets the same case in turn, in a process of its own, and who is first changes from case
to case. Writes comparison.csv and comparison.png into the folder of docs, and the figures of comparison.md there.
Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from comparison.cases import Case, cases
from comparison.page import figures, write_figures
from comparison.plot import plot
from comparison.summary import SCORES, summarise
from comparison.tasks import CONTENDERS, TASKS, Contender

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "scipy", "torch", "osipi", "osipy", "dcmri")


def measure(entry: Contender, case_path: Path) -> dict[str, float]:
    """Return time, memory and error of one contender on one case."""
    map_path = case_path.with_suffix(".map.npy")
    command = [sys.executable, "-m", "comparison.child", entry.key, str(case_path), str(map_path)]
    same_path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    environment = {**os.environ, "PYTHONPATH": same_path}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{entry.key} ended with {finished.returncode}:\n{finished.stderr}")
    return {**json.loads(finished.stdout), **score_of(np.load(map_path), Case.load(case_path), TASKS[entry.task].truth)}


def score_of(found: np.ndarray, case: Case, truth: str) -> dict[str, float]:
    """Return the scores of a map; a voxel without a value counts as 0, so that nobody gains by leaving it out."""
    from PerfusionCBVLib.evaluate.scores import score

    scores = score(np.nan_to_num(found), getattr(case, truth), case.tissue, case.enhancing)
    return {name: scores[name] for name in SCORES}


def run(entries: list[Contender], patients: int, snrs: list[float]) -> Iterator[list[dict]]:
    """Yield, after each case, one row for every case so far and contender."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (seed, snr, path) in enumerate(cases(patients, snrs, Path(folder))):
            first = 7 * number % len(entries)
            for entry in entries[first:] + entries[:first]:
                rows.append({"task": entry.task, "name": entry.name, "seed": seed, "snr": snr, **measure(entry, path)})
            path.unlink()
            print(f"case {number + 1} of {patients * len(snrs)}: patient {seed}, SNR {snr:g}", flush=True)
            yield rows


def about(arguments: argparse.Namespace, rows: list[dict]) -> str:
    """Return when, where and with what the figures were made."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    snrs = ", ".join(f"{snr:g}" for snr in sorted({row["snr"] for row in rows}))
    count = len({(row["seed"], row["snr"]) for row in rows})
    return "\n".join(
        [
            f"{datetime.date.today()}, `{arguments.command}`, {_processor()}, {len(os.sched_getaffinity(0))} cores, "
            f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}. Load average at the end, "
            f"1 and 15 minutes: {os.getloadavg()[0]:.1f} and {os.getloadavg()[2]:.1f}.",
            "",
            f"Medians over {count} cases: patients {seeds}, SNR {snrs}. *Over ours* is the ratio of medians, the range "
            f"that of the ratios within each case. osipi offers {_names_of('osipi')}.",
            "",
            "![Time, memory and error of each contender](comparison.png)",
        ]
    )


def _names_of(package: str) -> str:
    """Return what a package offers, so that the page says so when a new version offers more."""
    if importlib.util.find_spec(package) is None:
        return "what was not looked at (not installed)"
    found = vars(importlib.import_module(package)).values()
    return ", ".join(sorted(f"`{each.__name__}`" for each in found if inspect.isfunction(each)))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write a row a case and contender as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main() -> None:
    """Measure, and write table, rows and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--snr", type=float, nargs="+", default=[25.0, 50.0, 100.0])
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="folder with comparison.md")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="only these tasks")
    arguments = parser.parse_args()
    arguments.command = " ".join(["python", "benchmarks/compare.py", *sys.argv[1:]])
    entries = []
    for entry in CONTENDERS:
        if entry.task not in arguments.tasks:
            continue
        if entry.installed:
            entries.append(entry)
        else:
            print(f"left out, {entry.package} is not installed (extra bench): {entry.key}")
    for rows in run(entries, arguments.patients, arguments.snr):  # a run that is stopped leaves what it has
        table = summarise(rows)
        write_rows(arguments.docs / "comparison.csv", rows)
        plot(table, rows, arguments.docs / "comparison.png")
        write_figures(arguments.docs / "comparison.md", figures(table, about(arguments, rows)))


if __name__ == "__main__":
    main()
