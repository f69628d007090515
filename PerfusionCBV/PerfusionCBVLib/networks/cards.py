"""Weights and their cards: saved together, loaded only when the hash, the shapes and the architecture agree."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PerfusionCBVLib.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class Architecture:
    """Where a network's code is, and what goes in and comes out, for its card."""

    module: str
    network: str
    config: str
    input: str
    output: str


_SLICE_OVER_TIME = (
    "one axial slice: ΔR2* over the peak of the leak-free reference curve (dimensionless), 0 outside the brain, 45 "
    "frames of 1.5 s from 12 s before bolus arrival, 128 × 128 pixels of 1.75 mm"
)
_RCBV = "rCBV relative to normal-appearing white matter, ≥ 0, before normalisation to the case's reference"
_PACKAGE = "PerfusionCBVLib.networks."

ARCHITECTURES = {
    "unet-gru": Architecture(_PACKAGE + "unet_gru", "UNetGRU", "UNetGRUConfig", _SLICE_OVER_TIME, _RCBV),
    "unet-gru-intensity": Architecture(
        _PACKAGE + "unet_gru",
        "UNetGRU",
        "UNetGRUConfig",
        "the same with the source paper's input: intensity over 4 × the brain's mean baseline instead of ΔR2*",
        _RCBV,
    ),
    "unet": Architecture(_PACKAGE + "unet_gru", "UNetGRU", "UNetConfig", _SLICE_OVER_TIME, _RCBV),
    "convlstm2d": Architecture(_PACKAGE + "convlstm2d", "ConvLSTM2D", "ConvLSTM2DConfig", _SLICE_OVER_TIME, _RCBV),
    "conv3d": Architecture(_PACKAGE + "conv3d", "Conv3D", "Conv3DConfig", _SLICE_OVER_TIME, _RCBV),
    "anchored-unet": Architecture(
        _PACKAGE + "anchored_unet",
        "AnchoredUNet",
        "AnchoredUNetConfig",
        "one axial slice on the series' own grid, any frame count and interval: features of the leakage fit of each "
        "voxel (networks/features.py; dimensionless, relative to the leak-free reference curve), 0 outside the brain",
        "blood volume relative to the leak-free reference curve's, before normalisation to the case's reference, and "
        "its standard deviation",
    ),
}


def read_card(name: str, folder: Path = WEIGHTS_FOLDER) -> dict[str, Any]:
    """Return the card of an embedded network.

    Raises
    ------
    ModelError
        No such network, or its card can't be read.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        raise ModelError(
            f"There is no network {name!r} in {folder}; known: {', '.join(known_networks(folder)) or 'none'}."
        )
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"The card {path} is not valid JSON ({error}). Install the package again.") from error
    return card


def known_networks(folder: Path = WEIGHTS_FOLDER) -> list[str]:
    """Return the names of the embedded networks."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load_network(name: str, folder: Path = WEIGHTS_FOLDER) -> tuple[nn.Module, dict[str, Any]]:
    """Return an embedded network in evaluation mode, with its card.

    Raises
    ------
    ModelError
        PyTorch is missing, the weights are missing or altered, or do not fit the architecture.
    """
    try:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ModuleNotFoundError as error:
        raise ModelError(
            "The network methods need PyTorch, which is not installed. Install it with: pip install "
            "'perfusion-cbv[networks]' - or choose a classical method, for example --method bsw."
        ) from error
    card = read_card(name, folder)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise ModelError(f"The weights {path} are missing. Install the package again.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card["sha256"]:
        raise ModelError(
            f"The weights {path.name} have SHA-256 {found[:12]}…, the card says {card['sha256'][:12]}…: the file was "
            "altered or damaged. Install the package again."
        )
    with torch.device("meta"):  # no memory for weights that are replaced at once
        network = build_network(card["architecture"], card["config"])
    try:
        tensors = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in load(content).items()}
    except SafetensorError as error:
        raise ModelError(f"{path.name} is no safetensors file ({error}). Install the package again.") from error
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"The weights {path.name} do not fit the architecture on their card: {error}") from error
    return network.eval(), card


def build_network(name: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Return an untrained network of `ARCHITECTURES`, with the given config instead of its own."""
    architecture = ARCHITECTURES[name]
    module = importlib.import_module(architecture.module)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in (config or {}).items()}
    network: nn.Module = getattr(module, architecture.network)(getattr(module, architecture.config)(**values))
    return network


def save_network(
    network: nn.Module, name: str, folder: Path, *, training: dict[str, Any], measured: dict[str, Any]
) -> Path:
    """Write weights and their card; return the card's path.

    Weights are stored in half precision; what batch normalisation measured is not, for a variance can exceed its range.

    Raises
    ------
    ModelError
        A weight is not finite, or is not in half precision.
    """
    import torch
    from safetensors.torch import save

    measured_names = {name for name, _ in network.named_buffers()}
    tensors = {
        k: (v.to(torch.float16) if v.is_floating_point() and k not in measured_names else v).contiguous().cpu()
        for k, v in network.state_dict().items()
    }
    broken = [k for k, v in tensors.items() if not torch.isfinite(v).all()]
    if broken:
        raise ModelError(f"The weights {', '.join(broken)} are not finite; the network {name} was not saved.")
    content = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(content)
    card = {
        "name": name,
        "architecture": name,
        "config": asdict(network.config),  # type: ignore[call-overload]
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision": "float16",
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": ARCHITECTURES[name].input,
        "output": ARCHITECTURES[name].output,
        "intended_use": "research use only; not validated on patients",
        "training": training,
        "measured": measured,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
