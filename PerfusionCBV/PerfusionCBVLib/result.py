"""What `compute_maps` returns: maps with everything needed to draw, judge and reproduce them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from PerfusionCBVLib.arterial import ArterialInput
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.series import DynamicSeries, ParameterMap
from PerfusionCBVLib.timing import BolusTiming


@dataclass(frozen=True, eq=False)
class MapResult:
    """Maps of one series on the series' own grid.

    Attributes
    ----------
    series : DynamicSeries
        As it was read.
    maps : dict of str to ParameterMap
        By file stem: ``rcbv`` (the chosen method); beside a network ``rcbv_classical``, ``disagreement`` and, where the
        network knows it, ``uncertainty``; ``k1``, ``k2``, ``kep``; ``psr``. With an arterial input ``cbv``, ``cbf``,
        ``mtt``, ``tmax``, ``ttp``, ``delay`` and, for a network, ``cbv_network``.
    baseline : (x, y, z) float32 array
        Mean signal before the bolus, the picture under the overlay.
    mask : (x, y, z) bool array
        Brain.
    reference : (x, y, z) bool array or None
        The region whose mean rCBV is 1; None with ``normalize="none"``.
    status : (x, y, z) uint8 array
        Why a voxel has no value; see `concentration.Status`.
    timing : BolusTiming
    curves_per_s : dict of str to (T,) array
        Mean ΔR2*, 1/s (empty when the echo time is unknown), of ``brain``, ``reference`` and ``leaking`` tissue.
    findings : tuple of Finding
    provenance : dict
        Written as ``provenance.json``.
    arterial : ArterialInput or None
        What flow was measured against; None where it was not asked for.
    """

    series: DynamicSeries
    maps: dict[str, ParameterMap]
    baseline: np.ndarray
    mask: np.ndarray
    reference: np.ndarray | None
    status: np.ndarray
    timing: BolusTiming
    curves_per_s: dict[str, np.ndarray] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    arterial: ArterialInput | None = None

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to RAS, mm; (4, 4)."""
        return self.series.affine

    @property
    def times_s(self) -> np.ndarray:
        """Mid-time of each frame, s; (T,)."""
        return self.series.times_s
