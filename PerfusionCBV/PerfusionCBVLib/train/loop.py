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
from PerfusionCBVLib.train.samples import SimulatedPatients
from PerfusionCBVLib.train.tasks import TASKS, Task

VALIDATION_SEED = 50_000_000
"""Training seeds stay below; validation patients start here."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run is made of."""

    minutes: float = 60.0
    batch: int = 16
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
    patients: str | None = None
    """Folder that keeps drawn patients for other runs; networks that allow it only."""
    checkpoint_minutes: float = 2.0


class _Arrivals:
    """Patients as simulators deliver them, so that neither they nor the network wait for each other."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=4)
        threading.Thread(target=self._receive, args=(loader,), daemon=True).start()

    def next(self, *, wait: bool) -> Any:
        """Return the next patient; without `wait`, None when there is none yet."""
        try:
            arrived = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def _receive(self, loader: DataLoader[Any]) -> None:
        try:
            for sample in loader:
                self._queue.put(sample)
        except Exception as error:  # a simulator died: whoever trains has to know
            self._queue.put(error)


def train(name: str, folder: Path, settings: TrainingSettings, report: Callable[[str], None]) -> Path:
    """Train a network on simulated patients, or go on where an earlier run in the same folder stopped.

    Writes ``checkpoint.pt`` (resumable state), ``history.csv`` and, at the end, ``NAME.safetensors`` with its card.

    Parameters
    ----------
    name : str
        One of `tasks.TASKS`.

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
    kept = None if settings.patients is None else Path(settings.patients)
    drawn: list[int] = []
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        drawn = [seed for seed in sorted(int(path.stem) for path in kept.glob("[0-9]*.npz")) if seed < VALIDATION_SEED]
    task = TASKS[name](settings.buffer_slices, kept)
    network = task.build().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = _average(network, settings.ema_decay)
    optimiser = torch.optim.AdamW(network.parameters(), task.learning_rate, weight_decay=settings.weight_decay)
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
    validation = [sample for sample in map(task.draw, seeds) if sample is not None]
    # A resumed run goes on with patients that the earlier one did not draw.
    first_seed = settings.seed * 1_000_000 + state["patients"]
    patients = _Arrivals(
        DataLoader(
            SimulatedPatients(first_seed, task.draw, drawn),
            batch_size=None,
            num_workers=settings.workers,
            multiprocessing_context="spawn" if settings.workers else None,
        )
    )
    rng = np.random.default_rng([settings.seed, state["step"]])
    budget_s = settings.minutes * 60
    last = saved_at = time.monotonic()
    losses: list[float] = []
    while state["elapsed_s"] < budget_s:
        while (sample := patients.next(wait=task.slices < settings.fill_slices)) is not None:
            task.add(sample)
            state["patients"] += 1
            if task.slices >= settings.fill_slices:
                break
        rate = _rate(task.learning_rate, state["elapsed_s"] / budget_s)
        losses.append(_step(task, network, optimiser, task.batch(rng, settings.batch), settings, rate))
        average.update_parameters(network)
        state["step"] += 1
        now = time.monotonic()
        state["elapsed_s"] += now - last
        last = now
        if now - saved_at > settings.checkpoint_minutes * 60:
            saved_at = now
            scores = _validate(task, average.module, validation)
            _record(folder / "history.csv", state, float(np.mean(losses)), scores)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            report(
                f"step {state['step']}, {state['elapsed_s'] / 60:.1f} min, {state['patients']} patients, "
                f"loss {np.mean(losses):.4f}, validation {shown}"
            )
            losses.clear()
            _save_checkpoint(checkpoint, network, average, optimiser, state)
            last = time.monotonic()
    scores = _validate(task, average.module, validation)
    _record(folder / "history.csv", state, float(np.mean(losses)) if losses else float("nan"), scores)
    _save_checkpoint(checkpoint, network, average, optimiser, state)
    training = {
        "data": "simulated patients drawn by PerfusionCBVLib.simulate; no clinical data",
        "settings": {key: value for key, value in asdict(settings).items() if key != "patients"},
        "loss": task.loss_text,
        "steps": state["step"],
        "slices_seen": state["step"] * settings.batch,
        "patients": state["patients"],
        "minutes": round(state["elapsed_s"] / 60, 1),
        "hardware": f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__.split("+")[0],
    }
    return save_network(average.module, name, folder, training=training, measured={"validation": scores})


def _validate(task: Task, network: nn.Module, samples: list[Any]) -> dict[str, float]:
    network.eval()
    with torch.inference_mode():
        scores = task.validate(network, samples)
    network.train()
    return scores


def _average(network: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Return an exponential moving average that forgets the first, untrained steps quickly."""

    def mix(averaged: torch.Tensor, current: torch.Tensor, steps: torch.Tensor | int) -> torch.Tensor:
        if not averaged.is_floating_point():  # batch normalisation's counter
            return current
        keep = min(decay, (1 + float(steps)) / (10 + float(steps)))
        return averaged.lerp(current, 1 - keep)

    return torch.optim.swa_utils.AveragedModel(network, avg_fn=mix, use_buffers=True)


def _step(
    task: Task,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: tuple[torch.Tensor, ...],
    settings: TrainingSettings,
    rate: float,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    device = next(network.parameters()).device
    images = tuple(
        x.to(device, memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format) for x in batch
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision):
        loss = task.loss(network, images)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _rate(largest: float, done: float) -> float:
    """Return the learning rate: a short warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, done / 0.02 + 0.02)
    return largest * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


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
