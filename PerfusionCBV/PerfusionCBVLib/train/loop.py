"""The training loop: a time budget, a replay buffer, checkpoints that resume, weights with their card."""

from __future__ import annotations

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
from torch.utils.data import DataLoader, IterableDataset

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.networks.cards import save_network
from PerfusionCBVLib.networks.domain import DESCRIPTION, training_domain
from PerfusionCBVLib.train.history import MATPLOTLIB_MISSING, draw_history, record
from PerfusionCBVLib.train.ranks import Ranks, join_ranks
from PerfusionCBVLib.train.samples import SimulatedPatients, kept_seeds
from PerfusionCBVLib.train.tasks import TASKS, Task

SEEDS_EACH = 1_000_000
"""Patients that one seed of a training run has for itself."""

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
    """Folder that keeps drawn patients for other runs and other networks; about 25 MB a patient."""
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


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run ends with.

    Attributes
    ----------
    network : nn.Module
        The moving average of the trained one.
    scores : dict
        Validation; empty on all processes but the first.
    training : dict
        What the card says of the training.
    """

    network: nn.Module
    scores: dict[str, float]
    training: dict[str, Any]


def train(name: str, folder: Path, settings: TrainingSettings, report: Callable[[str], None]) -> Path:
    """Train a network on simulated patients, or go on where an earlier run in the same folder stopped.

    Writes ``checkpoint.pt`` (resumable state), ``history.csv``, ``history.png`` and, at the end, ``NAME.safetensors``
    with its card. Under ``torchrun`` every process draws other patients, and only the first one validates and writes.

    Parameters
    ----------
    name : str
        One of `tasks.TASKS`.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    UsageError
        The folder holds the checkpoint of another network; the seed would draw patients that validate or test.
    """
    if not 0 <= settings.seed < VALIDATION_SEED // SEEDS_EACH:
        raise UsageError(
            f"--seed is {settings.seed}; it must be below {VALIDATION_SEED // SEEDS_EACH}, because higher ones draw "
            "the patients that networks are validated and tested on."
        )
    with join_ranks() as ranks:
        report = report if ranks.first else _silent
        kept = None if settings.patients is None else Path(settings.patients)
        drawn: list[int] = []
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            drawn = [seed for seed in kept_seeds(kept) if seed < VALIDATION_SEED]
        ranks.wait()  # or one would list what another has drawn already
        task = TASKS[name](settings.buffer_slices, kept)
        report(f"drawing {settings.validation_patients} validation patients")
        seeds = range(VALIDATION_SEED, VALIDATION_SEED + settings.validation_patients) if ranks.first else ()
        validation = [sample for sample in map(task.draw, seeds) if sample is not None]

        def patients(done: int) -> SimulatedPatients[Any]:
            # A resumed run goes on about where the earlier one stopped, with patients that it did not draw.
            first_seed = settings.seed * SEEDS_EACH + done
            return SimulatedPatients(first_seed, task.draw, drawn, share=(ranks.rank, ranks.world))

        trained = fit(name, task, patients, validation, folder, settings, report, ranks)
        if ranks.first:
            data = "simulated patients drawn by PerfusionCBVLib.simulate; no clinical data"
            training = {"data": data, **trained.training}
            if drawn and not settings.workers:  # the kept patients came again and again
                training["patients"], training["patients_per_minute"] = len(drawn), None
            if len(task.descriptions) > 2 * len(DESCRIPTION):
                training["domain"] = training_domain(np.stack(task.descriptions))
            save_network(trained.network, name, folder, training=training, measured={"validation": trained.scores})
            report(f"Weights and card: {folder}")
        ranks.wait()
    return folder / f"{name}.json"


def fit(
    name: str,
    task: Task,
    patients: Callable[[int], IterableDataset[Any]],
    validation: list[Any],
    folder: Path,
    settings: TrainingSettings,
    report: Callable[[str], None],
    ranks: Ranks,
) -> Trained:
    """Train the task's network until the time is up; resume from ``checkpoint.pt`` in the folder.

    Parameters
    ----------
    name : str
        What the weights will be called.
    patients : callable
        Number of patients that earlier runs took to an endless stream of further samples for this process.
    validation : list
        Samples; used by the first process only.

    Raises
    ------
    UsageError
        The folder holds the checkpoint of another network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() - settings.workers))
    torch.manual_seed(settings.seed)
    network = task.build().to(ranks.device, memory_format=task.memory_format).train()  # type: ignore[call-overload]
    average = _average(network, settings.ema_decay)
    optimiser = torch.optim.AdamW(network.parameters(), task.learning_rate, weight_decay=settings.weight_decay)
    state: dict[str, Any] = {"name": name, "step": 0, "elapsed_s": 0.0, "patients": 0, "slices": 0}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        state |= saved["state"]
        if state["name"] != name:
            raise UsageError(f"{checkpoint} is of {state['name']}, not of {name}. Choose another --output folder.")
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        report(f"resuming at step {state['step']}, {state['elapsed_s'] / 60:.1f} min")
    together = ranks.averaging(network)
    arrivals = _Arrivals(
        DataLoader(
            patients(state["patients"]),
            batch_size=None,
            num_workers=settings.workers,
            multiprocessing_context="spawn" if settings.workers else None,
        )
    )
    rng = np.random.default_rng([settings.seed, state["step"], ranks.rank])
    budget_s = settings.minutes * 60
    last = saved_at = time.monotonic()
    losses: list[float] = []
    steps, steps_s = 0, 0.0
    table, picture = folder / "history.csv", folder / "history.png"

    def validate_and_save() -> dict[str, float]:
        scores = _validate(task, average.module, validation)
        row = {"step": state["step"], "minutes": round(state["elapsed_s"] / 60, 2), "patients": state["patients"]}
        record(table, {**row, "loss": float(np.mean(losses)), **scores})
        shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        report(
            f"step {state['step']}, {state['elapsed_s'] / 60:.1f} min, {state['patients']} patients, "
            f"loss {np.mean(losses):.4f}, validation {shown}"
        )
        _save_checkpoint(checkpoint, network, average, optimiser, state)
        return scores

    while state["elapsed_s"] < budget_s:
        arrived = 0
        while (sample := arrivals.next(wait=task.slices < settings.fill_slices)) is not None:
            task.add(sample)
            arrived += 1
            if task.slices >= settings.fill_slices:
                break
        rate = _rate(task.learning_rate, state["elapsed_s"] / budget_s)
        began = time.monotonic()
        loss = _step(task, together, optimiser, task.batch(rng, settings.batch), settings, rate)
        average.update_parameters(network)
        now = time.monotonic()
        steps, steps_s = steps + 1, steps_s + now - began
        # The first process's clock rules: learning rate, checkpoints and end have to be the same for all.
        clock = (now - last, float(now - saved_at > settings.checkpoint_minutes * 60)) if ranks.first else (0.0, 0.0)
        passed_s, due, arrived_everywhere, loss = ranks.total(*clock, arrived, loss / ranks.world)
        state["step"] += 1
        state["elapsed_s"] += passed_s
        state["patients"] += round(arrived_everywhere)
        state["slices"] += settings.batch * ranks.world
        losses.append(loss)
        last = now
        if due and state["elapsed_s"] < budget_s:
            saved_at = now
            if ranks.first:
                validate_and_save()
                draw_history(table, picture)
            losses.clear()
            last = time.monotonic()
    scores = {}
    if ranks.first:
        scores = validate_and_save() if losses else _validate(task, average.module, validation)
        if table.exists() and not draw_history(table, picture):
            report(MATPLOTLIB_MISSING)
    minutes = state["elapsed_s"] / 60
    training = {
        "settings": {key: value for key, value in asdict(settings).items() if key != "patients"},
        "loss": task.loss_text,
        "steps": state["step"],
        "slices_seen": state["slices"],
        "patients": state["patients"],
        "minutes": round(minutes, 1),
        "slices_per_second": round(steps * settings.batch * ranks.world / steps_s, 1) if steps else None,
        "patients_per_minute": round(state["patients"] / minutes, 1) if minutes else None,
        "hardware": _hardware(ranks),
        "world_size": ranks.world,
        "torch": torch.__version__.split("+")[0],
    }
    return Trained(average.module, scores, training)


def _silent(message: str) -> None:
    pass


def _hardware(ranks: Ranks) -> str:
    one = f"{torch.get_num_threads()} threads"
    if ranks.device.type == "cuda":
        one = torch.cuda.get_device_name(ranks.device)
    return f"{ranks.device.type}, {platform.machine()}, {one}"


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
        x.to(device, memory_format=task.memory_format if x.ndim == 4 else torch.preserve_format) for x in batch
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
