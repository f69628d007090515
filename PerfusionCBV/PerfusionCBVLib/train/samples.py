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
from PerfusionCBVLib.leakage import LeakageFit
from PerfusionCBVLib.networks.domain import describe
from PerfusionCBVLib.networks.features import FEATURES, voxel_features
from PerfusionCBVLib.networks.grid import network_grid, network_input
from PerfusionCBVLib.parent_process import end_with_parent
from PerfusionCBVLib.preparation import Prepared, find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.scanner import blurred
from PerfusionCBVLib.simulate.subject import SimulatedSubject

LARGEST_TARGET, LARGEST_VESSEL_TARGET = 15.0, 5.0
"""Targets of tissue and of large vessels are cut here: under a squared loss vessels would drown the tissue."""

CLASSICAL = [FEATURES.index("corrected"), FEATURES.index("averaged")]
"""The two classical maps that the anchored network starts from."""

MINIMUM_BRAIN_PIXELS = 400
MINIMUM_NAWM_VOXELS = 30

Sample = TypeVar("Sample")
Kind = TypeVar("Kind", "GridSlices", "FeatureVolume")


@dataclass(frozen=True, eq=False)
class GridSlices:
    """Slices of one simulated patient on the grid of the source paper's networks.

    Attributes
    ----------
    signal : (n, 45, 128, 128) float16 array
        ΔR2* over the reference curve's peak.
    rcbv : (n, 128, 128) float16 array
        Truth relative to normal-appearing white matter; 0 outside the brain.
    baseline : (n, 128, 128) float16 array
        Baseline signal over its mean in the brain.
    decay : (1,) array
        Echo time × reference peak: the measured signal is `baseline` · exp(−`decay` · `signal`).
    description : (D,) array
        See `networks.domain`.
    """

    signal: np.ndarray
    rcbv: np.ndarray
    baseline: np.ndarray
    decay: np.ndarray
    description: np.ndarray


@dataclass(frozen=True, eq=False)
class FeatureVolume:
    """Features of one simulated patient's voxels on the series' own grid.

    Attributes
    ----------
    features : (V, 15) float16 array
        See `networks.features`.
    truth : (V,) float16 array
        rCBV relative to normal-appearing white matter.
    scale : (1,) array
        Mean of the two classical maps in normal-appearing white matter: `truth` × `scale` is what the map should be.
    usable : (x, y, z) bool array
        Where the V voxels are.
    vessel : (V,) bool array
        Voxels of which a large vessel fills more than a hundredth.
    tissue : (V,) uint8 array
        See `simulate.anatomy.TISSUES`.
    voxel_size_mm : (3,) array
    description : (D,) array
        See `networks.domain`.
    """

    features: np.ndarray
    truth: np.ndarray
    scale: np.ndarray
    usable: np.ndarray
    vessel: np.ndarray
    tissue: np.ndarray
    voxel_size_mm: np.ndarray
    description: np.ndarray


def save_sample(sample: GridSlices | FeatureVolume, path: Path) -> None:
    """Write a sample as .npz; whoever is interrupted leaves no half file."""
    fresh = path.with_name(f".{os.getpid()}-{path.name}")
    np.savez(fresh, **vars(sample))
    os.replace(fresh, path)


def load_sample(kind: type[Kind], path: Path) -> Kind:
    """Return what `save_sample` wrote."""
    with np.load(path) as kept:
        return kind(**kept)


def draw_prepared(seed: int) -> tuple[SimulatedSubject, Prepared, LeakageFit] | None:
    """Return the patient with this seed, prepared; None when the series would be refused or shows no white matter."""
    subject = simulate(draw_subject(np.random.default_rng(seed)))
    if not subject.nawm.any():
        return None
    try:
        prepared = prepare(subject.series, *find_mask_and_bolus(subject.series))
        return subject, prepared, fit_leakage(prepared)
    except (QualityError, TimingError):
        return None


def grid_slices(subject: SimulatedSubject, prepared: Prepared, fit: LeakageFit) -> GridSlices:
    """Return the patient's slices on the grid of the source paper's networks."""
    grid = network_grid(prepared.mask, subject.series.affine)
    signal, share = network_input(prepared, grid)
    largest = np.where(subject.vessel, LARGEST_VESSEL_TARGET, LARGEST_TARGET)
    truth = np.where(prepared.usable, np.minimum(_visible_truth(subject), largest), 0.0)
    level = float(prepared.baseline[prepared.usable].mean())
    keep = (share > 0.5).sum(axis=(1, 2)) > MINIMUM_BRAIN_PIXELS

    def on_grid(volume: np.ndarray) -> np.ndarray:
        return (grid.to_pixels(volume.astype(np.float32)) / np.maximum(share, 0.5) * (share > 0.05))[keep]

    return GridSlices(
        signal=np.clip(signal[keep], -20, 20).astype(np.float16),
        rcbv=on_grid(truth).clip(0, LARGEST_TARGET).astype(np.float16),
        baseline=on_grid(np.where(prepared.usable, prepared.baseline / level, 0)).astype(np.float16),
        decay=np.array([(subject.series.acquisition.echo_time_s or 0) * prepared.reference_peak_per_s]),
        description=describe(prepared, fit),
    )


def feature_volume(subject: SimulatedSubject, prepared: Prepared, fit: LeakageFit) -> FeatureVolume | None:
    """Return the patient's voxels; None when there is too little normal-appearing white matter to scale the truth."""
    usable = prepared.usable
    nawm = subject.nawm[usable]
    if nawm.sum() < MINIMUM_NAWM_VOXELS:
        return None
    features = voxel_features(prepared, fit)
    truth = _visible_truth(subject)[usable].astype(np.float32)
    return FeatureVolume(
        features=features.astype(np.float16),
        truth=truth.astype(np.float16),
        scale=np.array([features[nawm][:, CLASSICAL].mean() / truth[nawm].mean()]),
        usable=usable,
        vessel=subject.vessel_share[usable] > 0.01,
        tissue=subject.tissue[usable],
        voxel_size_mm=np.array(subject.series.voxel_size_mm),
        description=describe(prepared, fit, features),
    )


def _visible_truth(subject: SimulatedSubject) -> np.ndarray:
    """Return true rCBV at the resolution of the images, 0 outside the brain.

    Where a reconstruction filter smoothed the images, a truth with sharper edges would teach to invent them. Large
    vessels are not smoothed into the tissue beside them: they hold twenty times its blood and show a tenth of that.
    """
    truth = np.nan_to_num(subject.truth["rcbv"])
    width = subject.parameters.disturbance.smoothing_voxels
    if width == 0:
        return truth
    tissue = np.isfinite(subject.truth["rcbv"]) & ~subject.vessel
    sharp = torch.from_numpy(np.stack([truth * tissue, tissue], axis=-1, dtype=np.float32))
    seen, whole = blurred(sharp, width).movedim(-1, 0).numpy()
    return np.where(tissue, seen / np.maximum(whole, 0.1), truth)


def draw_grid_slices(seed: int) -> GridSlices | None:
    """Return the slices of the patient with this seed; None when its series would be refused."""
    drawn = draw_prepared(seed)
    return None if drawn is None else grid_slices(*drawn)


def draw_features(seed: int) -> FeatureVolume | None:
    """Return the voxels of the patient with this seed; None when its series would be refused."""
    drawn = draw_prepared(seed)
    return None if drawn is None else feature_volume(*drawn)


def kept_path(folder: Path, seed: int, kind: type[GridSlices] | type[FeatureVolume]) -> Path:
    """Return where a folder of patients keeps one."""
    return folder / f"{seed}-{'grid' if kind is GridSlices else 'features'}.npz"


def draw_kept(folder: Path, kind: type[Kind], seed: int) -> Kind | None:
    """Return the patient of this seed, from the folder when an earlier run drew it, into the folder when not.

    Both kinds of sample are written, so that every network can learn from the same patients.
    """
    path = kept_path(folder, seed, kind)
    if path.exists():
        return load_sample(kind, path)
    drawn = draw_prepared(seed)
    if drawn is None:
        return None
    samples = {GridSlices: grid_slices(*drawn), FeatureVolume: feature_volume(*drawn)}
    for made, sample in samples.items():
        if sample is not None:
            save_sample(sample, kept_path(folder, seed, made))
    return samples[kind]  # type: ignore[return-value]


def kept_seeds(folder: Path) -> list[int]:
    """Return the seeds of the patients that a folder keeps."""
    return sorted({int(path.name.split("-")[0]) for path in folder.glob("[0-9]*-*.npz")})


class SimulatedPatients(IterableDataset[Sample], Generic[Sample]):
    """An endless stream of patients: the seeds already drawn, then first, first + 1, …; W workers take every W-th.

    Without workers the seeds already drawn come again and again, if there are any.

    `share` is the place of this process among those that train together, and their number.
    """

    def __init__(
        self,
        first_seed: int,
        draw: Callable[[int], Sample | None],
        drawn: Sequence[int] = (),
        *,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.first_seed = first_seed
        self.draw = draw
        self.drawn = tuple(drawn)
        self.share = share

    def __iter__(self) -> Iterator[Sample]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        first, step = self.share
        if worker is not None:
            end_with_parent()
            first, step = first * worker.num_workers + worker.id, step * worker.num_workers
        fresh = (seed for seed in itertools.count(self.first_seed) if seed not in self.drawn)
        # Without workers, kept patients have to do: drawing others would stop the training meanwhile.
        only_kept = worker is None and self.drawn
        seeds = itertools.cycle(self.drawn) if only_kept else itertools.chain(self.drawn, fresh)
        for seed in itertools.islice(seeds, first, None, step):
            sample = self.draw(seed)
            if sample is not None:
                yield sample
