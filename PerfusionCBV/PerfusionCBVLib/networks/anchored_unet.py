"""A network of our own that can only adjust the classical map: what it may change is bounded, whatever it sees.

Per voxel it chooses (1) how much of the fitted leakage to correct, (2) weights of the 5 × 5 neighbours whose blood
volume it averages, which are positive and sum to 1, and (3) a factor between exp(−0.8) and exp(0.8) and a shift within
±0.1. A series unlike anything it was trained on thus gives a smoothed and scaled classical map, never an invented one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_LOG_FACTOR = 0.8
LARGEST_SHIFT = 0.1
LARGEST_LEAK_SHARE = 1.5


@dataclass(frozen=True)
class AnchoredUNetConfig:
    """Sizes of the network."""

    inputs: int = 12
    """Features of `features.FEATURES`, then the mask and the log of the pixel's size."""
    widths: tuple[int, ...] = (24, 48, 96)
    kernel: int = 5


class AnchoredUNet(nn.Module):
    """Blood volume of an axial slice, and its standard deviation, from the features of its voxels."""

    def __init__(self, config: AnchoredUNetConfig | None = None) -> None:
        super().__init__()
        config = config or AnchoredUNetConfig()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(config.inputs, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(_Block(w) for w in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(list(pairwise(widths))))
        self.merges = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in reversed(widths[:-1]))
        self.up_blocks = nn.ModuleList(_Block(w) for w in reversed(widths[:-1]))
        self.middle = _Block(widths[-1])
        neighbours = config.kernel**2
        self.head = nn.Conv2d(widths[0], neighbours + 4, 1)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():  # starts as the classical map
            assert self.head.bias is not None
            self.head.bias.zero_()
            self.head.bias[neighbours // 2] = 5.0
            self.head.bias[neighbours] = math.log(2.0)  # a leak share of 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 1, H, W) blood volume, relative to the reference curve's, and its standard deviation.

        `features` is (B, 12, H, W) with 0 outside the mask; H and W are multiples of 4.
        """
        inside = features[:, 10:11] > 0
        x = self.stem(torch.cat([torch.asinh(features[:, :7]), features[:, 7:]], dim=1))
        skips = []
        for block, down in zip(self.down_blocks, [*self.downs, None], strict=True):
            x = block(x)
            if down is not None:
                skips.append(x)
                x = down(x)
        x = self.middle(x)
        for up, merge, block in zip(self.ups, self.merges, self.up_blocks, strict=True):
            x = block(merge(torch.cat([up(x), skips.pop()], dim=1)))
        neighbours = self.config.kernel**2
        choice = self.head(x).float()
        leak_share = LARGEST_LEAK_SHARE * torch.sigmoid(choice[:, neighbours : neighbours + 1])
        corrected, uncorrected = features[:, 0:1].float(), features[:, 1:2].float()
        volume = uncorrected + leak_share * (corrected - uncorrected)
        around = self._around(volume)  # (B, 25, H, W)
        allowed = self._around(inside.float()) > 0
        weights = choice[:, :neighbours].masked_fill(~allowed, -1e4).softmax(dim=1)
        anchor = (weights * around).sum(dim=1, keepdim=True)
        factor = torch.exp(LARGEST_LOG_FACTOR * torch.tanh(choice[:, neighbours + 1 : neighbours + 2]))
        shift = LARGEST_SHIFT * torch.tanh(choice[:, neighbours + 2 : neighbours + 3])
        # The SD is a factor on what noise alone would give, so that a quiet series starts with a small one.
        noise = torch.exp(features[:, 7:8].float())
        deviation = (noise + 0.03 * (1 + anchor.detach().abs())) * torch.exp(choice[:, neighbours + 3 :].clamp(-4, 4))
        return (anchor * factor + shift) * inside, deviation * inside

    def _around(self, image: Tensor) -> Tensor:
        """Return the (B, 25, H, W) neighbours of each pixel, 0 beyond the border."""
        batch, _, height, width = image.shape
        return functional.unfold(image, self.config.kernel, padding=self.config.kernel // 2).view(
            batch, -1, height, width
        )


class _Block(nn.Module):
    """Two convolutions with a residual path; normalised over channels, so that neighbours and padding don't matter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.second(functional.gelu(y))
