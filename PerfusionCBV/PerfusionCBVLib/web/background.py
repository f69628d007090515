"""Steps of `gui.background` awaited: the page is answered while a thread works."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from PerfusionCBVLib.errors import Cancelled
from PerfusionCBVLib.gui.background import Steps, Work, said_in_the_panel

LOOK_EVERY_S = 0.1

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="work")
"""One after the other; `gui.logic` refuses a second work anyway."""


class Progress:
    """How far a work is, told by its thread and read by the page's.

    Attributes
    ----------
    fraction : float
    message : str
    stop : threading.Event
        Set to have the work end at its next report.
    """

    def __init__(self) -> None:
        self.fraction, self.message = 0.0, ""
        self.stop = Event()

    def __call__(self, fraction: float, message: str) -> None:
        """Take a report of the work.

        Raises
        ------
        Cancelled
        """
        if self.stop.is_set():
            raise Cancelled("Cancelled. Nothing was changed.")
        self.fraction, self.message = fraction, message


async def run_awaited(steps: Steps[Any], progress: Progress, show: Callable[[], None]) -> Any:
    """Return what steps return; each work they yield runs in a thread, and `show` is called while it does.

    Raises
    ------
    Cancelled
        And whatever the steps raise, in words of the page.
    """
    loop = asyncio.get_running_loop()
    proceed: Callable[[], Work] = functools.partial(next, steps)
    while True:
        try:
            work = proceed()
        except StopIteration as end:
            return end.value
        future = loop.run_in_executor(_THREAD, work, progress)
        try:
            while not (await asyncio.wait([future], timeout=LOOK_EVERY_S))[0]:
                show()
            proceed = functools.partial(steps.send, future.result())
        except Exception as error:
            proceed = functools.partial(steps.throw, said_in_the_panel(error))


def one_step(work: Work) -> Steps[Any]:
    """Return the steps of work that needs no nodes."""
    return (yield work)
