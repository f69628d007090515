"""Giving cases to workers, and keeping account of what becomes of them."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PerfusionCBVLib.batch.account import Account
from PerfusionCBVLib.batch.case import Plan, run_case, unfinished
from PerfusionCBVLib.batch.cluster import GPU, Cluster
from PerfusionCBVLib.batch.cohort import Case
from PerfusionCBVLib.batch.outcome import Outcome
from PerfusionCBVLib.errors import Cancelled, PerfusionError

if TYPE_CHECKING:
    from distributed import Future

SECONDS_TO_START = 120.0
"""Without any worker on this machine after this time, none can be started."""


@dataclass(frozen=True)
class Watcher:
    """What is told while a batch runs.

    Attributes
    ----------
    settled : callable (Outcome, number settled, number of all)
    looked : callable (number settled, number of all, ids of the running)
        Once a second or so.
    waiting : callable ()
        There is no worker; called once each time.
    """

    settled: Callable[[Outcome, int, int], None]
    looked: Callable[[int, int, list[str]], None]
    waiting: Callable[[], None]


def run_cases(account: Account, plan: Plan, cluster: Cluster, watcher: Watcher) -> None:
    """Run every case that is not settled; each is recorded in the account as it ends.

    No more cases are handed out than can run, so that a worker's death is charged to the case that it worked on.

    Raises
    ------
    PerfusionError
        The scheduler is gone, or no worker can be started. What is done stays done.
    """
    waiting = deque(case for case in account.cases if not account.outcome(case.id).is_settled)
    running: dict[Future, Case] = {}
    last_slot_at, told = time.monotonic(), False
    try:
        while waiting or running:
            slots = _slots(cluster)
            if slots:
                last_slot_at, told = time.monotonic(), False
            elif time.monotonic() - last_slot_at > 3 and not told:
                watcher.waiting()
                told = True
            if cluster.starts_workers and time.monotonic() - last_slot_at > SECONDS_TO_START:
                raise PerfusionError("No worker can be started. Pass more --memory, or fewer --workers.")
            while waiting and len(running) < slots:
                case = waiting.popleft()
                running[_submit(cluster, case, plan)] = case
                account.begin(case.id)
            for future in _ended(list(running)):
                outcome = _outcome(future, running[future], plan)
                del running[future]
                account.settle(outcome)
                watcher.settled(outcome, account.settled, len(account.cases))
            watcher.looked(account.settled, len(account.cases), [case.id for case in running.values()])
            account.write_now_and_then()
    finally:
        for case in running.values():
            account.give_back(case.id)


def _slots(cluster: Cluster) -> int:
    with _said_when_lost():
        slots = cluster.slots()
    if cluster.client.status != "running":
        raise _lost()
    return slots


@contextmanager
def _said_when_lost() -> Iterator[None]:
    """Turn what Dask raises without a scheduler, by the moment at which it went, into one sentence."""
    try:
        yield
    except (OSError, TimeoutError, RuntimeError, ValueError, CancelledError) as error:
        raise _lost() from error


def _lost() -> PerfusionError:
    return PerfusionError(
        "The connection to the Dask scheduler was lost. Cases that were done are kept; the same command goes on from "
        "there."
    )


def _submit(cluster: Cluster, case: Case, plan: Plan) -> Future:
    resources = {GPU: 1} if cluster.uses_gpu else None
    with _said_when_lost():
        return cluster.client.submit(
            run_case, case, plan, pure=False, resources=resources, key=f"{case.id}-{plan.token}"
        )


def _ended(futures: list[Future]) -> list[Future]:
    """Return the futures that have ended, waiting up to a second for one."""
    deadline = time.monotonic() + 1.0
    while True:
        ended = [future for future in futures if future.done()]
        if ended or time.monotonic() > deadline:
            return ended
        time.sleep(0.02)


def _outcome(future: Future, case: Case, plan: Plan) -> Outcome:
    """Return what became of a case whose future has ended."""
    from distributed.scheduler import KilledWorker

    if future.cancelled():
        raise _lost()
    with _said_when_lost():
        error = future.exception() if future.status == "error" else None
        if error is None:
            outcome: Outcome = future.result()
            return outcome
    if isinstance(error, Cancelled):
        raise error
    if isinstance(error, KilledWorker):
        times = error.allowed_failures + 1
        reason = (
            f"Its worker's process ended {times} times while it worked on this case, and the case was given up. Most "
            "often memory is short: pass more --memory, or fewer --workers."
        )
        return unfinished(case, plan, "failed", reason)
    if isinstance(error, PerfusionError):
        return unfinished(case, plan, "failed", str(error))
    trace = "".join(traceback.format_exception(error))
    reason = f"The worker could not run it, {type(error).__name__}: {' '.join(str(error).split())}"
    return unfinished(case, plan, "failed", reason, trace)
