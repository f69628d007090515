"""What a user may choose about a map; written beside every result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from PerfusionCBVLib.errors import UsageError

CLASSICAL_METHODS = ("bsw", "bidirectional", "integral", "captk")
NETWORK_METHODS = ("anchored-unet", "unet-gru", "convlstm2d", "conv3d")
METHODS = NETWORK_METHODS + CLASSICAL_METHODS

METHOD_TITLES = {
    "anchored-unet": "Anchored U-Net",
    "unet-gru": "UNet-GRU",
    "convlstm2d": "ConvLSTM2D",
    "conv3d": "Conv3D",
    "bsw": "Boxerman-Schmainda-Weisskoff",
    "bidirectional": "Bidirectional leakage correction",
    "integral": "Integral without leakage correction",
    "captk": "CaPTk ap-rCBV",
}

Normalisation = Literal["nawm", "brain", "none"]
Deconvolution = Literal["osvd", "csvd", "ssvd", "tikhonov"]
DECONVOLUTIONS: tuple[Deconvolution, ...] = get_args(Deconvolution)


DECONVOLUTION_TITLES = {
    "osvd": "oSVD deconvolution",
    "csvd": "cSVD deconvolution",
    "ssvd": "sSVD deconvolution",
    "tikhonov": "Tikhonov deconvolution",
}


@dataclass(frozen=True)
class Settings:
    """Choices for `compute_maps`.

    Parameters
    ----------
    method : str
        One of `METHODS`. The default is the network that beats the classical map on data that shares no code with the
        simulator it learned from.
    normalize : "nawm", "brain" or "none"
        What a value of 1 means: contralateral normal-appearing white matter (found, unless a reference region is
        given), the whole brain, or nothing (a classical map then is the area under ΔR2*, dimensionless).
    motion_correction : bool
        Bring every frame to the baseline's position first.
    device : "auto", "cpu", "cuda" or "mps"
        Where a network runs.
    deconvolution : "osvd", "csvd", "ssvd" or "tikhonov"
        How flow is computed where there is an arterial input; see `deconvolution.Deconvolver`.

    Raises
    ------
    UsageError
    """

    method: str = "anchored-unet"
    normalize: Normalisation = "nawm"
    motion_correction: bool = False
    device: str = "auto"
    deconvolution: Deconvolution = "osvd"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("normalize", self.normalize, ("nawm", "brain", "none")),
            ("device", self.device, ("auto", "cpu", "cuda", "mps")),
            ("deconvolution", self.deconvolution, DECONVOLUTIONS),
        ):
            if value not in known:
                raise UsageError(f"Unknown {name} {value!r}; choose one of: {', '.join(known)}.")
