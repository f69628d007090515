"""A simulated patient: parameters in, series and truth out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from PerfusionCBVLib.series import Acquisition, DynamicSeries
from PerfusionCBVLib.simulate import kinetics
from PerfusionCBVLib.simulate.anatomy import TISSUES, series_affine, smooth_field, tissue_fractions
from PerfusionCBVLib.simulate.parameters import SubjectParameters
from PerfusionCBVLib.simulate.scanner import approach_to_steady_state, spoil, spoiled_gradient_echo

FINE_INTERVAL_S = 0.5
"""Longest step of the grid on which the kinetics are computed."""

_VOXELS_AT_ONCE = 8192
_NORMALS = ("csf", "grey", "white")


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """A series and what is true about it.

    Attributes
    ----------
    series : DynamicSeries
    truth : dict of str to (x, y, z) float32 array
        ``cbv`` (ml/100 g), ``rcbv`` (ratio to its mean in `nawm`), ``cbf`` (ml/100 g/min), ``mtt`` (s), ``delay`` (s),
        ``ktrans`` (1/min); NaN outside the head's brain tissue.
    tissue : (x, y, z) uint8 array
        Index into `anatomy.TISSUES` of the largest share.
    brain, nawm, vessel : (x, y, z) bool arrays
        Large vessels are where they fill more than a twentieth of a voxel.
    vessel_share : (x, y, z) float32 array
        Of each voxel, 0 to 1.
    parameters : SubjectParameters
    """

    series: DynamicSeries
    truth: dict[str, np.ndarray]
    tissue: np.ndarray
    brain: np.ndarray
    nawm: np.ndarray
    vessel: np.ndarray
    vessel_share: np.ndarray
    parameters: SubjectParameters


@dataclass(frozen=True, eq=False)
class _Fields:
    """Per-voxel parameters of the tissue-bearing voxels, (V,) tensors."""

    cbv: torch.Tensor  # ml/100 g
    mtt_s: torch.Tensor
    delay_s: torch.Tensor
    dispersion_s: torch.Tensor
    ktrans_per_min: torch.Tensor
    ve: torch.Tensor
    t1_s: torch.Tensor
    r2s_per_s: torch.Tensor
    proton_density: torch.Tensor
    vessel: torch.Tensor  # share of the voxel


def simulate(parameters: SubjectParameters, *, device: str | torch.device = "cpu") -> SimulatedSubject:
    """Return the series and the truth of a drawn patient; the same parameters give the same series on one device."""
    device = torch.device(device)
    scan = parameters.scan
    with torch.no_grad():
        fractions = tissue_fractions(parameters, device)
        share = dict(zip(TISSUES, fractions, strict=True))
        tissue_bearing = 1 - share["background"] - share["scalp"]
        present = tissue_bearing > 0.02
        fields = _fields(parameters, {k: v[present] for k, v in share.items()}, present)
        clean = torch.zeros((*scan.matrix, scan.frames), device=device)
        inside = torch.empty((int(present.sum()), scan.frames), device=device)
        arterial, interval_s, stride = _arterial_input(parameters, device)
        for start in range(0, inside.shape[0], _VOXELS_AT_ONCE):
            part = slice(start, start + _VOXELS_AT_ONCE)
            inside[part] = _signal(
                _Fields(**{k: v[part] for k, v in vars(fields).items()}), parameters, arterial, interval_s, stride
            )
        clean[present] = inside * tissue_bearing[present][:, None]
        del inside
        clean += _scalp_signal(parameters, share["scalp"], clean[present])[..., None]
        brain = tissue_bearing > 0.5
        measured = spoil(clean, brain, scan, parameters.disturbance, parameters.seed)
        level = 600.0 / float(measured[brain].mean())
    series = DynamicSeries(
        signal=(measured * level).cpu().numpy(),
        affine=series_affine(scan),
        times_s=np.arange(scan.frames) * scan.repetition_time_s,
        acquisition=_acquisition(parameters),
        name=f"Simulated patient {parameters.seed}",
        source=f"simulator, seed {parameters.seed}",
    )
    return _with_truth(parameters, series, share, fields, present, brain)


def _arterial_input(parameters: SubjectParameters, device: torch.device) -> tuple[torch.Tensor, float, int]:
    """Return the arterial curve on a fine grid, its interval, and how many fine steps make a frame."""
    scan = parameters.scan
    stride = math.ceil(scan.repetition_time_s / FINE_INTERVAL_S)
    interval_s = scan.repetition_time_s / stride
    times_s = torch.arange(scan.frames * stride, dtype=torch.float32, device=device) * interval_s
    return kinetics.arterial_concentration(parameters.bolus, times_s), interval_s, stride


def _fields(p: SubjectParameters, share: dict[str, torch.Tensor], present: torch.Tensor) -> _Fields:
    """Return each voxel's parameters: the tissues' values weighted by their share, with smooth texture."""
    device = present.device
    rng = np.random.default_rng([p.seed, 3])
    spacing = np.array(p.scan.voxel_size_mm)

    def texture(length_mm: float) -> torch.Tensor:
        field = smooth_field(rng, p.scan.matrix, tuple(np.maximum(length_mm / spacing, 0.3)))
        return torch.from_numpy(field).to(device)[present]

    coarse, fine = texture(9.0), texture(3.0)
    grain = 0.8 * coarse + 0.6 * fine
    lesion = p.tumours[0] if p.tumours else None
    normal = {"csf": p.csf, "grey": p.grey, "white": p.white}
    zero = torch.zeros_like(grain)

    # Blood volume by tissue; tumours carry the texture of the first one, whose values the parts share.
    cbv = zero.clone()
    blood_time = zero.clone()  # CBV-weighted transit time, so that MTT = blood_time / CBV
    for name, tissue in normal.items():
        part = share[name] * tissue.cbv_ml_per_100g * torch.exp(tissue.texture_sd * grain)
        cbv += part
        blood_time += part * tissue.mtt_s
    ktrans, ve = zero.clone(), torch.full_like(zero, 0.2)
    if lesion is not None:
        texture_factor = torch.exp(lesion.texture_sd * (0.6 * coarse + 0.8 * fine))
        parts = {
            "enhancing": lesion.cbv_enhancing_ml_per_100g,
            "infiltration": lesion.cbv_infiltration_ml_per_100g,
            "necrosis": lesion.cbv_necrosis_ml_per_100g,
            "oedema": 0.85 * p.white.cbv_ml_per_100g,
        }
        for name, value in parts.items():
            part = share[name] * value * texture_factor
            cbv += part
            blood_time += part * (lesion.mtt_s if name == "enhancing" else 0.5 * (lesion.mtt_s + p.white.mtt_s))
        leaky = share["enhancing"] + 0.15 * share["infiltration"] + 0.1 * share["necrosis"]
        ktrans = lesion.ktrans_per_min * leaky * torch.exp(0.4 * fine)
        ve = torch.full_like(zero, lesion.ve)
    vessel = share["artery"] + share["vein"]
    cbv += vessel * 100.0 / 1.04
    blood_time += vessel * 100.0 / 1.04 * 1.0
    mtt_s = (blood_time / cbv.clamp(min=1e-3)).clamp(0.5, 15.0)

    delay_s = p.kinetics.delay_sd_s * texture(25.0).clamp(-2, 3) + 2 * p.kinetics.delay_sd_s + 0.8
    delay_s = delay_s * (1 - share["artery"]) + share["vein"] * p.kinetics.vein_delay_s
    dispersion_s = p.kinetics.dispersion_s * (0.5 + 0.5 * (1 - share["artery"])) * torch.exp(0.2 * coarse)

    # Relaxation: lesions are longer in T1 and T2*; shares mix rates.
    values = {
        "csf": (p.csf.t1_s, p.csf.t2star_s, p.csf.proton_density),
        "grey": (p.grey.t1_s, p.grey.t2star_s, p.grey.proton_density),
        "white": (p.white.t1_s, p.white.t2star_s, p.white.proton_density),
        "necrosis": (2.5, 2.0 * p.grey.t2star_s, 0.95),
        "enhancing": (1.15 * p.grey.t1_s, 1.2 * p.grey.t2star_s, 0.87),
        "infiltration": (1.2 * p.grey.t1_s, 1.3 * p.grey.t2star_s, 0.88),
        "oedema": (1.4 * p.grey.t1_s, 1.6 * p.grey.t2star_s, 0.9),
        "artery": (1.65, 0.05, 0.9),
        "vein": (1.65, 0.03, 0.9),
    }
    total = sum((share[name] for name in values), zero).clamp(min=1e-3)
    t1_rate, r2s, density = (
        sum((share[name] * change(v) for name, v in values.items()), zero) / total
        for change in (lambda v: 1 / v[0], lambda v: 1 / v[1], lambda v: v[2])
    )
    return _Fields(
        cbv=cbv,
        mtt_s=mtt_s,
        delay_s=delay_s,
        dispersion_s=dispersion_s,
        ktrans_per_min=ktrans,
        ve=ve,
        t1_s=1 / t1_rate,
        r2s_per_s=r2s,
        proton_density=density,
        vessel=vessel,
    )


def _signal(f: _Fields, p: SubjectParameters, arterial: torch.Tensor, interval_s: float, stride: int) -> torch.Tensor:
    """Return the noise-free (V, T) signal of some voxels."""
    # Capillaries hold more plasma per blood volume than the artery in which the input is measured.
    capillary_cbv = (f.cbv - f.vessel * 100 / 1.04).clamp(min=0) / 100 * kinetics.BRAIN_DENSITY_G_PER_ML
    shape = {"mtt_s": f.mtt_s, "delay_s": f.delay_s, "dispersion_s": f.dispersion_s}
    blood = kinetics.tissue_concentration(
        arterial,
        interval_s,
        cbv_ml_per_ml=torch.ones_like(f.cbv),
        transit_shape=p.kinetics.transit_shape,
        **shape,
    )[:, ::stride]
    tissue = blood * (capillary_cbv / kinetics.LARGE_TO_SMALL_VESSEL)[:, None]
    k = p.kinetics
    bulk = f.vessel[:, None] * (k.r2s_blood_linear * blood + k.r2s_blood_quadratic * blood.square())
    r2s = f.r2s_per_s[:, None] + k.r2s_tissue_per_s_per_mm * tissue + bulk
    r1 = 1 / f.t1_s[:, None] + k.r1_per_s_per_mm * k.intravascular_t1_fraction * (tissue + f.vessel[:, None] * blood)
    leaking = f.ktrans_per_min > 1e-4
    if bool(leaking.any()):
        leaked = kinetics.interstitial_concentration(
            arterial,
            interval_s,
            ktrans_per_s=f.ktrans_per_min[leaking] / 60,
            ve=f.ve[leaking],
            delay_s=f.delay_s[leaking],
        )[:, ::stride]
        # What an earlier dose left behind, where the barrier is open, shortens T1 before the bolus comes.
        kept = (p.bolus.preload_mm * f.ve[leaking] * (f.ktrans_per_min[leaking] / 0.1).clamp(max=1.0))[:, None]
        r1[leaking] += k.r1_per_s_per_mm * (leaked + kept)
        r2s[leaking] += k.r2s_interstitial_per_s_per_mm * leaked
    signal = spoiled_gradient_echo(r1_per_s=r1, r2s_per_s=r2s, proton_density=f.proton_density[:, None], scan=p.scan)
    first = min(8, p.scan.frames)
    signal[:, :first] *= approach_to_steady_state(1 / r1[:, 0], p.scan, first)
    return signal


def _scalp_signal(p: SubjectParameters, scalp: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the static signal of fat-suppressed scalp."""
    return scalp * p.head.scalp_signal * inside.mean()


def _acquisition(p: SubjectParameters) -> Acquisition:
    names = ("echo_time_s", "repetition_time_s", "flip_angle_deg", "field_strength_t")
    return Acquisition(
        **{name: getattr(p.scan, name) for name in names},
        manufacturer="Simulated",
        sources=dict.fromkeys((*names, "manufacturer"), "simulator"),
    )


def _with_truth(
    p: SubjectParameters,
    series: DynamicSeries,
    share: dict[str, torch.Tensor],
    fields: _Fields,
    present: torch.Tensor,
    brain: torch.Tensor,
) -> SimulatedSubject:
    def volume(values: torch.Tensor) -> np.ndarray:
        filled = torch.full(p.scan.matrix, float("nan"), device=values.device)
        filled[present] = values
        filled[~brain] = float("nan")
        return filled.cpu().numpy()

    lesion = share["necrosis"] + share["enhancing"] + share["infiltration"] + share["oedema"]
    vessel_share = share["artery"] + share["vein"]
    vessel = (vessel_share > 0.05) & brain
    nawm = (share["white"] > 0.95) & (lesion < 0.01) & ~vessel & brain
    cbv = volume(fields.cbv)
    nawm_mask = nawm.cpu().numpy()
    scale = float(np.nanmean(cbv[nawm_mask])) if nawm_mask.any() else float("nan")
    truth = {
        "cbv": cbv,
        "rcbv": cbv / scale,
        "cbf": volume(60 * fields.cbv / fields.mtt_s),
        "mtt": volume(fields.mtt_s),
        "delay": volume(fields.delay_s),
        "ktrans": volume(fields.ktrans_per_min),
    }
    tissue = torch.stack([share[name] for name in TISSUES]).argmax(dim=0).to(torch.uint8)
    return SimulatedSubject(
        series=series,
        truth=truth,
        tissue=tissue.cpu().numpy(),
        brain=brain.cpu().numpy(),
        nawm=nawm_mask,
        vessel=vessel.cpu().numpy(),
        vessel_share=vessel_share.cpu().numpy(),
        parameters=p,
    )
