"""Flow against known truth: the OSIPI curves, delays, simulated patients, the automatic arterial input, and time.

    python Testing/measure_flow.py [osipi] [delay] [patients] [aif] [time]

Without a word, all of it. `osipi` needs PERFUSIONCBV_SHARED. Prints Markdown.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from PerfusionCBVLib.arterial import ArterialCurve, arterial_input
from PerfusionCBVLib.deconvolution import Deconvolver
from PerfusionCBVLib.flow import flow_maps, residue_times
from PerfusionCBVLib.integral import area
from PerfusionCBVLib.preparation import find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.settings import DECONVOLUTIONS

SEED = 91_000_000
PATIENTS = 6
SCAN = {
    "matrix": (96, 96, 14),
    "voxel_size_mm": (2.2, 2.2, 5.0),
    "frames": 60,
    "repetition_time_s": 1.5,
    "echo_time_s": 0.03,
    "flip_angle_deg": 60.0,
    "field_strength_t": 3.0,
}


def table(head, rows):
    """Print Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def osipi_rows():
    """Return label, tissue, artery, interval, nominal CBV and CBF of each OSIPI curve."""
    path = Path(os.environ["PERFUSIONCBV_SHARED"]) / "osipi_dsc" / "dsc_data.csv"
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            tissue, artery = (np.array(row[name].split(), dtype=float) for name in ("C_tis", "C_aif"))
            yield tissue, artery, float(row["tr"]), float(row["cbv"]), float(row["cbf"])


def cbf_of(tissue, artery, interval_s, method):
    """Return CBF, ml/100 ml/min, without the constants k_H and ρ, as OSIPI defines it."""
    residue = Deconvolver(artery, interval_s, method).residues(tissue[np.newaxis])
    return 6000 * float(residue_times(residue, interval_s, causal=method == "ssvd")[0][0])


def measure_osipi():
    """OSIPI's tolerance: 10 % and 1 for CBV, 10 % and 15 for CBF."""
    rows = []
    for tissue, artery, interval_s, cbv, cbf in osipi_rows():
        times_s = interval_s * np.arange(tissue.size)
        found = 100 * float(area(tissue, times_s, slice(None)) / area(artery, times_s, slice(None)))
        cells = [f"{cbv:g}", f"{found:.2f}{'' if abs(found - cbv) <= 1 + 0.1 * cbv else ' OUT'}", f"{cbf:g}"]
        for method in DECONVOLUTIONS:
            value = cbf_of(tissue, artery, interval_s, method)
            cells.append(f"{value:.1f}{'' if abs(value - cbf) <= 15 + 0.1 * cbf else ' OUT'}")
        rows.append(cells)
    table(["CBV nominal", "CBV", "CBF nominal", *DECONVOLUTIONS], rows)


def measure_delay():
    """CBF over that without delay, OSIPI's tissue curves moved in time by a phase; mean and range over the 14."""
    rows = []
    for delay_s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        cells = [f"{delay_s:g}"]
        for method in DECONVOLUTIONS:
            ratios = []
            for tissue, artery, interval_s, _, _ in osipi_rows():
                samples = np.arange(tissue.size)
                spectrum = np.fft.rfft(tissue, 2 * tissue.size)
                turn = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * tissue.size, interval_s) * delay_s)
                moved = np.fft.irfft(spectrum * turn, 2 * tissue.size)[samples]
                ratios.append(cbf_of(moved, artery, interval_s, method) / cbf_of(tissue, artery, interval_s, method))
            cells.append(f"{np.mean(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        rows.append(cells)
    table(["delay, s", *DECONVOLUTIONS], rows)


def patients(*, dispersion):
    """Yield patients at SNR 100: number, subject, prepared series, leakage fit, true arterial curve in 1/s."""
    import torch

    from PerfusionCBVLib.simulate import draw_subject, simulate
    from PerfusionCBVLib.simulate.kinetics import arterial_concentration

    for number in range(PATIENTS):
        drawn = draw_subject(np.random.default_rng(SEED + number), scan=SCAN)
        quiet = replace(drawn.disturbance, snr=100.0, glitches=(), motion=(), drift_per_min=0.0, fluctuation=0.0)
        kinetics = drawn.kinetics if dispersion else replace(drawn.kinetics, dispersion_s=0.0)
        head = replace(drawn.head, sharpness=max(drawn.head.sharpness, 10.0), invented=False)
        subject = simulate(replace(drawn, disturbance=quiet, kinetics=kinetics, head=head))
        inside, timing = find_mask_and_bolus(subject.series)
        prepared = prepare(subject.series, inside, timing)
        blood_mm = arterial_concentration(drawn.bolus, torch.tensor(subject.series.times_s)).numpy()
        true_per_s = blood_mm * drawn.kinetics.r2s_tissue_per_s_per_mm
        yield number, subject, prepared, fit_leakage(prepared), true_per_s


def measure_patients():
    """Mean over each tissue, without vessels, over its truth; the arterial input is the true one."""
    from PerfusionCBVLib.simulate.anatomy import TISSUES

    for dispersion in (False, True):
        print(f"Vascular dispersion {'as drawn' if dispersion else 'off'}\n")
        rows = []
        for number, subject, prepared, leakage, true_per_s in patients(dispersion=dispersion):
            arterial = arterial_input(prepared, ArterialCurve(subject.series.times_s, true_per_s, "truth"))
            for tissue in ("grey", "white"):
                region = (subject.tissue == TISSUES.index(tissue)) & ~subject.vessel & prepared.usable
                truth = {name: float(subject.truth[name][region].mean()) for name in ("cbv", "cbf", "mtt", "delay")}
                kinetics = subject.parameters.kinetics
                cells = [number, tissue, f"{truth['mtt']:.1f}", f"{kinetics.transit_shape:.1f}"]
                cells.append(f"{kinetics.dispersion_s:.1f}")
                for method in DECONVOLUTIONS:
                    maps, _ = flow_maps(prepared, leakage, arterial, method)
                    found = {name: float(np.nanmean(getattr(maps, name)[region[prepared.usable]])) for name in truth}
                    if method == "osvd":
                        cells[5:5] = [f"{found['cbv'] / truth['cbv']:.2f}", f"{found['delay'] - truth['delay']:+.1f}"]
                    cells.append(f"{found['cbf'] / truth['cbf']:.2f}")
                rows.append(cells)
        table(
            ["patient", "tissue", "MTT, s", "shape", "dispersion, s", "CBV/truth", "delay error, s"]
            + [f"CBF/truth {method}" for method in DECONVOLUTIONS],
            rows,
        )


def measure_aif():
    """RMS difference of area-normalised curves over the truth's RMS and over its peak, aligned in time or not."""
    from PerfusionCBVLib.simulate.anatomy import TISSUES

    rows = []
    for number, subject, prepared, _, true_per_s in patients(dispersion=True):
        times_s = subject.series.times_s
        steady = slice(prepared.timing.first_steady, None)
        pure = (subject.tissue == TISSUES.index("artery")) & (subject.vessel_share > 0.7) & prepared.usable
        found = arterial_input(prepared, "auto")
        curves = {"automatic": found.curve_per_s}
        if pure.any():
            curves["arteries"] = prepared.delta_r2s_per_s[pure[prepared.usable]].mean(axis=0)
        wanted = true_per_s[steady] / area(true_per_s, times_s, steady)
        for name, curve in curves.items():
            cells = [number, name, int(found.mask.sum() if name == "automatic" else pure.sum())]
            errors = []
            for shift_s in np.append(0.0, np.arange(-8, 8.01, 0.1)):
                moved = np.interp(times_s[steady] - shift_s, times_s[steady], curve[steady])
                errors.append(np.sqrt(np.mean((moved / area(moved, times_s[steady], slice(None)) - wanted) ** 2)))
            rms, peak = np.sqrt(np.mean(wanted**2)), wanted.max()
            cells += [f"{100 * e / by:.0f} %" for by in (rms, peak) for e in (errors[0], min(errors))]
            height = curve.max() / prepared.delta_r2s_per_s.mean(axis=0).max()
            rows.append([*cells, f"{height:.1f}"])
    table(
        [
            "patient",
            "curve",
            "voxels",
            "over RMS",
            "over RMS, aligned",
            "over peak",
            "over peak, aligned",
            "height/brain",
        ],
        rows,
    )


def measure_time():
    """Deconvolution of every voxel of 128 × 128 × 24 × 60, best of three, wall and processor seconds."""
    g = np.random.default_rng(1)
    times_s = 1.5 * np.arange(60)
    since = np.clip(times_s - 20, 0, None)
    artery = 30 * (since / 4.5) ** 3 * np.exp(3 - since / 1.5) + 2 * (since > 6)
    mtt_s = g.uniform(2, 8, 500)
    shared = np.stack([1.5 * np.convolve(artery, 0.03 / m * np.exp(-times_s / m))[:60] for m in mtt_s])
    curves = (shared[g.integers(0, 500, 128 * 128 * 24)] + 0.4 * g.standard_normal((128 * 128 * 24, 60))).astype("f4")
    rows = []
    for method in DECONVOLUTIONS:
        runs = []
        for _ in range(3):
            wall, processor = time.perf_counter(), time.process_time()
            deconvolver = Deconvolver(artery, 1.5, method)
            for start in range(0, curves.shape[0], 16384):
                residue_times(deconvolver.residues(curves[start : start + 16384]), 1.5, causal=method == "ssvd")
            runs.append((time.perf_counter() - wall, time.process_time() - processor))
        rows.append([method, *(f"{min(values):.2f}" for values in zip(*runs, strict=True))])
    table(["method", "s", "processor s"], rows)


if __name__ == "__main__":
    parts = {
        "osipi": measure_osipi,
        "delay": measure_delay,
        "patients": measure_patients,
        "aif": measure_aif,
        "time": measure_time,
    }
    for part in sys.argv[1:] or parts:
        print(f"## {part}: {parts[part].__doc__}\n")
        parts[part]()
