"""The cases of one sitting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.result import MapResult


@dataclass
class Case:
    """One series that was opened, with what was made of it.

    Attributes
    ----------
    key : str
    node : vtkMRMLNode
        The series.
    path : Path or None
        Where it was read from; None for the simulated patient.
    findings : tuple of Finding or None
        None: not checked yet.
    echo_ms, interval_ms : str
        As typed by the user; empty where the series says it itself.
    result : MapResult or None
        Of the latest run.
    map_shown : str
        Role of the map on screen.
    anatomy : vtkMRMLScalarVolumeNode or None
        The last anatomical volume that was opened for it.
    segmentation : vtkMRMLSegmentationNode or None
    """

    key: str
    node: Any
    path: Path | None
    findings: tuple[Finding, ...] | None = None
    echo_ms: str = ""
    interval_ms: str = ""
    result: MapResult | None = None
    map_shown: str = "rcbv"
    anatomy: Any = None
    segmentation: Any = None
    done: str = ""
    histogram: dict[str, Any] = field(default_factory=lambda: {"data": [], "layout": {}})

    @property
    def name(self) -> str:
        """What to call it."""
        return self.node.GetName() or "DSC series"
