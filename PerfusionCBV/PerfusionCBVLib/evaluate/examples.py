"""What plots show of a patient: some voxels of every map, and the slice where a network is worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from PerfusionCBVLib.evaluate.scores import nrmse
from PerfusionCBVLib.pictures import slice_view
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.settings import NETWORK_METHODS

VOXELS_SHOWN = 2000
"""Voxels a patient that scatter and Bland-Altman plots are made of."""

MINIMUM_SHARE = 0.25
"""Slices with less tissue than this share of the fullest one are not called the worst."""


def plot_arrays(
    results: Mapping[str, MapResult], truth: np.ndarray, tissue: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Return what is kept of one patient for the plots.

    Parameters
    ----------
    results : mapping of method to MapResult
    truth : (x, y, z) array
    tissue : (x, y, z) bool array
        Brain without large vessels.
    seed : int
        Of the choice of voxels.

    Returns
    -------
    dict of str to array
        ``voxels_truth`` and ``voxels_METHOD``, (n,) float32, the same voxels for all; for each network
        ``worst_METHOD``, (3, rows, columns) float16: truth, classical map and network, NaN outside the brain, of the
        slice with the largest NRMSE, patient's right at the left; ``worst_facts_METHOD``, (4,): the slice's number,
        NRMSE of the network, NRMSE of the classical map, height of a pixel over its width.
    """
    places = np.flatnonzero(tissue & np.isfinite(truth))
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(places, size=min(VOXELS_SHOWN, places.size), replace=False))
    found = {"voxels_truth": truth.ravel()[chosen].astype(np.float32)}
    for method, result in results.items():
        found[f"voxels_{method}"] = result.maps["rcbv"].values.ravel()[chosen].astype(np.float32)
        if method in NETWORK_METHODS:
            maps = (truth, result.maps["rcbv_classical"].values, result.maps["rcbv"].values)
            found[f"worst_{method}"], found[f"worst_facts_{method}"] = _worst(maps, tissue, result.series.affine)
    return found


def _worst(maps: Sequence[np.ndarray], tissue: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slice of truth, classical map and network in which the network is worst, and facts about it."""
    view = slice_view(affine, tissue, count=max(tissue.shape))
    inside = [np.where(tissue, values, np.float32(np.nan)) for values in maps]
    cases = []
    for index, number in zip(view.slices, view.numbers, strict=True):
        planes = np.stack([view.plane(values, index) for values in inside])
        defined = np.isfinite(planes).all(axis=0)
        if defined.any():
            classical, network = (nrmse(plane[defined], planes[0][defined]) for plane in planes[1:])
            cases.append((network, classical, number, int(defined.sum()), planes))
    fullest = max(count for *_, count, _ in cases)
    wide_enough = [case for case in cases if case[3] >= MINIMUM_SHARE * fullest]
    network, classical, number, _, planes = max(wide_enough, key=lambda case: case[0])
    there = np.isfinite(planes[0])
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    planes = planes[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = view.spacing_mm
    return planes.astype(np.float16), np.array([number, network, classical, height / width])
