"""From a series to its maps: the one path for the panel, the command line and batches."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes

from PerfusionCBVLib import __version__
from PerfusionCBVLib.arterial import ArterialInput, ArterialRequest, arterial_input
from PerfusionCBVLib.axis_order import AxisOrder
from PerfusionCBVLib.captk import captk_ap_rcbv
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import QualityError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.flow import FlowMaps, flow_maps, scale_finding
from PerfusionCBVLib.leakage import LeakageFit, correct_bidirectional, leaking_voxels
from PerfusionCBVLib.masking import validate_mask
from PerfusionCBVLib.motion import correct_motion
from PerfusionCBVLib.networks.trust import agreement, calibrated_deviation, familiarity
from PerfusionCBVLib.normalize import find_nawm, normalise
from PerfusionCBVLib.preparation import Prepared, find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.progress import Progress, part, silent
from PerfusionCBVLib.quality import examine
from PerfusionCBVLib.recovery import percentage_signal_recovery
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import DynamicSeries, ParameterMap
from PerfusionCBVLib.settings import DECONVOLUTION_TITLES, METHOD_TITLES, NETWORK_METHODS, Settings

CBF_READS = "on simulated patients at 1.5 s a frame 0.36 to 0.97 of the truth by method and tissue"
"""`Testing/measure_flow.py patients`: the rise of the residue function is too steep for the frames."""


def compute_maps(
    series: DynamicSeries,
    settings: Settings | None = None,
    *,
    mask: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    aif: ArterialRequest | None = None,
    progress: Progress = silent,
) -> MapResult:
    """Return the maps of a series with findings and provenance.

    Parameters
    ----------
    series : DynamicSeries
    settings : Settings, optional
    mask : (x, y, z) array, optional
        Brain; found when None.
    reference : (x, y, z) array, optional
        Region whose mean rCBV becomes 1, instead of the automatic one.
    aif : "auto", (x, y, z) array or ArterialCurve, optional
        Arterial input: found, the mean over a mask, or a curve; then blood flow and transit times are computed too.
    progress : callable (fraction, message), optional
        May raise `Cancelled`, which passes through.

    Returns
    -------
    MapResult

    Raises
    ------
    InputRefusedError
        The series can't be mapped; the message says why.
    ModelError, UsageError
    """
    settings = settings or Settings()
    if reference is not None and settings.normalize != "nawm":
        raise UsageError(f"A reference region can't be used with normalisation {settings.normalize!r}; leave one out.")
    order = AxisOrder.of(series.affine)
    result = _compute_maps(
        order.series(series),
        settings,
        order.work(None if mask is None else validate_mask(mask, series)),
        order.work(None if reference is None else validate_mask(reference, series)),
        order.work(validate_mask(aif, series)) if isinstance(aif, np.ndarray) else aif,
        progress,
    )
    return _on_stored_grid(result, order, series)


def _on_stored_grid(result: MapResult, order: AxisOrder, series: DynamicSeries) -> MapResult:
    """Return a result of the working grid on the grid of the series as it was read."""
    arterial = result.arterial
    return replace(
        result,
        series=series,
        maps={
            name: replace(map_, values=order.stored(map_.values), affine=series.affine)
            for name, map_ in result.maps.items()
        },
        baseline=order.stored(result.baseline),
        mask=order.stored(result.mask),
        reference=order.stored(result.reference),
        status=order.stored(result.status),
        arterial=None if arterial is None else replace(arterial, mask=order.stored(arterial.mask)),
    )


def _compute_maps(
    series: DynamicSeries,
    settings: Settings,
    mask: np.ndarray | None,
    reference: np.ndarray | None,
    aif: ArterialRequest | None,
    progress: Progress,
) -> MapResult:
    """Return the maps of a series on the working grid; regions are bool and on the same grid."""
    clock = _Clock()
    progress(0.0, "Looking for brain and bolus")
    examined = examine(series, mask, part(progress, 0.0, 0.2))
    findings = list(examined.findings)
    refused = next((f for f in findings if f.severity == "error"), None)
    if refused is not None:
        raise QualityError(f"{refused.message} {refused.advice}".strip())
    inside, timing = examined.mask, examined.timing
    assert inside is not None  # else there is a finding of severity "error"
    assert timing is not None
    clock.lap("check")

    provenance: dict[str, Any] = {
        "software": "PerfusionCBV",
        "version": __version__,
        "intended_use": "research use only",
        "settings": asdict(settings),
        "input": {"source": series.source, "sha256": dict(series.input_sha256), "notes": list(series.notes)},
        "acquisition": series.acquisition.as_dict(),
        "frames": series.frames,
        "frame_interval_s": series.frame_interval_s,
        "mask": {"kind": "found" if mask is None else "given"},
    }
    moved = series
    if settings.motion_correction:
        moved, motion = correct_motion(series, inside, timing, part(progress, 0.2, 0.5))
        # Along and about the axes of the working grid, which need not be the stored ones.
        provenance["motion"] = {**motion.as_dict(), "axes_towards": "".join(aff2axcodes(series.affine))}
        inside, timing = find_mask_and_bolus(moved, inside)
        clock.lap("motion correction")
    progress(0.5, "Converting signal to ΔR2*")
    prepared = prepare(moved, inside, timing)
    clock.lap("ΔR2*")
    progress(0.55, "Correcting leakage")
    bsw = fit_leakage(prepared)
    fit = fit_leakage(prepared, correct_bidirectional) if settings.method == "bidirectional" else bsw
    clock.lap("leakage correction")
    arterial = None if aif is None else arterial_input(prepared, aif)
    if arterial is not None:
        findings += arterial.checks
        provenance["arterial_input"] = _about(arterial)
        clock.lap("arterial input")

    deviation = None
    if settings.method in NETWORK_METHODS:
        from PerfusionCBVLib.networks.inference import network_rcbv  # torch only where a network needs it

        found = network_rcbv(prepared, bsw, settings.method, device=settings.device, progress=part(progress, 0.6, 0.85))
        raw, deviation = found.rcbv, found.deviation
        provenance["network"] = {
            "name": found.card["name"],
            "weights_sha256": found.card["sha256"],
            "device": found.device,
        }
        provenance["familiarity"], finding = familiarity(found.description, found.card)
        findings += [finding] if finding else []
    else:
        raw = _classical_volume(settings.method, prepared, fit)
    clock.lap(settings.method)
    progress(0.85, "Finding the reference region")
    classical = prepared.volume(bsw.corrected_integral)
    region, provenance["reference"] = _reference(settings, reference, prepared, classical, bsw)
    if provenance["reference"].get("notes"):
        advice = "Look at the region in the report; draw your own with --reference if it is not normal white matter."
        findings += [Finding("reference-region", "warning", note, advice) for note in provenance["reference"]["notes"]]
    scaled, unit = (raw, "{ratio}" if settings.method in NETWORK_METHODS else "1")
    if region is not None:
        level = float(np.nanmean(raw[region]))
        provenance["reference"]["mean_before_normalisation"] = level
        scaled, unit = normalise(raw, region), "{ratio}"
        deviation = None if deviation is None else deviation / np.float32(level)
    if deviation is not None:
        leakage = np.zeros_like(scaled)  # on this scale; without a reference region the maps share none
        if region is not None:
            leakage = prepared.volume(bsw.corrected_integral - bsw.integral) / np.float32(np.nanmean(classical[region]))
        calibration = found.card["measured"]["calibration"]
        deviation = calibrated_deviation(deviation, scaled, leakage, calibration)
        k2 = prepared.volume(bsw.k2)
        # One share for all voxels: what leakage adds to a voxel is its K2 times the area under the running integral.
        leakage_over_k2_s = float(np.nansum(leakage * k2) / np.nansum(k2**2))
        provenance["uncertainty"] = {
            "scale": calibration["scale"],
            "leakage_s": calibration["leakage"] * leakage_over_k2_s,
        }
    clock.lap("reference")

    status = prepared.status.copy()
    status[prepared.usable & ~np.isfinite(scaled)] = Status.FIT_FAILED
    title = METHOD_TITLES[settings.method]
    maps = {"rcbv": ParameterMap("rcbv", scaled, series.affine, unit, f"Relative cerebral blood volume, {title}")}
    if deviation is not None:
        description = "Standard deviation of rCBV, as the network estimates it"
        maps["uncertainty"] = ParameterMap("uncertainty", deviation, series.affine, unit, description)
    if settings.method in NETWORK_METHODS:
        beside = classical if region is None else normalise(classical, region)
        unit_beside = "1" if region is None else "{ratio}"
        description = f"Relative cerebral blood volume, {METHOD_TITLES['bsw']}"
        maps["rcbv_classical"] = ParameterMap("rcbv_classical", beside, series.affine, unit_beside, description)
        if region is not None:
            noise = prepared.volume(bsw.corrected_standard_error) / np.float32(np.nanmean(classical[region]))
            provenance["agreement"], finding = agreement(scaled, beside, noise)
            findings += [finding] if finding else []
            description = "Network minus classical map"
            maps["disagreement"] = ParameterMap("disagreement", scaled - beside, series.affine, unit, description)
    if settings.method not in ("integral", "captk"):
        maps["k1"] = ParameterMap("k1", prepared.volume(fit.k1), series.affine, "1", "Leakage-free amplitude K1")
        maps["k2"] = ParameterMap("k2", prepared.volume(fit.k2), series.affine, "1/s", "Leakage rate K2")
    if fit.kep is not None:
        maps["kep"] = ParameterMap("kep", prepared.volume(fit.kep), series.affine, "1/s", "Washout rate kep")
    recovery = prepared.volume(percentage_signal_recovery(moved.signal[prepared.usable], timing))
    maps["psr"] = ParameterMap("psr", recovery, series.affine, "%", "Percentage signal recovery")

    if arterial is not None:
        flow, provenance["flow"] = flow_maps(prepared, bsw, arterial, settings.deconvolution, part(progress, 0.86, 0.9))
        maps.update(_flow_parameter_maps(flow, prepared, settings.deconvolution))
        if region is not None and settings.normalize == "nawm":
            findings.append(scale_finding(maps["cbv"].values, region))
        if settings.method in NETWORK_METHODS and region is not None:
            maps["cbv_network"] = _network_cbv(scaled, maps["cbv"], region)
        clock.lap("flow")

    leaking = leaking_voxels(bsw)
    provenance["bolus"] = {
        **{k: v for k, v in asdict(timing).items()},
        "baseline_frames": [timing.baseline.start, timing.baseline.stop],
        "integration_frames": [timing.first_pass.start, timing.first_pass.stop],
        "integration_s": [float(series.times_s[timing.arrival]), float(series.times_s[timing.end])],
    }
    provenance["summary"] = _summary(scaled, prepared, leaking)
    provenance["findings"] = [f.as_dict() for f in findings]
    provenance["timings_s"] = clock.laps
    progress(0.9, "Maps are ready")
    return MapResult(
        series=series,
        maps=maps,
        baseline=prepared.baseline,
        mask=inside,
        reference=region,
        status=status,
        timing=timing,
        curves_per_s=_mean_curves(prepared, region, leaking),
        findings=tuple(findings),
        provenance=provenance,
        arterial=arterial,
    )


class _Clock:
    """Seconds spent in each step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _classical_volume(method: str, prepared: Prepared, fit: LeakageFit) -> np.ndarray:
    """Return a classical method's map before normalisation."""
    if method == "captk":
        return np.where(prepared.usable, captk_ap_rcbv(prepared.series.signal), np.float32(np.nan))
    return prepared.volume(fit.integral if method == "integral" else fit.corrected_integral)


def _reference(
    settings: Settings,
    given: np.ndarray | None,
    prepared: Prepared,
    classical: np.ndarray,
    bsw: LeakageFit,
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Return the reference region and how it was chosen; always on the classical map, so that methods share it."""
    if settings.normalize == "none":
        return None, {"kind": "none"}
    facts: dict[str, Any]
    if given is not None:
        region, facts = given, {"kind": "given"}
    elif settings.normalize == "brain":
        region, facts = prepared.usable, {"kind": "brain"}
    else:
        found = find_nawm(
            baseline=prepared.baseline,
            rcbv=classical,
            k2=prepared.volume(bsw.k2),
            mask=prepared.mask,
            affine=prepared.series.affine,
        )
        region = found.mask
        facts = {"kind": "nawm", "side": found.side, "spread": found.spread, "notes": list(found.notes)}
    voxel_ml = abs(float(np.linalg.det(prepared.series.affine[:3, :3]))) / 1000
    return region, {**facts, "voxels": int(region.sum()), "volume_ml": round(float(region.sum()) * voxel_ml, 3)}


def _about(arterial: ArterialInput) -> dict[str, Any]:
    """Return what provenance says about an arterial input; its curve is written as ``aif.csv``."""
    return {
        "source": arterial.source,
        "voxels": None if arterial.mask is None else int(arterial.mask.sum()),
        "checks": {finding.code: finding.value for finding in arterial.checks},
    }


def _flow_parameter_maps(flow: FlowMaps, prepared: Prepared, deconvolution: str) -> dict[str, ParameterMap]:
    by = f"{DECONVOLUTION_TITLES[deconvolution]} of ΔR2*, corrected where it leaks"
    described = {
        "cbv": ("ml/(100.g)", "Cerebral blood volume, area of ΔR2*, corrected where it leaks, over the artery's"),
        "cbf": ("ml/(100.g)/min", f"Cerebral blood flow, {by}; reads low, {CBF_READS}"),
        "mtt": ("s", "Mean transit time, CBV over CBF; reads long where CBF reads low"),
        "tmax": ("s", f"Time to the maximum of the residue function, {by}"),
        "ttp": ("s", "Time to peak of ΔR2*, from the bolus' arrival in the brain"),
        "delay": ("s", f"Delay after the arterial input, half-rise of the residue function, {by}"),
    }
    return {
        name: ParameterMap(name, prepared.volume(getattr(flow, name)), prepared.series.affine, unit, text)
        for name, (unit, text) in described.items()
    }


def _network_cbv(rcbv: np.ndarray, cbv: ParameterMap, region: np.ndarray) -> ParameterMap:
    """Return a network's rCBV in ml/100 g: a relative map put on the deconvolved one's scale, not a second measure."""
    level = float(np.nanmean(cbv.values[region]))
    text = f"Network's rCBV times {level:.4g} ml/100 g, the mean of cbv in the reference region"
    return ParameterMap("cbv_network", rcbv * np.float32(level), cbv.affine, cbv.unit, text)


def _summary(rcbv: np.ndarray, prepared: Prepared, leaking: np.ndarray) -> dict[str, float]:
    values = rcbv[np.isfinite(rcbv)]
    low, middle, high = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return {
        "brain_voxels": int(prepared.mask.sum()),
        "rcbv_median": middle,
        "rcbv_quartile_low": low,
        "rcbv_quartile_high": high,
        "leaking_fraction": float(np.mean(leaking)),
        "no_value_fraction": 1 - float(values.size) / max(int(prepared.mask.sum()), 1),
    }


def _mean_curves(prepared: Prepared, region: np.ndarray | None, leaking: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean ΔR2*, 1/s, of what is drawn in the report; only of what there is."""
    curves = prepared.delta_r2s_per_s
    chosen = {"brain": np.ones(curves.shape[0], bool), "leaking": leaking}
    if region is not None:
        chosen["reference"] = region[prepared.usable]
    return {name: curves[voxels].mean(axis=0) for name, voxels in chosen.items() if voxels.sum() >= 5}
