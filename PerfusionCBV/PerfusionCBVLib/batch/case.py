"""One case of a batch, on whatever machine: its folder appears whole, or it says why not."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PerfusionCBVLib import __version__
from PerfusionCBVLib.batch.cohort import Case
from PerfusionCBVLib.batch.fingerprint import case_key, input_hashes, weights_hash
from PerfusionCBVLib.batch.folder import BatchFolder
from PerfusionCBVLib.batch.outcome import RECORD, THUMBNAIL, Outcome, State
from PerfusionCBVLib.batch.peak_memory import peak_memory_mb, reset_peak_memory
from PerfusionCBVLib.batch.time_limit import DEFAULT_MINUTES, OverTimeError, time_limit
from PerfusionCBVLib.durable import write_whole
from PerfusionCBVLib.errors import (
    Cancelled,
    InputRefusedError,
    ModelError,
    PerfusionError,
    UnreadableInputError,
    UsageError,
)
from PerfusionCBVLib.load_common import sha256_of_file
from PerfusionCBVLib.map_request import make_maps
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_regions
from PerfusionCBVLib.measures.output import write_measures
from PerfusionCBVLib.measures.region_files import read_regions
from PerfusionCBVLib.output import PROVENANCE, write_result
from PerfusionCBVLib.pictures import thumbnail_picture
from PerfusionCBVLib.progress import Progress
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.sealed_record import FILES, read_sealed_record, require_files_of, write_sealed_record
from PerfusionCBVLib.settings import Settings
from PerfusionCBVLib.withheld import without_names

SECONDS_BETWEEN_LOOKS = 2.0
"""How often a case looks whether its batch still runs."""

REGION_MEASURES = ("rcbv_mean", "rcbv_median", "volume")


@dataclass(frozen=True)
class Plan:
    """What holds for every case of a batch.

    Attributes
    ----------
    folder : BatchFolder
    settings : Settings
    token : str
        Of the run; see `BatchFolder.run`.
    version : str
        Of the library, where the batch was started.
    weights_sha256 : str or None
        Of the network, there.
    quiet : bool
        What a case prints goes to its log: where its process has the user's terminal, and runs nothing else.
    case_minutes : float
        A case that takes longer is given up.
    """

    folder: BatchFolder
    settings: Settings
    token: str
    version: str = __version__
    weights_sha256: str | None = None
    quiet: bool = False
    case_minutes: float = DEFAULT_MINUTES


def run_case(case: Case, plan: Plan) -> Outcome:
    """Return what became of a case: done now, done before, refused or failed.

    Raises
    ------
    Cancelled
        The batch has ended.
    """
    plan.folder.require_running(plan.token)
    started = time.perf_counter()
    with plan.folder.case_lock(case.id):
        reset_peak_memory()
        log = plan.folder.log(case.id)
        log.unlink(missing_ok=True)
        reason, trace = "", ""
        with _printing_to(log if plan.quiet else None):
            try:
                with time_limit(plan.folder.trace(case.id, plan.token), plan.case_minutes):
                    outcome = _attempt(case, plan, started)
            except Cancelled:
                raise
            except PerfusionError as error:
                refused = isinstance(error, InputRefusedError | UsageError)
                state: State = "refused" if refused else "failed"
                reason = " ".join(str(error).split())
                trace = error.trace if isinstance(error, OverTimeError) else ""
            except MemoryError:
                state, trace = "failed", traceback.format_exc()
                reason = "There was not enough memory. Use fewer workers, or machines with more."
            except OSError as error:  # a full disk, an input that went away
                state, trace = "failed", traceback.format_exc()
                reason = f"The system stopped it: {error.strerror or error}."
            except Exception as error:
                state, trace = "failed", traceback.format_exc()
                reason = f"A fault of this program, {type(error).__name__}: {' '.join(str(error).split())}"
        if not reason:
            log.unlink(missing_ok=True)  # what a good case printed is nobody's concern
            return outcome
        outcome = unfinished(case, plan, state, reason, trace)
        return replace(outcome, seconds=round(time.perf_counter() - started, 2), peak_memory_mb=peak_memory_mb())


def unfinished(case: Case, plan: Plan, state: State, reason: str, trace: str = "") -> Outcome:
    """Return the outcome of a case without a result; an earlier one is set aside, and what there is to read is kept.

    Parameters
    ----------
    case : Case
    plan : Plan
    state : "refused" or "failed"
    reason : str
        One sentence or two.
    trace : str
        Where in the program it happened; goes to the log.
    """
    folder = plan.folder
    try:
        folder.set_aside(case.id)
    except OSError as error:
        reason += f" An earlier result could not be moved out of its folder ({error.strerror})."
    log = folder.log(case.id)
    has_log = False
    with suppress(OSError):  # on a full disk there is no log
        printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        text = _without_names(printed + trace, case)
        if state == "failed" and text.strip():
            write_whole(log, text)
            has_log = True
        else:
            log.unlink(missing_ok=True)
    return Outcome(
        id=case.id,
        source=case.source,
        state=state,
        method=plan.settings.method,
        reason=_without_names(reason, case),
        has_log=has_log,
        finished=_now(),
        earlier=(folder.earlier / case.id).exists(),
    )


def _without_names(text: str, case: Case) -> str:
    """Return a text without names of a case's files; a case without an id of its own is called by them everywhere."""
    if not case.private:
        return text
    request = case.request
    aif = None if request.aif in (None, "auto") else Path(str(request.aif))
    files = {"mask": request.mask, "reference": request.reference, "regions": case.regions, "aif": aif}
    return without_names(text, {"INPUT": request.series, **files}, folders=True)


def _attempt(case: Case, plan: Plan, started: float) -> Outcome:
    if case.trouble is not None:
        raise UnreadableInputError(case.trouble)
    _require_same_program(plan)
    hashes = input_hashes(case)
    key = case_key(case, plan.settings, plan.weights_sha256, hashes)
    before = _done_before(case, plan, key)
    if before is not None:
        return before
    with plan.folder.fresh(case.id) as fresh:
        progress = _looking(plan)
        result = make_maps(case.request, plan.settings, progress)
        measures = _own_measures(result)
        write_result(result, fresh)
        if case.regions is not None:
            measures |= _measured_regions(case, result, fresh, progress)
        thumbnail_picture(result).save(fresh / THUMBNAIL, format="PNG", optimize=True)
        _require_same_input(case, result, hashes)
        outcome = Outcome(
            id=case.id,
            source=case.source,
            state="done",
            method=plan.settings.method,
            findings=tuple(finding.as_dict() for finding in result.findings),
            measures=measures,
            seconds=round(time.perf_counter() - started, 2),
            peak_memory_mb=peak_memory_mb(),
            finished=_now(),
        )
        record = {
            "key": key,
            "run": plan.token,
            "version": __version__,
            "settings": asdict(plan.settings),
            "weights_sha256": plan.weights_sha256,
            "outcome": outcome.as_record(),
        }
        write_sealed_record(fresh / RECORD, record)
        plan.folder.require_running(plan.token)
        plan.folder.publish(fresh, case.id)
    return outcome


def _require_same_program(plan: Plan) -> None:
    """Refuse to make some of the maps with another version or other weights than the rest."""
    if plan.version != __version__:
        raise PerfusionError(
            f"The worker has version {__version__} of PerfusionCBV, the batch was started with {plan.version}. Install "
            "the same everywhere."
        )
    if weights_hash(plan.settings.method) != plan.weights_sha256:
        raise ModelError(
            f"The worker's weights of {plan.settings.method} are not those where the batch was started. Install the "
            "same version everywhere."
        )


def _require_same_input(case: Case, result: MapResult, hashes: Mapping[str, str]) -> None:
    """Refuse a map whose input was not the same from before it was read until now."""
    changed = input_hashes(case) != hashes
    if not case.request.series.is_dir() and case.request.series.suffix.lower() != ".zip":
        read = {sha for name, sha in result.series.input_sha256.items() if not name.startswith("dicom:")}
        changed |= not read <= set(hashes.values())
    if changed:
        raise UnreadableInputError(
            "The input changed while its map was made. Run the batch again when nothing writes to it."
        )


def _done_before(case: Case, plan: Plan, key: str) -> Outcome | None:
    """Return the outcome of what stands on the disk where it is complete and what is asked for now."""
    folder = plan.folder
    for place in (folder.cases, folder.earlier):
        found = read_record(place / case.id)
        if found is None or found.key != key:
            continue
        if place == folder.earlier:
            folder.bring_back(case.id)
        # A worker that dies after it published leaves a result of this very run.
        skipped = found.run != plan.token
        return replace(found.outcome, source=case.source, skipped=skipped, earlier=(folder.earlier / case.id).exists())
    return None


@dataclass(frozen=True)
class StoredOutcome:
    """What a complete result's folder says of itself: what it was made from, in which run, with what outcome."""

    key: str
    run: str
    outcome: Outcome


def read_record(folder: Path) -> StoredOutcome | None:
    """Return what a case's folder says of itself; None where it is no complete result, or was changed since."""
    try:
        content = read_sealed_record(folder / RECORD, "")
        require_files_of(content, folder, set(content[FILES]), "")
        values = {**content["outcome"], "findings": tuple(content["outcome"]["findings"])}
        return StoredOutcome(str(content["key"]), str(content["run"]), Outcome(source="", **values))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UnreadableInputError):
        return None


def _own_measures(result: MapResult) -> dict[str, Any]:
    """Return the columns of the summary that every map has."""
    summary, reference = result.provenance["summary"], result.provenance["reference"]
    names = ("rcbv_median", "rcbv_quartile_low", "rcbv_quartile_high", "leaking_fraction", "no_value_fraction")
    return {
        **{name: float(summary[name]) for name in names},
        "reference": reference["kind"],
        "reference_ml": reference.get("volume_ml"),
    }


def _measured_regions(case: Case, result: MapResult, fresh: Path, progress: Progress) -> dict[str, Any]:
    """Write the measures of the case's regions; return those that the summary shows."""
    assert case.regions is not None
    regions = read_regions(case.regions, result.mask.shape, result.affine)
    settings = MeasureSettings()
    measured = measure_regions(regions, result, settings, progress=progress)
    source = {
        "maps": {"folder": "..", "provenance_sha256": sha256_of_file(fresh / PROVENANCE)},
        "regions": {"sha256": sha256_of_file(case.regions)},
        "registration": None,
        "provenance": result.provenance,
    }
    write_measures(measured, fresh / "measures", settings=settings, affine=result.affine, source=source)
    return {
        f"{row.name} [{row.region}]": row.value if math.isfinite(row.value) else None
        for each in measured
        for row in each.measurements
        if row.name in REGION_MEASURES
    }


def _looking(plan: Plan) -> Progress:
    """Return a progress callback that ends the work soon after its batch has ended."""
    last = time.monotonic()

    def look(fraction: float, message: str) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LOOKS:
            plan.folder.require_running(plan.token)
            last = time.monotonic()

    return look


@contextmanager
def _printing_to(log: Path | None) -> Iterator[None]:
    """Send what this process prints, C libraries' remarks too, to a file instead of the user's terminal."""
    if log is None:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(handle) for handle in (1, 2)]
    try:
        with log.open("wb") as stream:
            for handle in (1, 2):
                os.dup2(stream.fileno(), handle)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for handle, original in zip((1, 2), kept, strict=True):
            os.dup2(original, handle)
            os.close(original)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
