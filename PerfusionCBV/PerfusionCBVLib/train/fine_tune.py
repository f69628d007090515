"""Training on UPENN-GBM: raw intensities in, CaPTk's ap-rCBV out, scored on test patients as the source paper does."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils.data import IterableDataset

from PerfusionCBVLib.csv_cells import harmless
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.evaluate import bootstrap_interval, finite_mean, markdown_table, nrmse
from PerfusionCBVLib.json_text import write_json
from PerfusionCBVLib.networks.cards import build_network, known_networks, load_network, read_card, save_network
from PerfusionCBVLib.train.loop import TrainingSettings, fit
from PerfusionCBVLib.train.ranks import Ranks, join_ranks
from PerfusionCBVLib.train.tasks import GridTask
from PerfusionCBVLib.train.upenn_gbm import (
    CACHE_FOLDER,
    FRAMES,
    PIXELS,
    SLICES,
    SPLIT_FILE,
    CaseSlices,
    Split,
    patient_of,
    prepare_split,
)

SUFFIX = "-upenn-gbm"
"""Of the weights' name: their input is not that of the embedded network of the same architecture."""

NETWORKS = ("unet-gru", "convlstm2d", "conv3d")

MEASURES = {
    "nrmse": "NRMSE, RMSE over the RMS of the reference (eq. 1)",
    "nrmse_range": "NRMSE, RMSE over the range",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "mae": "MAE on a scale from -1 to 1",
}


class UpennTask(GridTask):
    """The source paper's networks on the source paper's data."""

    loss_text = (
        "mean squared error over the whole slice, labels over the training set's maximum; half the slices mirrored"
    )

    def __init__(self, name: str, capacity: int, split: Split, *, from_scratch: bool) -> None:
        super().__init__(capacity, name=name)
        self.embedded = name in known_networks() and not from_scratch
        self.learning_rate = 3e-4 if self.embedded else 1e-3
        self._split = split

    def build(self) -> nn.Module:
        """Return the embedded network where there is one, else an untrained one."""
        if not self.embedded:
            return build_network(self._name)
        network, _ = load_network(self._name)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()  # they are those of another input
        return network

    def add(self, sample: Any) -> None:
        """Take the `upenn_gbm.CaseSlices` of a case."""
        for signal, label in zip(sample.signal, sample.label, strict=True):
            self._signal[self._next], self._rcbv[self._next] = signal, label
            self.slices = max(self.slices, self._next + 1)
            self._next = (self._next + 1) % len(self._rcbv)

    def validate(self, network: nn.Module, samples: list[Any]) -> dict[str, float]:
        """Return means over the slices of prepared cases, given by their paths; see `slice_rows`."""
        rows = slice_rows(network, self._split, samples)
        return {measure: finite_mean([row[measure] for row in rows]) for measure in MEASURES}


class ShuffledCases(IterableDataset[CaseSlices]):
    """An endless stream of prepared cases: all of them in one order, then in another."""

    def __init__(self, split: Split, paths: list[Path], seed: list[int]) -> None:
        self.split = split
        self.paths = paths
        self.seed = seed

    def __iter__(self) -> Iterator[CaseSlices]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield from (self.split.load(self.paths[k]) for k in rng.permutation(len(self.paths)))


def train_upenn_gbm(
    name: str,
    data: Path,
    folder: Path,
    settings: TrainingSettings,
    report: Callable[[str], None],
    *,
    from_scratch: bool = False,
) -> Path:
    """Train a network on UPENN-GBM and score it on the test patients, or go on where an earlier run stopped.

    Starts from the embedded weights where there are some. Beside what `loop.train` writes: ``split.json`` (patients of
    each set, seed, maxima), ``test_scores.csv`` (every slice), ``test_scores.md`` and the prepared cases.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    data : Path
        Searched for series and maps with all its subfolders.

    Returns
    -------
    Path
        The card, ``NAME-upenn-gbm.json``.

    Raises
    ------
    UsageError
        Another network, more processes than training cases, or a folder with a run of another kind.
    UnreadableInputError
        No usable cases, or too few patients.
    """
    if name not in NETWORKS:
        raise UsageError(f"{name} can't be trained on intensities; choose one of {', '.join(NETWORKS)}.")
    with join_ranks() as ranks:
        report = report if ranks.first else (lambda message: None)
        if ranks.first:
            prepare_split(data, folder, settings.seed, report)
        ranks.wait()
        split = Split.read(folder)
        report(
            "patients: "
            + ", ".join(f"{len(members)} {part}" for part, members in split.patients.items())
            + f"; maximum of intensities {split.signal_maximum:g}, of labels {split.label_maximum:g}"
        )
        mine = split.files(folder, "training")[ranks.rank :: ranks.world]
        if not mine:
            raise UsageError(f"{ranks.world} processes are too many for {len(split.cases['training'])} training cases.")
        slices = len(mine) * len(SLICES)
        settings = replace(
            settings,
            batch=min(settings.batch, slices),
            buffer_slices=min(settings.buffer_slices, slices),
            fill_slices=min(settings.fill_slices, slices),
            validation_patients=len(split.patients["validation"]),
            workers=0,
            patients=None,
        )
        task = UpennTask(name, settings.buffer_slices, split, from_scratch=from_scratch)
        start = f"embedded weights {read_card(name)['sha256'][:12]}…" if task.embedded else "untrained"
        report(f"{name} starts from: {start}")
        trained = fit(
            name + SUFFIX,
            task,
            lambda done: ShuffledCases(split, mine, [settings.seed, done, ranks.rank]),
            split.files(folder, "validation"),
            folder,
            settings,
            report,
            ranks,
        )
        if ranks.first:
            training = {
                "data": "UPENN-GBM, prepared as by Diumin & Alkhimova 2026; labels are CaPTk's ap-rCBV",
                "start": start,
                **trained.training,
                "patients": len(split.patients["training"]),
                "cases": len(split.cases["training"]),
                "passes": round(trained.training["patients"] / len(split.cases["training"]), 1),
                "split_seed": split.seed,
            }
            measured = _save_and_score(name, folder, split, trained.network, trained.scores, training, ranks)
            report("test patients, mean over slices: " + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()))
            weights = (f"{name}{SUFFIX}.safetensors", f"{name}{SUFFIX}.json")
            for file in (*weights, SPLIT_FILE, "test_scores.csv", "test_scores.md", "history.csv", "history.png"):
                if (folder / file).exists():
                    report(f"written: {folder / file}")
            report(f"{folder / CACHE_FOLDER} can be deleted; a resumed run would read all cases again.")
        ranks.wait()
    return folder / f"{name}{SUFFIX}.json"


def slice_rows(network: nn.Module, split: Split, paths: list[Path]) -> list[dict[str, Any]]:
    """Return the source paper's measures for every slice of prepared cases, background included.

    Prediction and reference are over the training set's maximum, so that the range is 1; nothing is clipped.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.

    Returns
    -------
    list of dict
        ``case``, ``slice``, ``reference_rms`` and `MEASURES`; the first NRMSE is NaN where the reference is 0
        throughout, PSNR is infinite without error.
    """
    device = next(network.parameters()).device
    rows = []
    for path in paths:
        slices = split.load(path)
        with torch.inference_mode():
            predicted = network(torch.from_numpy(slices.signal).to(device))[:, 0].float().cpu().numpy()
        for place, estimate, reference in zip(SLICES, predicted, slices.label, strict=True):
            rows.append({"case": path.stem, "slice": place, **slice_measures(estimate, reference)})
    return rows


def slice_measures(estimate: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the RMS of the reference and `MEASURES` of one slice whose range is 1.

    Parameters
    ----------
    estimate, reference : (128, 128) arrays
    """
    a, b = estimate.astype(np.float64), reference.astype(np.float64)
    rmse = float(np.sqrt(np.mean((a - b) ** 2)))
    return {
        "reference_rms": float(np.sqrt(np.mean(b**2))),
        "nrmse": nrmse(a, b) if b.any() else float("nan"),
        "nrmse_range": rmse,
        "psnr_db": float(-20 * np.log10(rmse)) if rmse > 0 else float("inf"),
        "ssim": float(structural_similarity(a, b, data_range=1.0)),
        "mae": 2 * float(np.mean(np.abs(a - b))),
    }


def score_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a measure: its mean over slices, that mean's 95 % interval over patients, and over all pixels.

    Parameters
    ----------
    rows : list of dict
        From `slice_rows`.
    """
    mean_square = np.mean([row["nrmse_range"] ** 2 for row in rows])
    pooled = {measure: finite_mean([row[measure] for row in rows]) for measure in ("ssim", "mae")}
    pooled["nrmse"] = float(np.sqrt(mean_square / np.mean([row["reference_rms"] ** 2 for row in rows])))
    pooled["nrmse_range"] = float(np.sqrt(mean_square))
    pooled["psnr_db"] = float(-10 * np.log10(mean_square)) if mean_square > 0 else float("inf")
    patients = sorted({patient_of(row["case"]) for row in rows})
    table = []
    for measure, text in MEASURES.items():
        each = [
            finite_mean([row[measure] for row in rows if patient_of(row["case"]) == patient]) for patient in patients
        ]
        low, high = bootstrap_interval(each)
        interval = f"{low:.4g} to {high:.4g}"
        mean = finite_mean([row[measure] for row in rows])
        table.append(
            {
                "measure": text,
                "mean over slices": f"{mean:.4g}",
                "95 % interval over patients": interval,
                "all pixels": f"{pooled[measure]:.4g}",
            }
        )
    return table


def _save_and_score(
    name: str,
    folder: Path,
    split: Split,
    network: nn.Module,
    validation: dict[str, float],
    training: dict[str, Any],
    ranks: Ranks,
) -> dict[str, float]:
    """Write weights, scores and card; return the means over test slices. What is scored are the weights as written."""
    full = name + SUFFIX
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as aside:
        card = json.loads(save_network(network, name, Path(aside), training=training, measured={}).read_text("utf-8"))
        written, _ = load_network(name, Path(aside))
        rows = slice_rows(written.to(ranks.device), split, split.files(folder, "test"))
        means = {measure: finite_mean([row[measure] for row in rows]) for measure in MEASURES}
        card |= {
            "name": full,
            "input": {
                "quantity": "raw intensity over the training set's maximum",
                "maximum": split.signal_maximum,
                "shape": [FRAMES, PIXELS, PIXELS],
                "slices": f"axial slices {', '.join(map(str, SLICES))} of the atlas grid, counted from 0 at the feet",
                "resampling": "nearest neighbour",
            },
            "output": {
                "quantity": "CaPTk's ap-rCBV over the training set's maximum",
                "maximum": split.label_maximum,
            },
            "measured": {"validation": validation, "test": means},
        }
        with (Path(aside) / "test_scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({k: harmless(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
        (Path(aside) / "test_scores.md").write_text(_scores_text(full, rows, split), encoding="utf-8")
        write_json(Path(aside) / f"{full}.json", card)
        os.replace(Path(aside) / f"{name}.safetensors", folder / f"{full}.safetensors")
        for file_name in (f"{full}.json", "test_scores.csv", "test_scores.md"):
            os.replace(Path(aside) / file_name, folder / file_name)
    return means


def _scores_text(name: str, rows: list[dict[str, Any]], split: Split) -> str:
    return (
        f"# {name} on its test patients\n\n"
        f"{len(split.patients['test'])} patients, {len(split.cases['test'])} cases, {len(rows)} whole slices of "
        f"{PIXELS} × {PIXELS} pixels, background included. Reference: CaPTk's ap-rCBV over the training set's maximum, "
        f"{split.label_maximum:g}; that is the range. Research use only.\n\n{markdown_table(score_table(rows))}\n"
    )
