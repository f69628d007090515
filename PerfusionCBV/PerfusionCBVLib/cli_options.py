"""Options that several commands share: how a map is made, and what a series may lack."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from PerfusionCBVLib.load_common import shown
from PerfusionCBVLib.settings import DECONVOLUTIONS, METHODS, Settings

PAGE_SUFFIXES = (".pdf", ".html")
LONGEST_PATH_BYTES, LONGEST_NAME_BYTES = 4000, 255
MOST_WORKERS = 10_000
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


def text(value: str) -> str:
    """Return what argparse takes for an option that names something: not nothing, as an unset variable of a shell does.

    "" as a path would be the current folder, and any series in it.
    """
    too_long = len(os.fsencode(value)) > LONGEST_PATH_BYTES
    too_long |= any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in Path(value).parts)
    if not value.strip() or "\0" in value:
        raise argparse.ArgumentTypeError("it is empty. Name a file or folder")
    if too_long:
        raise argparse.ArgumentTypeError("no file or folder can have so long a name")
    return value


def path(value: str) -> Path:
    """Return what argparse takes for an option's file or folder."""
    return Path(text(value))


def output_folder(value: str) -> Path:
    """Return what argparse takes for a folder to write into, so that no work is done for one that can't be."""
    folder = path(value)
    found = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not found.is_dir():
        raise argparse.ArgumentTypeError(f"{found} is a file. Name a folder")
    if not os.access(found, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"nothing may be written into {found}. Name another folder")
    return folder


def page_file(value: str) -> Path:
    """Return what argparse takes for a page to write."""
    page = path(value)
    if page.suffix not in PAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{page.name} ends neither in {' nor in '.join(PAGE_SUFFIXES)}")
    if page.is_dir():
        raise argparse.ArgumentTypeError(f"{page} is a folder. Name a file")
    output_folder(str(page.parent))
    return page


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
