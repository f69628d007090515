"""What the anchored network sees of each voxel: numbers from the leakage fits, however the series was sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.integral import area, running_integral, trapezoid_weights
from PerfusionCBVLib.leakage import LeakageFit
from PerfusionCBVLib.leakage_average import average_models
from PerfusionCBVLib.masking import brain_box
from PerfusionCBVLib.preparation import Prepared
from PerfusionCBVLib.quality import find_glitches

FIT_FEATURES = (
    "corrected",  # leakage-corrected blood volume, relative to the reference curve's
    "uncorrected",  # the same without correction
    "k1",
    "delay",  # volume × delay against the reference, over the first pass's width
    "dispersion",  # volume × extra variance of transit, over the width squared
    "tail",  # ΔR2* just after the first pass, over the reference's peak
    "late",  # ΔR2* of the last frames, over the reference's peak
    "noise",  # log of an upper bound of the corrected volume's standard error: area's and correction's added
    "misfit",  # log of residual SD over baseline SD
    "significance",  # K2 over its standard error, squashed
)
FEATURES = (
    *FIT_FEATURES,
    "averaged",  # blood volume averaged over shapes of first pass and leakage, see `leakage_average`
    "averaged_noise",  # log of its standard deviation from noise
    "ambiguity",  # log of its standard deviation between the models
    "leaked",  # area of the leakage within the first pass, relative to the reference's area
    "leaking",  # weight of the models with leakage
)
TAIL_S = 12.0
LATE_FRAMES = 10
LARGEST_VOLUME = 30.0
MARGIN_PIXELS = 8
"""Around the brain; a multiple of 4, so that the brain begins where the network's coarser images begin a pixel."""


def voxel_features(prepared: Prepared, fit: LeakageFit) -> np.ndarray:
    """Return the features of each usable voxel: (V, 15) float32, dimensionless, in the order of `FEATURES`.

    Parameters
    ----------
    prepared : Prepared
    fit : LeakageFit
        Unidirectional.
    """
    echo_time_s = prepared.series.acquisition.echo_time_s
    assert echo_time_s is not None  # `prepare` has needed it
    curves, times_s, timing = prepared.delta_r2s_per_s, prepared.series.times_s, prepared.timing
    mean_signal = np.exp(-echo_time_s * curves.mean(axis=0, dtype=np.float64))
    average = average_models(
        curves,
        prepared.reference_per_s,
        times_s,
        timing,
        echo_time_s=echo_time_s,
        glitches=find_glitches(mean_signal, times_s, timing),
    )
    columns = [
        average.volume,
        np.log(np.clip(average.noise, 1e-3, 10)),
        np.log(np.clip(average.ambiguity, 1e-3, 10)),
        average.leaked,
        average.leaking,
    ]
    return np.concatenate([fit_features(prepared, fit), _bounded(np.stack(columns, axis=1))], axis=1)


def fit_features(prepared: Prepared, fit: LeakageFit) -> np.ndarray:
    """Return what the unidirectional fit alone tells of each usable voxel.

    Everything is divided by the leak-free reference curve's area, peak or width, so that dose, echo time, frame count
    and frame interval cancel; what remains of them is the noise, which is a feature of its own.

    Parameters
    ----------
    prepared : Prepared
    fit : LeakageFit
        Unidirectional.

    Returns
    -------
    (V, 10) float32 array, dimensionless
        In the order of `FIT_FEATURES`; 0 where a fit has no value.
    """
    timing, times_s = prepared.timing, prepared.series.times_s
    curves, reference = prepared.delta_r2s_per_s, prepared.reference_per_s
    window = timing.first_pass
    whole = area(reference, times_s, window)
    peak = prepared.reference_peak_per_s
    frames = times_s.size

    # Shape of the first pass: a delayed or dispersed curve is ref − δ·ref′ + (σ²/2)·ref″.
    slope = np.gradient(reference, times_s)
    slope[: timing.arrival] = 0
    bend = np.gradient(slope, times_s)
    bend[: timing.arrival] = 0
    weights = trapezoid_weights(times_s, slice(timing.arrival, frames))
    shapes = np.stack([reference, slope, bend])
    gram = (shapes * weights) @ shapes.T
    project = np.linalg.solve(gram, shapes * weights)  # (3, T)
    _, first, second = (curves @ project.T.astype(np.float32)).T

    tail = slice(timing.end, max(int(np.searchsorted(times_s, timing.end_s + TAIL_S)), timing.end + 2))
    frames_weight = float(np.sqrt(np.sum(trapezoid_weights(times_s, window) ** 2)))
    leak_area = float(area(running_integral(reference, times_s), times_s, window))
    error = np.hypot(fit.residual_sd * frames_weight, fit.k2_standard_error * leak_area) / whole
    baseline_sd = curves[:, timing.baseline].std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [
            fit.corrected_integral / whole,
            fit.integral / whole,
            fit.k1,
            -first / timing.width_s,
            2 * second / timing.width_s**2,
            curves[:, tail].mean(axis=1) / peak,
            curves[:, -LATE_FRAMES:].mean(axis=1) / peak,
            np.log(np.clip(error, 1e-3, 10)),
            np.log(np.clip(fit.residual_sd / baseline_sd, 0.1, 10)),
            np.tanh(fit.k2 / fit.k2_standard_error / 10),
        ]
    return _bounded(np.stack(columns, axis=1))


def as_slices(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return (z, C, x, y) images of (V, C) values, 0 outside: the slices that hold brain, with a margin in plane.

    What a network that halves its images makes of a voxel depends on the voxel's place in the image. So the images
    begin at a fixed distance from the brain, whatever the field of view around it; they may reach beyond it. x and y
    are multiples of 4.
    """
    place = _place(usable)
    images = np.zeros((place.slices, values.shape[1], *place.size), dtype=np.float32)
    by_slice = values[place.order]
    for channel in range(values.shape[1]):
        images[:, channel][place.inside] = by_slice[:, channel]
    return images


def from_slices(images: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the (V,) values of (z, x, y) images: the inverse of `as_slices`."""
    place = _place(usable)
    values = np.empty(place.order.size, dtype=images.dtype)
    values[place.order] = images[place.inside]
    return values


def network_slices(features: np.ndarray, usable: np.ndarray, voxel_size_mm: np.ndarray) -> np.ndarray:
    """Return (z, 17, x, y) input of the anchored network: the features, the mask, the log of the pixel's size."""
    pixel = 0.5 * np.log(voxel_size_mm[0] * voxel_size_mm[1] / 4.0)
    columns = np.empty((features.shape[0], features.shape[1] + 2), dtype=np.float32)
    columns[:, :-2], columns[:, -2], columns[:, -1] = features, 1.0, pixel
    return as_slices(columns, usable)


def _bounded(columns: np.ndarray) -> np.ndarray:
    features = columns.astype(np.float32)
    np.nan_to_num(features, copy=False, nan=0.0)
    return features.clip(-LARGEST_VOLUME, LARGEST_VOLUME)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the usable voxels lie in the images of `as_slices`."""

    inside: np.ndarray
    """(z, x, y) bool"""
    order: np.ndarray
    """(V,) int: sorts values stored in (x, y, z) order into (z, x, y) order"""

    @property
    def slices(self) -> int:
        return self.inside.shape[0]

    @property
    def size(self) -> tuple[int, ...]:
        return self.inside.shape[1:]


def _place(usable: np.ndarray) -> _Place:
    corner, stop = brain_box(usable)
    width, height, slices = stop - corner
    inside = np.zeros((slices, *(2 * MARGIN_PIXELS + n + -n % 4 for n in (width, height))), dtype=bool)
    box = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
    inside[:, MARGIN_PIXELS : MARGIN_PIXELS + width, MARGIN_PIXELS : MARGIN_PIXELS + height] = np.moveaxis(
        usable[box], 2, 0
    )
    place = np.zeros(usable.shape, dtype=np.int32)
    place[usable] = np.arange(int(usable.sum()))
    return _Place(inside, np.moveaxis(place, 2, 0)[np.moveaxis(usable, 2, 0)])
