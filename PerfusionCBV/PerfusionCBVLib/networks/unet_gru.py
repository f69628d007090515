"""UNet-GRU after Diumin & Alkhimova 2026: a residual U-Net on 45 channels of time with a GRU at its bottleneck.

Readings taken where the paper is silent: batch normalisation after each convolution, one bias-free 1 × 1 convolution on
the residual path, GRU with as many hidden units as features and a residual path around it, positions of the bottleneck
in row-major order, decoder blocks of two convolutions after each transposed one.

Beyond the paper, whose skip connections end at half the resolution: a convolution of the 45 frames at full resolution
joins the last decoder block, without which fine structure comes out at half its height.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetGRUConfig:
    """Sizes of the network; the defaults are the paper's but for `full_features`."""

    frames: int = 45
    first_features: int = 32
    features: tuple[int, ...] = (64, 128, 256, 512)
    recurrent: bool = True
    """The GRU; without it, a plain residual U-Net."""
    full_features: int = 16
    """Width of the skip connection at full resolution; 0, as in the paper, for none."""
    attention: bool = False
    """Squeeze-and-excitation over channels and positions (scSE, Roy et al. 2018) after each encoder block."""


@dataclass(frozen=True)
class UNetConfig(UNetGRUConfig):
    """The same network without its GRU, to tell what the GRU is worth."""

    recurrent: bool = False


class UNetGRU(nn.Module):
    """rCBV of an axial slice from its 45 frames."""

    def __init__(self, config: UNetGRUConfig | None = None) -> None:
        super().__init__()
        config = config or UNetGRUConfig()
        self.config = config
        widths = (config.first_features, *config.features)
        self.stem = _convolution(config.frames, widths[0], stride=2)
        self.encoder = nn.ModuleList(_ResidualBlock(a, b, attention=config.attention) for a, b in pairwise(widths))
        self.gru = nn.GRU(widths[-1], widths[-1], batch_first=True) if config.recurrent else None
        backwards = widths[::-1]
        self.decoder = nn.ModuleList(_UpBlock(a, b, skip=b) for a, b in pairwise(backwards))
        self.full = _convolution(config.frames, config.full_features) if config.full_features else None
        self.last = _UpBlock(widths[0], widths[0] // 2, skip=config.full_features)
        self.head = nn.Conv2d(widths[0] // 2, 1, 1)
        nn.init.constant_(self.head.bias, 0.5)  # type: ignore[arg-type]  # above 0, or the final ReLU may start dead

    def forward(self, series: Tensor) -> Tensor:
        """Return (B, 1, 128, 128) rCBV, never negative, of (B, 45, 128, 128) input."""
        x = self.stem(series)  # (B, 32, 64, 64)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)  # (B, 64, 32, 32) … (B, 512, 4, 4)
        if self.gru is not None:
            sequence = x.flatten(2).transpose(1, 2)  # (B, 16, 512)
            recurrent, _ = self.gru(sequence)
            x = x + recurrent.transpose(1, 2).reshape(x.shape)
        for block in self.decoder:
            x = block(x, skips.pop())  # (B, 256, 8, 8) … (B, 32, 64, 64)
        x = self.last(x, None if self.full is None else self.full(series))  # (B, 16, 128, 128)
        return torch.relu(self.head(x))


class _ResidualBlock(nn.Module):
    """Halve the plane, change the width."""

    def __init__(self, inputs: int, outputs: int, *, attention: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(inputs, outputs, stride=2), _convolution(outputs, outputs, relu=False))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.attention = _ScSE(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.attention(self.body(x)) + self.shortcut(x))


class _UpBlock(nn.Module):
    """Double the plane, join the skip connection."""

    def __init__(self, inputs: int, outputs: int, *, skip: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.body = nn.Sequential(_convolution(outputs + skip, outputs), _convolution(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.up(x)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.body(x)


class _ScSE(nn.Module):
    """Concurrent spatial and channel squeeze-and-excitation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(features, features // 8, 1),
            nn.ReLU(),
            nn.Conv2d(features // 8, features, 1),
            nn.Sigmoid(),
        )
        self.position = nn.Sequential(nn.Conv2d(features, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x * self.channel(x), x * self.position(x))


def _convolution(inputs: int, outputs: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
