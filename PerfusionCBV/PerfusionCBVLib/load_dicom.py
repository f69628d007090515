"""DICOM, classic or enhanced, to `DynamicSeries`: the DSC series is picked, checked, converted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib.dicom_check import require_same_images
from PerfusionCBVLib.dicom_convert import convert
from PerfusionCBVLib.dicom_frames import FrameGrid, arrange, regularised
from PerfusionCBVLib.dicom_headers import SeriesHeaders, functional_group, is_dicom_file, number, read_headers
from PerfusionCBVLib.errors import GeometryError, TimingError, UnreadableInputError
from PerfusionCBVLib.load_common import (
    GIVEN_BY_USER,
    ask_for_interval,
    require_plausible_size,
    shown,
    start_collecting,
    uniform_times_s,
)
from PerfusionCBVLib.load_nifti import sidecar_number
from PerfusionCBVLib.series import MINIMUM_FRAMES, DynamicSeries

__all__ = ["is_dicom_file", "load_dicom"]

LARGEST_INTERVAL_DISAGREEMENT = 0.02
"""Between dcm2niix and the headers' clock times."""

_PERFUSION = re.compile(r"perf|dsc|pwi|t2\*?.?perf|bolus|gado", re.IGNORECASE)
_OTHER = (
    (re.compile(r"dti|dwi|diff|adc|trace|tensor|b ?1000", re.IGNORECASE), "diffusion"),
    (re.compile(r"bold|fmri|resting|rsf?mri|(^|[^a-z])rest([^a-z]|$)|task|paradigm", re.IGNORECASE), "functional MRI"),
    (re.compile(r"(^|[^a-z])(p?c?asl|pasl|pcasl)([^a-z]|$)", re.IGNORECASE), "arterial spin labelling"),
    (re.compile(r"(^|[^a-z])(dce|twist|vibe|grasp)([^a-z]|$)", re.IGNORECASE), "T1-weighted dynamic MRI"),
)


def load_dicom(
    files: Iterable[Path],
    *,
    echo_time_s: float | None = None,
    repetition_time_s: float | None = None,
    series_uid: str | None = None,
    extra_sha256: Mapping[str, str] | None = None,
) -> DynamicSeries:
    """Return the DSC series among DICOM files.

    Parameters
    ----------
    files : iterable of Path
        In any order; files that are not DICOM images are passed over.
    echo_time_s, repetition_time_s : float, optional
        Override what the headers say, s.
    series_uid : str, optional
        SeriesInstanceUID to read.
    extra_sha256 : mapping, optional
        Hashes of what the files came out of.

    Raises
    ------
    UnreadableInputError, GeometryError, TimingError, QualityError
        As `load.load_series` describes.
    """
    series, notes = choose_series(read_headers(files), series_uid)
    if series.truncated:
        raise _truncated(series.truncated)
    if series.duplicates:
        notes.append(f"{series.duplicates} images occur more than once (same SOPInstanceUID) and were read once.")
    if series.conflicting:
        raise UnreadableInputError(
            f"The DICOM file {shown(series.conflicting[0])} has the SOPInstanceUID of another image of the series but "
            "another content, so it is in doubt which is right. Export the series again."
        )
    _require_one_format(series)
    grid = arrange(series, trust_times=repetition_time_s is None)
    frames = len(grid.frames[0])
    if frames < MINIMUM_FRAMES:
        raise TimingError(
            f"The series {_label(series)} has {frames} frames; at least {MINIMUM_FRAMES} are needed to see a "
            "baseline, the bolus and its tail. Choose the dynamic (perfusion) series, or check that the "
            "export is complete."
        )
    sides = [int(number(series.header, key) or 1) for key in ("Columns", "Rows")]
    require_plausible_size((*sides, len(series.frames)), f"the series {_label(series)}")
    signal, affine, sidecar = convert(series, grid)
    require_same_images(signal, affine, grid, series)

    times_s, source = _frame_times_s(grid, sidecar, series, repetition_time_s)
    notes.append(f"Frame times: {source}.")
    collector = start_collecting(echo_time_s, repetition_time_s)
    for name, value, where in _acquisition_values(series):
        if name not in collector.values:
            collector.add(name, value, where)
    interval_s = float(np.median(np.diff(times_s)))
    collector.add("repetition_time_s", interval_s, f"frame interval ({source})")
    return DynamicSeries(
        signal=signal,
        affine=affine,
        times_s=times_s,
        acquisition=collector.acquisition(),
        name=series.description,
        source=f"DICOM series {_label(series)}",
        input_sha256={**(extra_sha256 or {}), f"dicom:{series.uid}": series.sha256},
        notes=tuple(notes),
    )


def choose_series(found: list[SeriesHeaders], series_uid: str | None) -> tuple[SeriesHeaders, list[str]]:
    """Return the perfusion series among those found, or the one asked for, with what there is to say about it.

    Raises
    ------
    UnreadableInputError, GeometryError
        There is none, or several that may be it.
    """
    if not found:
        raise UnreadableInputError("There are no DICOM images here. Pass the folder of the dynamic (perfusion) series.")
    listed = _listed(found)
    if series_uid is not None:
        chosen = [one for one in found if one.uid == series_uid]
        if not chosen:
            raise UnreadableInputError(f"There is no series {series_uid} here. Found: {listed}.")
    else:
        candidates = [one for one in found if _modality(one) == "MR" and not one.is_diffusion_weighted()]
        dynamic = [one for one in candidates if one.time_points() >= MINIMUM_FRAMES]
        # A series cut short is named as such rather than as missing.
        dynamic = dynamic or [one for one in candidates if one.time_points() > 1]
        chosen = _most_likely(dynamic)
        if not chosen:
            raise _no_dynamic_series(found, listed)
    if len(chosen) > 1:
        raise UnreadableInputError(
            f"{len(chosen)} series may be the perfusion series: {_listed(chosen)}. Pass the "
            "folder of one series, or its UID."
        )
    one = chosen[0]
    if _modality(one) != "MR":
        raise UnreadableInputError(
            f"The series {_label(one)} is {_modality(one)}, not MR. Choose the perfusion series."
        )
    notes = []
    if len(found) > 1:
        left = _listed([other for other in found if other is not one])
        notes.append(f"Of {len(found)} series, {_label(one)} was read. Left: {left}.")
    if kind := _looks_like(one):
        notes.append(f"The series' description suggests {kind}, not DSC perfusion.")
    return one, notes


def _most_likely(dynamic: list[SeriesHeaders]) -> list[SeriesHeaders]:
    if len(dynamic) < 2:
        return dynamic
    fitting = [one for one in dynamic if not _looks_like(one)]
    original = [one for one in fitting if _is_perfusion(one) or "DERIVED" not in one.image_type]
    described = [one for one in original if _is_perfusion(one)]
    return described or original or fitting or dynamic


def _no_dynamic_series(found: list[SeriesHeaders], listed: str) -> UnreadableInputError | GeometryError:
    truncated = [name for one in found for name in one.truncated]
    if truncated:
        return _truncated(truncated)
    if all(_modality(one) != "MR" for one in found):
        return UnreadableInputError(f"There is no MR series here. Found: {listed}. Choose the perfusion series.")
    if any(one.is_diffusion_weighted() for one in found):
        return UnreadableInputError(
            f"There is no dynamic MR series here but diffusion. Found: {listed}. Choose the dynamic (perfusion) series."
        )
    return GeometryError(
        f"There is no dynamic MR series here, only single volumes. Found: {listed}. Choose the dynamic "
        "(perfusion) series."
    )


def _truncated(names: list[str]) -> UnreadableInputError:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return UnreadableInputError(f"The DICOM file {names[0]} is truncated{more}. Export the series again.")


def _require_one_format(series: SeriesHeaders) -> None:
    components = sorted({one.component for one in series.formats})
    if components != ["magnitude"]:
        raise UnreadableInputError(
            f"The series {_label(series)} holds {' and '.join(components)} images; magnitude alone is needed. Pass a "
            "folder with the magnitude images."
        )
    if len(series.formats) > 1:
        listed = sorted({f"{one.columns} × {one.rows} pixels of {_spacing(one.spacing_mm)}" for one in series.formats})
        raise GeometryError(
            f"The series {_label(series)} holds images of different size: {', '.join(listed[:3])}. Export the "
            "original series."
        )


def _spacing(spacing_mm: tuple[float, ...] | None) -> str:
    return "unknown size" if spacing_mm is None else f"{' × '.join(f'{v:g}' for v in spacing_mm)} mm"


def _modality(series: SeriesHeaders) -> str:
    return shown(series.header.get("Modality", "") or "of unknown modality")


def _listed(series: list[SeriesHeaders], most: int = 20) -> str:
    more = f"; and {len(series) - most} more" if len(series) > most else ""
    return "; ".join(_label(one) for one in series[:most]) + more


def _is_perfusion(series: SeriesHeaders) -> bool:
    return bool(_PERFUSION.search(series.description))


def _looks_like(series: SeriesHeaders) -> str | None:
    """Return what else the description names, or None; "ep2d_diff" is diffusion, "DSC at rest" is perfusion."""
    for pattern, kind in _OTHER:
        if pattern.search(series.description) and (kind != "functional MRI" or not _is_perfusion(series)):
            return kind
    return None


def _label(series: SeriesHeaders) -> str:
    """Return how to tell a series from others without its description, in which people write names."""
    count = number(series.header, "SeriesNumber")
    frames = series.time_points()
    kind = "DSC perfusion" if _is_perfusion(series) else _looks_like(series)
    described = f"described as {kind}, " if kind else ""
    return (
        f"{'without number' if count is None else f'number {count:g}'} "
        f"({described}{frames} frame{'s' if frames != 1 else ''}, UID {shown(series.uid, 64)})"
    )


def _frame_times_s(
    grid: FrameGrid, sidecar: Mapping[str, Any], series: SeriesHeaders, repetition_time_s: float | None
) -> tuple[np.ndarray, str]:
    frames = len(grid.frames[0])
    if repetition_time_s is not None:
        return uniform_times_s(frames, repetition_time_s), GIVEN_BY_USER
    converted_s = sidecar_number(sidecar, "RepetitionTime", "dcm2niix's sidecar")
    if grid.interval_s is None:
        # A header's repetition time is the time between frames only where one excitation makes a whole image.
        if converted_s is None or not _is_single_shot(series):
            raise ask_for_interval("The DICOM headers give no time between frames.")
        return uniform_times_s(
            frames, converted_s
        ), "DICOM RepetitionTime of a 2-D echo-planar series without frame times"
    tolerance_s = LARGEST_INTERVAL_DISAGREEMENT * grid.interval_s + grid.resolution_s / (frames - 1)
    # dcm2niix takes its interval from the clock without the date, so past midnight only the header's is right.
    header_ms = number(series.header, "RepetitionTime")
    nominal_s = [value_s for value_s in (converted_s, header_ms / 1000 if header_ms else None) if value_s is not None]
    agreeing_s = [value_s for value_s in nominal_s if abs(value_s - grid.interval_s) <= tolerance_s]
    if converted_s is not None and not agreeing_s:
        raise ask_for_interval(
            f"The time between frames is {grid.interval_s:.4g} s by {grid.clock} but {converted_s:.4g} s by dcm2niix."
        )
    return regularised(grid, agreeing_s[0] if agreeing_s else None), grid.clock


def _is_single_shot(series: SeriesHeaders) -> bool:
    header = series.header
    planar = "EP" in str(header.get("ScanningSequence", "")) or header.get("EchoPulseSequence") == "GRADIENT"
    return planar and header.get("MRAcquisitionType") == "2D"


def _acquisition_values(series: SeriesHeaders) -> list[tuple[str, Any, str]]:
    header = series.header

    def milliseconds(value: float | None) -> float | None:
        return None if not value else value / 1000

    timing = functional_group(header, 0, "MRTimingAndRelatedParametersSequence")
    echo = functional_group(header, 0, "MREchoSequence")
    agents = header.get("ContrastBolusAgentSequence") or []
    coded_agent = shown(agents[0].get("CodeMeaning", "") or "") if agents else ""
    return [
        ("echo_time_s", milliseconds(number(header, "EchoTime")), "DICOM EchoTime"),
        ("echo_time_s", milliseconds(number(echo, "EffectiveEchoTime")), "DICOM EffectiveEchoTime"),
        ("repetition_time_s", milliseconds(number(header, "RepetitionTime")), "DICOM RepetitionTime"),
        ("repetition_time_s", milliseconds(number(timing, "RepetitionTime")), "DICOM RepetitionTime"),
        ("flip_angle_deg", number(header, "FlipAngle") or None, "DICOM FlipAngle"),
        ("flip_angle_deg", number(timing, "FlipAngle") or None, "DICOM FlipAngle"),
        ("field_strength_t", number(header, "MagneticFieldStrength") or None, "DICOM MagneticFieldStrength"),
        ("manufacturer", shown(header.get("Manufacturer", "") or "") or None, "DICOM Manufacturer"),
        ("contrast_agent", shown(header.get("ContrastBolusAgent", "") or "") or None, "DICOM ContrastBolusAgent"),
        ("contrast_agent", coded_agent or None, "DICOM ContrastBolusAgentSequence"),
        # The total dose counts undiluted agent, the volume what was injected.
        ("contrast_dose_ml", number(header, "ContrastBolusTotalDose") or None, "DICOM ContrastBolusTotalDose"),
        ("contrast_dose_ml", number(header, "ContrastBolusVolume") or None, "DICOM ContrastBolusVolume"),
    ]
