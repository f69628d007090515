"""Time and memory of `perfusion-cbv map` against the size of the series, up to 240 × 240 × 155 × 45 (UPENN-GBM).

    OMP_NUM_THREADS=1 python benchmarks/scale.py --output DIR

One simulated head is stored on finer and finer grids, as int16 in .nii.gz. Each command runs in a process of its own,
which says at its end what it used: processor time (user and system; other work on the machine disturbs it less than
time on the clock) and the peak of the resident memory, imports and all (from /proc: Linux only). A line is fitted over
the sizes. Writes scale.csv, scale.md and scale.png (needs matplotlib); takes 1 GB of disk. What stands in scale.csv is
not measured again, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.simulate import draw_subject, simulate

LARGEST, FRAMES, INTERVAL_S = (240, 240, 155), 45, 1.6
SHARES = (0.4, 0.6, 0.8, 1.0)
"""Of the largest grid's edge; there all commands are measured."""
AT_ALL_SIZES = {"bsw": ("--method", "bsw"), "anchored-unet": ("--method", "anchored-unet")}
AT_THE_LARGEST = {"unet-gru, --aif auto": ("--method", "unet-gru", "--aif", "auto")}
LIMIT_GB = 6.0
SCAN = {"matrix": (120, 120, 78), "voxel_size_mm": (2.0, 2.0, 2.0), "frames": FRAMES, "repetition_time_s": INTERVAL_S}


# Not the parent's wait4: the peak that it reports begins with the parent's own memory.
MEASURED = """
import contextlib, io, json, resource, sys, time
start = time.perf_counter()
from PerfusionCBVLib.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = main(sys.argv[1:])
peak_kib = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = {"cpu_s": used.ru_utime + used.ru_stime, "clock_s": time.perf_counter() - start}
print(json.dumps({**seconds, "peak_gb": 1024e-9 * peak_kib}))
sys.exit(code)
"""


def write_series(head: np.ndarray, affine: np.ndarray, echo_time_s: float, shape: tuple[int, ...], path: Path) -> None:
    """Write the head on a grid of that shape, frame by frame, each voxel the nearest one's signal with some noise."""
    index = np.ix_(*(np.arange(n) * m // n for n, m in zip(shape, head.shape, strict=False)))
    finer = affine.copy()
    finer[:3, :3] *= np.array(head.shape[:3]) / shape
    header = nib.Nifti1Header()
    header.set_data_shape((*shape, FRAMES))
    header.set_data_dtype(np.int16)
    header.set_sform(finer, 1)
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][1:5] = [*np.linalg.norm(finer[:3, :3], axis=0), INTERVAL_S]
    header["vox_offset"], header["magic"] = 352, b"n+1"
    g = np.random.default_rng(0)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for t in range(FRAMES):
            frame = head[..., t][index] + 3 * g.standard_normal(shape, dtype=np.float32)
            file.write(np.rint(np.abs(frame)).astype("<i2").tobytes(order="F"))
    path.with_name("dsc.json").write_text(json.dumps({"EchoTime": echo_time_s, "RepetitionTime": INTERVAL_S}))


def measure(arguments: list[str]) -> dict[str, float]:
    """Return processor time and time on the clock, s, and peak memory, GB, of a command that must succeed."""
    child = subprocess.run([sys.executable, "-c", MEASURED, *arguments], stdout=subprocess.PIPE, text=True)
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {child.returncode}")
    return json.loads(child.stdout)


def fitted(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Return intercept, slope and the largest deviation from the line, as a share of the largest value."""
    slope, intercept = np.polyfit(x, y, 1)
    deviation = np.abs(intercept + slope * np.array(x) - y).max() / max(y)
    return float(intercept), float(slope), float(deviation)


def read_rows(path: Path) -> list[dict]:
    """Return the rows of an earlier run, if there was one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {k: v if k in ("command", "shape") else float(v) for k, v in row.items()} for row in csv.DictReader(file)
        ]


def write_rows(rows: list[dict], path: Path) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict]) -> str:
    """Return the rows and the lines through them as Markdown."""
    lines = [
        "| command | series | float32, GB | processor, s | clock, s | peak memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['command']} | {r['shape']} | {r['gb']:.2f} | {r['cpu_s']:.0f} | {r['clock_s']:.0f} | "
            f"{r['peak_gb']:.2f} |"
        )
    lines += ["", "| command | quantity | line | largest deviation |", "|---|---|---|---|"]
    for name in AT_ALL_SIZES:
        of = [r for r in rows if r["command"] == name]
        for key, what, unit in (("cpu_s", "processor time", "s"), ("peak_gb", "peak memory", "GB")):
            intercept, slope, deviation = fitted([r["gb"] for r in of], [r[key] for r in of])
            line = f"{intercept:.2f} {unit} + {slope:.2f} {unit} per GB"
            lines.append(f"| {name} | {what} | {line} | {deviation:.1%} of the largest |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """Draw time and memory against the series' size, with the lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels_of = zip(panels, (("cpu_s", "processor time, s"), ("peak_gb", "peak resident memory, GB")), strict=True)
    for panel, (key, label) in panels_of:
        for colour, name in zip(("#1b5e9b", "#c77700"), AT_ALL_SIZES, strict=True):
            of = [r for r in rows if r["command"] == name]
            x, y = [r["gb"] for r in of], [r[key] for r in of]
            intercept, slope, _ = fitted(x, y)
            panel.plot(x, y, "o", color=colour, label=name)
            panel.plot([0, max(x)], [intercept, intercept + slope * max(x)], "-", color=colour, lw=1)
        for marker, name in zip("s", AT_THE_LARGEST, strict=True):
            of = [r for r in rows if r["command"] == name]
            panel.plot([r["gb"] for r in of], [r[key] for r in of], marker, color="#666666", label=name)
        if key == "peak_gb":
            panel.axhline(LIMIT_GB, color="#b3261e", lw=1, ls="--")
            panel.text(0.02, LIMIT_GB - 0.05, "limit: 6 GB", color="#b3261e", va="top")
        panel.set(xlabel="series as float32, GB", ylabel=label, xlim=(0, None), ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Make the series, measure, write."""
    parser = argparse.ArgumentParser(description="time and memory against the size of the series")
    parser.add_argument("--output", type=Path, required=True)
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    subject = simulate(draw_subject(np.random.default_rng(3), scan=SCAN)).series
    head, affine, echo_time_s = np.asarray(subject.signal), subject.affine, subject.acquisition.echo_time_s
    assert echo_time_s is not None
    rows = read_rows(folder / "scale.csv")
    for share in SHARES:
        shape = tuple(round(share * n) for n in LARGEST)
        named = " × ".join(map(str, (*shape, FRAMES)))
        path = folder / "dsc.nii.gz"
        commands = AT_ALL_SIZES | (AT_THE_LARGEST if share == 1 else {})
        missing = [name for name in commands if not any((r["command"], r["shape"]) == (name, named) for r in rows)]
        if missing:
            write_series(head, affine, echo_time_s, shape, path)
        for name in missing:
            used = measure(["map", str(path), *commands[name], "--output", f"{folder}/maps"])
            rows.append({"command": name, "shape": named, "gb": 4e-9 * float(np.prod(shape)) * FRAMES, **used})
            print(rows[-1], flush=True)
            write_rows(rows, folder / "scale.csv")
        path.unlink(missing_ok=True)
    (folder / "scale.md").write_text(table(rows))
    plot(rows, folder / "scale.png")
    print(table(rows))


if __name__ == "__main__":
    main()
