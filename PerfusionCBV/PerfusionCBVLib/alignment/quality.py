"""Whether a registration can be right: how far it stands out from its surroundings, and left from right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.alignment.resampling import blur_like, on_grid, sample
from PerfusionCBVLib.alignment.rigid import inverse
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.brain_space import BrainSpace
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.normalize import receive_bias

SPACING_MM = 3.0
BINS = 24
SHIFT_STEPS, OUTLINE_STEPS = 3, 2
SMALLEST_REGION = 500
"""Points that a joint histogram needs."""

LEAST_DISTINCTNESS = 2.0
"""Simulated heads (Testing/registration_bench.py): right ones 2.8 or more, 6 mm off 1.9, other heads 1.6 at most."""

LEAST_COVERAGE = 0.9
LARGEST_ROTATION_DEG = 35.0
LARGEST_DISPLACEMENT_MM = 80.0
"""A head can't lie further from where another scan had it, in one scanner's coordinates."""

DOUBTFUL = "registration-doubtful"
_ADVICE = (
    "Look at the picture of the registration; don't use the registered maps if outlines and ventricles don't match."
)


@dataclass(frozen=True)
class RegistrationQuality:
    """What speaks for and against a registration; both images without their coils' smooth brightness, on 3 mm.

    Attributes
    ----------
    mutual_information : float
        Of the two images over the brain and 6 mm around it, nats.
    mutual_information_before : float
        The same with the scanners' coordinates as they are; 0 where the volumes do not overlap.
    mutual_information_shifted : float
        Mean of the same after shifts of 9 mm along each axis: what any two heads share that lie roughly on each other.
    correlation : float
        Between the baseline and what the other image's brightness predicts of it, 0 to 1: the correlation ratio's root.
    coverage : float
        Share of the brain that lies within the other volume.
    mirrored : float or None
        Mutual information with left and right exchanged and the head registered again, over `mutual_information`: above
        1 where the mirrored head fits better. None where it was not computed.
    """

    mutual_information: float
    mutual_information_before: float
    mutual_information_shifted: float
    correlation: float
    coverage: float
    mirrored: float | None = None

    @property
    def distinctness(self) -> float:
        """Mutual information over that of positions 9 mm away; 1 where the position is no better than any other."""
        return self.mutual_information / max(self.mutual_information_shifted, 1e-6)

    def as_dict(self) -> dict[str, Any]:
        """Return the measures ready for JSON."""
        measures = {**asdict(self), "distinctness": self.distinctness}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in measures.items()}


def measure_quality(
    baseline: Volume,
    mask: np.ndarray,
    fixed: Volume,
    matrix: np.ndarray,
    mirrored: tuple[Volume, np.ndarray] | None = None,
) -> RegistrationQuality:
    """Return what speaks for and against a transform, whoever found it.

    Parameters
    ----------
    baseline : Volume
    mask : (x, y, z) bool array
        Brain, on the baseline's grid.
    fixed : Volume
    matrix : (4, 4) array
        RAS of the baseline to RAS of `fixed`, mm.
    mirrored : (Volume, (4, 4) array), optional
        `fixed` with left and right exchanged (`mirror_image`), and the transform to it.
    """
    affine, here, inside, around = _brain_grid(baseline, mask)
    points = np.indices(inside.shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]

    def seen_in(volume: Volume, transform: np.ndarray) -> np.ndarray:
        blurred = on_grid(volume.values, volume.voxel_mm, blur_like(1.5, baseline.affine, volume.affine), 2.0)
        moved = points @ transform[:3, :3].T + transform[:3, 3]
        thinned_affine = volume.affine @ np.diag([*blurred.step, 1.0])
        return without_bias(sample(blurred.values, thinned_affine, moved).reshape(inside.shape), inside)

    there = seen_in(fixed, matrix)
    shifted = [
        mutual_information(here, np.roll(there, sign * SHIFT_STEPS, axis=axis), around)
        for axis in range(3)
        for sign in (-1, 1)
    ]
    information = mutual_information(here, there, around)
    exchanged = None if mirrored is None else mutual_information(here, seen_in(*mirrored), around)
    return RegistrationQuality(
        mutual_information=information,
        mutual_information_before=mutual_information(here, seen_in(fixed, np.eye(4)), around),
        mutual_information_shifted=float(np.mean(shifted)),
        correlation=_correlation(here, there, around),
        coverage=float(np.isfinite(there[inside]).mean()),
        mirrored=None if exchanged is None else exchanged / max(information, 1e-6),
    )


def judge(
    quality: RegistrationQuality, rotation_deg: float, displacement_mm: float, moving: str, fixed: str
) -> tuple[Finding, ...]:
    """Return warnings ``registration-doubtful`` about what looks wrong; nothing where all is as usual.

    Parameters
    ----------
    quality : RegistrationQuality
    rotation_deg, displacement_mm : float
        Angle of the turn, and mean distance by which the brain moves.
    moving, fixed : str
        Names of the volumes, for the message.
    """
    pair = f"{moving} and {fixed}"
    findings = []
    if quality.coverage < LEAST_COVERAGE:
        findings.append(
            Finding(
                DOUBTFUL,
                "warning",
                f"Only {quality.coverage:.0%} of the brain of {moving} lies within {fixed}.",
                f"What lies outside has no place on the anatomy. {_ADVICE}",
                round(quality.coverage, 3),
            )
        )
    if quality.distinctness < LEAST_DISTINCTNESS:
        findings.append(
            Finding(
                DOUBTFUL,
                "warning",
                f"{pair} share {quality.distinctness:.1f} times as much where they were registered as 9 mm away; at "
                f"least {LEAST_DISTINCTNESS:g} times is usual for two images of one head.",
                f"Check that both are of one patient and show the brain. {_ADVICE}",
                round(quality.distinctness, 2),
            )
        )
    if quality.mirrored is not None and quality.mirrored > 1.0:
        findings.append(
            Finding(
                DOUBTFUL,
                "warning",
                f"{pair} fit better with left and right exchanged ({quality.mirrored:.2f} times the mutual "
                "information).",
                f"Check the orientation of both, a converter may have exchanged the sides. {_ADVICE}",
                round(quality.mirrored, 3),
            )
        )
    if rotation_deg > LARGEST_ROTATION_DEG or displacement_mm > LARGEST_DISPLACEMENT_MM:
        findings.append(
            Finding(
                DOUBTFUL,
                "warning",
                f"{moving} was turned by {rotation_deg:.0f}° and moved by {displacement_mm:.0f} mm onto {fixed}; up to "
                f"{LARGEST_ROTATION_DEG:g}° and {LARGEST_DISPLACEMENT_MM:g} mm are usual.",
                _ADVICE,
                round(displacement_mm, 1),
                "mm",
            )
        )
    return tuple(findings)


def mirror_image(baseline: Volume, mask: np.ndarray, fixed: Volume, matrix: np.ndarray) -> Volume:
    """Return `fixed` with left and right exchanged about the brain's mid-sagittal plane: the same values elsewhere.

    Parameters
    ----------
    baseline, mask, fixed, matrix
        As for `measure_quality`. The plane is looked for in the baseline.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    space = BrainSpace(baseline.affine, box, mask[box].astype(bool))
    corners = np.vstack([np.zeros(3), np.eye(3)]).T * 10.0
    here = space.affine[:3, :3] @ corners + space.affine[:3, 3:]
    there = space.affine[:3, :3] @ space.mirrored(corners) + space.affine[:3, 3:]
    reflection = np.eye(4)
    reflection[:3, :3] = (there[:, 1:] - there[:, :1]) @ np.linalg.inv(here[:, 1:] - here[:, :1])
    reflection[:3, 3] = there[:, 0] - reflection[:3, :3] @ here[:, 0]
    affine = matrix @ reflection @ inverse(matrix) @ fixed.affine
    return Volume(fixed.values, affine, fixed.name)


def mutual_information(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the mutual information of two images within a region, nats, from a smoothed joint histogram.

    Parameters
    ----------
    one, other : (x, y, z) arrays
        NaN where unknown.
    where : (x, y, z) bool array

    Returns
    -------
    float
        0 where fewer than 500 points are known in both.
    """
    where = where & np.isfinite(one) & np.isfinite(other)
    if np.count_nonzero(where) < SMALLEST_REGION:
        return 0.0
    rows, columns = (np.minimum(_bins(v[where]).astype(int), BINS - 1) for v in (one, other))
    joint = np.bincount(rows * BINS + columns, minlength=BINS * BINS).reshape(BINS, BINS).astype(float)
    joint = ndimage.gaussian_filter(joint, 0.7, mode="constant")
    joint /= joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    known = joint > 0
    return float(np.sum(joint[known] * np.log(joint[known] / independent[known])))


def without_bias(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return an image over its coil's smooth brightness, which two images of any heads have in common by chance.

    Parameters
    ----------
    image : (x, y, z) array
    inside : (x, y, z) bool array
        Brain, in which the brightness is fitted; outside it keeps within the range that it has inside.
    """
    known = inside & np.isfinite(image) & (image > 0)
    if np.count_nonzero(known) < SMALLEST_REGION:
        return image
    brightness = receive_bias(np.where(known, image, 1.0), known)
    low, high = np.percentile(brightness[known], [1, 99])
    return np.asarray(image / np.clip(brightness, low, high))


def _correlation(here: np.ndarray, there: np.ndarray, where: np.ndarray) -> float:
    """Return the root of the correlation ratio: how well `here`'s mean at each brightness of `there` predicts it."""
    where = where & np.isfinite(here) & np.isfinite(there)
    if np.count_nonzero(where) < SMALLEST_REGION:
        return 0.0
    values, place = here[where].astype(float), np.minimum(_bins(there[where]).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    mean = np.bincount(place, values, minlength=BINS) / np.maximum(count, 1)
    return float(np.std(mean[place]) / max(float(np.std(values)), 1e-12))


def _bins(values: np.ndarray) -> np.ndarray:
    """Return values as positions from 0 to `BINS`, a few extreme ones at the ends."""
    low, high = np.percentile(values, [0.5, 99.5])
    return np.asarray(np.clip((values - low) / max(float(high - low), 1e-12), 0.0, 1.0) * BINS)


def _brain_grid(baseline: Volume, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return a 3 mm grid along the baseline's axes: its affine, the image, the brain, and that with its outline."""
    edges = np.array(baseline.voxel_mm)
    index = np.argwhere(mask)
    margin = SPACING_MM * (SHIFT_STEPS + OUTLINE_STEPS) / edges  # what is shifted in comes from beyond the brain
    low, high = index.min(axis=0) - margin, index.max(axis=0) + margin
    shape = np.floor((high - low) * edges / SPACING_MM).astype(int) + 1
    to_index = np.diag([*(SPACING_MM / edges), 1.0])
    to_index[:3, 3] = low
    affine = baseline.affine @ to_index
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    inside = np.nan_to_num(sample(mask.astype(np.float32), baseline.affine, points)).reshape(shape) > 0.5
    blurred = on_grid(baseline.values, baseline.voxel_mm, 1.5, 0.0)
    here = sample(blurred.values, baseline.affine, points).reshape(shape)
    around = ndimage.binary_dilation(inside, iterations=OUTLINE_STEPS)
    return affine, without_bias(here, inside), inside, around
