"""What the page shows, with the values it starts from, and how one piece of work is done for it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from PerfusionCBVLib.errors import Cancelled, PerfusionError, UsageError
from PerfusionCBVLib.gui.background import Steps
from PerfusionCBVLib.gui.choices import Colours, WindowPreset
from PerfusionCBVLib.gui.panel_text import time_left_text
from PerfusionCBVLib.settings import METHOD_TITLES, Settings
from PerfusionCBVLib.web.background import Progress, run_awaited
from PerfusionCBVLib.web.figures import EMPTY

EMPTY_READOUT = "Click into a slice to read a voxel and see its curve."

CASE: dict[str, Any] = {
    "facts": "",
    "findings": None,
    "echo_known": "",
    "interval_known": "",
    "echo_ms": "",
    "interval_ms": "",
    "why_not": "Open a series first.",
    "done": "",
    "maps": [],
    "map_shown": "",
    "dicom_possible": False,
    "segments": [],
    "measures": "",
    "has_map": False,
}
"""What belongs to the case on screen."""

FIRST: dict[str, Any] = {
    **CASE,
    "cases": [],
    "case_key": "",
    "root_known": False,
    "folder": "",
    "entries": [],
    "upload_limit_mb": 0,
    "methods": [{"name": name, "title": title} for name, title in METHOD_TITLES.items()],
    "method": Settings.method,
    "method_note": "",
    "reference": "automatic",
    "motion": False,
    "device": "auto",
    "busy": False,
    "busy_where": "",
    "progress": 0.0,
    "progress_text": "",
    "errors": {},
    "view": "series",
    "colours": Colours.AUTOMATIC.value,
    "colour_choices": [{"name": each.value, "title": each.label()} for each in Colours],
    "window_preset": WindowPreset.AUTOMATIC.value,
    "window_choices": [{"name": each.value, "title": each.label()} for each in WindowPreset],
    "window_low": 0.0,
    "window_high": 4.0,
    "opacity": 0.7,
    "threshold": 0.0,
    "legend": True,
    "mouse": "look",
    "brush_mm": 5.0,
    "anatomy": "",
    "maximised": "",
    "shown": [],
    "slices": {},
    "readout": EMPTY_READOUT,
    "reading": 0,
    "voxel": [],
    "voxel_values": {},
    "quantity": "delta_r2s",
    "curve": EMPTY,
    "histogram": EMPTY,
    "low_cut_off": 1.0,
    "high_cut_off": 1.75,
    "hot_spot_mm2": 40.0,
    "ready": "",
    "plotly_script": "",
}


class Desk:
    """The page's state, and the one work that may run for it at a time.

    Parameters
    ----------
    server : trame_server.Server
    """

    def __init__(self, server: Any) -> None:
        self.server, self.state = server, server.state
        self.state.update(FIRST)
        self._progress: Progress | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def tell(self, where: str, text: str) -> None:
        """Show an error, or with an empty text none, in a part of the page."""
        self.state.errors = {
            **{k: v for k, v in self.state.errors.items() if k != where},
            **({where: text} if text else {}),
        }

    async def work(self, where: str, steps: Steps[Any]) -> Any:
        """Return what steps return; None when they were cancelled or refused, which the page then says.

        Parameters
        ----------
        where : str
            The part of the page that started the work and shows its progress and its error.
        steps : generator
            See `gui.background`.
        """
        if self._progress is not None:
            self.tell(where, "Something else is being computed; wait until it is done, or cancel it.")
            return None
        self._progress = progress = Progress()
        started_s = time.monotonic()
        with self.state as state:
            self.tell(where, "")
            state.update({"busy": True, "busy_where": where, "progress": 0.0, "progress_text": "Starting"})

        def show() -> None:
            left = time_left_text(progress.fraction, time.monotonic() - started_s)
            with self.state as state:
                state.progress = round(progress.fraction, 3)
                state.progress_text = progress.message + (f", {left}" if left else "")

        try:
            return await run_awaited(steps, progress, show)
        except (Exception, Cancelled) as error:
            self.tell(where, said(error))
            return None
        finally:
            self._progress = None
            with self.state as state:
                state.update({"busy": False, "busy_where": "", "progress": 0.0, "progress_text": ""})

    def cancel(self) -> None:
        """Stop the running work at its next report."""
        if self._progress is not None:
            self._progress.stop.set()
            self.state.progress_text = "Cancelling ..."

    def start(self, coroutine: Any) -> None:
        """Let a coroutine run beside the answer to the page, and send what it changes."""
        task = asyncio.create_task(self._flushed(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flushed(self, coroutine: Any) -> None:
        try:
            await coroutine
        except Exception as error:
            self.tell("page", said(error))
        finally:
            self.state.flush()


def said(error: BaseException) -> str:
    """Return one sentence about an error; what is no error of the user's goes into the log with its traceback."""
    if isinstance(error, PerfusionError):
        return str(error)
    logging.getLogger(__name__).error("a fault", exc_info=error)
    if isinstance(error, OSError):
        return f"A file can't be read or written on the server: {error.strerror or error}."
    return f"This is a fault of Perfusion CBV: {type(error).__name__}: {error}. The server's log has the details."


def number(text: str, name: str, low: float, high: float) -> float | None:
    """Return what was typed into a field, or None for nothing.

    Raises
    ------
    UsageError
        No number, or one out of bounds.
    """
    if not str(text).strip():
        return None
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        raise UsageError(f"{name} is {text!r}, which is no number. Enter it in milliseconds.") from None
    if not low <= value <= high:
        raise UsageError(f"{name} is {value:g} ms; between {low:g} and {high:g} ms is expected. Check the unit.")
    return value
