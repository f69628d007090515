"""Pairs of images of one simulated head in two positions: a T2*-weighted baseline of thick slices and an anatomy.

The anatomy comes from the simulator's tissue fractions; contrasts, coil sensitivity, drop-out and noise are made here.
The images use nothing of the registration code. Both are sampled from the same continuous head, placed by its own pose
in each, so that the true transform is known exactly and no image is made by resampling the other.

Run as a script, it registers many pairs and prints the errors and how often a warning came:

    python Testing/registration_bench.py --pairs 12 --output DIR
"""

from __future__ import annotations

import argparse
import csv
import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from PerfusionCBVLib.alignment.registration import Registration, register
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.simulate import draw_subject
from PerfusionCBVLib.simulate.anatomy import TISSUES, rotation_matrix, series_affine, tissue_fractions
from PerfusionCBVLib.simulate.parameters import Scan, SubjectParameters

# Signal of each tissue, arbitrary units: gradient-echo EPI before the bolus, T1-weighted after contrast, FLAIR.
CONTRASTS = {
    "t2star": dict(background=0, csf=1.25, grey=1.0, white=0.80, necrosis=1.15, enhancing=1.0, infiltration=1.08,
                   oedema=1.12, artery=0.7, vein=0.45, scalp=0.15),
    "t1c": dict(background=0, csf=0.30, grey=0.72, white=0.95, necrosis=0.40, enhancing=1.6, infiltration=0.75,
                oedema=0.68, artery=1.7, vein=1.9, scalp=1.5),
    "flair": dict(background=0, csf=0.15, grey=0.95, white=0.75, necrosis=0.5, enhancing=1.05, infiltration=1.3,
                  oedema=1.5, artery=0.2, vein=0.3, scalp=1.0),
}  # fmt: skip
_ORIGIN = np.array([0.0, -17.0, 5.0])  # about which the simulator turns the head


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a head.

    Attributes
    ----------
    values : (x, y, z) float32 array
    affine : (4, 4) array
        Voxel index to RAS, mm.
    brain : (x, y, z) bool array
    fractions : (tissues, x, y, z) float32 array
    """

    values: np.ndarray
    affine: np.ndarray
    brain: np.ndarray
    fractions: np.ndarray


def patient(seed: int, **head) -> SubjectParameters:
    """A drawn patient whose head is neither scaled beyond people's nor made of random patches."""
    drawn = draw_subject(np.random.default_rng(seed))
    drawn = replace(drawn, head=replace(drawn.head, invented=False, sharpness=3.0, **head))
    return drawn


def pose(rotation_deg, translation_mm) -> np.ndarray:
    """(4, 4): where the simulator puts a point of the upright head."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(tuple(rotation_deg))
    matrix[:3, 3] = _ORIGIN + np.array(translation_mm) - matrix[:3, :3] @ _ORIGIN
    return matrix


def image(
    subject: SubjectParameters,
    contrast: str,
    *,
    matrix: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    rotation_deg=(0.0, 0.0, 0.0),
    translation_mm=(0.0, 0.0, 0.0),
    seed: int = 0,
    snr: float = 30.0,
    bias: float = 0.3,
) -> Picture:
    """The head in a pose, with a coil's smooth sensitivity (about ±`bias`), drop-out in EPI, and Rician noise."""
    scan = replace(subject.scan, matrix=matrix, voxel_size_mm=voxel_mm)
    head = replace(subject.head, rotation_deg=tuple(rotation_deg), translation_mm=tuple(translation_mm))
    fractions = tissue_fractions(replace(subject, scan=scan, head=head), torch.device("cpu")).numpy()
    weights = np.array([CONTRASTS[contrast][name] for name in TISSUES], dtype=np.float32)
    signal = np.tensordot(weights, fractions, axes=1)
    rng = np.random.default_rng([seed, len(contrast)])
    field = ndimage.zoom(
        rng.standard_normal((4, 4, 4)), [n / 4 for n in matrix], order=3, grid_mode=True, mode="grid-wrap"
    )
    signal = signal * np.exp(bias * field / max(field.std(), 1e-9)).astype(np.float32)
    affine = series_affine(scan)
    if contrast == "t2star":
        signal = signal * _drop_out(scan, affine, pose(rotation_deg, translation_mm))
    brain = 1 - fractions[0] - fractions[TISSUES.index("scalp")] > 0.5
    noise = rng.standard_normal((2, *matrix), dtype=np.float32) * (signal[brain].mean() / snr)
    return Picture(np.hypot(signal + noise[0], noise[1]).astype(np.float32) * 400, affine, brain, fractions)


def _drop_out(scan: Scan, affine: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Signal lost above the sinuses and the petrous bones, which turn with the head."""
    upright = np.linalg.inv(placed) @ affine
    index = np.indices(scan.matrix, dtype=np.float32)
    x, y, z = np.tensordot(upright[:3, :3], index, axes=1) + upright[:3, 3].reshape(3, 1, 1, 1)
    loss = sum(
        np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 14.0**2) - (z - cz) ** 2 / (2 * 12.0**2))
        for cx, cy, cz in ((0, 45, -25), (48, -25, -28), (-48, -25, -28))
    )
    return np.exp(-1.2 * loss).astype(np.float32)


def pair(
    seed: int,
    *,
    anatomy: str = "t1c",
    other_head: int | None = None,
    voxel_mm: float = 1.0,
    largest_shift_mm: float = 15.0,
    largest_turn_deg: float = 10.0,
    **head,
) -> tuple[Picture, Picture, np.ndarray]:
    """Baseline, anatomy, and the true (4, 4) transform from the baseline's RAS to the anatomy's, mm.

    The head lies in the anatomy up to ±`largest_shift_mm` along and ±`largest_turn_deg` about each axis from where it
    lies in the baseline. With `other_head`, the anatomy is of the patient of that seed.
    """
    rng = np.random.default_rng([seed, 77])
    subject = patient(seed)
    turn_d, shift_d = rng.normal(0, 3, 3), rng.normal(0, 4, 3)
    move = np.eye(4)
    angles = rng.uniform(-largest_turn_deg, largest_turn_deg, 3)
    move[:3, :3] = rotation_matrix(tuple(angles))
    offset = rng.uniform(-largest_shift_mm, largest_shift_mm, 3)
    move[:3, 3] = _ORIGIN + offset - move[:3, :3] @ _ORIGIN
    placed = move @ pose(turn_d, shift_d)
    shift_a = placed[:3, :3] @ _ORIGIN + placed[:3, 3] - _ORIGIN
    in_plane = float(rng.uniform(1.6, 2.3))
    slice_mm = float(rng.uniform(4.0, 6.0))
    slices = int(min(np.ceil(rng.uniform(90, 135) / slice_mm), 26))
    pixels = int(round(220 / in_plane / 2) * 2)
    baseline = image(subject, "t2star", matrix=(pixels, pixels, slices), voxel_mm=(in_plane, in_plane, slice_mm),
                     rotation_deg=turn_d, translation_mm=shift_d, seed=seed, snr=rng.uniform(20, 60))  # fmt: skip
    edge = voxel_mm
    shown = subject if other_head is None else patient(other_head)
    if head:
        shown = replace(shown, head=replace(shown.head, **head))
    size = tuple(round(n / edge) for n in (190, 220, 190))
    anatomical = image(shown, anatomy, matrix=size, voxel_mm=(edge, edge, edge), rotation_deg=_angles(placed[:3, :3]),
                       translation_mm=shift_a, seed=seed + 1, snr=float(rng.uniform(15, 40)))  # fmt: skip
    return baseline, anatomical, move


def _angles(turn: np.ndarray) -> tuple[float, float, float]:
    """The simulator's angles (about x, then y, then z) of a rotation, degrees."""
    y = -np.arcsin(turn[2, 0])
    return tuple(np.rad2deg([np.arctan2(turn[2, 1], turn[2, 2]), y, np.arctan2(turn[1, 0], turn[0, 0])]))


def displacement_mm(found: np.ndarray, true: np.ndarray, baseline: Picture) -> np.ndarray:
    """How far each voxel of the brain ends from where it belongs, mm."""
    points = np.argwhere(baseline.brain) @ baseline.affine[:3, :3].T + baseline.affine[:3, 3]
    difference = found - true
    return np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1)


@functools.cache
def small_pair() -> tuple[Picture, Picture, np.ndarray]:
    """A pair with a coarse T1 after contrast, for tests."""
    return pair(104, voxel_mm=2.5)


@functools.cache
def registered_pair() -> Registration:
    """The registration of `small_pair`."""
    baseline, anatomical, _ = small_pair()
    fixed = Volume(anatomical.values, anatomical.affine, "T1c")
    return register(Volume(baseline.values, baseline.affine, "DSC baseline"), baseline.brain, fixed)


@functools.cache
def two_dates() -> tuple[Picture, Picture]:
    """Baselines of one head with a solid tumour on the right, in two positions."""
    tumour = replace(
        patient(104).tumours[0], centre_mm=(30.0, -20.0, 22.0), radius_mm=18.0, necrosis_fraction=0.0, oedema_mm=0.0
    )
    head = replace(patient(3), tumours=(tumour,))
    grid: dict[str, Any] = {"matrix": (80, 80, 18), "voxel_mm": (2.6, 2.6, 5.0), "bias": 0.15}
    moved = {"rotation_deg": (6, -3, 5), "translation_mm": (7, -8, 6)}
    return image(head, "t2star", **grid, seed=1), image(head, "t2star", **grid, **moved, seed=2)


def main() -> None:
    """Register pairs of the same head, of other heads and of mirrored heads; print errors and warnings."""
    parser = argparse.ArgumentParser(description="Registration of simulated pairs with known displacement")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.pairs):
        for kind in ("t1c", "flair", "other head", "mirrored"):
            contrast = "flair" if kind == "flair" else "t1c"
            other = seed + 500 if kind == "other head" else None
            baseline, anatomical, true = pair(seed, anatomy=contrast, other_head=other)
            flip = np.diag([-1.0 if kind == "mirrored" else 1.0, 1.0, 1.0, 1.0])
            started = time.perf_counter()
            found = register(
                Volume(baseline.values, baseline.affine, "baseline"),
                baseline.brain,
                Volume(anatomical.values, flip @ anatomical.affine, kind),
            )
            error_mm = displacement_mm(found.matrix, true, baseline)
            known = kind in ("t1c", "flair")
            rows.append(
                {
                    "seed": seed,
                    "kind": kind,
                    "mean_error_mm": round(float(error_mm.mean()), 3) if known else "",
                    "largest_error_mm": round(float(error_mm.max()), 3) if known else "",
                    "distinctness": round(found.quality.distinctness, 3),
                    "mirrored": round(found.quality.mirrored or float("nan"), 3),
                    "doubtful": found.doubtful,
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
            print(rows[-1], flush=True)
    with (options.output / "registration.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
