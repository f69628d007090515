"""How much a map depends on frame interval and frame count: the same simulated patients, scanned differently."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from PerfusionCBVLib.errors import InputRefusedError, QualityError
from PerfusionCBVLib.evaluate.runs import Row, collect, identity_of, write_csv
from PerfusionCBVLib.evaluate.scores import MINIMUM_VOXELS
from PerfusionCBVLib.evaluate.simulated import TEST_SEED, check_counts, fingerprint
from PerfusionCBVLib.evaluate.summary import bootstrap_interval, name_refusals
from PerfusionCBVLib.evaluate.tables import markdown_table
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.settings import Settings

if TYPE_CHECKING:
    from PerfusionCBVLib.simulate import SubjectParameters

INTERVALS_S = (1.0, 1.5, 2.0, 2.5)
FRAME_COUNTS = (40, 60, 80, 100, 120)
DURATION_S = 100.0
"""Length of the series whose frame interval varies; longer where the bolus comes late."""
TAIL_S = 45.0
"""Every series lasts this long after the bolus arrives."""
TISSUES_FOLLOWED = ("grey", "white", "enhancing")
RATIO = "grey / white"
"""Followed too: what remains when the reference region moves all tissues alike."""
RANGE = "largest minus smallest"


def evaluate_sampling(
    subjects: int,
    methods: Sequence[str],
    progress: Progress = silent,
    *,
    folder: Path | None = None,
    workers: int = 1,
    scan: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Return how mean rCBV moves with sampling, in per cent of its mean over all samplings of the same patient.

    Each test patient is simulated again with the same parameters and seed, once at each of `INTERVALS_S` with equal
    duration and once with each of `FRAME_COUNTS` at one interval (so that the tail's length differs). The truth stays.

    Parameters
    ----------
    subjects, methods, workers, scan
        See `simulated.evaluate_simulated`.
    folder : Path, optional
        Where ``sampling_subjects.csv`` grows, and ``sampling.csv`` and ``sampling.md`` are written.

    Returns
    -------
    list of dict
        One row a method, sweep (``interval`` or ``frames``), tissue and setting: ``deviation_percent``, its mean over
        patients with the 95 % bootstrap interval. The setting `RANGE` has the mean of each patient's largest minus
        smallest instead. Patients refused at one setting are left out of that sweep.
    """
    check_counts(subjects, workers)
    rows = collect(
        partial(sample_patient, methods=tuple(methods), scan=scan),
        range(TEST_SEED, TEST_SEED + subjects),
        rows_each=(len(INTERVALS_S) + len(FRAME_COUNTS)) * len(methods),
        table=None if folder is None else folder / "sampling_subjects.csv",
        identity=identity_of(methods, fingerprint(scan), scan=dict(scan or {})),
        workers=workers,
        progress=progress,
    )
    table = summarise_sampling(rows, methods)
    if folder is not None:
        write_csv(folder / "sampling.csv", table)
        (folder / "sampling.md").write_text(sampling_markdown(table) + "\n", encoding="utf-8")
    return table


def sample_patient(
    seed: int, *, methods: Sequence[str], scan: Mapping[str, Any] | None
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Return mean rCBV of each tissue, a row a setting and method, of the patient with this seed."""
    from PerfusionCBVLib.simulate import draw_subject, simulate
    from PerfusionCBVLib.simulate.anatomy import TISSUES

    drawn = draw_subject(np.random.default_rng(seed), scan=scan)
    rows = []
    for sweep, setting, interval_s, frames in settings_of(drawn.bolus.arrival_s):
        subject = simulate(with_sampling(drawn, interval_s, frames))
        tissue = subject.brain & ~subject.vessel
        regions = {name: tissue & (subject.tissue == TISSUES.index(name)) for name in TISSUES_FOLLOWED}
        for method in methods:
            facts = {"seed": seed, "sweep": sweep, "setting": setting, "method": method}
            facts |= {"repetition_time_s": interval_s, "frames": frames, "refused": ""}
            means = dict.fromkeys(TISSUES_FOLLOWED, float("nan"))
            try:
                rcbv = compute_maps(subject.series, Settings(method=method)).maps["rcbv"].values
                means = {name: _mean(rcbv[region]) for name, region in regions.items()}
            except InputRefusedError as error:
                facts["refused"] = " ".join(f"at {setting}: {error}".split())
            rows.append({**facts, **means})
    return rows, {}


def settings_of(arrival_s: float) -> list[tuple[str, str, float, int]]:
    """Return (sweep, setting, frame interval in s, frames) of every scan of a patient whose bolus arrives then."""
    end_s = arrival_s + TAIL_S
    intervals = [("interval", f"{t:.1f} s", t, math.ceil(max(end_s, DURATION_S) / t)) for t in INTERVALS_S]
    return intervals + [("frames", f"{n} frames", end_s / FRAME_COUNTS[0], n) for n in FRAME_COUNTS]


def with_sampling(parameters: SubjectParameters, repetition_time_s: float, frames: int) -> SubjectParameters:
    """Return the same patient scanned at another frame interval and count.

    Glitches and movements stay at their second; those after the last frame never happen.
    """
    factor = parameters.scan.repetition_time_s / repetition_time_s
    old = parameters.disturbance
    glitches = {max(1, round(frame * factor)): gain for frame, gain in old.glitches}
    motion = {max(1, round(frame * factor)): (shift, turn) for frame, shift, turn in old.motion}
    return replace(
        parameters,
        scan=replace(parameters.scan, repetition_time_s=repetition_time_s, frames=frames),
        disturbance=replace(
            old,
            glitches=tuple((frame, gain) for frame, gain in glitches.items() if frame < frames),
            motion=tuple((frame, *pose) for frame, pose in motion.items() if frame < frames),
        ),
    )


def summarise_sampling(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """Return the rows that `evaluate_sampling` returns, from one row a patient, setting and method.

    Raises
    ------
    QualityError
        Every patient was refused at some setting.
    """
    table: list[Row] = []
    for sweep in ("interval", "frames"):
        here = [row for row in rows if row["sweep"] == sweep]
        out = {row["seed"] for row in here if row["refused"]}
        settings = list(dict.fromkeys(row["setting"] for row in here))
        if out == {row["seed"] for row in here}:
            reason = next(row["refused"] for row in here if row["refused"])
            raise QualityError(f"All {len(out)} simulated patients were refused at some sampling ({reason}).")
        for method in methods:
            own = [row for row in here if row["method"] == method and row["seed"] not in out]
            for tissue in (*TISSUES_FOLLOWED, RATIO):
                values = np.array([r["grey"] / r["white"] if tissue == RATIO else r[tissue] for r in own])
                values = values.reshape(-1, len(settings))  # (patients, settings): rows are in this order
                values = values[np.isfinite(values).all(axis=1)]
                percent = 100 * (values / values.mean(axis=1, keepdims=True) - 1)
                columns = [*percent.T, np.ptp(percent, axis=1)]
                for setting, column in zip([*settings, RANGE], columns, strict=True):
                    low, high = bootstrap_interval(column)
                    mean = float(column.mean()) if column.size else float("nan")
                    table.append(
                        {
                            "method": method,
                            "sweep": sweep,
                            "tissue": tissue,
                            "setting": setting,
                            "deviation_percent": mean,
                            "deviation_percent_low": low,
                            "deviation_percent_high": high,
                            "subjects": column.size,
                            "refused": len(out),
                            "refusals": name_refusals(here),
                        }
                    )
    return table


def sampling_markdown(table: Sequence[Row]) -> str:
    """Return a table a sweep: deviation of mean rCBV from its mean over the sweep, per cent, by method and tissue."""
    blocks = []
    for sweep, title in (
        ("interval", "Frame interval, at equal duration"),
        ("frames", f"Number of frames, at one interval: the shortest series ends {TAIL_S:.0f} s after arrival"),
    ):
        here = [row for row in table if row["sweep"] == sweep]
        wide: dict[tuple[str, str], Row] = {}
        for row in here:
            line = wide.setdefault(
                (row["method"], row["tissue"]), {k: row[k] for k in ("method", "tissue", "subjects")}
            )
            mean, low, high = (row[f"deviation_percent{end}"] for end in ("", "_low", "_high"))
            spread = row["setting"] == RANGE
            text = "–" if np.isnan(mean) else f"{mean:.1f}" if spread else f"{mean:+.1f}"
            line[row["setting"]] = text + (f" ({low:.1f} to {high:.1f})" if spread and np.isfinite(low) else "")
        blocks += [
            f"**{title}** (mean rCBV against its mean over the row, per cent; mean over patients with the tissue; "
            f"{here[0]['refused']} refused)",
            markdown_table(list(wide.values())),
        ]
        if here[0]["refusals"]:
            blocks.append(f"Refused, left out of this table. {here[0]['refusals']}")
    return "\n\n".join(blocks)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size >= MINIMUM_VOXELS else float("nan")
