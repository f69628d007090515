"""The longest time that a case may take, whatever hangs: Python code, a library that never returns, a dead disk."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PerfusionCBVLib.errors import PerfusionError

DEFAULT_MINUTES = 240.0
_SAID_BY_FAULTHANDLER = "Timeout ("


class OverTimeError(PerfusionError):
    """A case took longer than it may; `trace` says where it was."""

    def __init__(self, minutes: float, trace: str) -> None:
        super().__init__(
            f"It took longer than {minutes:g} minutes, and its worker was ended. The log says where it was; pass more "
            "--case-minutes when it only needs longer."
        )
        self.trace = trace


@contextmanager
def time_limit(trace: Path, minutes: float) -> Iterator[None]:
    """End this process when the block takes longer; its scheduler gives the case to a worker again, which then says so.

    The clock is a thread of the interpreter's own that needs no lock of Python, so that nothing can hold it up. There
    is one for a process: workers have one thread.

    Parameters
    ----------
    trace : Path
        Where the process writes what it was doing; of one case in one run.

    Raises
    ------
    OverTimeError
        An earlier attempt was ended.
    """
    said = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
    if said.startswith(_SAID_BY_FAULTHANDLER):
        raise OverTimeError(minutes, said)
    try:
        with trace.open("w", encoding="utf-8") as stream:
            faulthandler.dump_traceback_later(minutes * 60.0, exit=True, file=stream)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
    finally:
        trace.unlink(missing_ok=True)
