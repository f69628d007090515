"""A batch's folder on the disk: what lies where, who may write, and how a case's folder appears whole.

DIR/summary.csv, index.html, passed_over.csv
DIR/cases/ID/          one complete result each
DIR/earlier/ID/        results of other settings, versions or inputs, until their case is done anew
DIR/logs/ID.log        what a failed case left to read
DIR/.batch/            lock, running batch's token, unfinished work
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PerfusionCBVLib.durable import sync_files, sync_folder, write_whole
from PerfusionCBVLib.errors import Cancelled, PerfusionError, UsageError

SUMMARY, INDEX, PASSED_OVER = "summary.csv", "index.html", "passed_over.csv"
_INNER = ".batch"
LONGEST_WAIT_S = 60.0
"""For another process to leave a case: one of a batch that was ended notices within seconds."""


@dataclass(frozen=True)
class BatchFolder:
    """The places in an output folder; `path` is absolute."""

    path: Path

    @property
    def cases(self) -> Path:
        """Complete results."""
        return self.path / "cases"

    @property
    def earlier(self) -> Path:
        """Results that are no longer what is asked for."""
        return self.path / "earlier"

    @property
    def logs(self) -> Path:
        """What failed cases left to read."""
        return self.path / "logs"

    @property
    def inner(self) -> Path:
        """What is nobody's business but ours."""
        return self.path / _INNER

    @property
    def work(self) -> Path:
        """Unfinished results; in the same file system, so that they can be renamed into place."""
        return self.inner / "work"

    def log(self, case: str) -> Path:
        """Return the log file of a case."""
        return self.logs / f"{case}.log"

    def trace(self, case: str, token: str) -> Path:
        """Return where a worker that is out of time writes what it was doing; goes with the run."""
        return self.work / f"{case}-{token}.trace"

    # The batch that runs

    @contextmanager
    def run(self) -> Iterator[str]:
        """Take the folder for one batch, clear what a killed one left, and give the token of this run.

        The lock is an advisory one of the system on a file, which ends with the process, also by kill -9.

        Raises
        ------
        UsageError
            See `require_free`.
        """
        self.require_free()
        for folder in (self.cases, self.earlier, self.logs, self.work, self.inner / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.inner / "lock") as is_ours:
            if not is_ours:
                raise self._taken()
            token = secrets.token_hex(8)
            write_whole(self._token, token)
            self._clear_leftovers()
            try:
                yield token
                self._clear_leftovers()  # of workers that were killed
            finally:
                # A full disk still lets a file be removed: workers that go on must not publish.
                self._token.unlink(missing_ok=True)

    def require_free(self) -> None:
        """Refuse a folder that another batch is running in, or that holds something else; make nothing.

        Raises
        ------
        UsageError
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file. Choose another --output.")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.inner.is_dir():
            raise UsageError(f"{self.path} is not empty and holds no batch. Choose another --output.")
        if is_batch_output(self.path):
            with _locked(self.inner / "lock") as is_free:
                if not is_free:
                    raise self._taken()

    def _taken(self) -> UsageError:
        return UsageError(f"Another batch is running in {self.path}. Wait for it, or choose another --output.")

    @property
    def _token(self) -> Path:
        return self.inner / "running"

    def require_running(self, token: str) -> None:
        """Stop work whose batch has ended, or that was given to a worker that can't see the folder.

        Raises
        ------
        Cancelled
        """
        try:
            found = self._token.read_text(encoding="utf-8")
        except OSError:
            found = None
        if found == token:
            return
        if not self.inner.is_dir():
            raise PerfusionError(
                f"The worker can't see {self.path}. The output must lie where all workers see it, by the same path."
            )
        raise Cancelled("the batch has ended")

    def _clear_leftovers(self) -> None:
        for left in self.work.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for name in (SUMMARY, INDEX, PASSED_OVER):
            for left in self.path.glob(f".{name}-*"):  # of `write_whole`
                left.unlink(missing_ok=True)

    # One case

    @contextmanager
    def case_lock(self, case: str) -> Iterator[None]:
        """Let one process at a time work on a case: a scheduler may give it away while a lost worker goes on.

        Raises
        ------
        PerfusionError
            Another process keeps it.
        """
        path = self.inner / "locks" / case
        deadline = time.monotonic() + LONGEST_WAIT_S
        while True:
            with _locked(path) as is_ours:
                if is_ours:
                    yield
                    return
            if time.monotonic() > deadline:
                raise PerfusionError("Another process still works on this case. Run the batch again when it has ended.")
            time.sleep(0.5)

    @contextmanager
    def fresh(self, case: str) -> Iterator[Path]:
        """Give an empty folder to write a case's result into; it is removed unless `publish` moved it."""
        folder = Path(tempfile.mkdtemp(prefix=f"{case}-", dir=self.work))
        folder.chmod(self.cases.stat().st_mode & 0o777)  # mkdtemp's are private
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, fresh: Path, case: str) -> None:
        """Make a complete result appear as the case's: all bytes first, then the name; an earlier result goes."""
        sync_files(fresh)
        self.set_aside(case)
        os.rename(fresh, self.cases / case)
        sync_folder(self.cases)
        shutil.rmtree(self.earlier / case, ignore_errors=True)

    def set_aside(self, case: str) -> None:
        """Move a result that is not what is asked for out of ``cases``, so that all there belongs together."""
        if (self.cases / case).exists():
            if (self.earlier / case).exists():
                shutil.rmtree(self.earlier / case)
            os.rename(self.cases / case, self.earlier / case)
            sync_folder(self.cases)
            sync_folder(self.earlier)

    def bring_back(self, case: str) -> None:
        """Make the earlier result the case's again; what stood there becomes the earlier one."""
        with self.fresh(case) as between:
            os.rename(self.earlier / case, between / case)
            self.set_aside(case)
            os.rename(between / case, self.cases / case)
        sync_folder(self.cases)


def is_batch_output(folder: Path) -> bool:
    """Return whether a batch wrote into this folder."""
    return (folder / _INNER / "lock").is_file()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file as long as the block runs and the process lives; give whether that could be had."""
    with path.open("a+b") as stream:
        yield _lock(stream)


def _lock(stream: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True
