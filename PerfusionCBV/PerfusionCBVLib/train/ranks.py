"""Training by several processes at once: who this one is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=12)
"""How long the others wait while the first process reads patients or validates."""


@dataclass(frozen=True)
class Ranks:
    """Which of `world` processes this is; each has its own patients, all have the same weights."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process validates, writes and speaks."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Return the sums of the values over all processes; each has to call this equally often."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return sums.tolist()

    def averaging(self, network: nn.Module) -> nn.Module:
        """Return the network such that `backward` averages gradients over all processes."""
        return network if self.world == 1 else DistributedDataParallel(network)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.total(0.0)


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Give this process its place among those that ``torchrun`` started; alone without it.

    Processes talk through NCCL on NVIDIA GPUs, one GPU each, through gloo on CPUs. One that fails leaves without a
    word: torchrun then ends the others.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield Ranks(rank, world, device)
    if world > 1:
        distributed.destroy_process_group()
