"""How long work tells what it does: a callback that may raise `Cancelled`."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the fraction done (0 to 1) and what is being done; raising `Cancelled` in it stops the work."""


def silent(fraction: float, message: str) -> None:
    """Report nothing."""


def part(progress: Progress, start: float, stop: float) -> Progress:
    """Return a callback for a step that takes the work from `start` to `stop`."""
    return lambda fraction, message: progress(start + (stop - start) * fraction, message)
