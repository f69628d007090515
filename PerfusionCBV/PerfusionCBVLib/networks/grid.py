"""The grid that the networks see, 128 × 128 pixels × 45 frames aligned to the bolus, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from PerfusionCBVLib.masking import brain_box
from PerfusionCBVLib.preparation import Prepared

PIXELS = 128
FRAMES = 45
PIXEL_MM = 1.75
FRAME_INTERVAL_S = 1.5
SMOOTHNESS = 0.1
"""Weight of second differences on the way back; noise grows by at most a fifth."""
LARGEST_INTENSITY = 4.0
FRAMES_BEFORE_ARRIVAL = 8
"""The window runs from 12 s before the bolus arrives to 54 s after, whatever the series' own frame interval."""


@dataclass(frozen=True, eq=False)
class NetworkGrid:
    """How one series' slices lie on the network's grid.

    Attributes
    ----------
    orientation, back : (3, 2) arrays
        nibabel orientation transforms to and from right-anterior-superior order.
    rows, columns : (128, n) arrays
        Resampling weights along the two in-plane axes.
    rows_back, columns_back : (n, 128) arrays
    """

    orientation: np.ndarray
    back: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    rows_back: np.ndarray
    columns_back: np.ndarray

    def to_pixels(self, volume: np.ndarray) -> np.ndarray:
        """Return (z, 128, 128, ...) slices of an (x, y, z, ...) volume; area-weighted where pixels are coarser."""
        turned = apply_orientation(volume, self.orientation)
        turned = np.moveaxis(turned, 2, 0)  # (z, x, y, ...)
        half = np.tensordot(self.rows, turned, axes=(1, 1))  # (128, z, y, ...)
        full = np.tensordot(self.columns, half, axes=(1, 2))  # (128y, 128x, z, ...)
        return np.ascontiguousarray(np.moveaxis(full, (2, 1, 0), (0, 1, 2)), dtype=np.float32)

    def to_voxels(self, slices: np.ndarray) -> np.ndarray:
        """Return the (x, y, z) volume whose `to_pixels` is (z, 128, 128) slices: the inverse, not a second blur."""
        turned = np.einsum("ip,zpq,jq->ijz", self.rows_back, slices, self.columns_back, optimize=True)
        return apply_orientation(turned, self.back).astype(np.float32)

    def rcbv_to_voxels(self, rcbv: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return the (x, y, z) map of a network's (z, 128, 128) output, which is a mean over the brain's `share`."""
        weight = self.to_voxels(share)
        return self.to_voxels(rcbv * np.maximum(share, 0.5)) / np.maximum(weight, 0.5)


def network_grid(mask: np.ndarray, affine: np.ndarray) -> NetworkGrid:
    """Return the grid centred on the brain: 1.75 mm pixels, or as much coarser as a larger head needs.

    It takes volumes for 0 more than a few millimetres away from the mask.
    """
    start = io_orientation(affine)
    target = axcodes2ornt("RAS")
    orientation, back = ornt_transform(start, target), ornt_transform(target, start)
    inside = apply_orientation(mask, orientation)
    sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(start[:, 0])]
    corner, stop = brain_box(inside)
    spans_mm = (stop - 1 - corner)[:2] * sizes_mm[:2]
    pixel_mm = max(PIXEL_MM, float(spans_mm.max()) / (PIXELS - 8))
    weights = []
    for axis, span_mm in enumerate(spans_mm):
        # The brain and a margin of nothing around it, so that the field of view, wide or narrow, plays no part.
        margin = int(np.ceil(2 * pixel_mm / sizes_mm[axis])) + 1
        first, last = int(corner[axis]) - margin, int(stop[axis]) + margin
        own_mm = (np.arange(first, last) - corner[axis]) * sizes_mm[axis]
        grid_mm = 0.5 * span_mm + (np.arange(PIXELS) - (PIXELS - 1) / 2) * pixel_mm
        there = _tent(own_mm, grid_mm)
        count = inside.shape[axis]
        seen = slice(max(first, 0), min(last, count))
        whole, whole_back = np.zeros((PIXELS, count)), np.zeros((count, PIXELS))
        whole[:, seen] = there[:, seen.start - first : seen.stop - first]
        whole_back[seen] = _inverse(there)[seen.start - first : seen.stop - first]
        weights.append((whole, whole_back))
    (rows, rows_back), (columns, columns_back) = weights
    return NetworkGrid(orientation, back, rows, columns, rows_back, columns_back)


def network_input(prepared: Prepared, grid: NetworkGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return ΔR2* on the network's grid, over the peak of the leak-free reference, and the brain on it.

    Dividing by the reference's peak takes out dose, echo time and field strength, which rCBV does not depend on.

    Returns
    -------
    (z, 45, 128, 128) float32 array, dimensionless
        0 outside the brain.
    (z, 128, 128) float32 array
        Share of the brain in each pixel.
    """
    timing, times_s = prepared.timing, prepared.series.times_s
    steady = slice(timing.first_steady, None)
    wanted_s = timing.arrival_s + (np.arange(FRAMES) - FRAMES_BEFORE_ARRIVAL) * FRAME_INTERVAL_S
    in_time = _tent(times_s[steady], wanted_s)  # (45, T); the ends hold the first and last frame
    scale = 1.0 / prepared.reference_peak_per_s
    curves = prepared.delta_r2s_per_s[:, steady] @ (in_time.T * scale).astype(np.float32)
    share = grid.to_pixels(prepared.usable.astype(np.float32))
    slices = np.empty((share.shape[0], FRAMES, PIXELS, PIXELS), dtype=np.float32)
    volume = np.zeros(prepared.usable.shape, dtype=np.float32)
    for frame in range(FRAMES):  # frame by frame: a 4-D copy on the finer grid would cost too much memory
        volume[prepared.usable] = curves[:, frame]
        slices[:, frame] = grid.to_pixels(volume)
    slices /= np.maximum(share, 0.5)[:, None]  # a mean over the brain's part of each pixel
    slices *= (share > 0.05)[:, None]
    return slices, share


def _inverse(weights: np.ndarray) -> np.ndarray:
    """Return the (own, wanted) least-squares inverse of resampling weights, the smoothest where they do not tell.

    Interpolating back instead would blur a second time: on heads with sharp edges that alone is an error of 12 % RMS.
    """
    bend = np.diff(np.eye(weights.shape[1]), 2, axis=0)  # second differences: straight lines come back exactly
    return np.linalg.solve(weights.T @ weights + SMOOTHNESS**2 * bend.T @ bend, weights.T)


def as_intensity(slices: np.ndarray, baseline: np.ndarray, decay: float) -> np.ndarray:
    """Return the signal of `network_input`'s slices, as the source paper feeds it: intensity over a fixed maximum.

    The paper divides by its training set's largest intensity. Scanners have no common unit, so here intensities are
    first divided by the brain's mean baseline.

    Parameters
    ----------
    slices : (z, 45, 128, 128) array
        ΔR2* over the reference's peak.
    baseline : (z, 128, 128) array
        Baseline signal over its mean in the brain; 0 outside.
    decay : float
        Echo time × peak ΔR2* of the reference.

    Returns
    -------
    (z, 45, 128, 128) float32 array
    """
    return (baseline[:, None] * np.exp(-decay * slices) / LARGEST_INTENSITY).astype(np.float32)


def _tent(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return (wanted, own) weights: linear interpolation, widened to a tent where `wanted` is spaced wider.

    Rows sum to 1; positions beyond the ends take the end's value.
    """
    if own.size == 1:
        return np.ones((wanted.size, 1))
    width = max(float(np.max(np.diff(own))), float(np.median(np.diff(wanted))) if wanted.size > 1 else 0.0)
    inside = np.clip(wanted, own[0], own[-1])
    if width > 1.001 * float(np.max(np.diff(own))):
        weights = np.clip(1 - np.abs(inside[:, None] - own[None, :]) / width, 0, None)
    else:  # exact linear interpolation, also between unevenly spaced frames
        low = np.clip(np.searchsorted(own, inside, side="right") - 1, 0, own.size - 2)
        fraction = (inside - own[low]) / (own[low + 1] - own[low])
        weights = np.zeros((wanted.size, own.size))
        weights[np.arange(wanted.size), low] = 1 - fraction
        weights[np.arange(wanted.size), low + 1] += fraction
    return weights / weights.sum(axis=1, keepdims=True)
