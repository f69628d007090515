"""From an arterial input to concentrations in blood and interstitium, many voxels at once."""

from __future__ import annotations

import math

import torch
from scipy import fft

from PerfusionCBVLib.simulate.parameters import Bolus

HAEMATOCRIT_LARGE = 0.45
HAEMATOCRIT_SMALL = 0.25
BRAIN_DENSITY_G_PER_ML = 1.04
LARGE_TO_SMALL_VESSEL = (1 - HAEMATOCRIT_LARGE) / (1 - HAEMATOCRIT_SMALL)
"""k_H of physics: how much less plasma a large vessel holds per blood volume than a capillary."""


def arterial_concentration(bolus: Bolus, times_s: torch.Tensor) -> torch.Tensor:
    """Return the whole-blood concentration in a large artery, mmol/l.

    Gamma-variate first pass, a second pass dispersed by another gamma kernel, and a slowly cleared tail that fills as
    the first pass empties. Areas, not heights, carry `recirculation_fraction`, as conservation of the dose asks.

    Parameters
    ----------
    times_s : (N,) tensor, s
    """
    first = _gamma_density(times_s - bolus.arrival_s, bolus.shape, bolus.scale_s)
    mode = (bolus.shape - 1) * bolus.scale_s
    peak = _gamma_density(torch.tensor([mode], dtype=times_s.dtype, device=times_s.device), bolus.shape, bolus.scale_s)
    second = _gamma_density(
        times_s - bolus.arrival_s - bolus.recirculation_delay_s, bolus.shape, bolus.recirculation_scale_s
    )
    since = (times_s - bolus.arrival_s).clamp(min=0)
    filled = torch.special.gammainc(torch.full_like(since, bolus.shape), since / bolus.scale_s)
    first_height = first / peak
    second_height = bolus.recirculation_fraction * second / peak
    tail = bolus.tail_fraction * filled * torch.exp(-since / bolus.tail_decay_s)
    return bolus.peak_mm * (first_height + second_height + tail)


def tissue_concentration(
    arterial: torch.Tensor,
    interval_s: float,
    *,
    cbv_ml_per_ml: torch.Tensor,
    mtt_s: torch.Tensor,
    delay_s: torch.Tensor,
    dispersion_s: torch.Tensor,
    transit_shape: float,
) -> torch.Tensor:
    """Return the intravascular concentration per tissue volume, mmol/l.

    C(t) = (CBV/MTT)·(C_a ⊗ D ⊗ R): transit times are gamma distributed with mean MTT, R is one minus their cumulative
    distribution, D an exponential kernel for dispersion on the way to the voxel. All transfer functions have closed
    forms, so the convolution is a product of spectra and a delay of any length a phase. Shape 1 gives the exponential
    residue, a large shape the box.

    Parameters
    ----------
    arterial : (N,) tensor, mmol/l
        On a uniform grid that starts before the bolus.
    interval_s : float
    cbv_ml_per_ml, mtt_s, delay_s, dispersion_s : (V,) tensors

    Returns
    -------
    (V, N) tensor
    """
    samples = arterial.numel()
    length = fft.next_fast_len(2 * samples, real=True)  # zero-padded: the product of spectra must not wrap around
    spectrum = torch.fft.rfft(arterial, length)
    omega = 2 * math.pi * torch.fft.rfftfreq(length, interval_s, device=arterial.device).to(arterial.dtype)
    scale_s = (mtt_s / transit_shape)[:, None]
    # (1 + iωθ)^(−k) in polar form, which is far cheaper than a complex power.
    modulus = torch.exp(-0.5 * transit_shape * torch.log1p((omega * scale_s) ** 2))
    angle = -transit_shape * torch.atan(omega * scale_s)
    density = torch.polar(modulus, angle)
    residue = torch.empty_like(density)
    residue[:, 1:] = (1 - density[:, 1:]) / (1j * omega[1:])
    residue[:, 0] = mtt_s.to(residue.dtype)  # the limit ω → 0: the area under R is MTT
    dispersion = 1 / (1 + 1j * omega * dispersion_s[:, None])
    delay = torch.polar(torch.ones_like(modulus), -omega * delay_s[:, None])
    product = spectrum * residue * dispersion * delay
    curves = torch.fft.irfft(product, length)[:, :samples]
    return curves * (cbv_ml_per_ml / mtt_s)[:, None]


def interstitial_concentration(
    arterial: torch.Tensor,
    interval_s: float,
    *,
    ktrans_per_s: torch.Tensor,
    ve: torch.Tensor,
    delay_s: torch.Tensor,
) -> torch.Tensor:
    """Return the concentration that leaked into the interstitium, per tissue volume, mmol/l (extended Tofts).

    C(t) = Ktrans·∫C_p(τ)·exp(−(Ktrans/v_e)(t − τ))dτ with the plasma concentration C_p of the delayed artery, summed
    exactly for an input that is constant over each interval.

    Parameters
    ----------
    arterial : (N,) tensor, whole-blood concentration, mmol/l
    ktrans_per_s, ve, delay_s : (V,) tensors

    Returns
    -------
    (V, N) tensor
    """
    kep = ktrans_per_s / ve
    decay = torch.exp(-kep * interval_s)
    gain = ve * (1 - decay)
    positions = torch.arange(arterial.numel(), device=arterial.device) - (delay_s / interval_s)[:, None]
    plasma = _sample(arterial / (1 - HAEMATOCRIT_LARGE), positions)
    leaked = torch.zeros_like(plasma)
    state = torch.zeros_like(kep)
    for n in range(1, arterial.numel()):
        state = state * decay + gain * 0.5 * (plasma[:, n] + plasma[:, n - 1])
        leaked[:, n] = state
    return leaked


def _sample(curve: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return `curve` at fractional positions, linear between samples, constant beyond the ends."""
    positions = positions.clamp(0, curve.numel() - 1)
    low = positions.floor().long().clamp(max=curve.numel() - 2)
    weight = positions - low
    return curve[low] * (1 - weight) + curve[low + 1] * weight


def _gamma_density(times_s: torch.Tensor, shape: float, scale_s: float) -> torch.Tensor:
    since = times_s.clamp(min=0) / scale_s
    log_density = (shape - 1) * torch.log(since.clamp(min=1e-30)) - since - math.lgamma(shape)
    return torch.where(times_s > 0, torch.exp(log_density) / scale_s, torch.zeros_like(times_s))
