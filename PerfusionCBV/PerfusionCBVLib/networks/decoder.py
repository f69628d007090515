"""The plane's way back up, shared by Conv3D and ConvLSTM2D: transposed convolutions with skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class PlaneDecoder(nn.Module):
    """Double the plane once a skip connection, then a 1 × 1 convolution and ReLU."""

    def __init__(self, features: tuple[int, ...], skips: tuple[int, ...]) -> None:
        """Take widths: `features` from the input at the bottom up, `skips` from the top down with 0 for none."""
        super().__init__()
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairwise(features))
        self.merges = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b + s, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for b, s in zip(features[1:], reversed(skips), strict=True)
        )
        self.head = nn.Conv2d(features[-1], 1, 1)
        nn.init.constant_(self.head.bias, 0.5)  # type: ignore[arg-type]  # above 0, or the final ReLU may start dead

    def forward(self, x: Tensor, skips: Sequence[Tensor | None]) -> Tensor:
        """Return the (B, 1, H, W) map; `skips` from the top down."""
        for up, merge, skip in zip(self.ups, self.merges, reversed(skips), strict=True):
            x = up(x)
            x = merge(x if skip is None else torch.cat([x, skip], dim=1))
        return torch.relu(self.head(x))
