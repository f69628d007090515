"""Options that several commands share: how a map is made, and what a series may lack."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from PerfusionCBVLib.load_common import shown
from PerfusionCBVLib.settings import DECONVOLUTIONS, METHODS, Settings

DEVICES = ("auto", "cpu", "cuda", "mps")


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    """Return what argparse takes for an option's type: a number between two bounds, both included."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{shown(text)!r} is not {what}") from None
        if not low <= value <= high:  # not a number is not between them either
            raise argparse.ArgumentTypeError(f"{shown(text)} is not between {low:,g} and {high:,g}")
        return value

    return convert


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add the options for what an input may not carry."""
    parser.add_argument("--echo-time", type=float, metavar="SECONDS", help="where the input does not carry it")
    parser.add_argument("--repetition-time", type=float, metavar="SECONDS", help="where the input does not carry it")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `settings_of` reads."""
    parser.add_argument("--method", choices=METHODS, default=Settings.method, help="default: %(default)s")
    parser.add_argument("--normalize", choices=("nawm", "brain", "none"), default=Settings.normalize)
    parser.add_argument("--motion-correction", action="store_true", help="align every frame to the baseline first")
    parser.add_argument("--device", choices=DEVICES, default=Settings.device)
    parser.add_argument(
        "--deconvolution", choices=DECONVOLUTIONS, default=Settings.deconvolution, help="default: %(default)s"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings that a command line asks for."""
    return Settings(
        method=options.method,
        normalize=options.normalize,
        motion_correction=options.motion_correction,
        device=options.device,
        deconvolution=options.deconvolution,
    )
