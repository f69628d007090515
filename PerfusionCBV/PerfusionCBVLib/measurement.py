"""One number that was measured on a region of a map, as tables, reports and DICOM objects take it."""

from __future__ import annotations

from dataclasses import dataclass


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
