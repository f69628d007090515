"""rCBV of a prepared series by an embedded network, in batches of slices, on the device there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.networks.cards import load_network
from PerfusionCBVLib.networks.grid import network_grid, network_input
from PerfusionCBVLib.preparation import Prepared
from PerfusionCBVLib.progress import Progress

if TYPE_CHECKING:
    import torch

SLICES_AT_ONCE = 8


def network_rcbv(
    prepared: Prepared, name: str, *, device: str, progress: Progress
) -> tuple[np.ndarray, dict[str, Any], str]:
    """Return the network's rCBV on the series' own grid, the network's card, and the device that ran it.

    Parameters
    ----------
    device : "auto", "cpu", "cuda" or "mps"

    Returns
    -------
    (x, y, z) float32 array, {ratio}
        NaN where the brain has no usable signal.

    Raises
    ------
    ModelError
        PyTorch or the weights are missing or altered.
    UsageError
        The device is not there.
    """
    network, card = load_network(name)
    import torch

    chosen = choose_device(device)
    network = network.to(chosen)
    grid = network_grid(prepared.mask, prepared.series.affine)
    slices, _ = network_input(prepared, grid)
    predicted = np.empty((slices.shape[0], *slices.shape[2:]), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(slices), SLICES_AT_ONCE):
            progress(
                start / len(slices), f"Network on slices {start + 1} to {min(start + SLICES_AT_ONCE, len(slices))}"
            )
            batch = torch.from_numpy(slices[start : start + SLICES_AT_ONCE]).to(chosen)
            predicted[start : start + SLICES_AT_ONCE] = network(batch)[:, 0].cpu().numpy()
    values = grid.to_voxels(predicted)
    return np.where(prepared.usable, values, np.float32(np.nan)), card, str(chosen)


def choose_device(device: str) -> torch.device:
    """Return the torch device: CUDA, else Apple MPS, else CPU for "auto"."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(device, False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise UsageError(f"The device {device!r} is not available here; available: {there}. Use --device auto.")
    return torch.device(device)
