"""Two dates of one patient: registered to each other, on one scale, their difference and what changed where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from PerfusionCBVLib.alignment.quality import measure_quality
from PerfusionCBVLib.alignment.region_shares import DrawnRegions, share_on
from PerfusionCBVLib.alignment.registration import Registration, register, registration_of
from PerfusionCBVLib.alignment.resampling import resample, segment_share
from PerfusionCBVLib.alignment.rigid import inverse
from PerfusionCBVLib.alignment.volume import Volume, baseline_volume
from PerfusionCBVLib.errors import QualityError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.measures.regions import DrawnRegion
from PerfusionCBVLib.measures.weighted import weighted_mean
from PerfusionCBVLib.progress import Progress, part, silent
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.stored import StoredResult

Scale = Literal["own", "later", "earlier"]
RATIO = "{ratio}"
WHOLE_BRAIN = "whole brain"
LEAST_COVERED = 0.9
"""Share of a region that must have a value at both dates; below, a warning says so."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two dates of one patient on the later one's grid.

    Attributes
    ----------
    registration : Registration
        Of the earlier series to the later one.
    through_anatomy : tuple of Registration
        Of the earlier and of the later series to the anatomy, where one was given.
    earlier, later, difference : ParameterMap
        rCBV on the later's grid and on one scale; the difference is later minus earlier.
    scale : str
        ``own``: each over its own reference region; ``later`` or ``earlier``: both over that date's region.
    changes : tuple of Measurement
        For each region: volume, mean before, mean after, change, change in per cent. Means are taken on native grids.
    earlier_result, later_result : StoredResult
        What was compared.
    findings : tuple of Finding
    provenance : dict
    """

    registration: Registration
    through_anatomy: tuple[Registration, ...]
    earlier: ParameterMap
    later: ParameterMap
    difference: ParameterMap
    scale: Scale
    changes: tuple[Measurement, ...]
    earlier_result: StoredResult
    later_result: StoredResult
    findings: tuple[Finding, ...]
    provenance: dict[str, Any]


def compare(
    earlier: StoredResult,
    later: StoredResult,
    *,
    anatomy: Volume | None = None,
    regions: DrawnRegions | None = None,
    scale: Scale = "own",
    progress: Progress = silent,
) -> Comparison:
    """Return how rCBV changed between two dates.

    Parameters
    ----------
    earlier, later : StoredResult
        Of one patient.
    anatomy : Volume, optional
        Both dates are registered to it instead of directly to each other.
    regions : DrawnRegions, optional
        In the later series' space or in the anatomy's.
    scale : "own", "later" or "earlier"
        Leave each map over its own reference region, or divide both by their mean in one date's region, carried over by
        the registration: then both have the same tissue as 1.
    progress : callable (fraction, message), optional
        May raise `Cancelled`, which passes through.

    Raises
    ------
    QualityError
        The maps can't be brought on one scale; nothing overlaps.
    UsageError
        The regions were drawn on an anatomy that is not given.
    """
    if regions is not None and regions.on_anatomy and anatomy is None:
        raise UsageError("The regions were drawn on an anatomical volume; give it, too.")
    before, after = date_volume(earlier, "earlier"), date_volume(later, "later")
    findings = list(_comparable(earlier, later, scale))
    registration, through = _registered(earlier, later, before, after, anatomy, part(progress, 0.0, 0.8))
    for one in (registration, *through):
        findings += one.findings
    progress(0.8, "Bringing both maps on one scale")
    matrix = registration.matrix
    native_before = np.where(earlier.mask, earlier.maps["rcbv"].values, np.float32(np.nan))
    native_after = np.where(later.mask, later.maps["rcbv"].values, np.float32(np.nan))
    levels = _levels(earlier, later, native_before, native_after, matrix, scale)
    native_before, native_after = native_before / np.float32(levels[0]), native_after / np.float32(levels[1])
    unit = later.maps["rcbv"].unit if scale == "own" else RATIO

    progress(0.85, "Moving the earlier map onto the later")
    shape = native_after.shape
    moved = resample(native_before, earlier.affine, shape, later.affine, matrix)
    named = {}
    for name, values, words in (
        ("earlier", moved, "rCBV of the earlier date, on the later one's grid"),
        ("later", native_after, "rCBV of the later date"),
        ("difference", native_after - moved, "rCBV, later minus earlier"),
    ):
        named[name] = ParameterMap(name, values, later.affine, unit, words)
    if not np.isfinite(named["difference"].values).any():
        raise QualityError(
            "No voxel has a value at both dates, so nothing can be compared. Look at the registration and the maps."
        )
    progress(0.9, "Measuring regions")
    common = DrawnRegion(WHOLE_BRAIN, np.isfinite(named["difference"].values), later.affine)
    drawn = () if regions is None else regions.regions
    changes: list[Measurement] = []
    for region, to_region in ((common, None), *((each, _to_regions(regions, through)) for each in drawn)):
        share_after = share_on(region, shape, later.affine, to_region)
        to_region_before = matrix if to_region is None else to_region @ matrix
        share_before = share_on(region, native_before.shape, earlier.affine, to_region_before)
        found, remarks = _change(
            region.name, native_before, share_before, native_after, share_after, later.affine, unit
        )
        changes += found
        findings += remarks
    progress(1.0, "Compared")
    return Comparison(
        registration=registration,
        through_anatomy=through,
        earlier=named["earlier"],
        later=named["later"],
        difference=named["difference"],
        scale=scale,
        changes=tuple(changes),
        earlier_result=earlier,
        later_result=later,
        findings=tuple(findings),
        provenance={
            "scale": {"reference_region": scale, "earlier_divided_by": levels[0], "later_divided_by": levels[1]},
            "earlier": _origin(earlier),
            "later": _origin(later),
            "anatomy": None if anatomy is None else {"name": anatomy.name, "sha256": dict(anatomy.input_sha256)},
            "regions": None if regions is None else dict(regions.source),
            "registration": registration.as_dict(),
            "through_anatomy": [one.as_dict() for one in through],
        },
    )


def date_volume(result: StoredResult, date: str) -> Volume:
    """Return the baseline image of one date, named by it."""
    return baseline_volume(result, f"{date} DSC baseline")


def _comparable(earlier: StoredResult, later: StoredResult, scale: Scale) -> tuple[Finding, ...]:
    """Return warnings where the maps differ in kind; refuse what has no scale in common."""
    for result, date in ((earlier, "earlier"), (later, "later")):
        if "rcbv" not in result.maps:
            raise QualityError(f"The {date} result holds no rCBV map. Give two folders that `map` wrote.")
    units = [r.maps["rcbv"].unit for r in (earlier, later)]
    kinds = [str(r.provenance.get("reference", {}).get("kind", "unknown")) for r in (earlier, later)]
    if scale == "own" and (units[0] != units[1] or units[0] != RATIO or "none" in kinds or "unknown" in kinds):
        raise QualityError(
            f"The maps have no scale in common: the earlier one's unit is {units[0]!r} with reference {kinds[0]!r}, "
            f"the later one's {units[1]!r} with {kinds[1]!r}. Make both with a reference region, or divide both by the "
            "same one (--scale later)."
        )
    findings = []
    if scale == "own" and kinds[0] != kinds[1]:
        findings.append(
            Finding(
                "reference-differs",
                "warning",
                f"A value of 1 means another tissue at each date: {kinds[0]!r} earlier, {kinds[1]!r} later.",
                "Divide both by the same region (--scale later), or make both maps with the same kind of reference.",
            )
        )
    methods = [str(r.provenance["settings"].get("method", "unknown")) for r in (earlier, later)]
    if methods[0] != methods[1]:
        findings.append(
            Finding(
                "method-differs",
                "warning",
                f"The maps were made by different methods: {methods[0]} earlier, {methods[1]} later.",
                "Part of the change may be the method's. Make both maps with one method.",
            )
        )
    return tuple(findings)


def _registered(
    earlier: StoredResult,
    later: StoredResult,
    before: Volume,
    after: Volume,
    anatomy: Volume | None,
    progress: Progress,
) -> tuple[Registration, tuple[Registration, ...]]:
    """Return the registration of the earlier to the later series, and those to the anatomy that it is made of."""
    if anatomy is None:
        return register(before, earlier.mask, after, progress), ()
    one = register(before, earlier.mask, anatomy, part(progress, 0.0, 0.5))
    other = register(after, later.mask, anatomy, part(progress, 0.5, 1.0))
    matrix = inverse(other.matrix) @ one.matrix
    quality = measure_quality(before, earlier.mask, after, matrix)
    return registration_of(matrix, before, earlier.mask, after, quality, f"through {anatomy.name}"), (one, other)


def _levels(
    earlier: StoredResult,
    later: StoredResult,
    before: np.ndarray,
    after: np.ndarray,
    matrix: np.ndarray,
    scale: Scale,
) -> tuple[float, float]:
    """Return what the two native maps are divided by."""
    if scale == "own":
        return 1.0, 1.0
    source = later if scale == "later" else earlier
    if source.reference is None:
        raise QualityError(
            f"The {scale} result has no reference region to carry over. Make maps with one, or choose the other date's."
        )
    region = source.reference.astype(np.float32)
    if scale == "later":
        shares = segment_share(source.reference, later.affine, before.shape, earlier.affine, matrix), region
    else:
        shares = region, segment_share(source.reference, earlier.affine, after.shape, later.affine, inverse(matrix))
    voxels_ml = [float(abs(np.linalg.det(r.affine[:3, :3]))) / 1000 for r in (earlier, later)]
    wanted_ml = float(source.reference.sum()) * voxels_ml[0 if scale == "earlier" else 1]
    levels = []
    for values, share, voxel_ml, date in zip((before, after), shares, voxels_ml, ("earlier", "later"), strict=True):
        covered = float(share[np.isfinite(values)].sum()) * voxel_ml / wanted_ml
        level = mean_over(values, share)
        if covered < 0.5 or not level > 0:
            raise QualityError(
                f"Only {covered:.0%} of the {scale} date's reference region has a value at the {date} date (mean "
                f"{level:.3g}), so it can't serve for both. Choose the other date's region or `own`."
            )
        levels.append(level)
    return levels[0], levels[1]


def mean_over(values: np.ndarray, share: np.ndarray) -> float:
    """Return the mean of a map over a region given as share of each voxel; NaN where no voxel has a value.

    Parameters
    ----------
    values : (x, y, z) array
        NaN where undefined.
    share : (x, y, z) array
        0 to 1, see `resampling.segment_share`.
    """
    known = np.isfinite(values) & (share > 0)
    if not known.any():
        return float("nan")
    return weighted_mean(values[known].astype(np.float64), share[known].astype(np.float64))


def _to_regions(regions: DrawnRegions | None, through: tuple[Registration, ...]) -> np.ndarray | None:
    """Return the transform from the later series' space to the regions'; None where it is one space."""
    return through[1].matrix if regions is not None and regions.on_anatomy else None


def _change(
    name: str,
    before: np.ndarray,
    share_before: np.ndarray,
    after: np.ndarray,
    share_after: np.ndarray,
    affine: np.ndarray,
    unit: str,
) -> tuple[list[Measurement], list[Finding]]:
    """Return a region's change, and a warning where part of it has no value at one date."""
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    one, other = mean_over(before, share_before), mean_over(after, share_after)
    per_cent = 100 * (other - one) / one if one > 0 else float("nan")
    rows = [
        Measurement(name, "volume", "Volume", float(share_after.sum(dtype=np.float64)) * voxel_ml, "ml"),
        Measurement(name, "rcbv_mean_before", "Mean rCBV before", one, unit),
        Measurement(name, "rcbv_mean_after", "Mean rCBV after", other, unit),
        Measurement(name, "rcbv_mean_change", "Change of mean rCBV", other - one, unit),
        Measurement(name, "rcbv_mean_change_percent", "Change of mean rCBV", per_cent, "%"),
    ]
    remarks = []
    for values, share, date in ((before, share_before, "earlier"), (after, share_after, "later")):
        total = float(share.sum(dtype=np.float64))
        covered = float(share[np.isfinite(values)].sum(dtype=np.float64)) / total if total > 0 else 0.0
        if covered < LEAST_COVERED:
            remarks.append(
                Finding(
                    "region-uncovered",
                    "warning",
                    f"{covered:.0%} of {name} has a value at the {date} date; the mean is of that part.",
                    "Compare only what both dates show.",
                    round(covered, 3),
                )
            )
    return rows, remarks


def _origin(result: StoredResult) -> dict[str, Any]:
    keys = ("version", "settings", "input", "reference", "network")
    return {"folder": result.origin, **{key: result.provenance.get(key) for key in keys}}
