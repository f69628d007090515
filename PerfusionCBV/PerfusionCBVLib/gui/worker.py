"""Long work in a thread, so that the application answers while it runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

from PerfusionCBVLib.errors import Cancelled
from PerfusionCBVLib.progress import Progress

SERVE_EVERY_S = 0.05

Outcome = TypeVar("Outcome")


def run_in_background(work: Callable[[Progress], Outcome], progress: Progress, serve: Callable[[], None]) -> Outcome:
    """Return what `work` returns; meanwhile report progress and serve the user's events from the calling thread.

    Parameters
    ----------
    work : callable (progress)
        Runs in another thread, so it must touch neither nodes nor widgets.
    progress : callable (fraction, message)
        Called at every serving, with or without news; raising `Cancelled` in it stops `work` at its next report.
    serve : callable ()
        Lets the application answer: `slicer.app.processEvents`.

    Raises
    ------
    Cancelled
        And whatever `work`, `progress` or `serve` raises.
    """
    news: tuple[float, str] = (0.0, "")
    stop = Event()

    def report(fraction: float, message: str) -> None:
        nonlocal news
        if stop.is_set():
            raise Cancelled("Cancelled.")
        news = (fraction, message)

    cancelled: Cancelled | None = None
    with ThreadPoolExecutor(max_workers=1) as executor:
        future = executor.submit(work, report)
        try:
            while not future.done():
                wait([future], SERVE_EVERY_S)
                serve()
                if cancelled is None:
                    try:
                        progress(*news)
                    except Cancelled as error:
                        cancelled = error
                        stop.set()
        finally:
            stop.set()
    if cancelled is not None:
        raise cancelled
    return future.result()
