"""A head whose blood flow is known: tissue curves by convolution in fine time, arteries that show the input itself."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from dsc_phantom import ACQUISITION, gamma_variate
from PerfusionCBVLib.series import DynamicSeries

FINE_S = 0.02
TISSUES = {"grey": (4.4, 5.0, 0.8), "white": (2.0, 6.0, 2.0)}  # CBV ml/100 g, MTT s, delay s
BLOOD_TO_TISSUE = 1.04 / (0.55 / 0.75) / 100  # of CBV in ml/100 g to the share of plasma that shows, ρ/k_H


@dataclass
class FlowHead:
    """A series and its truth."""

    series: DynamicSeries
    brain: np.ndarray
    regions: dict  # "grey", "white", "artery" -> (x, y, z) bool
    artery_per_s: np.ndarray  # (T,)


def artery_at(times_s, peak_per_s=90.0):
    """First pass, a second one of a tenth of its height."""
    first = gamma_variate(times_s, 16.0, 5.0, 3.0)
    return peak_per_s * (first + 0.1 * gamma_variate(times_s, 30.0, 9.0, 3.0))


def tissue_at(times_s, cbv, mtt_s, delay_s, peak_per_s=90.0):
    """ΔR2* of tissue with an exponential residue, by a sum over steps of 0.02 s."""
    fine_s = np.arange(0.0, times_s[-1] + 1.0, FINE_S)
    residue = np.exp(-fine_s / mtt_s) / mtt_s
    residue[0] *= 0.5
    curve = np.convolve(artery_at(fine_s, peak_per_s), residue)[: fine_s.size] * FINE_S
    return BLOOD_TO_TISSUE * cbv * np.interp(times_s - delay_s, fine_s, curve, left=0.0)


@cache
def flow_head(noise=2.0, interval_s=1.0, frames=70):
    """48 × 52 × 8 voxels: white core, grey rim, fluid centre, four columns of artery."""
    g = np.random.default_rng(5)
    shape, voxel_mm = (48, 52, 8), (3.8, 3.8, 6.0)
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 70) ** 2 + (y / 85) ** 2 + (z / 90) ** 2)
    brain = radius < 1
    fluid = (x / 12) ** 2 + (y / 26) ** 2 < 1
    artery = brain & (np.abs(np.abs(x) - 44) < 4) & (np.abs(np.abs(y) - 30) < 4) & ~fluid
    white = brain & (radius < 0.72) & ~fluid & ~artery
    grey = brain & ~white & ~fluid & ~artery
    baseline = np.where(fluid, 900.0, np.where(white, 560.0, 680.0)) * brain + 250 * ((radius > 1.08) & (radius < 1.16))
    times_s = interval_s * np.arange(frames)
    delta = np.zeros((*shape, frames))
    delta[artery] = artery_at(times_s)
    for name, region in (("grey", grey), ("white", white)):
        delta[region] = tissue_at(times_s, *TISSUES[name])
    delta[fluid & brain] = 0.1 * tissue_at(times_s, *TISSUES["grey"])
    thermal = g.standard_normal((2, *delta.shape)) * noise
    signal = np.hypot(baseline[..., None] * np.exp(-0.03 * delta) + thermal[0], thermal[1])
    series = DynamicSeries(signal.astype(np.float32), np.diag([*voxel_mm, 1.0]), times_s, ACQUISITION)
    return FlowHead(series, brain, {"grey": grey, "white": white, "artery": artery}, artery_at(times_s))
