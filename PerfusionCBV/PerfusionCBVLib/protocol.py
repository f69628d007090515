"""Whether the acquisition follows the 2020 consensus; what differs is said, and mapped all the same.

The consensus (Boxerman et al. 2020, Neuro-Oncology 22:1262): a full-dose preload and a full-dose bolus at a flip angle
of 60°, or no preload at 30°; TE 40–50 ms at 1.5 T and 20–35 ms at 3 T; TR 1.0–1.5 s; 30–50 baseline frames.
"""

from __future__ import annotations

from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.series import Acquisition

ECHO_TIME_MS = {1.5: (40.0, 50.0), 3.0: (20.0, 35.0)}
REPETITION_TIME_S = (1.0, 1.5)
BASELINE_FRAMES = 30
FLIP_ANGLE_TOLERANCE_DEG = 5.0

# Headers round: 1.49998 T, 0.0350001 s. A deviation smaller than this share is none.
_ROUNDING = 0.01


def check_protocol(
    acquisition: Acquisition, baseline_frames: int | None, frame_interval_s: float
) -> tuple[Finding, ...]:
    """Return what is unknown about the acquisition, and what differs from the 2020 consensus.

    Parameters
    ----------
    acquisition : Acquisition
    baseline_frames : int or None
        Steady frames before the bolus; None when no bolus was found.
    frame_interval_s : float
        Time between frames, s.
    """
    findings = _unknown(acquisition)
    for finding in (
        _flip_angle(acquisition.flip_angle_deg),
        _echo_time(acquisition.echo_time_s, acquisition.field_strength_t),
        _repetition_time(acquisition.repetition_time_s),
        _frame_interval(frame_interval_s, acquisition.repetition_time_s),
        _baseline(baseline_frames),
    ):
        if finding is not None:
            findings.append(finding)
    return tuple(findings)


def _unknown(acquisition: Acquisition) -> list[Finding]:
    findings = []
    if acquisition.echo_time_s is None:
        findings.append(
            Finding(
                "echo-time-unknown",
                "warning",
                "The echo time (TE) is not known; without it ΔR2* has no unit.",
                "Give it with --echo-time in seconds. Maps relative to a reference region don't depend on it.",
            )
        )
    if acquisition.repetition_time_s is None:
        findings.append(
            Finding(
                "repetition-time-unknown",
                "warning",
                "The repetition time (TR) is not known; how strongly T1 leakage acts can't be judged.",
                "Give it with --repetition-time in seconds.",
            )
        )
    if acquisition.flip_angle_deg is None:
        findings.append(
            Finding(
                "flip-angle-unknown",
                "warning",
                "The flip angle is not known; whether a preload was needed (60°) or not (30°) can't be judged.",
                "Look it up in the protocol; prefer a leakage-corrected method meanwhile.",
            )
        )
    if acquisition.field_strength_t is None and acquisition.echo_time_s is not None:
        findings.append(
            Finding(
                "field-strength-unknown",
                "info",
                "The field strength is not known; the echo time is compared with both 1.5 T and 3 T.",
            )
        )
    return findings


def _flip_angle(flip_angle_deg: float | None) -> Finding | None:
    if flip_angle_deg is None:
        return None
    value, unit = round(flip_angle_deg, 1), "deg"
    preload = "The headers don't say whether contrast was given before."
    if abs(flip_angle_deg - 30.0) <= FLIP_ANGLE_TOLERANCE_DEG:
        message = f"The flip angle is {value:g}°: the consensus protocol without preload. {preload}"
        return Finding("protocol-flip-angle", "info", message, "", value, unit)
    if abs(flip_angle_deg - 60.0) <= FLIP_ANGLE_TOLERANCE_DEG:
        message = f"The flip angle is {value:g}°: the consensus protocol if a full-dose preload was given. {preload}"
        advice = "If there was no preload, trust leakage-corrected maps only."
        return Finding("protocol-flip-angle", "info", message, advice, value, unit)
    message = (
        f"The flip angle is {value:g}°; the consensus is 60° with a full-dose preload or 30° without one. {preload}"
    )
    if flip_angle_deg < 25.0:
        advice = "T1 leakage is weak at this angle, but so is the signal; watch the temporal signal-to-noise ratio."
    elif flip_angle_deg < 55.0:
        advice = "T1 leakage is stronger than at 30°: without a preload, trust leakage-corrected maps only."
    else:
        advice = "T1 leakage is stronger than at 60°: trust leakage-corrected maps only, above all without a preload."
    return Finding("protocol-flip-angle", "warning", message, advice, value, unit)


def _echo_time(echo_time_s: float | None, field_strength_t: float | None) -> Finding | None:
    if echo_time_s is None:
        return None
    echo_time_ms = 1000.0 * echo_time_s
    fields = [f for f in ECHO_TIME_MS if field_strength_t is None or abs(field_strength_t - f) < 0.3]
    if not fields:
        return Finding(
            "protocol-echo-time",
            "info",
            f"The echo time is {echo_time_ms:.3g} ms at {field_strength_t:g} T; the consensus speaks of 1.5 T and 3 T "
            "only.",
            "",
            round(echo_time_ms, 1),
            "ms",
        )
    if any(_within(echo_time_ms, ECHO_TIME_MS[f]) for f in fields):
        return None
    expected = " or ".join(f"{ECHO_TIME_MS[f][0]:g}–{ECHO_TIME_MS[f][1]:g} ms at {f:g} T" for f in fields)
    if echo_time_ms < min(ECHO_TIME_MS[f][0] for f in fields):
        advice = "The bolus drops the signal less than it could, so the map is noisier."
    else:
        advice = (
            "Arteries and large vessels may lose all signal at the peak, which bounds their blood volume from below."
        )
    message = f"The echo time is {echo_time_ms:.3g} ms; the consensus is {expected}."
    return Finding("protocol-echo-time", "warning", message, advice, round(echo_time_ms, 1), "ms")


def _repetition_time(repetition_time_s: float | None) -> Finding | None:
    if repetition_time_s is None or _within(repetition_time_s, REPETITION_TIME_S):
        return None
    low, high = REPETITION_TIME_S
    if repetition_time_s < low:
        advice = "T1 leakage acts more strongly: prefer a leakage-corrected method."
    else:
        advice = "The first pass is sampled coarsely; its height and timing are less exact."
    message = f"The repetition time is {repetition_time_s:.3g} s; the consensus is {low:.1f}–{high:.1f} s."
    return Finding("protocol-repetition-time", "warning", message, advice, round(repetition_time_s, 3), "s")


def _frame_interval(frame_interval_s: float, repetition_time_s: float | None) -> Finding | None:
    # Where the interval is the TR, the TR's own finding says it.
    if repetition_time_s is not None and abs(frame_interval_s / repetition_time_s - 1.0) < 0.05:
        return None
    if frame_interval_s <= REPETITION_TIME_S[1] * (1.0 + _ROUNDING):
        return None
    return Finding(
        "protocol-frame-interval",
        "warning",
        f"A frame is taken every {frame_interval_s:.3g} s; the consensus is at most {REPETITION_TIME_S[1]:.1f} s.",
        "The first pass is sampled coarsely; its height and timing are less exact.",
        round(frame_interval_s, 3),
        "s",
    )


def _baseline(baseline_frames: int | None) -> Finding | None:
    if baseline_frames is None or baseline_frames >= BASELINE_FRAMES:
        return None
    return Finding(
        "protocol-baseline",
        "info",
        f"{baseline_frames} steady frames lie before the bolus; the consensus advises 30–50.",
        "Start the injection later next time: the noise of the baseline enters every frame of the map.",
        baseline_frames,
        "frames",
    )


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] * (1.0 - _ROUNDING) <= value <= limits[1] * (1.0 + _ROUNDING)
