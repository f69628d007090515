"""Work in two places: nodes are touched where they live, arrays are computed in another thread; blocking or awaited.

A function under `Background` is a generator: it reads nodes, yields the work that needs none, and goes on with what
the work returned. The panel calls it like any function, which serves the user's events meanwhile; the browser's server
takes its `steps` and awaits each work, so that other requests are answered meanwhile.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import slicer

from PerfusionCBVLib.errors import PerfusionError, UsageError
from PerfusionCBVLib.gui.words import in_the_panel
from PerfusionCBVLib.gui.worker import run_in_background
from PerfusionCBVLib.progress import Progress, silent

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

Work = Callable[[Progress], Any]
Steps = Generator[Work, Any, Outcome]

_busy = False


class Background(Generic[Given, Outcome]):
    """A function made of steps; calling it runs them to the end.

    Parameters
    ----------
    steps : generator function
        A parameter called `progress` is not its own: it gets the reports of the work.
    """

    def __init__(self, steps: Callable[Given, Steps[Outcome]]) -> None:
        self.steps = steps
        self._signature = inspect.signature(steps)
        functools.update_wrapper(self, steps)

    def __call__(self, *given: Given.args, **named: Given.kwargs) -> Outcome:
        """Return what the steps return; serve the application's events meanwhile."""
        progress = self._signature.bind(*given, **named).arguments.get("progress") or silent

        steps = self.steps(*given, **named)
        proceed: Callable[[], Work] = functools.partial(next, steps)
        while True:
            try:
                work = proceed()
            except StopIteration as end:
                return end.value
            try:
                outcome = run_in_background(work, progress, slicer.app.processEvents)
                proceed = functools.partial(steps.send, outcome)
            except BaseException as error:
                proceed = functools.partial(steps.throw, said_in_the_panel(error))


def said_in_the_panel(error: BaseException) -> BaseException:
    """Return an error whose sentence names fields of the panel instead of options of the command line."""
    if isinstance(error, PerfusionError):
        error.args = (in_the_panel(str(error)),)
    return error


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
