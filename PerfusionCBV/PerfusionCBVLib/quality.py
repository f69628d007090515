"""What can be said about a series before a map is made: findings with a value, a threshold and advice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from PerfusionCBVLib.axis_order import AxisOrder
from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.masking import brain_mask, validate_mask
from PerfusionCBVLib.motion import estimate_displacement
from PerfusionCBVLib.protocol import check_protocol
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.timing import BolusTiming, NoBolusError, find_bolus, unexplained

Progress = Callable[[float, str], None]

SHORT_BASELINE_FRAMES = 10
"""The noise of S0 adds N_pass/N_baseline to the noise variance of the area; with 10 frames it about doubles it."""

DRIFT_SHARE = 0.05
"""Part of the bolus height by which baseline drift may shift the first pass before it counts."""

VOXEL_NOISE_LIMIT = 0.3
"""Noise of one voxel's rCBV above which it exceeds the test–retest repeatability, 0.31 (Prah et al. 2015)."""

SHORT_TAIL_S, SHORT_TAIL_FRAMES = 20.0, 10
"""Leakage is told from the last ten frames, and only once recirculation has passed."""

GLITCH_LIMIT = 0.015
"""Smallest relative jump of a single frame that is called a glitch."""

LEAKAGE_Z, LEAKAGE_HEIGHT = 3.0, 0.1
"""A tail counts as leakage beyond this many standard errors and this part of the bolus height."""

MOTION_MM = 1.0
"""Mean displacement that mixes tissues in voxels of 2 mm; the estimate's own error is about 0.2 mm."""

NOISE_FLOOR = 3.0
"""A magnitude below this many noise standard deviations is biased upwards (Rician), so ΔR2* is cut off."""

COVERAGE_MM = 100.0
INVALID_SHARE, FLOOR_SHARE, CLIPPED_SHARE, CUT_SHARE = 0.01, 0.01, 0.001, 0.02


@dataclass(frozen=True, eq=False)
class Examination:
    """What `examine` found.

    Attributes
    ----------
    findings : tuple of Finding
    mask : (x, y, z) bool array or None
        Brain; None where none was found.
    timing : BolusTiming or None
        None where no bolus was found.
    """

    findings: tuple[Finding, ...]
    mask: np.ndarray | None
    timing: BolusTiming | None


def check(
    series: DynamicSeries, *, mask: np.ndarray | None = None, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Return what is noteworthy about a series; any finding of severity "error" means that it can't be mapped.

    Parameters
    ----------
    series : DynamicSeries
    mask : (x, y, z) array, optional
        Brain; found when None.
    progress : callable (fraction, message), optional
        What it raises (`Cancelled`) passes through.

    Raises
    ------
    GeometryError
        The given mask is empty or on another grid.
    """
    inside = None if mask is None else validate_mask(mask, series)
    order = AxisOrder.of(series.affine)
    return examine(order.series(series), order.work(inside), progress).findings


def examine(series: DynamicSeries, mask: np.ndarray | None = None, progress: Progress | None = None) -> Examination:
    """Return the findings of `check` with the brain and the bolus that they are about.

    Parameters
    ----------
    series : DynamicSeries
        On the working grid of `axis_order.AxisOrder`.
    mask, progress
        See `check`.

    Raises
    ------
    GeometryError
        See `check`.
    """
    report = progress if progress is not None else _silent
    report(0.0, "Looking for the brain")
    findings = _frame_interval(series)
    if mask is not None:
        inside = validate_mask(mask, series)
    else:
        try:
            inside = brain_mask(series.signal, series.voxel_size_mm)
        except (GeometryError, QualityError) as error:
            findings.append(Finding("no-brain", "error", str(error), "Choose the perfusion series, or give a mask."))
            findings.extend(check_protocol(series.acquisition, None, series.frame_interval_s))
            return Examination(tuple(findings), None, None)
    findings += _coverage(series, inside)

    report(0.3, "Looking for the bolus")
    curves = series.signal[inside]  # (V, T)
    lowest = curves.min(axis=1)  # NaN where any frame is
    with np.errstate(invalid="ignore"):
        valid = (lowest > 0) & np.isfinite(curves.max(axis=1))
    findings += _invalid(valid)
    timing: BolusTiming | None = None
    if not valid.any():
        findings.append(
            Finding(
                "no-bolus",
                "error",
                "No voxel of the brain has a positive signal in every frame, so no bolus can be seen.",
                "Check that this is a magnitude series and that the mask fits.",
            )
        )
    else:
        if not valid.all():
            curves, lowest = curves[valid], lowest[valid]
        mean_signal = curves.mean(axis=0, dtype=np.float64)
        try:
            timing = find_bolus(mean_signal, series.times_s)
        except NoBolusError as error:
            advice = "No map is made. Choose the perfusion series; if this is it, look at the mean curve and the mask."
            findings.append(Finding("no-bolus", "error", str(error), advice))
    if timing is not None:
        findings += _bolus(timing)
        findings += _baseline(mean_signal, series.times_s, timing)
        findings += _glitches(mean_signal, series.times_s, timing)
        report(0.5, "Measuring noise and leakage")
        findings += _voxels(curves, lowest, series, timing)
        findings += _tail(series, timing)
    report(0.7, "Looking for motion")
    findings += _motion(series, inside)
    frames = None if timing is None else timing.arrival - timing.first_steady
    findings.extend(check_protocol(series.acquisition, frames, series.frame_interval_s))
    report(1.0, "Checked")
    return Examination(tuple(findings), inside, timing)


def find_glitches(mean_signal: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> np.ndarray:
    """Return the frames whose signal jumps away from both neighbours, as frame numbers from 0.

    What the bolus model leaves over is compared with its running median over five frames, so neither the bolus' slopes
    nor a tail that the model follows imperfectly is taken for a glitch.

    Parameters
    ----------
    mean_signal : (T,) array, arbitrary units
    times_s : (T,) array, s
    timing : BolusTiming
    """
    excess = unexplained(mean_signal, times_s, timing)[timing.first_steady :]
    jump = excess - median_filter(excess, size=5, mode="mirror")  # so that the first and last frame can stand out
    typical = 1.4826 * float(np.median(np.abs(jump)))
    limit = np.full(jump.size, max(GLITCH_LIMIT, 6.0 * typical))
    # Around the peak the model's own error is curved, too: some per cent of the height.
    limit[timing.arrival - timing.first_steady : timing.end - timing.first_steady] += 0.1 * timing.depth
    return timing.first_steady + np.flatnonzero(np.abs(jump) > limit)


def _silent(fraction: float, message: str) -> None:
    return


def _frame_interval(series: DynamicSeries) -> list[Finding]:
    intervals_s = np.diff(series.times_s)
    typical_s = series.frame_interval_s
    odd = np.flatnonzero(np.abs(intervals_s / typical_s - 1.0) > 0.05)
    if odd.size == 0:
        return []
    worst = odd[np.argmax(np.abs(intervals_s[odd] - typical_s))]
    return [
        Finding(
            "frame-interval-uneven",
            "warning",
            f"{odd.size} of {intervals_s.size} frame intervals differ by more than 5 % from {typical_s:.3g} s; after "
            f"frame {worst} it is {intervals_s[worst]:.3g} s.",
            "Check that no frame is missing. Maps use the real times; deconvolution is less exact.",
            round(float(intervals_s[worst]), 3),
            "s",
        )
    ]


def _coverage(series: DynamicSeries, inside: np.ndarray) -> list[Finding]:
    findings = []
    slab_mm = inside.shape[2] * series.voxel_size_mm[2]
    if slab_mm < COVERAGE_MM:
        findings.append(
            Finding(
                "partial-coverage",
                "info",
                f"The slices cover {slab_mm:.0f} mm; a whole brain needs {COVERAGE_MM:.0f} mm or more.",
                "The reference region and the arterial input can only come from these slices.",
                round(slab_mm, 1),
                "mm",
            )
        )
    edges = [inside[0], inside[-1], inside[:, 0], inside[:, -1]]
    share = max(float(edge.mean()) for edge in edges)
    if share > CUT_SHARE:
        findings.append(
            Finding(
                "brain-cut",
                "warning",
                f"The brain reaches an edge of the image in plane ({share:.0%} of that edge); it is cut there.",
                "Don't trust values near that edge; use a larger field of view next time.",
                round(100 * share, 1),
                "%",
            )
        )
    return findings


def _invalid(valid: np.ndarray) -> list[Finding]:
    share = 1.0 - float(valid.mean())
    if share <= INVALID_SHARE:
        return []
    return [
        Finding(
            "invalid-voxels",
            "warning",
            f"{share:.1%} of the brain's voxels have a zero, negative or missing value in some frame; up to "
            f"{INVALID_SHARE:.0%} is usual.",
            "They have no value in the map. Check the mask and that the export was not masked or thresholded.",
            round(100 * share, 2),
            "%",
        )
    ]


def _bolus(timing: BolusTiming) -> list[Finding]:
    findings = [
        Finding(
            "bolus-found",
            "info",
            f"The bolus arrives at {timing.arrival_s:.1f} s (frame {timing.arrival}), drops the brain's mean signal by "
            f"{timing.depth:.0%} at {timing.peak_s:.1f} s (frame {timing.peak}) and is {timing.width_s:.1f} s wide at "
            "half height.",
            "",
            round(timing.arrival_s, 2),
            "s",
        )
    ]
    if timing.first_steady > 0:
        findings.append(
            Finding(
                "non-steady-frames",
                "info",
                f"Frames brighter than the steady state at the start, left out: {timing.first_steady}.",
                "",
                timing.first_steady,
                "frames",
            )
        )
    return findings


def _baseline(mean_signal: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> list[Finding]:
    findings = []
    frames = timing.arrival - timing.first_steady
    if frames < SHORT_BASELINE_FRAMES:
        during = timing.end - timing.arrival
        findings.append(
            Finding(
                "short-baseline",
                "warning",
                f"{frames} steady frames lie before the bolus; at least {SHORT_BASELINE_FRAMES} are expected. So few "
                f"raise the noise of rCBV to {np.sqrt(1 + during / frames):.1f} times that of a long baseline.",
                "Prefer region means to single voxels; start the injection later next time.",
                frames,
                "frames",
            )
        )
    baseline, times = mean_signal[timing.baseline], times_s[timing.baseline]
    slopes = np.subtract.outer(baseline, baseline)[np.triu_indices(frames, 1)]
    slopes = slopes / np.subtract.outer(times, times)[np.triu_indices(frames, 1)] / np.median(baseline)
    drift_per_s = float(np.median(slopes))  # Theil–Sen: a glitch does not tilt it
    residual = baseline / np.median(baseline) - 1.0 - drift_per_s * (times - times.mean())
    noise = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    error_per_s = 1.25 * noise / max(float(np.sqrt(np.sum((times - times.mean()) ** 2))), 1e-9)
    ahead_s = 0.5 * (timing.arrival_s + timing.end_s) - float(times.mean())
    height = -np.log1p(-timing.depth)
    shift = abs(drift_per_s) * ahead_s / height
    if shift > DRIFT_SHARE and abs(drift_per_s) > 3.0 * error_per_s:
        findings.append(
            Finding(
                "unstable-baseline",
                "warning",
                f"The baseline drifts by {6000 * drift_per_s:+.2f} % a minute, which shifts the first pass by "
                f"{shift:.0%} of its height; at most {DRIFT_SHARE:.0%} is expected.",
                "Check for motion and scanner instability; compare rCBV only within this series.",
                round(6000 * drift_per_s, 3),
                "%/min",
            )
        )
    return findings


def _glitches(mean_signal: np.ndarray, times_s: np.ndarray, timing: BolusTiming) -> list[Finding]:
    glitches = find_glitches(mean_signal, times_s, timing)
    if glitches.size == 0:
        return []
    named = ", ".join(str(frame) for frame in glitches[:10]) + (" …" if glitches.size > 10 else "")
    during = np.any((glitches >= timing.arrival) & (glitches <= timing.end))
    return [
        Finding(
            "frame-glitch",
            "warning",
            f"The mean signal jumps for a single frame {glitches.size} times (frame {named}, counted from 0).",
            "One lies in the first pass and enters rCBV: look at the curve there."
            if during
            else "None lies in the first pass, so rCBV hardly suffers.",
            named,
            "frame",
        )
    ]


def _voxels(curves: np.ndarray, lowest: np.ndarray, series: DynamicSeries, timing: BolusTiming) -> list[Finding]:
    """Judge noise, leakage and cut-off signal voxel by voxel."""
    baseline = curves[:, timing.baseline]
    level = baseline.mean(axis=1)
    # Successive differences see noise, not drift; their variance is twice that of the signal.
    steps = np.diff(baseline, axis=1)
    noise = np.sqrt(np.einsum("vt,vt->v", steps, steps) / (2 * steps.shape[1]))
    with np.errstate(divide="ignore"):
        tsnr = float(np.median(level / noise))
    frames, during = baseline.shape[1], timing.end - timing.arrival + 1
    height = -np.log1p(-timing.depth)
    # Area of a gamma-variate ≈ 1.07 × height × width; its noise: that of the frames summed, and of S0 in each.
    area = 1.07 * height * timing.width_s / series.frame_interval_s
    noise_share = float(np.sqrt(during + during**2 / frames)) / (tsnr * area)
    noisy = noise_share > VOXEL_NOISE_LIMIT
    findings = [
        Finding(
            "low-tsnr" if noisy else "tsnr",
            "warning" if noisy else "info",
            f"The temporal signal-to-noise ratio of the baseline is {tsnr:.0f} (median over the brain): the noise of "
            f"rCBV in one average voxel is about {noise_share:.0%}"
            + (f"; test–retest repeatability is {VOXEL_NOISE_LIMIT:.0%}." if noisy else "."),
            "Judge regions, not single voxels." if noisy else "",
            round(tsnr, 1) if np.isfinite(tsnr) else None,
            "",
        )
    ]
    findings += _leakage(curves, level, noise, series, timing, height)
    floor = float(np.mean((lowest < NOISE_FLOOR * noise) & (level > 3 * NOISE_FLOOR * noise)))
    if floor > FLOOR_SHARE:
        findings.append(
            Finding(
                "signal-floor",
                "warning",
                f"In {floor:.1%} of the brain's voxels the signal falls to the noise floor at the peak; up to "
                f"{FLOOR_SHARE:.0%} (large vessels) is usual.",
                "Their blood volume is a lower bound; a shorter echo time or less contrast avoids this.",
                round(100 * floor, 2),
                "%",
            )
        )
    top = float(curves.max())
    clipped = float(np.mean((baseline >= top).sum(axis=1) >= 2))
    if clipped > CLIPPED_SHARE:
        findings.append(
            Finding(
                "clipped-signal",
                "warning",
                f"{clipped:.1%} of the brain's voxels sit at the largest value of the series ({top:g}) in several "
                "baseline frames: the signal is clipped.",
                "Export the series again without rescaling to fewer bits; clipped voxels show too little blood volume.",
                round(100 * clipped, 2),
                "%",
            )
        )
    return findings


def _leakage(
    curves: np.ndarray,
    level: np.ndarray,
    noise: np.ndarray,
    series: DynamicSeries,
    timing: BolusTiming,
    height: float,
) -> list[Finding]:
    after = series.frames - timing.end - 1
    if after < 3:
        return []
    count = min(SHORT_TAIL_FRAMES, after)
    tail = -np.log(curves[:, -count:].mean(axis=1) / level)
    error = noise / level * np.sqrt(1 / count + 1 / (timing.arrival - timing.first_steady))
    # Contrast that recirculates keeps all tissue's tail up, in proportion to its blood volume: that is no leakage.
    passing = -np.log(curves[:, timing.first_pass] / level[:, None]).mean(axis=1)
    typical = max(float(np.median(passing)), 0.1 * height)  # a mask wider than the brain has a median near 0
    expected = passing * (float(np.median(tail)) / typical)
    limit = np.maximum(LEAKAGE_Z * error, LEAKAGE_HEIGHT * height * np.maximum(passing / typical, 1.0))
    above = float(np.mean(tail < np.minimum(expected, 0.0) - limit))
    below = float(np.mean(tail > np.maximum(expected, 0.0) + limit))
    findings = []
    for code, what, share in (
        ("leakage-t1", "ends above its baseline", above),
        ("leakage-t2star", "stays further below its baseline than recirculation explains", below),
    ):
        # Noise alone passes three standard errors in 0.1 % of the voxels.
        seen = share > 0.005
        findings.append(
            Finding(
                code,
                "info",
                f"In {share:.1%} of the brain's voxels the signal {what} (beyond {LEAKAGE_Z:.0f} standard errors and "
                f"{LEAKAGE_HEIGHT:.0%} of the bolus): "
                + ("contrast leaks there." if seen else "no more than noise and vessels explain."),
                "Use a leakage-corrected method." if seen else "",
                round(100 * share, 2),
                "%",
            )
        )
    return findings


def _tail(series: DynamicSeries, timing: BolusTiming) -> list[Finding]:
    after_s = float(series.times_s[-1] - timing.end_s)
    after = series.frames - 1 - timing.end
    if after_s >= SHORT_TAIL_S and after >= SHORT_TAIL_FRAMES:
        return []
    return [
        Finding(
            "truncated-tail",
            "warning",
            f"The series goes on for {after_s:.0f} s ({after} frames) after the first pass; {SHORT_TAIL_S:.0f} s and "
            f"{SHORT_TAIL_FRAMES} frames are needed to tell leakage.",
            "Leakage correction is uncertain here; measure for at least two minutes in all next time.",
            round(after_s, 1),
            "s",
        )
    ]


def _motion(series: DynamicSeries, inside: np.ndarray) -> list[Finding]:
    try:
        displacement_mm = estimate_displacement(series, inside)
    except GeometryError as error:
        return [Finding("motion-unknown", "info", str(error))]
    largest_mm = float(displacement_mm.max())
    moved = np.flatnonzero(displacement_mm > MOTION_MM)
    if moved.size == 0:
        message = f"The head stays within about {max(largest_mm, 0.1):.1f} mm of its usual position."
        return [Finding("motion", "info", message, "", round(largest_mm, 2), "mm")]
    return [
        Finding(
            "motion",
            "warning",
            f"The head moves by about {largest_mm:.1f} mm (frame {int(displacement_mm.argmax())}), by more than "
            f"{MOTION_MM:g} mm in {moved.size} of {series.frames} frames.",
            "Turn motion correction on, and compare the maps with and without.",
            round(largest_mm, 2),
            "mm",
        )
    ]
