"""What every method starts from: mask, bolus timing, ΔR2* of the brain's voxels, leak-free reference curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.concentration import Status, delta_r2s, voxel_status
from PerfusionCBVLib.errors import QualityError, TimingError
from PerfusionCBVLib.leakage import LeakageFit, correct_unidirectional, leak_free_reference
from PerfusionCBVLib.masking import brain_mask, validate_mask
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.timing import BolusTiming, find_bolus


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series ready for mapping.

    Attributes
    ----------
    series : DynamicSeries
    mask : (x, y, z) bool array
        Brain.
    timing : BolusTiming
    status : (x, y, z) uint8 array
        See `concentration.Status`.
    usable : (x, y, z) bool array
        The V voxels of the mask that can have a value.
    baseline : (x, y, z) float32 array
        Mean signal before the bolus.
    delta_r2s_per_s : (V, T) float32 array, 1/s
    reference_per_s : (T,) array, 1/s
        Mean ΔR2* of voxels that do not leak.
    """

    series: DynamicSeries
    mask: np.ndarray
    timing: BolusTiming
    status: np.ndarray
    usable: np.ndarray
    baseline: np.ndarray
    delta_r2s_per_s: np.ndarray
    reference_per_s: np.ndarray

    @property
    def reference_peak_per_s(self) -> float:
        """Peak of the reference curve in the first pass, 1/s."""
        return float(self.reference_per_s[self.timing.first_pass].max())

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Return (V,) values on the series' grid, NaN elsewhere, float32."""
        filled = np.full(self.mask.shape, np.nan, dtype=np.float32)
        filled[self.usable] = values
        return filled


def find_mask_and_bolus(series: DynamicSeries, mask: np.ndarray | None = None) -> tuple[np.ndarray, BolusTiming]:
    """Return the brain mask (found, or the given one checked) and when the bolus passes.

    Raises
    ------
    GeometryError, QualityError
        No brain, no bolus, or a mask that does not fit.
    """
    inside = brain_mask(series.signal, series.voxel_size_mm) if mask is None else validate_mask(mask, series)
    curves = series.signal[inside]
    valid = (curves.min(axis=1) > 0) & np.isfinite(curves.max(axis=1))
    if not valid.any():
        raise QualityError(
            "No voxel of the brain has a positive signal in every frame. Check that this is a magnitude series and "
            "that the mask fits."
        )
    return inside, find_bolus(curves[valid].mean(axis=0, dtype=np.float64), series.times_s)


def prepare(series: DynamicSeries, mask: np.ndarray, timing: BolusTiming) -> Prepared:
    """Return ΔR2* of the mask with its leak-free reference.

    Raises
    ------
    TimingError
        The echo time is unknown.
    QualityError
        Too few usable or leak-free voxels.
    """
    echo_time_s = series.acquisition.echo_time_s
    if echo_time_s is None:
        raise TimingError(
            "The echo time is not in the input, and ΔR2* in 1/s needs it. Pass it in seconds, for example "
            "--echo-time 0.03 for 30 ms; the scan protocol states it."
        )
    status = voxel_status(series.signal, mask, baseline=timing.baseline, first_pass=timing.first_pass)
    usable = (status == Status.VALID) | (status == Status.SATURATED)
    curves = delta_r2s(series.signal[usable], echo_time_s=echo_time_s, baseline=timing.baseline)
    reference, _ = leak_free_reference(curves, series.times_s, timing)
    return Prepared(
        series=series,
        mask=mask,
        timing=timing,
        status=status,
        usable=usable,
        baseline=series.signal[..., timing.baseline].mean(axis=-1),
        delta_r2s_per_s=curves,
        reference_per_s=np.asarray(reference, dtype=np.float64),
    )


def fit_leakage(prepared: Prepared, correct: Callable[..., LeakageFit] = correct_unidirectional) -> LeakageFit:
    """Return the leakage fit of every usable voxel; maps and training samples both start from it.

    Parameters
    ----------
    prepared : Prepared
    correct : function
        `leakage.correct_unidirectional` or `leakage.correct_bidirectional`.

    Raises
    ------
    TimingError, QualityError
        See `leakage.correct_unidirectional`.
    """
    timing = prepared.timing
    return correct(
        prepared.delta_r2s_per_s,
        prepared.reference_per_s,
        prepared.series.times_s,
        fit=timing.after_arrival,
        window=timing.first_pass,
        baseline=timing.baseline,
    )
