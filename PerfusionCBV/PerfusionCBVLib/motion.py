"""How the head moved during the series: a quick estimate for the check, and rigid correction frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documentation's name
from scipy import ndimage

from PerfusionCBVLib.errors import GeometryError
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.timing import BolusTiming

Progress = Callable[[float, str], None]

MAXIMUM_DISPLACEMENT_MM = 25.0
MAXIMUM_ROTATION_DEG = 20.0
"""A head in a coil can't move further: an estimate beyond is not believed."""

MAXIMUM_DISAGREEMENT_MM = 3.0
"""Quick estimate and registration may differ by this, or by half the motion; beyond, registration has gone astray."""

MINIMUM_SLICES_FOR_3D = 5
"""With fewer slices, motion through the slices can't be told from contrast; only the motion in plane is estimated."""

REGISTRATION_SAMPLES = 8000
"""Points that the metric looks at: enough for a hundredth of a millimetre, a fraction of a large head."""

WORKING_VOXEL_MM = 5.0
"""Resolution in plane at which motion is estimated: an average over noise, finer than a head's features."""


@dataclass(frozen=True, eq=False)
class MotionReport:
    """How the head moved, frame by frame, relative to the baseline.

    Parameters
    ----------
    translations_mm : (T, 3) array
        Of the centre of the mask, along the image axes x, y, z.
    rotations_deg : (T, 3) array
        About the image axes x, y, z through the centre of the mask.
    displacement_mm : (T,) array
        Mean distance by which the voxels of the mask moved.
    implausible_frames : tuple of int
        Frames whose estimate was not believed; they were given the quick estimate instead.
    lost_fraction : float
        Share of the mask's samples that moved out of the field of view and are NaN in the corrected series.
    """

    translations_mm: np.ndarray
    rotations_deg: np.ndarray
    displacement_mm: np.ndarray
    implausible_frames: tuple[int, ...] = ()
    lost_fraction: float = 0.0

    def __post_init__(self) -> None:
        frames = len(self.displacement_mm)
        if self.translations_mm.shape != (frames, 3) or self.rotations_deg.shape != (frames, 3):
            raise GeometryError(
                f"{frames} displacements need {frames} × 3 translations and rotations, found "
                f"{self.translations_mm.shape} and {self.rotations_deg.shape}."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return {
            "translations_mm": np.round(self.translations_mm, 3).tolist(),
            "rotations_deg": np.round(self.rotations_deg, 3).tolist(),
            "displacement_mm": np.round(self.displacement_mm, 3).tolist(),
            "maximum_displacement_mm": round(float(np.max(self.displacement_mm)), 3),
            "implausible_frames": list(self.implausible_frames),
            "lost_fraction": round(self.lost_fraction, 5),
        }


def correct_motion(
    series: DynamicSeries, mask: np.ndarray, timing: BolusTiming, progress: Progress | None = None
) -> tuple[DynamicSeries, MotionReport]:
    """Return the series with every frame brought to the baseline's position, and how far each had moved.

    The bolus changes the contrast, which registration alone takes for motion of up to half a millimetre. So each frame
    is registered, rigidly (6 parameters), to a picture of its own: the still head with that frame's share of the bolus,
    as `estimate_displacement` separates them. The metric is the normalised correlation of logarithms at reduced
    resolution, and the search starts from the quick estimate. Each frame is resampled once, from the original data,
    linearly: no frame is interpolated twice and none overshoots.

    Parameters
    ----------
    series : DynamicSeries
    mask : (x, y, z) bool array
        Brain.
    timing : BolusTiming
        Of the same series.
    progress : callable (fraction, message), optional
        Called once a frame; what it raises (`Cancelled`) passes through.

    Returns
    -------
    DynamicSeries
        On the same grid. NaN where a frame did not cover the voxel, and where it was not finite.
    MotionReport

    Raises
    ------
    GeometryError
        The mask is empty, too small, or on another grid.
    QualityError
        So much moved out of the field of view that the series is no longer usable.
    """
    size_mm = np.array(series.voxel_size_mm)
    coarse = _Coarse.of(series, mask)
    still, start = _separate(coarse, turns=12)
    register = _registration(coarse, still)

    found = []
    implausible = []
    for t in range(series.frames):
        if progress is not None:
            progress(0.8 * t / series.frames, f"Finding the position of frame {t + 1} of {series.frames}")
        transform = _rigid(start[t], coarse.centre_mm)
        register(t, transform)
        if not _plausible(transform, start[t], coarse):
            implausible.append(t)
            transform = _rigid(start[t], coarse.centre_mm)
        found.append(transform)
    # The still head lies where the head was most of the time; what comes out lies where it was before the bolus.
    before = _rigid(np.median([f.GetParameters() for f in found[timing.baseline]], axis=0), coarse.centre_mm)

    corrected = np.empty_like(series.signal)
    transforms = [_after(before, transform) for transform in found]
    lost = 0
    for t, transform in enumerate(transforms):
        if progress is not None:
            progress(0.8 + 0.2 * t / series.frames, f"Moving frame {t + 1} of {series.frames} into place")
        frame = series.signal[..., t]
        corrected[..., t] = _resample(frame, transform, size_mm)
        lost += int(np.sum(mask & np.isnan(corrected[..., t]) & np.isfinite(frame)))
    parameters = np.array([transform.GetParameters() for transform in transforms])
    if progress is not None:
        progress(1.0, f"Aligned {series.frames} frames")
    report = MotionReport(
        translations_mm=parameters[:, 3:],
        rotations_deg=np.rad2deg(parameters[:, :3]),
        displacement_mm=np.array([_mean_displacement(transform, coarse) for transform in transforms]),
        implausible_frames=tuple(implausible),
        lost_fraction=lost / (int(mask.sum()) * series.frames),
    )
    return replace(series, signal=corrected), report


def estimate_displacement(series: DynamicSeries, mask: np.ndarray) -> np.ndarray:
    """Return roughly how far the head lies from its usual position in each frame, in a fraction of a second.

    The logarithm of each frame, at reduced resolution, is explained by the still head, a bolus that follows the brain's
    mean curve, small rigid motion of both (their gradients), and smooth changes of brightness and contrast. Motion of
    more than a few millimetres is seen, but its size is rough.

    Parameters
    ----------
    series : DynamicSeries
    mask : (x, y, z) bool array

    Returns
    -------
    (T,) array, mm
        Mean displacement of the mask's voxels, relative to the median position.

    Raises
    ------
    GeometryError
        The mask is empty, too small, or on another grid.
    """
    coarse = _Coarse.of(series, mask)
    _, motion = _separate(coarse, turns=4)
    motion = motion - np.median(motion, axis=0)
    position_mm = coarse.positions_mm()[coarse.inside.ravel()][::7]
    moved_mm = np.cross(motion[:, None, :3], position_mm) + motion[:, None, 3:]  # (T, V, 3)
    return np.linalg.norm(moved_mm, axis=-1).mean(axis=1)


@dataclass(frozen=True, eq=False)
class _Coarse:
    """Logarithm of the series at reduced resolution; 0 is the brain's typical signal."""

    log_signal: np.ndarray
    """(x', y', z', T) float32"""
    inside: np.ndarray
    """(x', y', z') bool: the mask and one voxel around it in plane, where the head's edge shows motion best"""
    height: np.ndarray
    """(T,): the brain's mean bolus curve, −ln(S/typical)"""
    size_mm: np.ndarray
    offset_mm: np.ndarray
    """Position of the first coarse voxel where the first fine voxel is at 0."""
    centre_mm: np.ndarray
    """Centre of the mask, about which the head turns."""

    @classmethod
    def of(cls, series: DynamicSeries, mask: np.ndarray) -> _Coarse:
        if mask.shape != series.signal.shape[:3] or not mask.any():
            raise GeometryError(
                f"The mask has shape {mask.shape} with {int(np.sum(mask != 0))} voxels inside, the series "
                f"{series.signal.shape[:3]}. Draw the mask on this series."
            )
        fine_mm = np.array(series.voxel_size_mm)
        step = np.array([max(1, round(WORKING_VOXEL_MM / edge)) for edge in fine_mm[:2]] + [1])
        corner, stop = _box(mask, step)
        box = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
        signal = _smooth_in_plane(_block_mean(series.signal[box], step))
        brain = _block_mean(mask[box].astype(np.float32), step) > 0.3
        inside = ndimage.binary_dilation(brain, np.ones((3, 3, 1)))
        level = signal.mean(axis=-1)[brain]
        if np.sum(level > 0) < 50:
            raise GeometryError(
                f"The mask covers only {int(np.sum(level > 0))} blocks of {WORKING_VOXEL_MM:g} mm with signal; at "
                "least 50 are needed to see motion. Give a mask of the whole brain."
            )
        typical = float(np.median(level[level > 0]))
        # Background noise would dominate the logarithm: it gets a floor.
        np.maximum(signal, 0.1 * typical, out=signal)
        signal /= typical
        log_signal = np.log(signal, out=signal)
        height = -log_signal[brain].mean(axis=0, dtype=np.float64)
        centre_mm = np.array([np.mean(index) for index in np.nonzero(mask)]) * fine_mm
        return cls(log_signal, inside, height, fine_mm * step, fine_mm * (corner + (step - 1) / 2.0), centre_mm)

    @property
    def through_plane(self) -> bool:
        """Whether there are slices enough to see motion through them."""
        return self.log_signal.shape[2] >= MINIMUM_SLICES_FOR_3D

    def positions_mm(self) -> np.ndarray:
        """Return where all coarse voxels lie, relative to the centre of the mask, (V, 3)."""
        grid = np.indices(self.inside.shape, dtype=np.float32).reshape(3, -1).T
        return (grid * self.size_mm + self.offset_mm - self.centre_mm).astype(np.float32)


def _box(mask: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a box that holds the mask and three blocks around it in plane, in whole blocks."""
    index = np.argwhere(mask)
    margin = 3 * step * [1, 1, 0]
    corner = np.maximum(index.min(axis=0) - margin, 0)
    stop = np.minimum(index.max(axis=0) + 1 + margin, mask.shape)
    return corner, corner + (stop - corner) // step * step


def _block_mean(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    total = np.zeros((image.shape[0] // step[0], image.shape[1] // step[1], *image.shape[2:]), dtype=np.float32)
    for i in range(step[0]):
        for j in range(step[1]):
            total += image[i :: step[0], j :: step[1]]
    total /= step[0] * step[1]
    return np.nan_to_num(total, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _smooth_in_plane(image: np.ndarray) -> np.ndarray:
    """Binomial smoothing in place, [1 2 1]/4 along x and y: the gradients then reach across a few millimetres."""
    for axis in (0, 1):
        view = np.moveaxis(image, axis, 0)
        mean = 0.5 * (view[1:] + view[:-1])
        view[1:-1] = 0.5 * (mean[1:] + mean[:-1])
    return image


def _separate(coarse: _Coarse, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what each frame shows when nothing moves, (x', y', z', T), and the small motion of each frame, (T, 6).

    The frames are the still head plus the bolus, each voxel's part that follows the brain's mean curve or its
    derivative (delay, dispersion); motion is what the gradients of that, frame by frame, explain of the rest. Bolus and
    motion overlap when a patient moves during the first pass, so they are found by turns.
    """
    shape, frames = coarse.inside.shape, coarse.log_signal.shape[-1]
    log_signal, inside = coarse.log_signal.reshape(-1, frames), coarse.inside.ravel()
    courses, inverse = _bolus_courses(coarse.height)  # (3, T): constant, bolus, derivative
    position_mm = coarse.positions_mm()
    seen = [0, 1, 2, 3, 4, 5] if coarse.through_plane else [2, 3, 4]
    x, y, z = position_mm[inside].T / 50.0
    parameters = np.zeros((frames, 6), dtype=np.float32)
    explained = np.zeros_like(log_signal)
    weights: np.ndarray | None = None
    for _ in range(turns):
        images = (log_signal - explained) @ inverse.T  # (V, 3)
        still = images @ courses  # (V, T)
        # A head that moved by u shows at p what was at p − u: the logarithm changes by −∇·u, with u = turn × p + shift.
        gradients = _gradients(images, shape, coarse.size_mm)  # (3 images, V, 3 axes)
        motion = -np.concatenate([np.cross(position_mm, gradients), gradients], axis=-1)[..., seen]
        mean = images[inside, 0]
        smooth = np.stack([np.ones_like(x), mean, mean**2, x, y, z, x * x, y * y, z * z], axis=1)
        design = np.concatenate([*motion[:, inside], smooth], axis=1).astype(np.float32)
        change = (log_signal - still)[inside]
        if weights is None:
            # Noise in the logarithm is ∝ 1/signal; what varies in its own way (vessels, leaking tissue) counts less.
            variance = np.mean(change**2, axis=1)
            weights = np.exp(np.minimum(2.0 * mean, 0.0)) / (1.0 + variance / max(float(np.median(variance)), 1e-12))
        weighted = design * weights[:, None]
        parameters[:, seen] = _solve(weighted.T @ design, weighted.T @ change, courses, len(seen))
        explained = sum(course * (part @ parameters[:, seen].T) for course, part in zip(courses, motion, strict=True))
    return still.reshape(*shape, frames), parameters.astype(np.float64)


def _solve(normal: np.ndarray, right: np.ndarray, courses: np.ndarray, motions: int) -> np.ndarray:
    """Return the motion of each frame, (T, motions): the three images' equations, added as the bolus mixes them."""
    others = normal.shape[0] - 3 * motions
    solution = np.empty((right.shape[1], motions))
    for t, mix in enumerate(courses.T):
        combine = np.zeros((normal.shape[0], motions + others))
        combine[: 3 * motions, :motions] = np.kron(mix[:, None], np.eye(motions))
        combine[3 * motions :, motions:] = np.eye(others)
        matrix = combine.T @ normal @ combine
        scale = np.sqrt(np.maximum(np.diag(matrix), 1e-12))
        inverse = np.linalg.pinv(matrix / np.outer(scale, scale), rcond=1e-5, hermitian=True) / np.outer(scale, scale)
        solution[t] = (inverse @ (combine.T @ right[:, t]))[:motions]
    return solution


def _gradients(images: np.ndarray, shape: tuple[int, ...], size_mm: np.ndarray) -> np.ndarray:
    gradients = np.zeros((images.shape[1], images.shape[0], 3), dtype=np.float32)
    for axis in range(3):
        if shape[axis] > 1:
            along = np.gradient(images.reshape(*shape, -1), size_mm[axis], axis=axis)
            gradients[..., axis] = along.reshape(images.shape).T
    return gradients


def _bolus_courses(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the time courses of the still head (constant) and of its bolus, (3, T), and the fit of each, (3, T).

    A change that lasts after the pass is fitted along but left out: it may be leakage, but just as well a patient who
    moved when the contrast came.
    """
    height = height - np.median(height)
    after = np.cumsum(np.maximum(height, 0.0))
    lasting = after / max(float(after[-1]), 1e-12)
    courses = np.stack([np.ones_like(height), height, np.gradient(height), lasting - np.median(lasting)])
    inverse = np.linalg.pinv(courses.T, rcond=1e-4)
    return courses[:3].astype(np.float32), inverse[:3].astype(np.float32)


def _registration(coarse: _Coarse, still: np.ndarray) -> Callable[[int, sitk.Euler3DTransform], None]:
    """Return a function that fits the transform, in place, from frame t as it would be without motion to frame t."""
    # SimpleITK needs four slices; repeating the outer ones tells it nothing new.
    pad = max(0, 4 - still.shape[2])

    def image_of(volume: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.pad(volume, ((0, 0), (0, 0), (pad, pad)), "edge").T))
        image.SetSpacing([float(edge) for edge in coarse.size_mm])
        image.SetOrigin([float(v) for v in coarse.offset_mm - [0, 0, pad * coarse.size_mm[2]]])
        return image

    inside = sitk.GetImageFromArray(np.pad(coarse.inside, ((0, 0), (0, 0), (pad, pad))).T.astype(np.uint8))
    inside.CopyInformation(image_of(still[..., 0]))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(inside)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, REGISTRATION_SAMPLES / int(coarse.inside.sum())), seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.5, minStep=0.004, numberOfIterations=100, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-7
    )
    # A turn moves the head's voxels by their distance from its centre: so much more it weighs than a shift. (The scales
    # that SimpleITK estimates look at the corners of the image and hold rotations back.)
    squared_radius = float(np.mean(coarse.positions_mm()[coarse.inside.ravel()] ** 2))
    method.SetOptimizerScales([squared_radius] * 3 + [1.0] * 3)
    if not coarse.through_plane:
        method.SetOptimizerWeights([0, 0, 1, 1, 1, 0])

    def register(t: int, transform: sitk.Euler3DTransform) -> None:
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(image_of(still[..., t]), image_of(coarse.log_signal[..., t]))

    return register


def _rigid(parameters: np.ndarray, centre_mm: np.ndarray) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(c) for c in centre_mm])
    transform.SetParameters([float(v) for v in parameters])
    return transform


def _after(before: sitk.Euler3DTransform, transform: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Return `transform` applied after the inverse of `before`; both turn about the same centre."""
    turn = np.array(transform.GetMatrix()).reshape(3, 3) @ np.array(before.GetMatrix()).reshape(3, 3).T
    shift = np.array(transform.GetTranslation()) - turn @ np.array(before.GetTranslation())
    both = sitk.Euler3DTransform(transform)
    both.SetMatrix([float(v) for v in turn.ravel()], 1e-9)
    both.SetTranslation([float(v) for v in shift])
    return both


def _plausible(transform: sitk.Euler3DTransform, start: np.ndarray, coarse: _Coarse) -> bool:
    parameters = np.array(transform.GetParameters())
    if not np.isfinite(parameters).all():
        return False
    quick_mm = _mean_displacement(_rigid(start, coarse.centre_mm), coarse)
    found_mm = _mean_displacement(transform, coarse)
    return bool(
        found_mm <= MAXIMUM_DISPLACEMENT_MM
        and np.rad2deg(np.abs(parameters[:3]).max()) <= MAXIMUM_ROTATION_DEG
        and abs(found_mm - quick_mm) <= max(MAXIMUM_DISAGREEMENT_MM, 0.5 * found_mm)
    )


def _mean_displacement(transform: sitk.Euler3DTransform, coarse: _Coarse) -> float:
    points = coarse.positions_mm()[coarse.inside.ravel()][::7]
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    moved = points @ matrix.T + np.array(transform.GetTranslation())
    return float(np.linalg.norm(moved - points, axis=1).mean())


def _resample(frame: np.ndarray, transform: sitk.Euler3DTransform, size_mm: np.ndarray) -> np.ndarray:
    """Return the frame at the transformed points, linearly; NaN outside and wherever a non-finite voxel takes part."""
    valid = np.isfinite(frame)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.where(valid, frame, 0).T))
    image.SetSpacing([float(edge) for edge in size_mm])
    moved = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear, float("nan"))).T
    if not valid.all():
        validity = sitk.GetImageFromArray(np.ascontiguousarray(valid.T.astype(np.float32)))
        validity.CopyInformation(image)
        share = sitk.GetArrayFromImage(sitk.Resample(validity, validity, transform, sitk.sitkLinear, 0.0)).T
        moved = np.where(share > 0.999, moved, np.nan)
    return moved
