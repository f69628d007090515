"""From concentrations to the magnitude signal of a spoiled gradient-echo EPI scan, with what spoils it."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from PerfusionCBVLib.simulate.anatomy import rotation_matrix, series_affine, smooth_field
from PerfusionCBVLib.simulate.parameters import Disturbance, Scan


def spoiled_gradient_echo(
    *,
    r1_per_s: torch.Tensor,
    r2s_per_s: torch.Tensor,
    proton_density: torch.Tensor,
    scan: Scan,
) -> torch.Tensor:
    """Return the steady-state signal (Haase et al. 1986): ρ·sin α·(1 − E1)/(1 − cos α·E1)·exp(−TE·R2*).

    Shapes broadcast; the result has the broadcast shape.
    """
    flip = math.radians(scan.flip_angle_deg)
    e1 = torch.exp(-scan.repetition_time_s * r1_per_s)
    steady = math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1)
    return proton_density * steady * torch.exp(-scan.echo_time_s * r2s_per_s)


def approach_to_steady_state(t1_s: torch.Tensor, scan: Scan, frames: int) -> torch.Tensor:
    """Return the factor by which the first frames exceed steady state, from full magnetisation and dummy scans.

    M_z relaxes towards its steady value by the factor cos α·E1 from excitation to excitation.

    Returns
    -------
    t1_s.shape + (frames,) tensor
    """
    flip = math.radians(scan.flip_angle_deg)
    e1 = torch.exp(-scan.repetition_time_s / t1_s)
    ratio = math.cos(flip) * e1
    steady = (1 - e1) / (1 - ratio)
    excitation = torch.arange(frames, device=t1_s.device) + scan.dummy_scans
    return 1 + (1 / steady - 1)[..., None] * ratio[..., None] ** excitation


def spoil(
    signal: torch.Tensor,
    brain: torch.Tensor,
    scan: Scan,
    disturbance: Disturbance,
    seed: int,
) -> torch.Tensor:
    """Return the measured series: motion, bias field, drop-out, drift, glitches, Rician noise, reconstruction filter.

    Parameters
    ----------
    signal : (x, y, z, T) tensor
    brain : (x, y, z) bool tensor
        Where the mean signal that SNR refers to is taken.
    """
    device = signal.device
    rng = np.random.default_rng([seed, 2])
    shape = scan.matrix
    if disturbance.motion:
        signal = _move(signal, scan, disturbance.motion)
    field = np.exp(disturbance.bias_field * smooth_field(rng, shape, tuple(n / 3 for n in shape)))
    field = field * _dropout(scan, disturbance.dropout)
    minutes = np.arange(scan.frames) * scan.repetition_time_s / 60
    gain = 1 + disturbance.drift_per_min * minutes + disturbance.fluctuation * rng.standard_normal(scan.frames)
    for frame, factor in disturbance.glitches:
        gain[frame] *= factor
    signal = signal * torch.tensor(field, dtype=torch.float32, device=device)[..., None]
    level = float(signal[brain][:, -1].mean())
    signal = signal * torch.tensor(gain, dtype=torch.float32, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    sd = level / disturbance.snr
    real, imaginary = (torch.randn(signal.shape, generator=generator, device=device) * sd for _ in range(2))
    if disturbance.smoothing_voxels > 0:
        # SNR is that of the saved images: the filter lowers the noise, so it starts higher by what the filter takes.
        real, imaginary, signal = (blurred(v, disturbance.smoothing_voxels) for v in (real, imaginary, signal))
        loss = sd / max(float(real.std()), 1e-12)
        real, imaginary = real * loss, imaginary * loss
    return torch.hypot(signal + real, imaginary)


def _move(
    signal: torch.Tensor,
    scan: Scan,
    motion: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float]], ...],
) -> torch.Tensor:
    """Return the series with the head displaced from the given frames on (about the centre of the volume)."""
    moved = signal.clone()
    affine = series_affine(scan)
    inverse = np.linalg.inv(affine)
    centre = affine[:3, :3] @ ((np.array(scan.matrix) - 1) / 2) + affine[:3, 3]
    for position, (frame, shift_mm, turn_deg) in enumerate(motion):
        following = motion[position + 1][0] if position + 1 < len(motion) else scan.frames
        pose = np.eye(4)
        pose[:3, :3] = rotation_matrix(turn_deg).T
        pose[:3, 3] = centre - pose[:3, :3] @ (centre + np.array(shift_mm))
        voxel_map = torch.tensor(inverse @ pose @ affine, dtype=torch.float32, device=signal.device)
        axes = [torch.arange(n, dtype=torch.float32, device=signal.device) for n in scan.matrix]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ voxel_map[:3, :3].T + voxel_map[:3, 3]
        size = torch.tensor([max(n - 1, 1) for n in scan.matrix], dtype=torch.float32, device=signal.device)
        unit = (2 * grid / size - 1).flip(-1)[None]
        block = signal[..., frame:following].movedim(-1, 0)[None]
        sampled = torch.nn.functional.grid_sample(block, unit, padding_mode="border", align_corners=True)
        moved[..., frame:following] = sampled[0].movedim(0, -1)
    return moved


def _dropout(scan: Scan, strength: float) -> np.ndarray:
    """Return the signal factor of susceptibility drop-out above the sinuses and the petrous bones, worse at long TE."""
    affine = series_affine(scan)
    index = np.indices(scan.matrix, dtype=np.float32)
    x, y, z = np.tensordot(affine[:3, :3], index, axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    loss = np.zeros(scan.matrix, np.float32)
    for cx, cy, cz in ((0, 45, -25), (48, -25, -28), (-48, -25, -28)):
        loss += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 14.0**2) - (z - cz) ** 2 / (2 * 12.0**2))
    return np.exp(-strength * loss * scan.echo_time_s * 60.0)


def blurred(volume: torch.Tensor, width_voxels: float) -> torch.Tensor:
    """Return (x, y, z, T) filtered in plane by a Gaussian of the given full width at half maximum."""
    sigma = width_voxels / 2.3548
    for axis in (0, 1):
        weights = ndimage.gaussian_filter1d(np.eye(volume.shape[axis]), sigma, axis=0, mode="constant", truncate=3)
        matrix = torch.tensor(weights, dtype=volume.dtype, device=volume.device)
        volume = torch.tensordot(matrix, volume, dims=([1], [axis])).movedim(0, axis)
    return volume
