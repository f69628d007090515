"""Relative cerebral blood volume from DSC-MRI: reading, checking, classical and network maps, simulated truth.

The public names are imported when first used: Slicer's panel opens, and offers to install what is missing, before the
packages that the work needs are there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PerfusionCBVLib.errors import Cancelled, InputRefusedError, PerfusionError
    from PerfusionCBVLib.findings import Finding
    from PerfusionCBVLib.load import load_series
    from PerfusionCBVLib.output import write_result
    from PerfusionCBVLib.pipeline import compute_maps
    from PerfusionCBVLib.quality import check
    from PerfusionCBVLib.result import MapResult
    from PerfusionCBVLib.series import Acquisition, DynamicSeries, ParameterMap
    from PerfusionCBVLib.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Acquisition",
    "Cancelled",
    "DynamicSeries",
    "Finding",
    "InputRefusedError",
    "MapResult",
    "ParameterMap",
    "PerfusionError",
    "Settings",
    "check",
    "compute_maps",
    "load_series",
    "write_result",
]

_HOMES = {
    "errors": ("Cancelled", "InputRefusedError", "PerfusionError"),
    "findings": ("Finding",),
    "load": ("load_series",),
    "output": ("write_result",),
    "pipeline": ("compute_maps",),
    "quality": ("check",),
    "result": ("MapResult",),
    "series": ("Acquisition", "DynamicSeries", "ParameterMap"),
    "settings": ("Settings",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
