"""Long evaluations: patient after patient, in processes, kept on disk so that the same command goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.errors import Cancelled, PerfusionError, UsageError
from PerfusionCBVLib.json_text import write_json
from PerfusionCBVLib.networks.cards import read_card
from PerfusionCBVLib.parent_process import end_with_parent
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.settings import NETWORK_METHODS

Row = dict[str, Any]
Work = Callable[[int], tuple[list[Row], dict[str, np.ndarray]]]
"""From a patient's seed to rows for the table and arrays for the plots."""


def collect(
    work: Work,
    seeds: Sequence[int],
    *,
    rows_each: int,
    table: Path | None = None,
    with_arrays: bool = False,
    identity: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> list[Row]:
    """Return the rows of all patients in the order of their seeds.

    Parameters
    ----------
    work : picklable function
        See `Work`; every row has its ``seed``.
    seeds : sequence of int
    rows_each : int
        Rows that each patient has.
    table : Path, optional
        CSV that rows are appended to as each patient is finished. Patients that are complete in it are not computed
        again. Arrays go into ``patients/SEED.npz`` beside it.
    with_arrays : bool
        A patient that was not refused is complete only with its arrays.
    identity : mapping, optional
        What patients and maps depend on; kept beside the table, and a table of another identity is not continued.
    workers : int
        Processes, with one thread each; 1 computes in this process.

    Raises
    ------
    UsageError
        The table is of another evaluation.
    Cancelled
        Interrupted; what is finished is kept.
    PerfusionError
        A process was killed.
    """
    kept: dict[int, list[Row]] = {}
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        _check_identity(table, json.loads(json.dumps(identity or {})))
        kept = _finished(table, rows_each, with_arrays)
        write_csv(table, _flat(kept))
    missing = [seed for seed in seeds if seed not in kept]
    progress(0.0, f"{len(missing)} of {len(seeds)} patients to do")
    try:
        with closing(_results(work, missing, workers)) as results:
            for rows, arrays in results:
                seed = rows[0]["seed"]
                kept[seed] = rows = [_rounded(row) for row in rows]
                if table is not None:
                    if arrays:
                        _save_arrays(arrays_path(table.parent, seed), arrays)
                    write_csv(table, rows, append=True)
                progress(sum(s in kept for s in seeds) / len(seeds), f"Patient {seed} is done")
    except KeyboardInterrupt as error:
        where = "nothing was kept" if table is None else f"what is done is in {table.parent}; the same command goes on"
        raise Cancelled(f"cancelled; {where}") from error
    if table is not None:
        write_csv(table, _flat(kept))  # in the order of the seeds, whichever process was first
    return _flat({seed: kept[seed] for seed in seeds})


def identity_of(methods: Sequence[str], first_patient: str, **choices: Any) -> dict[str, Any]:
    """Return what an evaluation depends on: software, methods, hashes of weights, patients, other choices."""
    weights = {f"weights of {m}": read_card(m)["sha256"][:16] for m in methods if m in NETWORK_METHODS}
    return {
        "version": __version__,
        "methods": ", ".join(sorted(methods)),
        **weights,
        "simulated patients": first_patient,
        **choices,
    }


def arrays_path(folder: Path, seed: int) -> Path:
    """Return where a patient's arrays for the plots are kept."""
    return folder / "patients" / f"{seed}.npz"


def write_csv(path: Path, rows: Sequence[Row], *, append: bool = False) -> None:
    """Write rows with equal keys as CSV, NaN as an empty cell; appended rows get no second header.

    A whole file is swapped in when complete.
    """
    header = not (append and path.exists() and path.stat().st_size > 0)
    target = path if append else path.with_name(f".unfinished-{path.name}")
    with target.open("a" if append else "w", newline="", encoding="utf-8") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            if header:
                writer.writeheader()
            writer.writerows({k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in rows)
    if not append:
        os.replace(target, path)


def read_csv(path: Path) -> list[Row]:
    """Return the rows that `write_csv` wrote; a last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [{key: _parsed(key, text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _results(work: Work, seeds: Sequence[int], workers: int) -> Generator[tuple[list[Row], dict[str, np.ndarray]]]:
    if workers == 1 or len(seeds) < 2:
        yield from map(work, seeds)
        return
    pool = ProcessPoolExecutor(min(workers, len(seeds)), mp_context=get_context("spawn"), initializer=_begin_worker)
    try:
        for finished in as_completed([pool.submit(work, seed) for seed in seeds]):
            yield finished.result()
    except BrokenProcessPool as error:
        raise PerfusionError(
            f"One of {workers} processes was killed, usually because memory ran out. Take fewer --workers; with "
            "--output, the same command then goes on where this one stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that collects


def _check_identity(table: Path, identity: dict[str, Any]) -> None:
    path = table.with_suffix(".json")
    if not path.exists() and not table.exists():
        write_json(path, identity)
        return
    advice = "Give another --output, or delete this folder to start anew."
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{table} can't be continued: what it was made with is not in {path.name}. {advice}"
        ) from error
    differing = [k for k in {**identity, **found} if identity.get(k) != found.get(k)]
    if differing:
        text = "; ".join(f"{k}: {found.get(k, 'none')} there, {identity.get(k, 'none')} now" for k in differing)
        raise UsageError(f"{table.parent} holds another evaluation ({text}). {advice}")


def _finished(table: Path, rows_each: int, with_arrays: bool) -> dict[int, list[Row]]:
    """Return the rows of the patients that are complete in a table."""
    found: dict[int, list[Row]] = {}
    for row in read_csv(table) if table.exists() else []:
        found.setdefault(row["seed"], []).append(row)
    return {
        seed: rows
        for seed, rows in found.items()
        if len(rows) == rows_each
        and (not with_arrays or rows[0]["refused"] or arrays_path(table.parent, seed).exists())
    }


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".unfinished-{path.name}")
    np.savez_compressed(fresh, **arrays)  # type: ignore[arg-type]
    os.replace(fresh, path)


def _flat(kept: Mapping[int, list[Row]]) -> list[Row]:
    return [row for seed in sorted(kept) for row in kept[seed]]


def _rounded(row: Row) -> Row:
    """Return the row with seven digits a number, so that it is the same when read again from the table."""
    return {k: float(f"{v:.7g}") if isinstance(v, float) else v for k, v in row.items()}


def _parsed(key: str, text: str) -> Any:
    if key == "refused":
        return text
    for kind in (int, float):
        try:
            return kind(text or "nan")
        except ValueError:
            continue
    return text
