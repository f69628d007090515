"""The Python packages that Slicer may lack: offered for installation when work first needs them, never at start-up."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.errors import PerfusionError

RESOURCES = Path(__file__).parents[2] / "Resources"


def missing_packages(*, torch: bool = False, dicom: bool = False) -> list[str]:
    """Return the requirements, as pip takes them, that Slicer's Python does not meet yet.

    Parameters
    ----------
    torch : bool
        Whether the work needs PyTorch: a network's map, or a simulation.
    dicom : bool
        Whether the work writes DICOM objects.
    """
    files = ["requirements.txt"]
    files += ["requirements-networks.txt"] if torch else []
    files += ["requirements-dicom.txt"] if dicom else []
    lines = [line.strip() for name in files for line in (RESOURCES / name).read_text("utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not _is_installed(line)]


def ensure_packages(*, torch: bool = False, dicom: bool = False) -> bool:
    """Offer to install what is missing; return whether the work can start.

    Raises
    ------
    PerfusionError
        The installation failed.
    """
    missing = missing_packages(torch=torch, dicom=dicom)
    if not missing:
        return True
    # The PyTorch extension picks the build that fits the computer's graphics card; pip alone does not.
    by_extension = [line for line in missing if line.startswith("torch") and hasattr(slicer.modules, "pytorchutils")]
    by_pip = [line for line in missing if line not in by_extension]
    try:
        if by_pip and not _install(by_pip):
            return False
        for line in by_extension:
            import PyTorchUtils

            PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, torchVersionRequirement=line.removeprefix("torch")
            )
    except subprocess.CalledProcessError as error:
        raise PerfusionError(
            f"{', '.join(missing)} could not be installed (pip ended with {error.returncode}). Check the connection to "
            "the internet and try again; the Python console shows what pip says."
        ) from error
    importlib.invalidate_caches()
    return not missing_packages(torch=torch, dicom=dicom)


def _install(requirements: list[str]) -> bool:
    """Ask, and install with pip; return whether the user agreed."""
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:  # Slicer 5.10
        question = _("Python packages that are not installed are needed: {packages}. Install them now?")
        if not slicer.util.confirmOkCancelDisplay(question.format(packages=", ".join(requirements))):
            return False
        slicer.util.pip_install(requirements)
        return True
    try:
        packaging.pip_ensure(requirements, requester="Perfusion CBV")
    except RuntimeError:  # the user declined
        return False
    return True


def _is_installed(requirement: str) -> bool:
    """Whether a `name>=version` requirement is met; releases are compared number by number."""
    name, minimum = requirement.split(">=")
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return _release(installed) >= _release(minimum)


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `2.6.0+cpu` gives (2, 6, 0)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()
