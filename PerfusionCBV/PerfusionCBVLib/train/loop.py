"""The training loop: a time budget, a replay buffer, checkpoints that resume, weights with their card."""

from __future__ import annotations

import csv
import math
import platform
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from PerfusionCBVLib.networks.cards import save_network
from PerfusionCBVLib.networks.unet_gru import UNetGRU, UNetGRUConfig
from PerfusionCBVLib.train.samples import LARGEST_TARGET, SimulatedPatients, Slices, draw_slices

VALIDATION_SEED = 50_000_000
"""Training seeds stay below; validation patients start here."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run is made of."""

    minutes: float = 60.0
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    buffer_slices: int = 2500
    """Slices kept to draw batches from; the oldest leave first."""
    fill_slices: int = 200
    """Slices to wait for before the first step."""
    validation_patients: int = 8
    workers: int = 1
    mixed_precision: bool = True
    """Forward pass in bfloat16."""
    seed: int = 1
    checkpoint_minutes: float = 2.0


class _Buffer:
    """The latest slices, as one block of memory."""

    def __init__(self, capacity: int) -> None:
        self.signal = np.zeros((capacity, 45, 128, 128), np.float16)
        self.rcbv = np.zeros((capacity, 128, 128), np.float16)
        self.filled = 0
        self._next = 0

    def add(self, slices: Slices) -> None:
        for signal, rcbv in zip(slices.signal, slices.rcbv, strict=True):
            self.signal[self._next], self.rcbv[self._next] = signal, rcbv
            self._next = (self._next + 1) % len(self.rcbv)
            self.filled = max(self.filled, self._next, len(self.rcbv) if self._next == 0 else 0)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = rng.choice(self.filled, size=size, replace=False)
        signal, rcbv = self.signal[chosen].astype(np.float32), self.rcbv[chosen].astype(np.float32)
        flipped = rng.random(size) < 0.5  # left and right of a head are alike
        signal[flipped], rcbv[flipped] = signal[flipped, :, ::-1], rcbv[flipped, ::-1]
        return signal, rcbv


class _Arrivals:
    """Patients as simulators deliver them, so that neither they nor the network wait for each other."""

    def __init__(self, loader: DataLoader[Slices]) -> None:
        self._queue: queue.Queue[Slices] = queue.Queue(maxsize=4)
        threading.Thread(target=self._receive, args=(loader,), daemon=True).start()

    def next(self, *, wait: bool) -> Slices | None:
        """Return the next patient; without `wait`, None when there is none yet."""
        try:
            return self._queue.get(block=wait)
        except queue.Empty:
            return None

    def _receive(self, loader: DataLoader[Slices]) -> None:
        for slices in loader:
            self._queue.put(slices)


def train_unet_gru(folder: Path, settings: TrainingSettings, report: Callable[[str], None]) -> Path:
    """Train UNet-GRU on simulated patients, or go on where an earlier run in the same folder stopped.

    Writes ``checkpoint.pt`` (resumable state), ``history.csv`` and, at the end, ``unet-gru.safetensors`` with its card.

    Returns
    -------
    Path
        The card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() - settings.workers))
    torch.manual_seed(settings.seed)
    network = UNetGRU(UNetGRUConfig()).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = _average(network, settings.ema_decay)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    state: dict[str, Any] = {"step": 0, "elapsed_s": 0.0, "patients": 0}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        state = saved["state"]
        report(f"resuming at step {state['step']}, {state['elapsed_s'] / 60:.1f} min")

    report(f"drawing {settings.validation_patients} validation patients")
    seeds = range(VALIDATION_SEED, VALIDATION_SEED + settings.validation_patients)
    validation = [s for s in map(draw_slices, seeds) if s is not None]
    # A resumed run goes on with patients that the earlier one did not draw.
    first_seed = settings.seed * 1_000_000 + state["patients"]
    patients = _Arrivals(
        DataLoader(
            SimulatedPatients(first_seed),
            batch_size=None,
            num_workers=settings.workers,
            multiprocessing_context="spawn" if settings.workers else None,
        )
    )
    buffer = _Buffer(settings.buffer_slices)
    rng = np.random.default_rng([settings.seed, state["step"]])
    budget_s = settings.minutes * 60
    last = saved_at = time.monotonic()
    losses: list[float] = []
    while state["elapsed_s"] < budget_s:
        while (slices := patients.next(wait=buffer.filled < settings.fill_slices)) is not None:
            buffer.add(slices)
            state["patients"] += 1
        signal, rcbv = buffer.batch(rng, settings.batch)
        losses.append(_step(network, optimiser, signal, rcbv, settings, state["elapsed_s"] / budget_s))
        average.update_parameters(network)
        state["step"] += 1
        now = time.monotonic()
        state["elapsed_s"] += now - last
        last = now
        if now - saved_at > settings.checkpoint_minutes * 60:
            saved_at = now
            scores = validate(average.module, validation, device)
            _record(folder / "history.csv", state, float(np.mean(losses)), scores)
            report(
                f"step {state['step']}, {state['elapsed_s'] / 60:.1f} min, {state['patients']} patients, "
                f"loss {np.mean(losses):.4f}, validation NRMSE {scores['nrmse']:.4f}, MAE {scores['mae']:.4f}"
            )
            losses.clear()
            _save_checkpoint(checkpoint, network, average, optimiser, state)
            last = time.monotonic()
    scores = validate(average.module, validation, device)
    _record(folder / "history.csv", state, float(np.mean(losses)) if losses else float("nan"), scores)
    _save_checkpoint(checkpoint, network, average, optimiser, state)
    training = {
        "data": "simulated patients drawn by PerfusionCBVLib.simulate; no clinical data",
        "settings": asdict(settings),
        "loss": f"mean squared error over the whole slice, targets cut at {LARGEST_TARGET:g}",
        "steps": state["step"],
        "slices_seen": state["step"] * settings.batch,
        "patients": state["patients"],
        "minutes": round(state["elapsed_s"] / 60, 1),
        "hardware": f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__.split("+")[0],
    }
    return save_network(average.module, "unet-gru", folder, training=training, measured={"validation": scores})


def validate(network: nn.Module, patients: list[Slices], device: torch.device) -> dict[str, float]:
    """Return errors in the brain of the validation patients against their (cut) truth.

    ``nrmse`` is the RMSE over the RMS of the truth (eq. 1 of the source paper), ``mae`` the mean absolute error, both
    inside the brain.
    """
    network.eval()
    squared = absolute = power = count = 0.0
    with torch.inference_mode():
        for patient in patients:
            truth = torch.from_numpy(patient.rcbv.astype(np.float32)).to(device)
            predicted = network(torch.from_numpy(patient.signal.astype(np.float32)).to(device))[:, 0]
            brain = truth > 0
            error = (predicted - truth)[brain]
            squared += float(error.square().sum())
            absolute += float(error.abs().sum())
            power += float(truth[brain].square().sum())
            count += float(brain.sum())
    network.train()
    return {"nrmse": float(np.sqrt(squared / power)), "mae": absolute / count}


def _average(network: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Return an exponential moving average that forgets the first, untrained steps quickly."""

    def mix(averaged: torch.Tensor, current: torch.Tensor, steps: torch.Tensor | int) -> torch.Tensor:
        if not averaged.is_floating_point():  # batch normalisation's counter
            return current
        keep = min(decay, (1 + float(steps)) / (10 + float(steps)))
        return averaged.lerp(current, 1 - keep)

    return torch.optim.swa_utils.AveragedModel(network, avg_fn=mix, use_buffers=True)


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    signal: np.ndarray,
    rcbv: np.ndarray,
    settings: TrainingSettings,
    done: float,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = _rate(settings, done)
    device = next(network.parameters()).device
    inputs = torch.from_numpy(signal).to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision):
        predicted = network(inputs)[:, 0]
    loss = torch.nn.functional.mse_loss(predicted.float(), torch.from_numpy(rcbv).to(device))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _rate(settings: TrainingSettings, done: float) -> float:
    """Return the learning rate: a short warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, done / 0.02 + 0.02)
    return settings.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def _record(path: Path, state: dict[str, Any], loss: float, scores: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "minutes", "patients", "loss", *scores])
        writer.writerow([state["step"], round(state["elapsed_s"] / 60, 2), state["patients"], loss, *scores.values()])


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write the resumable state beside the old one, then swap: a killed run never leaves half a file."""
    fresh = path.with_suffix(".new")
    torch.save(
        {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "state": state,
        },
        fresh,
    )
    fresh.replace(path)
