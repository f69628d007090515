"""How an rCBV map's errors hang together, so that the error of a mean is not taken for that of independent voxels.

A network's ``uncertainty`` map is the standard deviation of each voxel by itself. Part of that error is one for all
voxels of a tissue: the level of the reference region and the kinetics (a share of rCBV), and what the leakage model
gets wrong (a share of the leakage that it took out, which is K2 times a constant of the series). Those don't average
out at all. The rest does, but slowly: neighbours have the same noise after filtering and the network's averaging, and
the same delay and transit time. Its correlation is taken to fall with the distance d as exp(−d / 3 mm).

Standard errors come from copies of the map with such errors added: what is measured on each copy scatters by its error,
for a mean, a percentile, a class of fractional burden or a hot spot alike. A region and its mirror image get shared
parts of their own: the kinetics of a tumour are not those of the tissue across, and their ratio would seem too exact if
they cancelled (on simulated patients the truth then lay within 1.96 standard errors in 61 % of tumours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.errors import GeometryError

CORRELATION_MM = 3.0
"""Distance over which the correlation of neighbours falls to 1/e.

On 16 simulated patients at SNR 50 (`python Testing/measure_accuracy.py 16`), normal tissue and tumour: 0.35 and 0.42 at
2.5 mm, 0.15 to 0.25 at 5 mm in plane and across slices, 0.06 to 0.10 at 10 mm. exp(−d / 3 mm) is 0.43, 0.19 and 0.04.
"""

COPIES = 100
"""Gives a standard error to 7 % of itself."""

_SEED = 20261122
_REACH = 3.0  # in SD of the filter


@dataclass(frozen=True)
class SharedErrors:
    """The parts of a network's uncertainty that are one error for the whole map.

    Attributes
    ----------
    scale : float
        Standard deviation as a share of rCBV.
    leakage_s : float, s
        Standard deviation over K2 (1/s): share of the corrected leakage that is uncertain, times leakage over K2.
    """

    scale: float
    leakage_s: float


def shared_errors(provenance: Mapping[str, Any]) -> SharedErrors | None:
    """Return what a result's provenance says of its shared errors; None where it has none to say."""
    found = provenance.get("uncertainty")
    return None if found is None else SharedErrors(float(found["scale"]), float(found["leakage_s"]))


def noisy_copies(
    rcbv: np.ndarray,
    inside: np.ndarray,
    uncertainty: np.ndarray,
    k2: np.ndarray,
    shared: SharedErrors,
    affine: np.ndarray,
    *,
    stream: int = 0,
) -> Iterator[np.ndarray]:
    """Yield the (V,) values of some voxels with errors added, `COPIES` times; the same ones in every run.

    Parameters
    ----------
    rcbv, uncertainty, k2 : (x, y, z) arrays
        A map, the standard deviation of each voxel of it, and its leakage, 1/s; finite where `inside`.
    inside : (x, y, z) bool array
        The V voxels.
    shared : SharedErrors
    affine : (4, 4) array
        Voxel index to RAS, mm.
    stream : int
        Another number gives other errors, independent of these.

    Raises
    ------
    GeometryError
        The arrays are not on one grid.
    """
    for name, array in (("region", inside), ("uncertainty", uncertainty), ("K2", k2)):
        if array.shape != rcbv.shape:
            raise GeometryError(f"The {name} has the grid {array.shape}, the map {rcbv.shape}; they must be the same.")
    values, leakage = rcbv[inside].astype(np.float64), shared.leakage_s * k2[inside].astype(np.float64)
    scale = shared.scale * values
    own = np.sqrt(np.maximum(uncertainty[inside].astype(np.float64) ** 2 - scale**2 - leakage**2, 0.0))
    # A Gaussian filter of this width gives noise whose correlation has the integral of exp(−d / length).
    sigma = CORRELATION_MM * np.pi ** (-1 / 6) / np.linalg.norm(affine[:3, :3], axis=0)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margin = [(round(_REACH * s + 0.5),) * 2 for s in sigma]
    here = np.pad(inside[box], margin)
    energy = float(np.prod([_energy(s) for s in sigma]))
    g = np.random.default_rng([_SEED, stream])
    for _ in range(COPIES):
        common, leak = g.standard_normal(2)
        noise = ndimage.gaussian_filter(
            g.standard_normal(here.shape, dtype=np.float32), sigma, mode="constant", truncate=_REACH
        )
        yield values + common * scale + leak * leakage + own * noise[here] / np.sqrt(energy)


def _energy(sigma: float) -> float:
    """Return by how much the filter lowers the variance of white noise along one axis."""
    reach = round(_REACH * sigma + 0.5)
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1.0
    return float(np.sum(ndimage.gaussian_filter1d(impulse, sigma, mode="constant", truncate=_REACH) ** 2))
