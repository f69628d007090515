"""Options that several commands share: how a map is made, and what a series may lack."""

from __future__ import annotations

import argparse

from PerfusionCBVLib.settings import DECONVOLUTIONS, METHODS, Settings


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add the options for what an input may not carry."""
    parser.add_argument("--echo-time", type=float, metavar="SECONDS", help="where the input does not carry it")
    parser.add_argument("--repetition-time", type=float, metavar="SECONDS", help="where the input does not carry it")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `settings_of` reads."""
    parser.add_argument("--method", choices=METHODS, default=Settings.method, help="default: %(default)s")
    parser.add_argument("--normalize", choices=("nawm", "brain", "none"), default=Settings.normalize)
    parser.add_argument("--motion-correction", action="store_true", help="align every frame to the baseline first")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default=Settings.device)
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
