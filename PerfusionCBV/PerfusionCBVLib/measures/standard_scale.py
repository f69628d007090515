"""rCBV on a fixed scale, without a reference region: the brain's percentiles are brought to standard ones.

The idea is Bedekar et al. 2010 (Magn Reson Med 64:907), who standardise rCBV maps as Nyúl and Udupa (1999, Magn Reson
Med 42:1072) do intensities. The landmarks of their scale are not known to us, so this is **not** their scale nor a
vendor's, and numbers from it can't be compared with published standardised rCBV. Ours is defined by the landmarks in
``standard_scale.json``: the mean percentiles of the true rCBV in the brains of simulated patients, so that a value
reads as rCBV relative to the white matter of their average. Being a change of the histogram, it follows the amount of
grey matter, fluid and tumour in the field of view as well as blood volume.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import numpy as np

from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.series import ParameterMap


@cache
def standard_landmarks() -> tuple[np.ndarray, np.ndarray]:
    """Return the percentiles, per cent, and what rCBV is at them on the standard scale, both (L,)."""
    text = resources.files(__package__).joinpath("standard_scale.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return np.array(content["percentiles"], dtype=np.float64), np.array(content["landmarks"], dtype=np.float64)


def standardise(rcbv: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return rCBV on this program's standard scale; any positive factor on the map cancels out.

    Linear between landmarks; beyond the outermost by the line from the middle landmark to the outermost one, which
    noise moves less than the last piece alone.

    Parameters
    ----------
    rcbv : (x, y, z) array
        Normalised or not, NaN where undefined.
    mask : (x, y, z) bool array
        Brain.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    GeometryError
        Map and mask are not on one grid.
    QualityError
        The brain has too few different values.
    """
    if mask.shape != rcbv.shape:
        raise GeometryError(f"The mask has the grid {mask.shape}, the map {rcbv.shape}; they must be the same.")
    percent, standard = standard_landmarks()
    values = rcbv[mask & np.isfinite(rcbv)]
    own = np.percentile(values, percent).astype(np.float64) if values.size else np.zeros(percent.size)
    if not (np.diff(own) > 0).all():
        raise QualityError(
            f"The brain has {values.size} values of rCBV, too few different ones for a standard scale. Check the map."
        )
    middle = percent.size // 2
    out = np.interp(rcbv, own, standard)
    for end, beyond in ((0, rcbv < own[0]), (-1, rcbv > own[-1])):
        slope = (standard[end] - standard[middle]) / (own[end] - own[middle])
        out = np.where(beyond, standard[end] + slope * (rcbv - own[end]), out)
    return np.where(np.isfinite(rcbv), out, np.nan).astype(np.float32)


def standard_map(rcbv: ParameterMap, mask: np.ndarray) -> ParameterMap:
    """Return the map ``srcbv``; see `standardise`."""
    description = "rCBV on PerfusionCBV's standard scale (not a published or vendor's one)"
    return ParameterMap("srcbv", standardise(rcbv.values, mask), rcbv.affine, "{ratio}", description)
