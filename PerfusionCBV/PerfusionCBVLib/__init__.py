"""Relative cerebral blood volume from DSC-MRI: reading, checking, classical and network maps, simulated truth."""

__version__ = "0.1.0"

from PerfusionCBVLib.errors import Cancelled, InputRefusedError, PerfusionError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.output import write_result
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.quality import check
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import Acquisition, DynamicSeries, ParameterMap
from PerfusionCBVLib.settings import Settings

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
