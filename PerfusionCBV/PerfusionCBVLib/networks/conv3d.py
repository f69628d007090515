"""Conv3D after Diumin & Alkhimova 2026: 3-D convolutions over slice and time, a 2-D decoder.

Readings taken where the paper is silent: kernels of 3 × 3 × 3 before the time axis is removed, batch normalisation and
ReLU after each encoder convolution, decoder widths as below. Taken to the letter: each block's skip connection is one
convolution over all 45 frames, filters shrink 16, 8, 4, 1 towards the bottleneck, a last convolution removes time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from PerfusionCBVLib.networks.decoder import PlaneDecoder


@dataclass(frozen=True)
class Conv3DConfig:
    """Sizes of the network."""

    frames: int = 45
    filters: tuple[int, ...] = (16, 8, 4, 1)
    skip_features: tuple[int, ...] = (16, 16, 32, 32)
    decoder_features: tuple[int, ...] = (64, 32, 32, 16, 16)


class Conv3D(nn.Module):
    """rCBV of an axial slice from its 45 frames."""

    def __init__(self, config: Conv3DConfig | None = None) -> None:
        super().__init__()
        config = config or Conv3DConfig()
        self.config = config
        widths = (1, *config.filters)
        self.skips = nn.ModuleList(
            nn.Conv3d(a, s, (config.frames, 3, 3), padding=(0, 1, 1))
            for a, s in zip(widths, config.skip_features, strict=False)
        )
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.last = nn.Conv3d(widths[-1], config.decoder_features[0], (config.frames, 1, 1))
        self.decoder = PlaneDecoder(config.decoder_features, config.skip_features)

    def forward(self, series: Tensor) -> Tensor:
        """Return (B, 1, 128, 128) rCBV, never negative, of (B, 45, 128, 128) input."""
        x = series[:, None]  # (B, 1, 45, 128, 128)
        skips = []
        for skip, down in zip(self.skips, self.downs, strict=True):
            skips.append(torch.relu(skip(x)[:, :, 0]))  # (B, 16, 128, 128) … (B, 32, 16, 16)
            x = down(x)  # (B, 16, 45, 64, 64) … (B, 1, 45, 8, 8)
        return self.decoder(torch.relu(self.last(x)[:, :, 0]), skips)
