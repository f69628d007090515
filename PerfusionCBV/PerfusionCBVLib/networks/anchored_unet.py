"""A network of our own that can only adjust the classical map: what it may change is bounded, whatever it sees.

Per voxel it chooses (1) a mixture of the two classical volumes, the unidirectional one and the one averaged over shapes
of first pass and leakage (`leakage_average`), and how much of their fitted leakage to correct, (2) weights of the 5 × 5
neighbours whose blood volume it averages, which are positive, sum to 1, and vanish where volumes differ by more than
their noise, and (3) a factor and a shift, bounded by what noise and leakage leave open: at most exp(±0.8) and ±0.1, and
next to nothing in a quiet voxel that does not leak. A series unlike anything it was trained on thus gives a smoothed
and scaled mixture of two classical maps, never an invented one, and a clean series keeps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from PerfusionCBVLib.networks.features import FEATURES

LARGEST_LOG_FACTOR = 0.8
LARGEST_SHIFT = 0.1
LARGEST_LEAK_SHARE = 1.5
LARGEST_LOGIT = 3.0
LEAST_STRICTNESS = 0.1
"""A neighbour that differs by d standard errors loses at least this times d² in log weight."""
LEAST_FREEDOM = 0.02
"""Bound of the log factor where there is neither noise nor leakage."""


def _channel(name: str) -> slice:
    return slice(FEATURES.index(name), FEATURES.index(name) + 1)


_CORRECTED, _UNCORRECTED, _AVERAGED = map(_channel, ("corrected", "uncorrected", "averaged"))
_NOISE, _AVERAGED_NOISE, _AMBIGUITY = map(_channel, ("noise", "averaged_noise", "ambiguity"))
_LEAKED = _channel("leaked")
_MASK = slice(len(FEATURES), len(FEATURES) + 1)
_WIDE = [
    FEATURES.index(name)
    for name in ("corrected", "uncorrected", "k1", "delay", "dispersion", "tail", "late", "averaged", "leaked")
]
"""Features with a long tail."""


@dataclass(frozen=True)
class AnchoredUNetConfig:
    """Sizes of the network."""

    inputs: int = len(FEATURES) + 2
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
        self.head = nn.Conv2d(widths[0], neighbours + 6, 1)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():  # starts half-way between the two classical maps
            assert self.head.bias is not None
            self.head.bias.zero_()
            self.head.bias[neighbours // 2] = LARGEST_LOGIT
            self.head.bias[neighbours] = math.log(2.0)  # a leak share of 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 1, H, W) blood volume, relative to the reference curve's, and its standard deviation.

        `features` is (B, 17, H, W) with 0 outside the mask; H and W are multiples of 4.
        """
        inside = features[:, _MASK] > 0
        x = features.clone()
        x[:, _WIDE] = torch.asinh(features[:, _WIDE])
        x = self.stem(x)
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
        logits, share, factor, shift, strictness, spread, mixture = (
            self.head(x).float().split([neighbours, 1, 1, 1, 1, 1, 1], dim=1)
        )
        corrected, uncorrected, averaged = (features[:, k].float() for k in (_CORRECTED, _UNCORRECTED, _AVERAGED))
        noise, averaged_noise, ambiguity = (
            torch.exp(features[:, k].float()) for k in (_NOISE, _AVERAGED_NOISE, _AMBIGUITY)
        )
        mixture = torch.sigmoid(mixture)
        share = LARGEST_LEAK_SHARE * torch.sigmoid(share)
        leak = corrected - uncorrected
        leaked = -features[:, _LEAKED].float()  # what the average added to the volume for it
        volume = uncorrected + share * leak
        volume = volume + mixture * (averaged + (share - 1) * leaked - volume)
        noise = noise + mixture * (averaged_noise - noise)
        leak = leak + mixture * (leaked - leak)

        around, noise_around = self._around(volume), self._around(noise)  # (B, 25, H, W)
        apart = (around - volume).square() / (noise.square() + noise_around.square())
        logits = LARGEST_LOGIT * torch.tanh(logits / LARGEST_LOGIT)
        logits = logits - (LEAST_STRICTNESS + functional.softplus(strictness)) * apart
        allowed = self._around(inside.float()) > 0
        weights = logits.masked_fill(~allowed, -1e4).softmax(dim=1)
        anchor = (weights * around).sum(dim=1, keepdim=True)

        # What is left open: the average's own noise, and the leakage around, which noise does not feign.
        remaining = (weights * noise_around).square().sum(dim=1, keepdim=True).sqrt()
        leakage = (weights * self._around(leak)).sum(dim=1, keepdim=True).abs()
        freedom = LEAST_FREEDOM + (remaining + leakage) / (anchor.abs() + 0.2)
        factor = torch.exp(freedom.detach().clamp(max=LARGEST_LOG_FACTOR) * torch.tanh(factor))
        moved = anchor * factor + remaining.detach().clamp(max=LARGEST_SHIFT) * torch.tanh(shift)
        # The SD is a factor on what noise alone would give, so that a quiet series starts with a small one.
        expected = noise + mixture * ambiguity + 0.03 * (1 + anchor.abs())
        deviation = expected.detach() * torch.exp(spread.clamp(-4, 4))
        return moved * inside, deviation * inside

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
