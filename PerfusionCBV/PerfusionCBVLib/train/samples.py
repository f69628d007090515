"""Training samples: simulated patients through the same preparation as real ones, made by worker processes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from PerfusionCBVLib.errors import QualityError, TimingError
from PerfusionCBVLib.networks.features import voxel_features
from PerfusionCBVLib.networks.grid import network_grid, network_input
from PerfusionCBVLib.preparation import Prepared, find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.subject import SimulatedSubject

LARGEST_TARGET, LARGEST_VESSEL_TARGET = 15.0, 5.0
"""Targets of tissue and of large vessels are cut here: under a squared loss vessels would drown the tissue."""

MINIMUM_BRAIN_PIXELS = 400
MINIMUM_NAWM_VOXELS = 30

Sample = TypeVar("Sample")


@dataclass(frozen=True, eq=False)
class GridSlices:
    """Slices of one simulated patient on the grid of the source paper's networks.

    Attributes
    ----------
    signal : (n, 45, 128, 128) float16 array
    rcbv : (n, 128, 128) float16 array
        Truth relative to normal-appearing white matter; 0 outside the brain.
    """

    signal: np.ndarray
    rcbv: np.ndarray


@dataclass(frozen=True, eq=False)
class FeatureVolume:
    """Features of one simulated patient's voxels on the series' own grid.

    Attributes
    ----------
    features : (V, 10) float16 array
        See `networks.features`.
    truth : (V,) float16 array
        rCBV relative to normal-appearing white matter.
    scale : float
        The classical map's mean in normal-appearing white matter: `truth` × `scale` is what the map should be.
    usable : (x, y, z) bool array
        Where the V voxels are.
    vessel : (V,) bool array
    tissue : (V,) uint8 array
        See `simulate.anatomy.TISSUES`.
    voxel_size_mm : (3,) array
    """

    features: np.ndarray
    truth: np.ndarray
    scale: float
    usable: np.ndarray
    vessel: np.ndarray
    tissue: np.ndarray
    voxel_size_mm: np.ndarray

    def save(self, path: Path) -> None:
        """Write the volume; whoever is interrupted leaves no half file."""
        fresh = path.with_name(f".{os.getpid()}-{path.name}")
        packed = np.packbits(self.usable)
        np.savez(
            fresh,
            features=self.features,
            truth=self.truth,
            scale=self.scale,
            usable=packed,
            shape=self.usable.shape,
            vessel=self.vessel,
            tissue=self.tissue,
            voxel=self.voxel_size_mm,
        )
        os.replace(fresh, path)

    @classmethod
    def load(cls, path: Path) -> FeatureVolume:
        """Read what `save` wrote."""
        with np.load(path) as kept:
            shape = tuple(kept["shape"])
            usable = np.unpackbits(kept["usable"], count=int(np.prod(shape))).astype(bool).reshape(shape)
            return cls(
                kept["features"],
                kept["truth"],
                float(kept["scale"]),
                usable,
                kept["vessel"],
                kept["tissue"],
                kept["voxel"],
            )


def draw_prepared(seed: int) -> tuple[SimulatedSubject, Prepared] | None:
    """Return the patient with this seed, prepared; None when the series would be refused or shows no white matter."""
    subject = simulate(draw_subject(np.random.default_rng(seed)))
    if not subject.nawm.any():
        return None
    try:
        return subject, prepare(subject.series, *find_mask_and_bolus(subject.series))
    except (QualityError, TimingError):
        return None


def draw_grid_slices(seed: int) -> GridSlices | None:
    """Return the slices of the patient with this seed; None when its series would be refused."""
    drawn = draw_prepared(seed)
    if drawn is None:
        return None
    subject, prepared = drawn
    grid = network_grid(prepared.mask, subject.series.affine)
    signal, share = network_input(prepared, grid)
    largest = np.where(subject.vessel, LARGEST_VESSEL_TARGET, LARGEST_TARGET)
    truth = np.where(prepared.usable, np.minimum(np.nan_to_num(subject.truth["rcbv"]), largest), 0.0)
    rcbv = grid.to_pixels(truth.astype(np.float32)) / np.maximum(share, 0.5)
    keep = (share > 0.5).sum(axis=(1, 2)) > MINIMUM_BRAIN_PIXELS
    return GridSlices(
        signal=np.clip(signal[keep], -20, 20).astype(np.float16),
        rcbv=(rcbv.clip(0, LARGEST_TARGET) * (share > 0.05))[keep].astype(np.float16),
    )


def draw_features(seed: int) -> FeatureVolume | None:
    """Return the voxels of the patient with this seed; None when its series would be refused."""
    drawn = draw_prepared(seed)
    if drawn is None:
        return None
    subject, prepared = drawn
    usable = prepared.usable
    nawm = subject.nawm[usable]
    if nawm.sum() < MINIMUM_NAWM_VOXELS:
        return None
    features = voxel_features(prepared, fit_leakage(prepared))
    truth = np.nan_to_num(subject.truth["rcbv"][usable]).astype(np.float32)
    return FeatureVolume(
        features=features.astype(np.float16),
        truth=truth.astype(np.float16),
        scale=float(features[nawm, 0].mean() / truth[nawm].mean()),
        usable=usable,
        vessel=subject.vessel[usable],
        tissue=subject.tissue[usable],
        voxel_size_mm=np.array(subject.series.voxel_size_mm),
    )


def draw_features_kept(folder: Path, seed: int) -> FeatureVolume | None:
    """Return what `draw_features` returns, from the folder when an earlier run drew it, into the folder when not."""
    path = folder / f"{seed}.npz"
    if path.exists():
        return FeatureVolume.load(path)
    drawn = draw_features(seed)
    if drawn is not None:
        drawn.save(path)
    return drawn


class SimulatedPatients(IterableDataset[Sample], Generic[Sample]):
    """An endless stream of patients: the seeds already drawn, then first, first + 1, …; W workers take every W-th."""

    def __init__(self, first_seed: int, draw: Callable[[int], Sample | None], drawn: Sequence[int] = ()) -> None:
        self.first_seed = first_seed
        self.draw = draw
        self.drawn = tuple(drawn)

    def __iter__(self) -> Iterator[Sample]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        fresh = (seed for seed in itertools.count(self.first_seed) if seed not in self.drawn)
        for seed in itertools.islice(itertools.chain(self.drawn, fresh), first, None, step):
            sample = self.draw(seed)
            if sample is not None:
                yield sample
