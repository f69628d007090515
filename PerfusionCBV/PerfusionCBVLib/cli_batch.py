"""The command `batch`: many series, with an account of each."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from PerfusionCBVLib import cli_options
from PerfusionCBVLib.batch.account import Account
from PerfusionCBVLib.batch.case import Plan
from PerfusionCBVLib.batch.cluster import ClusterRequest, connected
from PerfusionCBVLib.batch.cohort import Cohort, find_cohort
from PerfusionCBVLib.batch.fingerprint import weights_hash
from PerfusionCBVLib.batch.folder import INDEX, PASSED_OVER, SUMMARY, BatchFolder
from PerfusionCBVLib.batch.outcome import Outcome
from PerfusionCBVLib.batch.run import Watcher, run_cases
from PerfusionCBVLib.batch.time_limit import DEFAULT_MINUTES
from PerfusionCBVLib.errors import Cancelled, InputRefusedError, PerfusionError
from PerfusionCBVLib.map_request import MapRequest
from PerfusionCBVLib.settings import NETWORK_METHODS
from PerfusionCBVLib.terminal import ProgressBar, print_line


def add_command(commands: Any) -> None:
    """Add the command to the command line's."""
    batch = commands.add_parser("batch", help="make maps of many series; a second run goes on where the first ended")
    batch.add_argument(
        "cohort",
        type=cli_options.text,
        nargs="+",
        metavar="COHORT",
        help="manifest (.csv), folder that is searched for series, or quoted pattern such as 'study/*/dsc.nii.gz'",
    )
    batch.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    cli_options.add_settings(batch)
    cli_options.add_times(batch)
    batch.add_argument("--aif", choices=("auto",), help="find the arterial input of every case; curves: manifest")
    where = batch.add_argument_group("where it runs")
    where.add_argument(
        "--workers",
        type=cli_options.number(int, 1, cli_options.MOST_WORKERS),
        metavar="N",
        help="one thread each; default: one for each core",
    )
    where.add_argument(
        "--memory",
        type=cli_options.number(float, 0.1, 1e6),
        metavar="GB",
        help="of each worker; default: an equal share",
    )
    where.add_argument(
        "--case-minutes",
        type=cli_options.number(float, 0.01, 1e6),
        default=DEFAULT_MINUTES,
        metavar="T",
        help="a case that takes longer is given up; default: %(default)g",
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs, such as tcp://host:8786")
    where.add_argument("--slurm", action="store_true", help="start the workers as SLURM jobs")
    where.add_argument("--slurm-time", default="24:00:00", metavar="HH:MM:SS", help="of a job; default: %(default)s")
    where.add_argument(
        "--slurm-option", action="append", default=[], metavar="OPTION", help="of sbatch, such as --partition=short"
    )
    batch.set_defaults(run=_batch)


def _batch(options: argparse.Namespace) -> int:
    settings = cli_options.settings_of(options)
    cluster_request = ClusterRequest(
        options.workers,
        options.memory,
        options.scheduler,
        options.slurm,
        options.slurm_time,
        tuple(options.slurm_option),
    )
    folder = BatchFolder(options.output.absolute())
    shared = MapRequest(
        series=Path(),
        aif=options.aif,
        echo_time_s=options.echo_time,
        repetition_time_s=options.repetition_time,
    )
    weights = weights_hash(settings.method)
    is_network = settings.method in NETWORK_METHODS
    folder.require_free()
    with ProgressBar() as progress:
        cohort = find_cohort(options.cohort, shared, folder.path, progress)
    with folder.run() as token, ProgressBar() as progress:
        _say_what_was_found(cohort)
        quiet = options.scheduler is None and not options.slurm
        plan = Plan(folder, settings, token, weights_sha256=weights, quiet=quiet, case_minutes=options.case_minutes)
        account = Account(cohort, plan)
        account.write_passed_over()
        account.write("running")
        try:
            progress(0.0, "Starting workers")
            with connected(cluster_request, settings.device, is_network, len(cohort.cases), folder.inner) as cluster:
                print_line(f"On {cluster.text}.")
                run_cases(account, plan, cluster, _watcher(progress))
        except BaseException as event:
            with suppress(OSError):  # a full disk may be the very reason
                account.write("stopped")
            if isinstance(event, KeyboardInterrupt | Cancelled):
                raise Cancelled("stopped; what is done is kept, and the same command goes on from there") from event
            raise
        account.write("finished")
    return _say_what_became(account.outcomes, folder)


def _watcher(progress: Any) -> Watcher:
    def settled(outcome: Outcome, count: int, of: int) -> None:
        if outcome.skipped:
            said = "is done already"
        elif outcome.state == "done":
            said = f"done in {outcome.seconds:.0f} s"
        else:
            said = f"{outcome.state}: {outcome.reason}"
        print_line(f"[{count}/{of}] {outcome.id} {said}")

    def looked(count: int, of: int, running: list[str]) -> None:
        named = ", ".join(running[:3]) + (" and more" if len(running) > 3 else "")
        progress(count / of, f"{count} of {of} settled{f', now {named}' if named else ''}")

    def waiting() -> None:
        print_line("Waiting for a worker.")

    return Watcher(settled, looked, waiting)


def _say_what_was_found(cohort: Cohort) -> None:
    print_line(f"Found {len(cohort.cases)} series.")
    if cohort.passed_over:
        reasons = Counter(each.reason.split(". ")[0] for each in cohort.passed_over)
        common = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
        more = "; ..." if len(reasons) > 3 else ""
        print_line(f"Passed over {len(cohort.passed_over)} files and folders ({common}{more}), see {PASSED_OVER}.")


def _say_what_became(outcomes: list[Outcome], folder: BatchFolder) -> int:
    """Print how it ended; return the exit code: 0 all done, 3 some refused, 1 some failed."""
    counts = Counter(outcome.state for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    already = f" ({skipped} of them already)" if skipped else ""
    print(f"{counts['done']} of {len(outcomes)} done{already}, {counts['refused']} refused, {counts['failed']} failed.")
    print(f"Open {folder.path / INDEX} in a browser; numbers are in {folder.path / SUMMARY}. Research use only.")
    if counts["failed"]:
        print(
            f"perfusion-cbv: {counts['failed']} cases failed; the summary says why. The same command repeats them.",
            file=sys.stderr,
        )
        return PerfusionError.exit_code
    if counts["refused"]:
        print(
            f"perfusion-cbv: {counts['refused']} cases were refused; the summary says what each needs.", file=sys.stderr
        )
        return InputRefusedError.exit_code
    return 0
