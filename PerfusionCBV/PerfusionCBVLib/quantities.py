"""What maps are called and which codes say their quantity and unit, in Slicer and in DICOM objects alike."""

from __future__ import annotations

TITLES = {
    "rcbv": "rCBV",
    "rcbv_classical": "rCBV classical",
    "disagreement": "rCBV difference",
    "uncertainty": "rCBV uncertainty",
    "k1": "K1",
    "k2": "K2",
    "kep": "kep",
    "cbv": "CBV",
    "cbf": "CBF",
    "mtt": "MTT",
    "ttp": "TTP",
    "tmax": "Tmax",
    "delay": "delay",
    "cbv_network": "CBV of the network",
    "psr": "PSR",
}
"""By file stem; what is not named here is called by its stem in capitals."""

QUANTITIES = {
    "rcbv": ("126398", "DCM", "Relative Regional Blood Volume"),
    "kep": ("126313", "DCM", "kep"),
    "mtt": ("113052", "DCM", "Mean Transit Time"),
    "ttp": ("113069", "DCM", "Time To Peak"),
    "tmax": ("113084", "DCM", "Tmax"),
}
"""Code, scheme and meaning by file stem (PS3.16, CID 7180 and 4108), only where the standard has the very quantity."""

UNITS = {
    "{ratio}": "ratio",
    "1": "no units",
    "1/s": "per second",
    "s": "second",
    "%": "percent",
    "ml": "milliliter",
    "mm2": "square millimeter",
    "ml/(100.g)": "milliliter per 100 gram",
    "ml/(100.g)/min": "milliliter per 100 gram and minute",
}
"""Meaning of a UCUM code."""


def title(name: str) -> str:
    """Return what to call a map, by its file stem."""
    return TITLES.get(name, name.upper())


def unit_meaning(unit: str) -> str:
    """Return the meaning of a UCUM code; the code itself where it is not one of ours."""
    return UNITS.get(unit, unit)
