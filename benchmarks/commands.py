"""Time and memory of whole commands on a 128 × 128 × 24 × 60 series; run with `make benchmark`.

Each command runs in a fresh process. Seconds count from after the imports to the last written file; memory is what the
process grew by at its peak since the imports, over the size of the series as float32 (read from /proc: Linux only).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.settings import CLASSICAL_METHODS
from PerfusionCBVLib.simulate import draw_subject, simulate

SCAN = {"matrix": (128, 128, 24), "voxel_size_mm": (1.8, 1.8, 5.0), "frames": 60, "repetition_time_s": 1.5}
REPEATS = 3

# Runs in the fresh process: sys.argv[1] is the networks' need for torch, the rest a command line.
MEASURED = """
import json, os, sys, time
from PerfusionCBVLib.cli import main
import PerfusionCBVLib.dicom_convert
if sys.argv[1] == "torch":
    import torch, safetensors.torch
    import PerfusionCBVLib.networks.inference
def kib(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before = kib("VmRSS")
start = time.perf_counter()
sys.stdout = open(os.devnull, "w")
code = main(sys.argv[2:])
seconds = time.perf_counter() - start
print(json.dumps({"code": code, "seconds": seconds, "bytes": 1024 * (kib("VmHWM") - before)}), file=sys.__stdout__)
"""


def measure(*command: str, torch: bool) -> dict[str, float]:
    """Return code, seconds and bytes of one command in a fresh process."""
    arguments = [sys.executable, "-c", MEASURED, "torch" if torch else "no", *command]
    found: dict[str, float] = json.loads(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout)
    if found["code"] != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {found['code']:g}")
    return found


def main() -> None:
    """Print one line a command."""
    from PerfusionCBVLib.networks.cards import known_networks

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subject = simulate(draw_subject(np.random.default_rng(3), scan=SCAN))
        shape = subject.series.signal.shape
        print(f"simulate {' × '.join(map(str, shape))}: {time.perf_counter() - start:.1f} s")
        series = Path(folder) / "dsc.nii"
        image = nib.Nifti1Image(np.rint(subject.series.signal).astype(np.int16), subject.series.affine)
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = 1.5
        nib.save(image, series)
        series.with_suffix(".json").write_text(
            json.dumps({"EchoTime": subject.series.acquisition.echo_time_s, "RepetitionTime": 1.5}), encoding="utf-8"
        )
        size = 4 * np.prod(shape)
        for method in (*CLASSICAL_METHODS, *known_networks()):
            command = ("map", str(series), "--method", method, "--output", f"{folder}/{method}")
            runs = [measure(*command, torch=method in known_networks()) for _ in range(REPEATS)]
            best = min(run["seconds"] for run in runs)
            memory = max(run["bytes"] for run in runs) / size
            print(f"map --method {method}: {best:.2f} s, peak memory {memory:.1f} × the float32 series")
        demo = measure("demo", "--output", f"{folder}/demo", torch=True)
        print(f"demo: {demo['seconds']:.1f} s")


if __name__ == "__main__":
    main()
