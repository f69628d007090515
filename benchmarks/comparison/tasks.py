"""What is asked, and of whom: the list of all contenders. Adding one is a function and a line here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

OURS = "PerfusionCBV"


@dataclass(frozen=True)
class Task:
    """One quantity that is computed from the same input by everyone.

    Attributes
    ----------
    title, given : str
        What comes out, and what goes in; for the page.
    truth : "rcbv" or "rcbf"
        Of the case, what maps are scored against.
    """

    title: str
    given: str
    truth: str


TASKS = {
    "volume": Task(
        "rCBV, no leakage correction",
        "signal, mask, echo time, baseline frames, first-pass frames, reference region",
        "rcbv",
    ),
    "leakage": Task(
        "rCBV, leakage corrected",
        "ΔR2* of the mask's voxels, which of them do not leak, frames, reference region",
        "rcbv",
    ),
    "ssvd": Task("rCBF, truncated SVD", "ΔR2*, the true arterial curve, threshold 0.2, reference region", "rcbf"),
    "osvd": Task("rCBF, oSVD", "ΔR2*, the true arterial curve, oscillation limit 0.035, reference region", "rcbf"),
    "path": Task(
        "rCBV with CBF, MTT and delay, in one call",
        "series, mask, the true arterial curve, reference region; to osipy also the baseline frames",
        "rcbv",
    ),
}


@dataclass(frozen=True)
class Contender:
    """One answer to a task.

    Attributes
    ----------
    task : str
        Key of `TASKS`.
    name : str
        For table and plot; unique within the task.
    package : str
        Distribution that must be installed; ours and numpy always are.
    function : str
        ``module.function`` in this folder; takes a `Case`, returns an (x, y, z) map over its reference region's mean.
    note : str
        How it was called, where that is not obvious.
    """

    task: str
    name: str
    package: str
    function: str
    note: str = ""

    @property
    def key(self) -> str:
        """One word for the child process."""
        return f"{self.task}:{self.name}"

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return self.package == OURS or importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Of the package."""
        return importlib.metadata.version(self.package)


CONTENDERS = (
    Contender("volume", OURS, OURS, "with_perfusioncbv.volume", "delta_r2s and area"),
    Contender("volume", "osipy", "osipy", "with_osipy.volume", "signal_to_delta_r2 and compute_cbv on the window"),
    Contender(
        "volume", "dcmri", "dcmri", "with_dcmri.volume", "conc_t2w a voxel (it takes one curve), scipy's trapezoid"
    ),
    Contender("volume", "numpy at once", "numpy", "with_numpy.volume"),
    Contender("volume", "voxel loop", "numpy", "with_loop.volume"),
    Contender("leakage", OURS, OURS, "with_perfusioncbv.leakage", "correct_unidirectional; also standard errors"),
    Contender(
        "leakage",
        "osipy, set to BSW",
        "osipy",
        "with_osipy.leakage_bsw",
        "correct_leakage with the leak-free mean in place of the arterial curve, use_t1_correction off",
    ),
    Contender(
        "leakage",
        "osipy, as it comes",
        "osipy",
        "with_osipy.leakage_default",
        "correct_leakage with the arterial curve and its own choice of reference tissue",
    ),
    Contender("leakage", "numpy at once", "numpy", "with_numpy.leakage", "one lstsq for all voxels"),
    Contender("leakage", "voxel loop", "numpy", "with_loop.leakage", "one lstsq a voxel"),
    Contender("ssvd", OURS, OURS, "with_perfusioncbv.ssvd", "Deconvolver and residue_times; also Tmax and delay"),
    Contender("ssvd", "osipy", "osipy", "with_osipy.ssvd", "get_deconvolver('sSVD'); also MTT and delay"),
    Contender("ssvd", "dcmri, order 1", "dcmri", "with_dcmri.ssvd", "deconv, the same matrix as ours"),
    Contender("ssvd", "dcmri, order 2", "dcmri", "with_dcmri.ssvd_second_order", "deconv, its default matrix"),
    Contender("ssvd", "numpy at once", "numpy", "with_numpy.ssvd"),
    Contender("ssvd", "voxel loop", "numpy", "with_loop.ssvd", "the matrix inverted once"),
    Contender("osvd", OURS, OURS, "with_perfusioncbv.osvd", "Deconvolver and residue_times; also Tmax and delay"),
    Contender("osvd", "osipy", "osipy", "with_osipy.osvd", "get_deconvolver('oSVD'); also MTT and delay"),
    Contender(
        "osvd", "numpy at once", "numpy", "with_numpy.osvd", "a threshold after the other, the voxels left at once"
    ),
    Contender("osvd", "voxel loop", "numpy", "with_loop.osvd", "the matrix decomposed once"),
    Contender(
        "path", f"{OURS}, bsw", OURS, "with_perfusioncbv.path_bsw", "compute_maps; finds frames, checks the series"
    ),
    Contender(
        "path", f"{OURS}, anchored-unet", "torch", "with_perfusioncbv.path_network", "compute_maps, on the processor"
    ),
    Contender("path", "osipy", "osipy", "with_osipy.path", "DSCPipeline as it comes"),
    Contender("path", "osipy, no leakage correction", "osipy", "with_osipy.path_uncorrected", "DSCPipeline"),
)


def contender(key: str) -> Contender:
    """Return the contender with a key."""
    return next(each for each in CONTENDERS if each.key == key)


def measured_against(task: str) -> str:
    """Return the name of the contender whose time and memory are 1 in a task: the first of it, ours."""
    return next(each.name for each in CONTENDERS if each.task == task)
