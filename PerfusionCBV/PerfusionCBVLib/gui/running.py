"""One run of long work from the panel: progress, cancelling, and one sentence for whatever went wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from PerfusionCBVLib.errors import Cancelled, PerfusionError
from PerfusionCBVLib.gui.panel import show_progress
from PerfusionCBVLib.progress import Progress


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    outcome : object
        What the work returned; None when it did not come to its end.
    said : str
        For the status line; empty when the work succeeded.
    problem : str
        For a dialog; empty when the user knows already.
    """

    outcome: Any = None
    said: str = ""
    problem: str = ""


def run(ui: Any, work: Callable[[Progress], Any], prepare: Callable[[], bool], cancelled: Callable[[], bool]) -> Ended:
    """Do work, showing its progress in the panel; raises nothing that the work raises.

    Parameters
    ----------
    ui : object with the panel's widgets
    work : callable (progress)
    prepare : callable ()
        Installs what is missing; returns whether the work can start.
    cancelled : callable ()
        Whether the user has cancelled.
    """
    started_s = time.monotonic()

    def progress(fraction: float, message: str) -> None:
        if cancelled():
            raise Cancelled("Cancelled.")
        show_progress(ui, fraction, message, time.monotonic() - started_s)

    try:
        if not prepare():
            return Ended(said=_("Not done: the Python packages that this needs are not installed."))
        started_s = time.monotonic()
        return Ended(work(progress))
    except Cancelled:
        return Ended(said=_("Cancelled. The scene is as it was."))
    except PerfusionError as error:
        return Ended(said=str(error), problem=str(error))
    except OSError as error:  # a full disk, a folder without permission
        said = _("A file can't be read or written: {error}. Choose another folder.").format(error=error)
        return Ended(said=said, problem=said)
    except Exception as error:
        logging.exception("Perfusion CBV")  # the traceback is for the log, not for the user
        said = _("This is a fault of Perfusion CBV: {error}.").format(error=f"{type(error).__name__}: {error}")
        return Ended(said=said, problem=said + " " + _("Help > Report a Bug shows the log with the details."))
