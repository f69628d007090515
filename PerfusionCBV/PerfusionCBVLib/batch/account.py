"""The account of a batch: what became of every case, on the disk while it runs and after it has ended."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from PerfusionCBVLib.batch.case import Plan
from PerfusionCBVLib.batch.cohort import Cohort
from PerfusionCBVLib.batch.folder import INDEX, PASSED_OVER, SUMMARY
from PerfusionCBVLib.batch.index_page import Stage, index_html
from PerfusionCBVLib.batch.outcome import Outcome
from PerfusionCBVLib.batch.summary import summary_csv
from PerfusionCBVLib.csv_cells import harmless
from PerfusionCBVLib.durable import write_whole

SECONDS_BETWEEN_WRITES = 3.0


class Account:
    """What became of every case of a cohort; written as ``summary.csv`` and ``index.html``."""

    def __init__(self, cohort: Cohort, plan: Plan) -> None:
        self.cases = cohort.cases
        self._passed_over = cohort.passed_over
        self._plan = plan
        self._outcomes = {
            case.id: Outcome(case.id, case.source, "waiting", plan.settings.method) for case in cohort.cases
        }
        self._written_at = -float("inf")
        self._is_written = False

    @property
    def outcomes(self) -> list[Outcome]:
        """In the order of the cohort."""
        return list(self._outcomes.values())

    @property
    def settled(self) -> int:
        """How many cases nothing more is to be done about."""
        return sum(outcome.is_settled for outcome in self._outcomes.values())

    def outcome(self, case: str) -> Outcome:
        """Return what became of a case so far."""
        return self._outcomes[case]

    def begin(self, case: str) -> None:
        """Record that a worker has a case."""
        self.settle(replace(self._outcomes[case], state="running"))

    def give_back(self, case: str) -> None:
        """Record that a case is waiting again."""
        self.settle(replace(self._outcomes[case], state="waiting"))

    def settle(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self._outcomes[outcome.id] = outcome
        self._is_written = False

    def write_now_and_then(self) -> None:
        """Write summary and index if something changed, at most every few seconds.

        A disk that is full now may have room at the next time; the last writing says so if it has not.
        """
        if not self._is_written and time.monotonic() - self._written_at > SECONDS_BETWEEN_WRITES:
            with suppress(OSError):
                self.write("running")
            self._written_at = time.monotonic()

    def write(self, stage: Stage) -> None:
        """Write summary and index.

        Raises
        ------
        OSError
        """
        folder = self._plan.folder.path
        others = self._folders_of_others()
        write_whole(folder / SUMMARY, summary_csv(self.outcomes))
        write_whole(folder / INDEX, index_html(self.outcomes, self._plan, stage, len(self._passed_over), others))
        self._is_written = True

    def write_passed_over(self) -> None:
        """Write what was found in the cohort and is no case.

        Raises
        ------
        OSError
        """
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(["path", "reason"])
        writer.writerows([harmless(each.source), harmless(each.reason)] for each in self._passed_over)
        write_whole(self._plan.folder.path / PASSED_OVER, stream.getvalue())

    def _folders_of_others(self) -> Sequence[str]:
        """Return the names of results whose case is not in this cohort (any more)."""
        return sorted(path.name for path in self._plan.folder.cases.iterdir() if path.name not in self._outcomes)
