"""ConvLSTM2D after Diumin & Alkhimova 2026: convolutional LSTMs along time, a 2-D decoder.

Shi et al. 2015 (NeurIPS) without peephole connections. Readings taken where the paper is silent: kernels of 3 × 3, the
stride on the input's convolution, hidden widths as below, the last layer's one feature spread by the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from PerfusionCBVLib.networks.decoder import PlaneDecoder


@dataclass(frozen=True)
class ConvLSTM2DConfig:
    """Sizes of the network."""

    features: tuple[int, ...] = (8, 16, 24, 32)
    decoder_features: tuple[int, ...] = (32, 32, 24, 16, 16)


class ConvLSTM2D(nn.Module):
    """rCBV of an axial slice from its frames."""

    def __init__(self, config: ConvLSTM2DConfig | None = None) -> None:
        super().__init__()
        config = config or ConvLSTM2DConfig()
        self.config = config
        widths = (1, *config.features)
        self.strided = nn.ModuleList(_ConvLSTM(a, b, stride=2) for a, b in pairwise(widths))
        self.kept = nn.ModuleList(_ConvLSTM(b, b, stride=1) for b in config.features)
        self.last = _ConvLSTM(widths[-1], 1, stride=1)
        self.entry = nn.Conv2d(1 + config.features[-1], config.decoder_features[0], 1)
        self.decoder = PlaneDecoder(config.decoder_features, (0, *config.features[:-1]))

    def forward(self, series: Tensor) -> Tensor:
        """Return (B, 1, 128, 128) rCBV, never negative, of (B, 45, 128, 128) input."""
        x = series[:, :, None]  # (B, 45, 1, 128, 128)
        skips = []
        for strided, kept in zip(self.strided, self.kept, strict=True):
            x = strided(x)  # (B, 45, 8, 64, 64) … (B, 45, 32, 8, 8)
            skips.append(x[:, -1])
            x = kept(x)
        bottom = self.last(x)[:, -1]  # (B, 1, 8, 8)
        x = torch.relu(self.entry(torch.cat([bottom, skips.pop()], dim=1)))
        return self.decoder(x, [None, *skips])


class _ConvLSTM(nn.Module):
    """One layer along time, batch-normalised: (B, T, C, H, W) to the hidden states (B, T, F, H/stride, W/stride)."""

    def __init__(self, inputs: int, features: int, *, stride: int) -> None:
        super().__init__()
        self.features = features
        self.from_input = nn.Conv2d(inputs, 4 * features, 3, stride=stride, padding=1)
        self.from_state = nn.Conv2d(features, 4 * features, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(features)
        with torch.no_grad():  # a forget gate that starts open (Jozefowicz et al. 2015)
            assert self.from_input.bias is not None
            self.from_input.bias[features : 2 * features] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        batch, frames = x.shape[:2]
        gates = self.from_input(x.flatten(0, 1))
        gates = gates.view(batch, frames, *gates.shape[1:])
        hidden = cell = torch.zeros_like(gates[:, 0, : self.features])
        states = []
        for frame in gates.unbind(dim=1):
            admit, forget, show, value = (frame + self.from_state(hidden)).chunk(4, dim=1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(admit) * torch.tanh(value)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            states.append(hidden)
        stacked = torch.stack(states, dim=1)
        return self.norm(stacked.flatten(0, 1)).view_as(stacked)
