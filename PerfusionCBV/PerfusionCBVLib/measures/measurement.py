"""One number that was measured on a region of a map, as tables, reports and DICOM objects take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEY_MEASURES = (
    "volume",
    "rcbv_mean",
    "rcbv_median",
    "rcbv_p95",
    "rcbv_hot_spot",
    "ftb_low",
    "ftb_middle",
    "ftb_high",
    "rcbv_over_mirror",
    "psr_mean",
    "k2_mean",
)
"""What a reader wants first; tables and files have everything."""


@dataclass(frozen=True)
class Measurement:
    """A named number with its unit.

    Attributes
    ----------
    region : str
        Name of the segment or label that it was measured on.
    name : str
        For files: ``rcbv_mean``, ``rcbv_p90``, ``ftb_high``, ``psr_mean``, …
    title : str
        For readers: "Mean rCBV".
    value : float
        NaN where the region has no voxel with a value.
    unit : str
        UCUM: ``{ratio}``, ``1/s``, ``%``, ``ml``.
    standard_error : float or None
        None where nothing is known about it.
    """

    region: str
    name: str
    title: str
    value: float
    unit: str
    standard_error: float | None = None


def key_measurements(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Return those of `KEY_MEASURES`, in that order."""
    return tuple(each for name in KEY_MEASURES for each in measurements if each.name == name)
