"""One piece of work at a time, in the background, with errors in the panel's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import slicer

from PerfusionCBVLib.errors import PerfusionError, UsageError
from PerfusionCBVLib.gui.words import in_the_panel
from PerfusionCBVLib.gui.worker import run_in_background
from PerfusionCBVLib.progress import Progress, silent

Outcome = TypeVar("Outcome")

_busy = False


def in_background(work: Callable[[Progress], Outcome], progress: Progress | None) -> Outcome:
    """Return what `work(progress)` returns, done in another thread while the application answers.

    Raises
    ------
    Cancelled
        And whatever the work raises; sentences of ours name fields of the panel instead of options.
    """
    try:
        return run_in_background(work, progress or silent, slicer.app.processEvents)
    except PerfusionError as error:
        error.args = (in_the_panel(str(error)),)
        raise


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Refuse to start while other work runs: serving the user's events may lead to a second click."""
    global _busy
    if _busy:
        raise UsageError("Something else is being computed; wait until it is done, or cancel it.")
    _busy = True
    try:
        yield
    finally:
        _busy = False
