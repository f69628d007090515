"""Blood volume relative to a reference region, and an automatic one: contralateral normal-appearing white matter."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.brain_space import BrainSpace
from PerfusionCBVLib.errors import GeometryError, QualityError

Side = Literal["left", "right", "both"]

MINIMUM_VOLUME_ML, WANTED_VOLUME_ML, MAXIMUM_VOLUME_ML = 1.0, 3.0, 20.0
SMALLEST_PIECE_ML = 0.5
MINIMUM_DEPTH_MM = 10.0
MIDLINE_MM = 8.0
LESION_MARGIN_MM = 10.0
CSF_MARGIN_MM = 4.0
END_SLICES_MM = 10.0
LOWER_FRACTION = 0.3
"""Share of the imaged height, from below, that is left out: skull base, cerebellum, drop-out."""

BAND = 0.3
"""White matter is within ± this fraction of its typical blood volume; grey matter is at 2 to 2.5 times it."""

WHITE_PERCENTILE = 15.0
"""Share of the tissue deep in the brain, in per cent, that holds less blood than typical white matter.

Chosen on 16 simulated patients: the region's true blood volume is 1.01 (SD 0.03) times pure white matter's there. The
lowest mode of the histogram gave 1.24 (SD 0.20).
"""

FLUID_FRACTION = 0.35
"""Below this fraction of the median deep in the brain lies fluid."""

BRIGHTNESS_BAND = 0.2
MAXIMUM_STEP = 0.25
"""Largest relative change of smoothed blood volume over 5 mm: the neighbourhood is white matter too."""

FEATURE_SIGMA_MM, LESION_SIGMA_MM = 3.0, 6.0
LESION_Z = {"brightness": 6.0, "blood": 8.0, "leakage": 8.0}
"""Difference from the mirror image, in robust SD over the brain, above which tissue is abnormal.

Folds and vessels differ between the sides by up to 7 SD in blood volume and leakage, less in brightness.
"""

LESION_VOLUME_ML = 2.0

_MAD_TO_SD = 1.4826
_ADVICE = "Draw normal white matter yourself and pass it with --reference, or use --normalize brain."


@dataclass(frozen=True, eq=False)
class NawmRegion:
    """Normal-appearing white matter to refer to.

    Attributes
    ----------
    mask : (x, y, z) bool array
    side : "left", "right" or "both"
        The patient's side.
    voxels : int
    volume_ml : float
    mean, median : float
        Of the unnormalised blood volume in the region.
    spread : float
        Robust SD within the region, as a fraction of its mean.
    lesion_ml : tuple of float
        Volume of abnormal tissue that was found on the left and on the right, ml; what the side was chosen by.
    notes : tuple of str
        What a reader should know before trusting the region; empty when all went as usual.
    """

    mask: np.ndarray
    side: Side
    voxels: int
    volume_ml: float
    mean: float
    median: float
    spread: float
    lesion_ml: tuple[float, float]
    notes: tuple[str, ...] = ()


def normalise(values: np.ndarray, reference_mask: np.ndarray) -> np.ndarray:
    """Return values divided by their mean over a reference region.

    Parameters
    ----------
    values : (x, y, z) array
        Unnormalised blood volume, NaN where undefined.
    reference_mask : (x, y, z) bool array
        Voxels where `values` is NaN are left out of the mean. With the brain mask, the result is relative to the brain.

    Returns
    -------
    (x, y, z) float32 array, dimensionless

    Raises
    ------
    GeometryError
        The region is on another grid.
    QualityError
        The region is empty, holds no value, or its mean is not positive.
    """
    reference_mask = np.asarray(reference_mask, dtype=bool)
    if reference_mask.shape != values.shape:
        raise GeometryError(
            f"The reference region has the grid {reference_mask.shape}, the map {values.shape}; they must be the same. "
            "Draw the region on this series, or resample it to this series' grid."
        )
    inside = values[reference_mask]
    inside = inside[np.isfinite(inside)]
    if inside.size == 0:
        raise QualityError(
            f"The reference region holds {int(reference_mask.sum())} voxels, none of them with a blood volume. Draw it "
            "inside the brain, where the map is defined."
        )
    mean = float(np.mean(inside, dtype=np.float64))
    if not mean > 0:
        raise QualityError(
            f"The mean blood volume of the reference region is {mean:.3g}; it must be above 0. Choose a region of "
            "normal white matter, without leakage, fluid or signal drop-out."
        )
    return np.asarray(values / mean, dtype=np.float32)


def find_nawm(
    *,
    baseline: np.ndarray,
    rcbv: np.ndarray,
    k2: np.ndarray | None,
    mask: np.ndarray,
    affine: np.ndarray,
) -> NawmRegion:
    """Return normal-appearing white matter on the side without the lesion.

    The mid-sagittal plane is where the brain's outline and blood volume mirror themselves best. Tissue that leaks, is
    brighter, or holds more blood than its mirror image marks the lesion's side. White matter is then looked for on the
    other side (on both, when neither is abnormal): deep in the brain, away from the midline, fluid, lesion and the ends
    of the stack, with the blood volume and brightness typical of that depth and little change around it.

    Voxels are chosen by the *smoothed* map, in a band about white matter's level. Choosing low values of the map itself
    would take noise for white matter: the reference would be too low and the whole map too high.

    Parameters
    ----------
    baseline : (x, y, z) array
        Mean signal before the bolus.
    rcbv : (x, y, z) array
        Unnormalised blood volume, NaN where undefined.
    k2 : (x, y, z) array or None
        Leakage, 1/s; without it the lesion's side is found by brightness and blood volume alone.
    mask : (x, y, z) bool array
        Brain.
    affine : (4, 4) array
        Voxel index to RAS, mm.

    Returns
    -------
    NawmRegion

    Raises
    ------
    QualityError
        No such region of 1 ml or more. Nothing else is put in its place: the user decides.
    GeometryError
        The arrays are not on one grid.
    """
    mask = np.asarray(mask, dtype=bool)
    for name, array in (("baseline", baseline), ("rcbv", rcbv), ("k2", k2)):
        if array is not None and array.shape != mask.shape:
            raise GeometryError(f"{name} has the grid {array.shape}, the mask {mask.shape}; they must be the same.")
    if not mask.any():
        raise QualityError(f"The brain mask is empty, so white matter can't be found in it. {_ADVICE}")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    valid = mask[box] & np.isfinite(rcbv[box]) & np.isfinite(baseline[box])
    if k2 is not None:
        valid &= np.isfinite(k2[box])
    blood = np.where(valid, rcbv[box], 0.0).astype(np.float32)
    typical = float(np.median(blood[valid])) if valid.any() else 0.0
    if not typical > 0:
        raise QualityError(f"The typical blood volume of the brain is {typical:.3g}; it must be above 0. {_ADVICE}")
    # Vessels would spill into white matter when smoothed; five times the typical volume is beyond any normal tissue.
    np.clip(blood, -2.0 * typical, 5.0 * typical, out=blood)
    space = BrainSpace(np.asarray(affine, dtype=np.float64), box, mask[box], blood)
    signal = np.where(valid, baseline[box], 0.0).astype(np.float32)
    signal /= receive_bias(signal, valid & (signal > 0))

    features = {"brightness": signal, "blood": blood}
    if k2 is not None:
        features["leakage"] = np.where(valid, k2[box], 0.0).astype(np.float32)
    lesion = _abnormal_tissue(features, valid, space)
    left_ml, right_ml = (
        float(np.count_nonzero(lesion & half)) * space.voxel_ml for half in (space.offset_mm < 0, space.offset_mm > 0)
    )
    side, notes = _healthy_side(left_ml, right_ml)
    region = _white_matter(features, valid, lesion, side, space)

    out = np.zeros(mask.shape, dtype=bool)
    out[box] = region
    inside = rcbv[out].astype(np.float64)
    mean, median = float(inside.mean()), float(np.median(inside))
    if mean > 1.15 * typical:
        # Half of the brain is grey matter: white matter holds less blood than the brain's median voxel.
        raise QualityError(
            f"The region found for reference holds {mean / typical:.1f} times the blood of the brain's typical voxel, "
            f"so it is not white matter. {_ADVICE}"
        )
    spread = float(_MAD_TO_SD * np.median(np.abs(inside - median)) / mean)
    volume_ml = inside.size * space.voxel_ml
    if volume_ml < WANTED_VOLUME_ML:
        notes += (f"The reference region is small ({volume_ml:.1f} ml); check it before you rely on the ratio.",)
    if k2 is None:
        notes += ("Without a leakage map the lesion's side was judged by brightness and blood volume alone.",)
    return NawmRegion(out, side, inside.size, volume_ml, mean, median, spread, (left_ml, right_ml), notes)


def receive_bias(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return (x, y, z) the coil's sensitivity, relative: a cubic polynomial fitted to the logarithm of the signal.

    A wide smoothing instead would follow the gradient only half-way near the brain's surface, and so turn a coil's
    left–right gradient into a false difference between the sides.
    """
    index = np.array(np.nonzero(valid))
    index = index[:, :: max(1, index.shape[1] // 6000)]
    size = np.array(signal.shape, dtype=np.float64)[:, np.newaxis]
    powers = [p for p in itertools.product(range(4), repeat=3) if sum(p) <= 3]
    x, y, z = 2.0 * (index + 0.5) / size - 1.0
    design = np.stack([x**i * y**j * z**k for i, j, k in powers], axis=1)
    target = np.log(signal[tuple(index)].astype(np.float64))
    weights = np.ones(target.size)
    for _ in range(4):  # fluid, lesions and drop-out count less each time
        coefficients = np.linalg.lstsq(design * weights[:, np.newaxis], target * weights, rcond=None)[0]
        residual = target - design @ coefficients
        scale = _MAD_TO_SD * float(np.median(np.abs(residual))) + 1e-6
        weights = 1.0 / np.sqrt(1.0 + (residual / scale) ** 2)
    along = [(2.0 * (np.arange(n) + 0.5) / n - 1.0)[:, np.newaxis] ** np.arange(4) for n in signal.shape]
    cube = np.zeros((4, 4, 4))
    cube[tuple(np.transpose(powers))] = coefficients
    log_bias = np.einsum("ijk,xi,yj,zk->xyz", cube, *along, optimize=True)
    return np.exp(np.clip(log_bias, -20.0, 20.0)).astype(np.float32)


def _abnormal_tissue(features: dict[str, np.ndarray], valid: np.ndarray, space: BrainSpace) -> np.ndarray:
    """Return (x, y, z) bool: clumps that leak more, are brighter, or hold more blood than their mirror image.

    The outer brain and the midline are left out, where folds and vessels are never symmetric.
    """
    considered = valid & (space.depth_mm > 6.0) & (np.abs(space.offset_mm) > MIDLINE_MM)
    index = np.array(np.nonzero(considered))
    if index.shape[1] == 0:
        return np.zeros_like(valid)
    there = space.mirrored(index)
    weight = ndimage.map_coordinates(valid.astype(np.float32), there, order=1)
    abnormal = np.zeros(index.shape[1], dtype=bool)
    for name, values in features.items():
        smooth = space.smooth(values, valid, LESION_SIGMA_MM)
        if name == "leakage":
            smooth = np.abs(smooth - np.median(smooth[considered]))
        excess = smooth[considered] - ndimage.map_coordinates(smooth, there, order=1)
        comparable = weight > 0.5
        if not comparable.any():
            continue
        sd = _MAD_TO_SD * float(np.median(np.abs(excess[comparable])))
        abnormal |= comparable & (excess > LESION_Z[name] * sd)
    lesion = np.zeros_like(valid)
    lesion[considered] = abnormal
    return _large_components(lesion, LESION_VOLUME_ML / space.voxel_ml)


def _healthy_side(left_ml: float, right_ml: float) -> tuple[Side, tuple[str, ...]]:
    """Return the side to use, from the volume of abnormal tissue on either."""
    if max(left_ml, right_ml) < LESION_VOLUME_ML:
        return "both", ()
    side: Side = "right" if left_ml > right_ml else "left"
    if min(left_ml, right_ml) > 0.5 * max(left_ml, right_ml):
        return side, (
            f"Both sides look abnormal (left {left_ml:.0f} ml, right {right_ml:.0f} ml); the less abnormal one was "
            "used. Check the reference region.",
        )
    return side, ()


def _white_matter(
    features: dict[str, np.ndarray], valid: np.ndarray, lesion: np.ndarray, side: Side, space: BrainSpace
) -> np.ndarray:
    """Return (x, y, z) bool: compact pieces of white matter, 20 ml at most."""
    blood = space.smooth(features["blood"], valid, FEATURE_SIGMA_MM)
    brightness = space.smooth(features["brightness"], valid, FEATURE_SIGMA_MM)
    deep = valid & (space.depth_mm >= MINIMUM_DEPTH_MM) & (np.abs(space.offset_mm) >= MIDLINE_MM)
    deep &= _middle_slices(space) & ~space.within(lesion, LESION_MARGIN_MM)
    if side != "both":
        deep &= space.offset_mm > 0 if side == "right" else space.offset_mm < 0
    if np.count_nonzero(deep) * space.voxel_ml < MINIMUM_VOLUME_ML:
        raise QualityError(
            f"Hardly any tissue lies {MINIMUM_DEPTH_MM:g} mm deep in the brain on the side away from the lesion, so no "
            f"normal white matter was found. {_ADVICE}"
        )
    typical_blood = _white_level(blood[deep])
    in_band = deep & (np.abs(blood - typical_blood) <= BAND * typical_blood)
    typical_brightness = float(np.median(brightness[in_band])) if in_band.any() else 0.0
    fluid = valid & (space.depth_mm > 5.0) & (blood < 0.4 * typical_blood)
    step = 5.0 * np.sqrt(sum(np.gradient(blood, space.voxel_mm[a], axis=a) ** 2 for a in range(3)
                             if a != space.slice_axis))  # fmt: skip
    chosen = in_band & (step <= MAXIMUM_STEP * typical_blood)
    chosen &= np.abs(brightness - typical_brightness) <= BRIGHTNESS_BAND * typical_brightness
    chosen &= ~space.within(fluid, CSF_MARGIN_MM)
    if "leakage" in features:
        leakage = space.smooth(features["leakage"], valid, FEATURE_SIGMA_MM)
        centre = float(np.median(leakage[deep]))
        sd = _MAD_TO_SD * float(np.median(np.abs(leakage[deep] - centre)))
        chosen &= np.abs(leakage - centre) <= 2.5 * sd
    radius = [0 if a == space.slice_axis else max(1, round(2.0 / space.voxel_mm[a])) for a in range(3)]
    grid = np.meshgrid(*(np.arange(-r, r + 1) / max(r, 1) for r in radius), indexing="ij")
    disc = sum(g**2 for g in grid) <= 1.01
    pieces = ndimage.binary_opening(chosen, disc)
    pieces = _large_components(pieces, SMALLEST_PIECE_ML / space.voxel_ml)
    if np.count_nonzero(pieces) * space.voxel_ml < MINIMUM_VOLUME_ML:
        raise QualityError(
            f"Less than {MINIMUM_VOLUME_ML:g} ml of tissue away from the lesion looks like normal white matter. "
            f"{_ADVICE}"
        )
    # Shrinking leaves crumbs.
    return _large_components(
        _innermost(pieces, MAXIMUM_VOLUME_ML / space.voxel_ml, space), SMALLEST_PIECE_ML / space.voxel_ml
    )


def _middle_slices(space: BrainSpace) -> np.ndarray:
    """Return (x, y, z) bool: heights away from both ends of the stack, and not in its lower part."""
    axis = int(np.argmax(np.abs(space.affine[2, :3])))  # the array axis closest to feet–head
    step_mm = float(space.voxel_mm[axis])
    slices = space.mask.shape[axis]
    from_feet_mm = (np.arange(slices) + 0.5) * step_mm
    if space.affine[2, axis] < 0:
        from_feet_mm = from_feet_mm[::-1]
    height_mm = slices * step_mm
    keep = (from_feet_mm > max(END_SLICES_MM, LOWER_FRACTION * height_mm)) & (from_feet_mm < height_mm - END_SLICES_MM)
    return keep.reshape([-1 if a == axis else 1 for a in range(3)])


def _white_level(values: np.ndarray) -> float:
    """Return white matter's typical value among smoothed blood volumes deep in the brain.

    A low percentile, and not the lowest mode of the histogram: where voxels mix white and grey matter there is one
    mode, half-way between them. Fluid is left out first.
    """
    typical = float(np.median(values))
    if not typical > 0:
        raise QualityError(f"The typical blood volume deep in the brain is {typical:.3g}; must be above 0. {_ADVICE}")
    return float(np.percentile(values[values > FLUID_FRACTION * typical], WHITE_PERCENTILE))


def _large_components(binary: np.ndarray, minimum_voxels: float) -> np.ndarray:
    labels, count = ndimage.label(binary)
    if count == 0:
        return binary
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= minimum_voxels)[labels])


def _innermost(pieces: np.ndarray, maximum_voxels: float, space: BrainSpace) -> np.ndarray:
    """Return the pieces, shrunk from their borders until they hold no more than a number of voxels."""
    if np.count_nonzero(pieces) <= maximum_voxels:
        return pieces
    # The share of pieces around a voxel, and not its distance from their border, which is the same for many voxels.
    share = space.smooth(pieces.astype(np.float32), np.ones_like(pieces), FEATURE_SIGMA_MM)
    share[~pieces] = 0.0
    return np.asarray(share > np.sort(share, axis=None)[-int(maximum_voxels) - 1])
