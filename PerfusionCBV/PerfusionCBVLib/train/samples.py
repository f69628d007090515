"""Training samples: simulated patients through the same preparation as real ones, made by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from PerfusionCBVLib.errors import QualityError
from PerfusionCBVLib.networks.grid import network_grid, network_input
from PerfusionCBVLib.preparation import find_mask_and_bolus, prepare
from PerfusionCBVLib.simulate import draw_subject, simulate

LARGEST_TARGET = 8.0
"""Targets above this, nearly all large vessels, are cut: under a squared loss they would drown the tissue."""

MINIMUM_BRAIN_PIXELS = 400


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of one simulated patient on the network's grid.

    Attributes
    ----------
    signal : (n, 45, 128, 128) float16 array
    rcbv : (n, 128, 128) float16 array
        Truth relative to normal-appearing white matter; 0 outside the brain.
    """

    signal: np.ndarray
    rcbv: np.ndarray


def draw_slices(seed: int) -> Slices | None:
    """Return the slices of the patient with this seed; None when its series would be refused."""
    subject = simulate(draw_subject(np.random.default_rng(seed)))
    if not subject.nawm.any():
        return None
    try:
        mask, timing = find_mask_and_bolus(subject.series)
        prepared = prepare(subject.series, mask, timing)
    except QualityError:
        return None
    grid = network_grid(mask, subject.series.affine)
    signal, share = network_input(prepared, grid)
    truth = np.where(prepared.usable, np.nan_to_num(subject.truth["rcbv"]), 0.0)
    rcbv = grid.to_pixels(truth.astype(np.float32)) / np.maximum(share, 0.5)
    keep = (share > 0.5).sum(axis=(1, 2)) > MINIMUM_BRAIN_PIXELS
    return Slices(
        signal=np.clip(signal[keep], -20, 20).astype(np.float16),
        rcbv=(rcbv.clip(0, LARGEST_TARGET) * (share > 0.05))[keep].astype(np.float16),
    )


class SimulatedPatients(IterableDataset[Slices]):
    """An endless stream of patients; worker w of W draws seeds first + w, first + w + W, …"""

    def __init__(self, first_seed: int) -> None:
        self.first_seed = first_seed

    def __iter__(self) -> Iterator[Slices]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        seed, step = (self.first_seed, 1) if worker is None else (self.first_seed + worker.id, worker.num_workers)
        while True:
            slices = draw_slices(seed)
            if slices is not None:
                yield slices
            seed += step
