"""Throughput of a batch with one worker and with two; run with `python benchmarks/batch.py` on an idle machine.

The same simulated patient under many names, mapped by each number of workers in turn, several times. Counted is the
time from when the workers stand to the last result on the disk. The ratio is of the best of each; other work on the
machine makes it meaningless, so the load is printed with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.settings import METHODS
from PerfusionCBVLib.simulate import draw_subject, simulate

SCAN = {"matrix": (96, 96, 16), "voxel_size_mm": (2.4, 2.4, 7.0), "frames": 60, "repetition_time_s": 1.5}


def write_cohort(folder: Path, cases: int) -> None:
    """Write one simulated patient, and the others as links to its files."""
    subject = simulate(draw_subject(np.random.default_rng(3), scan=SCAN))
    image = nib.Nifti1Image(np.rint(subject.series.signal).astype(np.int16), subject.series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nib.save(image, folder / "p00.nii")
    sidecar = {"EchoTime": subject.series.acquisition.echo_time_s, "RepetitionTime": 1.5}
    (folder / "p00.json").write_text(json.dumps(sidecar), encoding="utf-8")
    for k in range(1, cases):
        for ending in (".nii", ".json"):
            os.link(folder / f"p00{ending}", folder / f"p{k:02d}{ending}")


def seconds(cohort: Path, output: Path, workers: int, method: str) -> float:
    """Return how long a batch took once its workers stood."""
    command = [sys.executable, "-m", "PerfusionCBVLib", "batch", str(cohort), "--output", str(output)]
    command += ["--workers", str(workers), "--method", method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        start = last = time.perf_counter()
        for line in process.stdout:
            if line.startswith("On "):
                start = time.perf_counter()
            if line.startswith("["):
                last = time.perf_counter()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return last - start


def main() -> None:
    """Print a line for each number of workers, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", choices=METHODS, default="bsw")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        cohort = Path(place) / "cohort"
        cohort.mkdir()
        write_cohort(cohort, options.cases)
        best = {1: np.inf, 2: np.inf}
        for repeat in range(options.repeats):
            for workers in best:
                took = seconds(cohort, Path(place) / f"out-{workers}-{repeat}", workers, options.method)
                best[workers] = min(best[workers], took)
                print(f"{workers} workers: {took:.1f} s, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    cores = os.cpu_count()
    print(f"two workers give {best[1] / best[2]:.2f} x the throughput of one ({options.cases} cases, {cores} cores)")


if __name__ == "__main__":
    main()
