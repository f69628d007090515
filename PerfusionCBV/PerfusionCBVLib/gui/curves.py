"""Curves of single voxels and regions, and what the leakage correction takes them for: arrays only, no nodes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from PerfusionCBVLib.concentration import delta_r2s
from PerfusionCBVLib.errors import InputRefusedError
from PerfusionCBVLib.leakage import correct_bidirectional, correct_unidirectional, washout_convolution
from PerfusionCBVLib.preparation import prepare
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.timing import BolusTiming


@dataclass(frozen=True, eq=False)
class CurveSource:
    """A mapped series, from which curves can be read.

    Attributes
    ----------
    series : DynamicSeries
        As measured, before motion correction.
    mask : (x, y, z) bool array
        Brain.
    timing : BolusTiming
    both_ways : bool
        Whether the fit lets the contrast agent flow back into the vessels.
    """

    series: DynamicSeries
    mask: np.ndarray
    timing: BolusTiming
    both_ways: bool = False

    @classmethod
    def of_result(cls, result: MapResult) -> CurveSource:
        """Return the source of a fresh result."""
        return cls(result.series, result.mask, result.timing, _both_ways(result.provenance))

    @classmethod
    def of_provenance(cls, series: DynamicSeries, mask: np.ndarray, provenance: dict[str, Any]) -> CurveSource:
        """Return the source of a result that came back with a saved scene."""
        timing = BolusTiming(**{field.name: provenance["bolus"][field.name] for field in fields(BolusTiming)})
        return cls(series, mask, timing, _both_ways(provenance))

    @property
    def echo_time_s(self) -> float:
        """Echo time; a series without one is never mapped."""
        assert self.series.acquisition.echo_time_s is not None
        return self.series.acquisition.echo_time_s

    @cached_property
    def reference_per_s(self) -> np.ndarray | None:
        """Mean ΔR2* of voxels that do not leak, (T,) 1/s; None where there are too few."""
        try:
            return prepare(self.series, self.mask, self.timing).reference_per_s
        except InputRefusedError:
            return None

    def signal(self, where: tuple[int, int, int] | np.ndarray) -> np.ndarray:
        """Return the mean signal, (T,), of one voxel (i, j, k) or of an (x, y, z) bool array."""
        return self.series.signal[where].reshape(-1, self.series.frames).mean(axis=0, dtype=np.float64)

    def delta_r2s_per_s(self, where: tuple[int, int, int] | np.ndarray) -> np.ndarray:
        """Return ΔR2*, (T,) 1/s, of one voxel, or its mean over those voxels of a region that have it."""
        curves = self.series.signal[where].reshape(-1, self.series.frames)
        curves = delta_r2s(curves, echo_time_s=self.echo_time_s, baseline=self.timing.baseline)
        complete = np.isfinite(curves).all(axis=1)
        return curves[complete].mean(axis=0, dtype=np.float64) if complete.any() else np.full(curves.shape[1], np.nan)

    def fitted_per_s(self, curve_per_s: np.ndarray) -> np.ndarray:
        """Return the leak-free reference scaled to a curve, with its leakage, (T,) 1/s; NaN where that can't be said.

        K1·ref(t) − K2·∫ref(τ)·exp(−kep·(t−τ))dτ, as `leakage` fits it, from bolus arrival on.
        """
        fitted = np.full(curve_per_s.shape, np.nan)
        reference, times_s, timing = self.reference_per_s, self.series.times_s, self.timing
        if reference is None or not np.isfinite(curve_per_s).all():
            return fitted
        correct = correct_bidirectional if self.both_ways else correct_unidirectional
        fit = correct(
            curve_per_s[None],
            reference,
            times_s,
            fit=timing.after_arrival,
            window=timing.first_pass,
            baseline=timing.baseline,
        )
        kep = 0.0 if fit.kep is None or not np.isfinite(fit.kep[0]) else float(fit.kep[0])
        start = timing.arrival
        leaked = washout_convolution(reference[start:], times_s[start:], kep)
        fitted[start:] = fit.k1[0] * reference[start:] - fit.k2[0] * leaked
        return fitted

    def as_signal(self, curve_per_s: np.ndarray, signal: np.ndarray) -> np.ndarray:
        """Return the signal, (T,), that has this ΔR2* and the baseline of a measured signal."""
        baseline = signal[self.timing.baseline].mean()
        return np.asarray(baseline * np.exp(-self.echo_time_s * curve_per_s))

    def windows_s(self) -> dict[str, tuple[float, float]]:
        """Return begin and end, s, of the baseline and of the first pass, whose area becomes the blood volume."""
        frames = {"baseline": self.timing.baseline, "bolus": self.timing.first_pass}
        times = {name: self.series.times_s[which] for name, which in frames.items()}
        return {name: (float(t[0]), float(t[-1])) for name, t in times.items() if t.size}


def _both_ways(provenance: dict[str, Any]) -> bool:
    return bool(provenance["settings"]["method"] == "bidirectional")
