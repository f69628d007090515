"""Where the head lies in another volume: rigid registration of the DSC baseline to the anatomy or to another date."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documentation's name
from scipy import ndimage

from PerfusionCBVLib.alignment.quality import RegistrationQuality, judge, measure_quality, mirror_image, without_bias
from PerfusionCBVLib.alignment.resampling import blur_like, on_grid, resample
from PerfusionCBVLib.alignment.rigid import inverse, mean_displacement, points_of, require_rigid, rotation_angle
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.progress import Progress, silent

SAMPLES = 20000
"""Points that the metric looks at; four times as many moved the result by less than a tenth of a millimetre."""

START_SHIFTS_MM = (-25.0, 0.0, 25.0)
START_TURNS_DEG = (-15.0, 0.0, 15.0)
"""Foot–head shifts and nods that are tried about each starting position: slabs and necks differ most there."""

HEAD_HEIGHT_MM = 140.0
"""From the top of the head to below the brain: what of the anatomy's head counts for its centre."""


@dataclass(frozen=True)
class _Level:
    """One step of the search, from coarse to fine."""

    margin_mm: float
    """The metric looks this far beyond the brain, in the plane of the slices.

    The dark skull and what lies around it lead there from afar; the brain itself says most exactly where it is.
    """
    sigma_mm: float
    spacing_mm: float
    bins: int
    step_mm: float
    smallest_step_mm: float
    iterations: int
    kept: int
    """Candidates that go on to this level."""


LEVELS = (
    _Level(np.inf, 3.0, 4.0, 32, 4.0, 0.2, 60, kept=5),
    _Level(25.0, 2.0, 3.0, 32, 1.0, 0.05, 60, kept=3),
    _Level(16.0, 0.5, 2.0, 64, 0.5, 0.005, 100, kept=1),
)


@dataclass(frozen=True, eq=False)
class Registration:
    """A rigid transform from one volume's space to another's, with what speaks for and against it.

    Parameters
    ----------
    matrix : (4, 4) array
        Takes a point of the moving volume (the DSC series), RAS in mm, to the same place of the head in the fixed
        volume (the anatomy, or the later series).
    moving, fixed : str
        Names of the two volumes.
    rotation_deg : float
        Angle of the turn.
    displacement_mm : float
        Mean distance by which the brain's voxels move.
    quality : RegistrationQuality
    findings : tuple of Finding
        A warning ``registration-doubtful`` where the result looks wrong.
    start : str
        The starting position that led to it.

    Raises
    ------
    GeometryError
        The matrix is not rigid.
    """

    matrix: np.ndarray
    moving: str
    fixed: str
    rotation_deg: float
    displacement_mm: float
    quality: RegistrationQuality
    findings: tuple[Finding, ...] = ()
    start: str = ""

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        require_rigid(matrix)
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def doubtful(self) -> bool:
        """Whether a finding warns."""
        return any(f.severity == "warning" for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the registration ready for JSON."""
        return {
            "moving": self.moving,
            "fixed": self.fixed,
            "moving_to_fixed_ras_mm": np.round(self.matrix, 9).tolist(),
            "rotation_deg": round(self.rotation_deg, 3),
            "displacement_mm": round(self.displacement_mm, 3),
            "start": self.start,
            "quality": self.quality.as_dict(),
            "findings": [f.as_dict() for f in self.findings],
        }


def register(baseline: Volume, mask: np.ndarray, fixed: Volume, progress: Progress = silent) -> Registration:
    """Return the rigid transform that takes the baseline image to another volume of the same head.

    Mattes mutual information over the brain and its outline (the contrasts differ, so nothing simpler compares them),
    from coarse to fine. Several starting positions are tried: as the scanner's coordinates say, and with the heads'
    centres on each other, each also shifted along the body and nodded. The other volume is blurred to the baseline's
    voxels first: thick slices show averages. The same input gives the same transform, to rounding: sample
    points are fixed.

    Parameters
    ----------
    baseline : Volume
        Mean signal before the bolus (`MapResult.baseline` with the series' affine).
    mask : (x, y, z) bool array
        Brain, on the baseline's grid.
    fixed : Volume
        Contrast-enhanced T1, FLAIR, T2, or the baseline of another date.
    progress : callable (fraction, message), optional
        May raise `Cancelled`, which passes through.

    Returns
    -------
    Registration

    Raises
    ------
    GeometryError
        The mask is empty or on another grid, or a volume has fewer than 4 slices.
    QualityError
        A volume shows the same value everywhere, or no overlap was found.

    References
    ----------
    Mattes et al. 2003, IEEE Trans Med Imaging 22:120.
    """
    _require_mask(mask, baseline)
    for volume in (baseline, fixed):
        _require_picture(volume)
    points = points_of(mask, baseline.affine)
    centre = points.mean(axis=0)
    radius_mm = float(np.sqrt(np.mean(np.sum((points - centre) ** 2, axis=1))))
    thinned = points[:: max(1, len(points) // 500)]

    candidates = _starts(points, centre, fixed)
    for number, level in enumerate(LEVELS):
        progress(0.8 * number / len(LEVELS), f"Registering to {fixed.name}, step {number + 1} of {len(LEVELS)}")
        near = candidates[0][1] if level is LEVELS[-1] else None
        search = _Search(level, baseline, mask, fixed, centre, radius_mm, near)
        scored = [(search.metric(matrix), name, matrix) for name, matrix in candidates]
        scored = _distinct(sorted(scored, key=lambda s: s[0]), thinned, level.kept)
        if not scored:
            raise QualityError(
                f"{baseline.name} and {fixed.name} overlap from no starting position. Check that both show the head, "
                "and that they are of the same patient."
            )
        found = []
        for position, (_, name, matrix) in enumerate(scored):
            share = (number + position / len(scored)) / len(LEVELS)
            progress(0.8 * share, f"Registering to {fixed.name}, step {number + 1} of {len(LEVELS)}")
            found.append((*search.optimise(matrix), name))
        candidates = [(name, matrix) for _, matrix, name in sorted(found, key=lambda f: f[0])]
    start, matrix = candidates[0]
    progress(0.8, "Judging the registration")
    mirrored = mirror_image(baseline, mask, fixed, matrix)
    _, exchanged = _Search(LEVELS[1], baseline, mask, mirrored, centre, radius_mm).optimise(matrix)
    quality = measure_quality(baseline, mask, fixed, matrix, (mirrored, exchanged))
    return registration_of(matrix, baseline, mask, fixed, quality, start)


def registration_of(
    matrix: np.ndarray, baseline: Volume, mask: np.ndarray, fixed: Volume, quality: RegistrationQuality, start: str
) -> Registration:
    """Return a registration with the findings that its quality leads to; for transforms that were found elsewhere, too.

    Parameters
    ----------
    matrix : (4, 4) array
        RAS of the baseline to RAS of `fixed`, mm.
    baseline, mask, fixed
        As for `register`.
    quality : RegistrationQuality
        Of `registration_quality.measure_quality` for the same transform.
    start : str
        Where the search started, or where the transform is from.

    Raises
    ------
    GeometryError
        The matrix is not rigid.
    """
    points = points_of(mask, baseline.affine)
    displacement_mm = mean_displacement(matrix, points)
    rotation_deg = rotation_angle(matrix)
    findings = judge(quality, rotation_deg, displacement_mm, baseline.name, fixed.name)
    return Registration(matrix, baseline.name, fixed.name, rotation_deg, displacement_mm, quality, findings, start)


class _Search:
    """The metric at one level of resolution, and the optimiser on it.

    With `near`, a transform that is nearly right, the coils' smooth brightness is taken out of both brains first: it
    pulls the metric's optimum away by some tenths of a millimetre.
    """

    def __init__(
        self,
        level: _Level,
        baseline: Volume,
        mask: np.ndarray,
        fixed: Volume,
        centre: np.ndarray,
        radius_mm: float,
        near: np.ndarray | None = None,
    ) -> None:
        self._centre = centre
        around = _with_margin(mask, baseline, level.margin_mm)
        here = on_grid(baseline.values, baseline.voxel_mm, level.sigma_mm, level.spacing_mm)
        blur_mm = blur_like(level.sigma_mm, baseline.affine, fixed.affine)
        there = on_grid(fixed.values, fixed.voxel_mm, blur_mm, level.spacing_mm)
        affine = baseline.affine @ np.diag([*here.step, 1.0])
        there_affine = fixed.affine @ np.diag([*there.step, 1.0])
        inside = _thinned(around, here.step)
        values, there_values = here.values, there.values
        if near is not None:
            brain = _thinned(mask.astype(bool), here.step)
            values = without_bias(values, brain)
            carried = resample(mask.astype(np.float32), baseline.affine, there_values.shape, there_affine, near)
            there_values = without_bias(there_values, np.nan_to_num(carried) > 0.5)
        self._baseline = _itk_image(values, affine, clip=inside)
        self._fixed = _itk_image(there_values, there_affine)
        self._inside = _itk_image(inside.astype(np.uint8), affine)
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(level.bins)
        method.SetMetricFixedMask(self._inside)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, SAMPLES / int(inside.sum())), seed=1)
        method.SetInterpolator(sitk.sitkLinear)
        method.MetricUseMovingImageGradientFilterOff()  # gradients where they are needed, not everywhere
        method.MetricUseFixedImageGradientFilterOff()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=level.step_mm,
            minStep=level.smallest_step_mm,
            numberOfIterations=level.iterations,
            relaxationFactor=0.8,
            gradientMagnitudeTolerance=1e-8,
        )
        # A turn moves the head's voxels by their distance from its centre: so much more it weighs than a shift.
        method.SetOptimizerScales([radius_mm**2] * 3 + [1.0] * 3)
        self._method = method

    def metric(self, matrix: np.ndarray) -> float:
        """Return the negative mutual information; infinite where the volumes hardly overlap."""
        self._method.SetInitialTransform(_euler(matrix, self._centre), inPlace=True)
        try:
            return float(self._method.MetricEvaluate(self._baseline, self._fixed))
        except RuntimeError:  # too few sample points fall into the other volume
            return float("inf")

    def optimise(self, matrix: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the metric and the transform at the minimum that is reached from a start."""
        transform = _euler(matrix, self._centre)
        self._method.SetInitialTransform(transform, inPlace=True)
        try:
            self._method.Execute(self._baseline, self._fixed)
        except RuntimeError:  # led out of the other volume
            return float("inf"), matrix
        return float(self._method.GetMetricValue()), _matrix(transform)


def _require_mask(mask: np.ndarray, baseline: Volume) -> None:
    if mask.shape != baseline.values.shape or not mask.any():
        raise GeometryError(
            f"The brain mask has shape {mask.shape} with {int(np.sum(mask != 0))} voxels inside, the baseline image "
            f"{baseline.values.shape}. Give the mask of this series."
        )


def _require_picture(volume: Volume) -> None:
    if min(volume.values.shape) < 4:
        raise GeometryError(
            f"{volume.name} has {' × '.join(map(str, volume.values.shape))} voxels; at least 4 slices are needed to "
            "register a head. Choose a volume with more slices."
        )
    if np.ptp(np.nan_to_num(volume.values)) == 0:
        raise QualityError(f"{volume.name} has the same value everywhere; choose a picture of the head.")


def _with_margin(mask: np.ndarray, baseline: Volume, margin_mm: float) -> np.ndarray:
    """Return the mask and what lies around it in its slices."""
    across = int(np.argmax(baseline.voxel_mm))
    sampling = np.array(baseline.voxel_mm)
    sampling[across] = 1e6
    return np.asarray(ndimage.distance_transform_edt(~mask.astype(bool), sampling=sampling) <= margin_mm)


def _thinned(mask: np.ndarray, step: tuple[int, ...]) -> np.ndarray:
    return mask[tuple(slice(None, None, s) for s in step)]


def _starts(points: np.ndarray, centre: np.ndarray, fixed: Volume) -> list[tuple[str, np.ndarray]]:
    """Return named transforms to start from, RAS to RAS."""
    shifts = {"scanner coordinates": np.zeros(3)}
    head = _head_centre(fixed)
    if head is not None:
        shifts["centres of the heads"] = head - centre
    middle = fixed.affine[:3, :3] @ ((np.array(fixed.values.shape) - 1) / 2) + fixed.affine[:3, 3]
    shifts["centres of the volumes"] = middle - centre
    starts = []
    for (name, shift), up, nod in itertools.product(shifts.items(), START_SHIFTS_MM, START_TURNS_DEG):
        matrix = np.eye(4)
        c, s = np.cos(np.deg2rad(nod)), np.sin(np.deg2rad(nod))
        matrix[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
        matrix[:3, 3] = centre + shift + [0, 0, up] - matrix[:3, :3] @ centre
        about = f", {up:+g} mm along the body" * (up != 0) + f", nodded by {nod:+g}°" * (nod != 0)
        starts.append((name + about, matrix))
    return starts


def _head_centre(fixed: Volume) -> np.ndarray | None:
    """Return the centre of what is bright in the upper part of a head, RAS in mm."""
    step = [max(1, round(4.0 / edge)) for edge in fixed.voxel_mm]
    values = np.nan_to_num(fixed.values[:: step[0], :: step[1], :: step[2]])
    ceiling = float(np.percentile(values, 99.0))
    inside = np.argwhere(values > 0.15 * ceiling)
    if ceiling <= 0 or len(inside) < 50:
        return None
    points = (inside * step) @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    top = np.percentile(points[:, 2], 99.5)
    upper = points[points[:, 2] > top - HEAD_HEIGHT_MM]
    return np.asarray(0.5 * (np.percentile(upper, 2, axis=0) + np.percentile(upper, 98, axis=0)))


def _distinct(
    scored: list[tuple[float, str, np.ndarray]], points: np.ndarray, count: int
) -> list[tuple[float, str, np.ndarray]]:
    """Return the best candidates, the best first, that differ by more than 2 mm on average."""
    kept: list[tuple[float, str, np.ndarray]] = []
    for metric, name, matrix in scored:
        far = all(mean_displacement(inverse(other) @ matrix, points) > 2.0 for _, _, other in kept)
        if np.isfinite(metric) and far and len(kept) < count:
            kept.append((metric, name, matrix))
    return kept


def _itk_image(values: np.ndarray, affine: np.ndarray, clip: np.ndarray | None = None) -> sitk.Image:
    """Return an ITK image whose physical space is our RAS; a few very bright voxels must not stretch the histogram."""
    if values.dtype != np.uint8:
        looked_at = values if clip is None else values[clip]
        low, high = np.percentile(looked_at, [0.5, 99.5])
        values = np.clip(values, low, high)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(edge) for edge in edges])
    image.SetDirection([float(v) for v in (affine[:3, :3] / edges).ravel()])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    return image


def _euler(matrix: np.ndarray, centre: np.ndarray) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(c) for c in centre])
    transform.SetMatrix([float(v) for v in matrix[:3, :3].ravel()], 1e-6)
    transform.SetTranslation([float(v) for v in matrix[:3, :3] @ centre + matrix[:3, 3] - centre])
    return transform


def _matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    turn, centre = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - turn @ centre
    return matrix
