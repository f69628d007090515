"""Whether a registration can be right: how much the volumes share, whether their parts agree, and left from right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.errors import QualityError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.resampling import blur_like, on_grid, sample
from PerfusionCBVLib.volume import Volume

SPACING_MM = 3.0
BINS = 24
REACH = 4
"""Blocks are looked for up to this many steps of `SPACING_MM` away, along each axis."""
BLOCK = 10
"""Edge of a block in steps."""
SHIFTED_STEPS = 3
MARGIN_MM = 6.0

LARGEST_RESIDUAL_MM = 3.0
LEAST_CORRELATION = 0.3
LEAST_GAIN = 1.0
LEAST_COVERAGE = 0.5
LARGEST_ROTATION_DEG = 35.0
LARGEST_DISPLACEMENT_MM = 80.0


@dataclass(frozen=True)
class RegistrationQuality:
    """What speaks for and against a registration.

    Attributes
    ----------
    mutual_information : float
        Of the two images over the brain and its outline, nats.
    mutual_information_before : float
        The same with the scanner's coordinates as they are; 0 where they do not overlap.
    mutual_information_shifted : float
        Mean of the same after shifts of 9 mm along each axis: what two heads share anywhere near.
    correlation : float
        Between the baseline and what the anatomy's brightness predicts of it, 0 to 1 (root of the correlation ratio).
    residual_mm : float
        Median over blocks of 30 mm of how far each would still move to fit best by itself.
    blocks : int
        How many blocks that is of.
    coverage : float
        Share of the brain that lies within the other volume.
    mirrored_gain : float or None
        Mutual information of the optimiser's metric with left and right exchanged, over that without, minus 1: above 0
        where the mirrored head fits better. None where it was not computed.
    """

    mutual_information: float
    mutual_information_before: float
    mutual_information_shifted: float
    correlation: float
    residual_mm: float
    blocks: int
    coverage: float
    mirrored_gain: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the measures ready for JSON."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measure_quality(baseline: Volume, mask: np.ndarray, fixed: Volume, matrix: np.ndarray) -> RegistrationQuality:
    affine, inside, here = _grid(baseline, mask)
    blurred = on_grid(fixed.values, fixed.voxel_mm, blur_like(1.5, baseline.affine, fixed.affine), 2.0)
    there_affine = fixed.affine @ np.diag([*blurred.step, 1.0])
    points = np.indices(inside.shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]

    def other(transform: np.ndarray) -> np.ndarray:
        moved = points @ transform[:3, :3].T + transform[:3, 3]
        return sample(blurred.values, there_affine, moved).reshape(inside.shape)

    there = other(matrix)
    around = ndimage.binary_dilation(inside, iterations=round(MARGIN_MM / SPACING_MM)) & np.isfinite(here)
    information = _mutual_information(here, there, around)
    shifted = []
    for axis in range(3):
        for sign in (-1, 1):
            moved = np.roll(there, sign * SHIFTED_STEPS, axis=axis)
            shifted.append(_mutual_information(here, moved, around))
    predicted, correlation = _predict(here, there, around)
    residual, norms, peaks = block_residuals(here, predicted, inside, around)
    return RegistrationQuality(
        information,
        _mutual_information(here, other(np.eye(4)), around),
        float(np.mean(shifted)),
        correlation,
        residual,
        len(norms),
        float(np.isfinite(there[inside]).mean()),
    )


def _grid(baseline, mask):
    index = np.argwhere(mask)
    edges = np.array(baseline.voxel_mm)
    pad = 9.0 / edges
    pad[np.argmax(edges)] = 0.0
    low, high = index.min(axis=0) - pad, index.max(axis=0) + pad
    steps = SPACING_MM / edges
    count = np.floor((high - low) / steps).astype(int) + 1
    to_index = np.diag([*steps, 1.0]); to_index[:3, 3] = low
    affine = baseline.affine @ to_index
    blurred = on_grid(baseline.values, baseline.voxel_mm, 1.5, 0.0)
    points = np.indices(count).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    here = sample(blurred.values, baseline.affine, points).reshape(count)
    inside = np.nan_to_num(sample(mask.astype(np.float32), baseline.affine, points).reshape(count)) > 0.5
    return affine, inside, here


def _ranks(values, where, bins):
    v = values[where]
    low, high = np.percentile(v, [0.5, 99.5])
    return np.clip(((values - low) / max(high - low, 1e-9) * bins), 0, bins - 1e-3)


def _mutual_information(here, there, where):
    where = where & np.isfinite(there)
    if where.sum() < 500:
        return 0.0
    a, b = (_ranks(v, where, BINS)[where].astype(int) for v in (here, there))
    joint = np.bincount(a * BINS + b, minlength=BINS * BINS).reshape(BINS, BINS).astype(float)
    joint = ndimage.gaussian_filter(joint, 0.7, mode="constant")
    joint /= joint.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    ok = joint > 0
    return float(np.sum(joint[ok] * np.log(joint[ok] / outer[ok])))


def _predict(here, there, where):
    where = where & np.isfinite(there)
    low, high = np.percentile(there[where], [0.5, 99.5])
    b = np.clip((there - low) / max(high - low, 1e-9), 0, 1) * (BINS - 1)
    b = np.nan_to_num(b)
    i = np.rint(b[where]).astype(int)
    w = ndimage.gaussian_filter1d(np.bincount(i, minlength=BINS).astype(float), 1.0)
    t = ndimage.gaussian_filter1d(np.bincount(i, here[where], minlength=BINS), 1.0)
    level = t / np.maximum(w, 1e-9)
    predicted = np.interp(b, np.arange(BINS), level).astype(np.float32)
    c = np.corrcoef(here[where], predicted[where])[0, 1]
    return predicted, float(max(np.nan_to_num(c), 0.0))


def block_residuals(here, predicted, inside, around, reach=REACH):
    # block sums by reduceat
    shape = np.array(here.shape)
    n = np.maximum(shape // BLOCK, 1)
    cuts = [np.linspace(0, s, k + 1).astype(int)[:-1] for s, k in zip(shape, n)]

    def sums(v):
        for axis in range(3):
            v = np.add.reduceat(v, cuts[axis], axis=axis)
        return v

    w = around.astype(np.float32)
    d = np.where(around, here, 0).astype(np.float32)
    p0 = np.pad(predicted, reach, mode="edge")
    W = sums(w)
    share = sums(inside.astype(np.float32)) / np.maximum(sums(np.ones_like(w)), 1)
    Sd, Sdd = sums(d), sums(d * d)
    vd = Sdd - Sd**2 / np.maximum(W, 1)
    span = 2 * reach + 1
    score = np.empty((span, span, span, *W.shape), np.float32)
    for i in range(span):
        for j in range(span):
            for k in range(span):
                p = p0[i:i + shape[0], j:j + shape[1], k:k + shape[2]]
                pw = p * w
                Sp, Spp, Sdp = sums(pw), sums(pw * p), sums(d * p)
                vp = Spp - Sp**2 / np.maximum(W, 1)
                score[i, j, k] = (Sdp - Sd * Sp / np.maximum(W, 1)) / np.sqrt(np.maximum(vd * vp, 1e-6))
    used = (share > 0.5)
    norms, peaks = [], []
    for block in np.argwhere(used):
        s = score[(slice(None),) * 3 + tuple(block)]
        at = np.unravel_index(np.argmax(s), s.shape)
        off = []
        for axis in range(3):
            o = float(at[axis] - reach)
            if 0 < at[axis] < span - 1:
                l = [*at]; r = [*at]; l[axis] -= 1; r[axis] += 1
                a, b, c = s[tuple(l)], s[at], s[tuple(r)]
                den = a - 2 * b + c
                if den < 0:
                    o += 0.5 * (a - c) / den
            off.append(o)
        norms.append(SPACING_MM * float(np.linalg.norm(off)))
        peaks.append(float(s.max()))
    return (float(np.median(norms)) if norms else float("nan")), norms, peaks


def judge(*a):
    return ()
