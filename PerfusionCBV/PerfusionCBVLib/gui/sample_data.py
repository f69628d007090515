"""A simulated patient in Slicer's Sample Data module, made on the user's machine without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.errors import Cancelled, PerfusionError
from PerfusionCBVLib.gui.dependencies import ensure_packages

CATEGORY = "Perfusion CBV"
NAME = "Simulated DSC-MRI"
THUMBNAIL = Path(__file__).parents[2] / "Resources" / "Icons" / "PerfusionCBV.png"


def register() -> None:
    """List the simulated patient in the Sample Data module; once, also after a reload of this module."""
    import SampleData  # a module of the application

    SampleData.SampleDataLogic.sampleDataSourcesByCategory().pop(CATEGORY, None)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris="",
        fileNames="",
        nodeNames=NAME,
        thumbnailFileName=str(THUMBNAIL),
        customDownloader=lambda source: make_patient(),
    )


def make_patient() -> Any:
    """Simulate the patient and show it; return its sequence node, or None when there is none and the user knows."""
    try:
        if not ensure_packages(torch=True):
            return None
        return _simulate()
    except Cancelled:
        return None
    except PerfusionError as error:
        slicer.util.errorDisplay(str(error))
        return None


def _simulate() -> Any:
    from PerfusionCBVLib.gui.input_nodes import shown_node
    from PerfusionCBVLib.gui.logic import simulate_node

    dialog = slicer.util.createProgressDialog(labelText=_("Simulating a patient"), maximum=0)

    def stop_when_cancelled(fraction: float, message: str) -> None:
        if dialog.wasCanceled:
            raise Cancelled("Cancelled.")

    try:
        node = simulate_node(progress=stop_when_cancelled)
    finally:
        dialog.close()
    slicer.util.setSliceViewerLayers(background=shown_node(node), fit=True)
    return node
