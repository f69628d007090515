"""Methods compared on simulated patients that no network was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from PerfusionCBVLib.errors import InputRefusedError, QualityError, UsageError
from PerfusionCBVLib.evaluate.examples import plot_arrays
from PerfusionCBVLib.evaluate.plots import plot_evaluation
from PerfusionCBVLib.evaluate.runs import Row, collect, identity_of, write_csv
from PerfusionCBVLib.evaluate.scores import MEASURES, TISSUES_SCORED, all_scores
from PerfusionCBVLib.evaluate.summary import summarise, tissue_rows
from PerfusionCBVLib.evaluate.tables import report_markdown, without_tissues
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.settings import Settings

if TYPE_CHECKING:
    from PerfusionCBVLib.simulate import SubjectParameters

TEST_SEED = 90_000_000
"""Simulated patients for evaluation start here; training and validation never draw these."""


def evaluate_simulated(
    subjects: int,
    methods: Sequence[str],
    progress: Progress = silent,
    *,
    folder: Path | None = None,
    workers: int = 1,
    scan: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Return one row a method: scores over simulated patients, the same for every method, with intervals.

    Patients whose series is refused, by any method, count in ``refused`` and are left out for all.

    Parameters
    ----------
    subjects : int
    methods : sequence of str
    folder : Path, optional
        Where ``subjects.csv`` grows patient by patient, and where at the end ``summary.csv``, ``tissues.csv``,
        ``summary.md`` and plots are written. The same call goes on where an earlier one stopped.
    workers : int
        Processes.
    scan : mapping, optional
        Fields of `simulate.parameters.Scan` to fix instead of drawing them.

    Returns
    -------
    list of dict
        See `summary.summarise`.

    Raises
    ------
    QualityError
        Every series was refused.
    UsageError
        The folder holds another evaluation.
    """
    check_counts(subjects, workers)
    rows = collect(
        partial(evaluate_patient, methods=tuple(methods), scan=scan, for_plots=folder is not None),
        range(TEST_SEED, TEST_SEED + subjects),
        rows_each=len(methods),
        table=None if folder is None else folder / "subjects.csv",
        with_arrays=True,
        identity=identity_of(methods, fingerprint(scan), scan=dict(scan or {})),
        workers=workers,
        progress=progress,
    )
    seeds = sorted({row["seed"] for row in rows if not row["refused"]})
    if not seeds:
        raise QualityError(
            f"All {subjects} simulated series were refused ({rows[0]['refused']}); there is nothing to compare."
        )
    table = summarise(rows, methods)
    if folder is not None:
        write_csv(folder / "summary.csv", without_tissues(table))
        write_csv(folder / "tissues.csv", tissue_rows(table))
        (folder / "summary.md").write_text(report_markdown(table) + "\n", encoding="utf-8")
        plot_evaluation(folder, table, seeds, [row for row in rows if not row["refused"]])
    return table


def evaluate_patient(
    seed: int, *, methods: Sequence[str], scan: Mapping[str, Any] | None, for_plots: bool
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Return a row a method for the patient with this seed, and with `for_plots` what the plots show of it.

    Each map is what `compute_maps` gives a user: the preparation that methods share is repeated, because it takes a
    fifth of the time, most of which goes into the simulation.
    """
    from PerfusionCBVLib.simulate import draw_subject, simulate
    from PerfusionCBVLib.simulate.anatomy import TISSUES

    subject = simulate(draw_subject(np.random.default_rng(seed), scan=scan))
    facts = {"seed": seed, **protocol_columns(subject.parameters)}
    try:
        if not subject.nawm.any():
            raise QualityError("The simulated patient has no voxel of pure normal white matter, so no true rCBV.")
        results = {method: compute_maps(subject.series, Settings(method=method)) for method in methods}
    except InputRefusedError as error:
        reason = " ".join(str(error).split())
        blank = dict.fromkeys(MEASURES, float("nan"))
        return [{**facts, "method": method, "refused": reason, **blank} for method in methods], {}
    truth = subject.truth["rcbv"]
    regions = {name: subject.tissue == TISSUES.index(name) for name in TISSUES_SCORED}
    rows = []
    for method, result in results.items():
        deviation = result.maps["uncertainty"].values if "uncertainty" in result.maps else None
        scores = all_scores(
            result.maps["rcbv"].values,
            truth,
            brain=subject.brain,
            vessel=subject.vessel,
            regions=regions,
            deviation=deviation,
        )
        rows.append({**facts, "method": method, "refused": "", **scores})
    return rows, plot_arrays(results, truth, subject.brain & ~subject.vessel, seed) if for_plots else {}


def protocol_columns(parameters: SubjectParameters) -> dict[str, Any]:
    """Return what of a simulated patient's scan and tumour may explain an error; NaN for the leak of no tumour."""
    scan, tumours = parameters.scan, parameters.tumours
    return {
        "echo_time_s": scan.echo_time_s,
        "repetition_time_s": scan.repetition_time_s,
        "frames": scan.frames,
        "flip_angle_deg": scan.flip_angle_deg,
        "field_strength_t": scan.field_strength_t,
        "snr": parameters.disturbance.snr,
        "preload_mmol_per_l": parameters.bolus.preload_mm,
        "ktrans_per_min": tumours[0].ktrans_per_min if tumours else float("nan"),
        "pixel_mm": scan.voxel_size_mm[0],
        "slice_mm": scan.voxel_size_mm[2],
    }


def fingerprint(scan: Mapping[str, Any] | None = None) -> str:
    """Return a hash of the first patient's parameters: another simulator draws other patients from the same seeds."""
    from PerfusionCBVLib.simulate import draw_subject

    text = draw_subject(np.random.default_rng(TEST_SEED), scan=scan).to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_counts(subjects: int, workers: int) -> None:
    """Refuse impossible numbers with a `UsageError`."""
    for name, value in (("--subjects", subjects), ("--workers", workers)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
