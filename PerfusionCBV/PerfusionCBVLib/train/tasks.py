"""What training one kind of network means: its samples, its batches, its loss, its validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from PerfusionCBVLib.evaluate import finite_mean, nrmse
from PerfusionCBVLib.networks.cards import build_network
from PerfusionCBVLib.networks.features import FEATURES, as_slices, network_slices
from PerfusionCBVLib.networks.grid import as_intensity
from PerfusionCBVLib.simulate.anatomy import TISSUES
from PerfusionCBVLib.train.samples import (
    LARGEST_TARGET,
    LARGEST_VESSEL_TARGET,
    MINIMUM_BRAIN_PIXELS,
    FeatureVolume,
    GridSlices,
    draw_features,
    draw_grid_slices,
    draw_kept,
)


class Task(Protocol):
    """A kind of training; holds the latest samples to draw batches from."""

    learning_rate: float
    loss_text: str
    memory_format: torch.memory_format
    """Of network and images; the faster one."""
    draw: Callable[[int], Any]
    slices: int
    """How many slices the buffer holds."""
    descriptions: list[np.ndarray]
    """Of every patient seen, for the card: see `networks.domain`."""

    def build(self) -> nn.Module:
        """Return the untrained network."""

    def add(self, sample: Any) -> None:
        """Take a patient into the buffer; the oldest slices leave."""

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ...]:
        """Return random slices."""

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a batch."""

    def validate(self, network: nn.Module, samples: list[Any]) -> dict[str, float]:
        """Return errors in the brain of the validation patients."""


class GridTask:
    """The source paper's networks: 45 frames of 128 × 128 in, rCBV out, mean squared error."""

    learning_rate = 1e-3
    loss_text = (
        f"mean squared error over the whole slice, targets cut at {LARGEST_TARGET:g}, in large vessels at "
        f"{LARGEST_VESSEL_TARGET:g}"
    )

    def __init__(
        self, capacity: int, patients: Path | None = None, *, name: str = "unet-gru", intensity: bool = False
    ) -> None:
        self._name = name
        self._intensity = intensity
        plane = name.startswith("unet")  # convolutions over time or from frame to frame don't gain by it, or can't
        self.memory_format = torch.channels_last if plane else torch.contiguous_format
        self.draw: Callable[[int], Any] = (
            draw_grid_slices if patients is None else partial(draw_kept, patients, GridSlices)
        )
        self.slices = 0
        self.descriptions: list[np.ndarray] = []
        self._signal = np.zeros((capacity, 45, 128, 128), np.float16)
        self._rcbv = np.zeros((capacity, 128, 128), np.float16)
        self._next = 0

    def build(self) -> nn.Module:
        """Return the network."""
        return build_network(self._name)

    def add(self, sample: GridSlices) -> None:
        """Take a patient's slices."""
        self.descriptions.append(sample.description)
        for signal, rcbv in zip(self._input(sample), sample.rcbv, strict=True):
            self._signal[self._next], self._rcbv[self._next] = signal, rcbv
            self.slices = max(self.slices, self._next + 1)
            self._next = (self._next + 1) % len(self._rcbv)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ...]:
        """Return (B, 45, 128, 128) input and (B, 128, 128) truth, half of them mirrored."""
        chosen = rng.choice(self.slices, size=size, replace=False)
        signal, rcbv = self._signal[chosen].astype(np.float32), self._rcbv[chosen].astype(np.float32)
        flipped = rng.random(size) < 0.5  # left and right of a head are alike
        signal[flipped], rcbv[flipped] = signal[flipped, :, ::-1], rcbv[flipped, ::-1]
        return torch.from_numpy(signal), torch.from_numpy(rcbv)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean squared error, as in the source paper."""
        signal, rcbv = batch
        return nn.functional.mse_loss(network(signal)[:, 0].float(), rcbv)

    def validate(self, network: nn.Module, samples: list[GridSlices]) -> dict[str, float]:
        """Return NRMSE (eq. 1 of the source paper) and mean absolute error, against the (cut) truth."""
        device = next(network.parameters()).device
        found, wanted = [], []
        for sample in samples:
            predicted = network(torch.from_numpy(self._input(sample)).to(device))[:, 0].cpu().numpy()
            brain = sample.rcbv > 0
            found.append(predicted[brain])
            wanted.append(sample.rcbv[brain].astype(np.float32))
        estimate, truth = np.concatenate(found), np.concatenate(wanted)
        return {"nrmse": nrmse(estimate, truth), "mae": float(np.abs(estimate - truth).mean())}

    def _input(self, sample: GridSlices) -> np.ndarray:
        signal = sample.signal.astype(np.float32)
        if not self._intensity:
            return signal
        return as_intensity(signal, sample.baseline.astype(np.float32), float(sample.decay[0]))


class WeighedGridTask(GridTask):
    """The same networks from ΔR2*, with a loss that vessels and noisy series do not rule.

    Of a mean squared error nine tenths are large vessels. Here a pixel counts the less, the more blood its own curve
    shows, and a slice by its RMSE. Weights that depended on the truth would pull the result towards small values; with
    weights that the input gives the best answer stays the mean.
    """

    loss_text = (
        "RMSE of each slice, pixels weighed by 1 / (1 + (v/3)²) where v is the mean of their ΔR2* over the slice's "
        f"median; targets cut at {LARGEST_TARGET:g}, in large vessels at {LARGEST_VESSEL_TARGET:g}"
    )
    HALF_WEIGHT = 3.0
    LEAST_RMSE = 0.05

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean over slices of the weighted RMSE."""
        signal, rcbv = batch
        squares = (network(signal)[:, 0].float() - rcbv).square()
        weight = self._weight(signal)
        mean_square = (weight * squares).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))
        return (mean_square + self.LEAST_RMSE**2).sqrt().mean()

    def _weight(self, signal: Tensor) -> Tensor:
        """Return the (B, H, W) weights of the pixels of (B, 45, H, W) input."""
        blood = nn.functional.avg_pool2d(signal.mean(dim=1), 3, stride=1, padding=1).abs()
        brain = torch.where((signal != 0).any(dim=1), blood, torch.nan)
        usual = brain.flatten(1).nanmedian(dim=1).values.clamp(min=1e-3)
        return 1 / (1 + (blood / usual[:, None, None] / self.HALF_WEIGHT).square())


class AnchoredTask:
    """Our own network: features of voxels in, blood volume and its standard deviation out.

    Squared errors are divided by the network's own (detached) standard deviation, so that a quiet series counts as much
    as a noisy one and tissue as much as vessels (β-NLL with β = 0.5, Seitzer et al. 2022). Voxels that leak, which are
    few and are the tumour, count up to five times, by the leakage that the input shows. A weight that depended on the
    truth would pull the result towards small values; these do not.
    """

    learning_rate = 2e-3
    memory_format = torch.channels_last
    loss_text = (
        "Huber loss of the error over the network's own SD, times that SD, vessels × 0.3, voxels that leak up to × 5; "
        "likelihood for the SD"
    )
    PATCH = 96
    VESSEL_WEIGHT = 0.3
    LEAK_WEIGHT = 5.0
    FULL_LEAK = 0.3
    """Leakage in the first pass over the blood volume (plus 0.2) from which on a voxel counts `LEAK_WEIGHT`."""
    LARGEST_VOLUME = 15.0

    def __init__(self, capacity: int, patients: Path | None = None) -> None:
        self.draw: Callable[[int], Any] = (
            draw_features if patients is None else partial(draw_kept, patients, FeatureVolume)
        )
        self.slices = 0
        self.descriptions: list[np.ndarray] = []
        self._capacity = capacity
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._next = 0

    def build(self) -> nn.Module:
        """Return the network."""
        return build_network("anchored-unet")

    def add(self, sample: FeatureVolume) -> None:
        """Take a patient's slices."""
        self.descriptions.append(sample.description)
        features, target, weight = self._volumes(sample)
        for k in np.flatnonzero((weight > 0).sum(axis=(1, 2)) > MINIMUM_BRAIN_PIXELS // 4):
            kept = (features[k].astype(np.float16), target[k].astype(np.float16), weight[k].astype(np.float16))
            if len(self._kept) < self._capacity:
                self._kept.append(kept)
            else:
                self._kept[self._next] = kept
                self._next = (self._next + 1) % self._capacity
        self.slices = len(self._kept)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ...]:
        """Return 96 × 96 patches: (B, 17, 96, 96) input, (B, 96, 96) truth and weight; mirrored at random."""
        patches = []
        for k in rng.choice(self.slices, size=size, replace=False):
            arrays = self._kept[k]
            height, width = arrays[1].shape
            top, left = (int(rng.integers(0, max(n - self.PATCH, 0) + 1)) for n in (height, width))
            flips = tuple(slice(None, None, int(rng.choice([-1, 1]))) for _ in range(2))
            cut = (slice(top, top + self.PATCH), slice(left, left + self.PATCH))
            patches.append([self._padded(a[(..., *cut)][(..., *flips)]) for a in arrays])
        return tuple(torch.from_numpy(np.stack(parts).astype(np.float32)) for parts in zip(*patches, strict=True))

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted squared error and the likelihood of the error under the network's own SD."""
        features, target, weight = batch
        leaked, averaged = (features[:, FEATURES.index(name)].abs() for name in ("leaked", "averaged"))
        leaks = (leaked / (averaged + 0.2) / self.FULL_LEAK).clamp(max=1)
        weight = weight * (1 + (self.LEAK_WEIGHT - 1) * leaks)
        volume, deviation = (x[:, 0].float() for x in network(features))
        error, sd = volume - target, deviation.clamp(min=0.01)
        known = sd.detach()
        close = known * nn.functional.huber_loss(error / known, torch.zeros_like(error), reduction="none", delta=3.0)
        likelihood = (error.detach() / sd).square().clamp(max=100) / 2 + sd.log()
        return ((close + 0.02 * likelihood) * weight).sum() / weight.sum().clamp(min=1)

    def validate(self, network: nn.Module, samples: list[FeatureVolume]) -> dict[str, float]:
        """Return means over patients: NRMSE, its ratio to the classical map's, tumour bias, coverage of 95 % intervals.

        Outside vessels, against a truth brought to the classical map's scale.
        """
        device = next(network.parameters()).device
        rows = []
        for sample in samples:
            features, target, weight = self._volumes(sample)
            pairs = [network(torch.from_numpy(f[None]).to(device)) for f in features]
            volume, deviation = (np.concatenate([p[i][:, 0].cpu().numpy() for p in pairs]) for i in (0, 1))
            tissue = weight == 1
            found, sd, truth = volume[tissue], deviation[tissue], target[tissue]
            lesion = as_slices(sample.tissue[:, None], sample.usable)[:, 0][tissue] == TISSUES.index("enhancing")
            error = nrmse(found, truth)
            row = {"nrmse": error, "to_classical": error / nrmse(features[:, 0][tissue], truth)}
            row["enhancing_bias"] = float(found[lesion].mean() / truth[lesion].mean() - 1) if lesion.any() else np.nan
            row["coverage_95"] = float(np.mean(np.abs(found - truth) < 1.96 * sd))
            rows.append(row)
        return {key: finite_mean([row[key] for row in rows]) for key in rows[0]}

    def _volumes(self, sample: FeatureVolume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (z, 17, x, y) input, (z, x, y) target and weight, x and y padded to multiples of 4."""
        features = network_slices(sample.features.astype(np.float32), sample.usable, sample.voxel_size_mm)
        target = np.minimum(sample.truth.astype(np.float32) * np.float32(sample.scale[0]), self.LARGEST_VOLUME)
        # What a voxel that holds some of a large vessel shows depends on the vessel's field: left to the classical map.
        target = np.where(sample.vessel, sample.features[:, 0].astype(np.float32).clip(max=self.LARGEST_VOLUME), target)
        weight = np.where(sample.vessel, np.float32(self.VESSEL_WEIGHT), np.float32(1))
        return (
            features,
            as_slices(target[:, None], sample.usable)[:, 0],
            as_slices(weight[:, None], sample.usable)[:, 0],
        )

    def _padded(self, patch: np.ndarray) -> np.ndarray:
        missing = [(0, 0)] * (patch.ndim - 2) + [(0, self.PATCH - n) for n in patch.shape[-2:]]
        return np.pad(patch, missing)


TASKS: dict[str, Callable[[int, Path | None], Task]] = {
    **{name: partial(WeighedGridTask, name=name) for name in ("unet-gru", "unet", "convlstm2d", "conv3d")},
    "unet-gru-intensity": partial(GridTask, name="unet-gru-intensity", intensity=True),
    "anchored-unet": AnchoredTask,
}
"""What `train` knows: network name to a task with a buffer of so many slices, and a folder that keeps patients."""
