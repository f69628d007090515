"""Numbers of a region: mean, percentiles, fractional tumour burden, hot spot and more, with their standard errors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.errors import GeometryError, QualityError, UsageError
from PerfusionCBVLib.measures.hot_spot import DiscPlaces, disc_places, require_area
from PerfusionCBVLib.measures.map_errors import noisy_copies, shared_errors
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.measures.mirror import mirror_region
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.measures.standard_scale import standard_map
from PerfusionCBVLib.measures.weighted import weighted_class_shares, weighted_mean, weighted_percentiles, weighted_sd
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.series import ParameterMap

if TYPE_CHECKING:
    from PerfusionCBVLib.pictures import AnyResult

PERCENTILES = (10, 25, 75, 90, 95)
HISTOGRAM_STEP, HISTOGRAM_TOP = 0.1, 6.0
FEW_VOXELS = 20
"""Below this many voxels a note says that percentiles and classes of burden stand on little."""

WITHOUT_VALUE = 0.05
"""Share of a region without a value from which a note says so."""

SATURATED = 0.02
"""Share of a region whose signal reaches the noise floor from which a note says so."""

_OTHER_MAPS = {"k2": "leakage K2", "psr": "percentage signal recovery", "srcbv": "standardised rCBV"}


@dataclass(frozen=True)
class MeasureSettings:
    """What a user may choose about measures.

    Parameters
    ----------
    hot_spot_area_mm2 : float
        Area of the circular region of interest whose highest mean is reported. A convention: publications use some 20
        to 60 mm², and what two people compare must have the same.
    cut_offs : (low, high)
        Of fractional tumour burden, in rCBV relative to normal-appearing white matter: ≤ low, between, ≥ high. The
        default is of Hu et al. 2012 and Iv et al. 2019.

    Raises
    ------
    UsageError
    """

    hot_spot_area_mm2: float = 40.0
    cut_offs: tuple[float, float] = (1.0, 1.75)

    def __post_init__(self) -> None:
        require_area(self.hot_spot_area_mm2)
        if len(self.cut_offs) != 2 or not 0 < self.cut_offs[0] < self.cut_offs[1] < float("inf"):
            raise UsageError(
                f"The cut-offs are {', '.join(f'{c:g}' for c in self.cut_offs)}; two rising values above 0 are needed, "
                "for example 1.0,1.75."
            )


@dataclass(frozen=True, eq=False)
class Histogram:
    """How a region's rCBV is distributed.

    Attributes
    ----------
    edges : (B + 1,) array
        Of the bins.
    percent : (B,) array
        Share of the region's volume with a value, in each bin; a value on an edge belongs to the bin above it.
    below, above : float
        Per cent outside all bins. With `percent` they sum to 100.
    """

    edges: np.ndarray
    percent: np.ndarray
    below: float
    above: float


@dataclass(frozen=True, eq=False)
class RegionMeasures:
    """What was measured on a region.

    Attributes
    ----------
    region : Region
    measurements : tuple of Measurement
    histogram : Histogram or None
        None for a map that is relative to nothing, and where no voxel has a value.
    hot_spot : (x, y, z) bool array
        The voxels that the hottest disc touches; none where it fits nowhere.
    mirror : (x, y, z) bool array or None
        As it was given.
    notes : tuple of str
        What a reader must know beside the numbers.
    """

    region: Region
    measurements: tuple[Measurement, ...]
    histogram: Histogram | None
    hot_spot: np.ndarray
    mirror: np.ndarray | None
    notes: tuple[str, ...]


def measure_regions(
    regions: Sequence[Region],
    result: AnyResult,
    settings: MeasureSettings | None = None,
    *,
    mirrors: bool = False,
    progress: Progress = silent,
) -> tuple[RegionMeasures, ...]:
    """Return the measures of every region of a result, standardised rCBV among them.

    Parameters
    ----------
    regions : sequence of Region
    result : MapResult or StoredResult
    settings : MeasureSettings, optional
    mirrors : bool
        Compare each region with its mirror image in the brain. Where there is none (the region crosses the midline, or
        its image leaves the brain), a note says so and the rows are missing.
    progress : callable (fraction, message), optional
        May raise `Cancelled`, which passes through.

    Raises
    ------
    GeometryError
        Regions and maps are not on one grid.
    QualityError
        The map has too few values for a standard scale.
    """
    rcbv = result.maps["rcbv"]
    maps = {**result.maps, "srcbv": standard_map(rcbv, result.mask)}
    measured = []
    for i, region in enumerate(regions):
        progress(i / len(regions), f"Measuring {region.name}")
        mirror: np.ndarray | None = None
        notes: tuple[str, ...] = ()
        if mirrors:
            _require_one_grid(region, maps, None)
            try:
                mirror = mirror_region(region, rcbv=rcbv.values, mask=result.mask, affine=rcbv.affine)
            except QualityError as error:
                notes = (str(error),)
        found = measure_region(region, maps, result.provenance, settings, mirror=mirror)
        notes += _saturation(found, result.status == Status.SATURATED)
        measured.append(replace(found, notes=(*found.notes, *notes)))
    progress(1.0, "Measured")
    return tuple(measured)


def measure_region(
    region: Region,
    maps: Mapping[str, ParameterMap],
    provenance: Mapping[str, Any],
    settings: MeasureSettings | None = None,
    *,
    mirror: np.ndarray | None = None,
) -> RegionMeasures:
    """Return the measures of a region.

    Voxels count by the share of them that belongs to the region; those without a value are left out of everything but
    the volume. Fractional tumour burden is in per cent of the volume that has a value. The hot spot is looked for where
    half or more of each voxel belongs to the region.

    Standard errors are given where the maps hold an ``uncertainty``, for what is measured on rCBV; see `map_errors`.
    They don't hold the error of drawing the region, nor what noise adds to every maximum. The standard deviation
    between voxels has none: noise widens it and a network's averaging narrows it, which is no scatter.

    Parameters
    ----------
    region : Region
    maps : mapping of str to ParameterMap
        ``rcbv``, and what there is of ``uncertainty``, ``k2``, ``psr``, ``srcbv``: `MapResult.maps`, or those of
        `stored.read_result`.
    provenance : mapping
        Of the same result: what rCBV is relative to, and the shared part of its error.
    settings : MeasureSettings, optional
    mirror : (x, y, z) bool array, optional
        The reference on the other side, from `mirror.mirror_region`: its mean and the ratio to it are measured too.

    Returns
    -------
    RegionMeasures

    Raises
    ------
    GeometryError
        Region and maps are not on one grid.
    """
    settings = settings or MeasureSettings()
    rcbv = maps["rcbv"]
    _require_one_grid(region, maps, mirror)
    kind = provenance["reference"]["kind"]
    inside = (region.share > 0) & np.isfinite(rcbv.values)
    weights = region.share[inside].astype(np.float64)
    values = rcbv.values[inside].astype(np.float64)
    places = disc_places(inside & region.mostly, rcbv.affine, settings.hot_spot_area_mm2)
    in_disc = region.mostly[inside]
    opposite = None if mirror is None else mirror & np.isfinite(rcbv.values)

    def statistics(of: np.ndarray, across: np.ndarray | None) -> dict[str, float]:
        return _rcbv_statistics(of, weights, places, in_disc, across, settings, kind)

    across = None if opposite is None else rcbv.values[opposite].astype(np.float64)
    found = statistics(values, across)
    errors = _standard_errors(statistics, inside, opposite, maps, provenance, found)
    rows = _volumes(region, inside, rcbv.affine)
    titles = _titles(settings)
    for name, value in found.items():
        unit = "%" if name.startswith("ftb_") else "{ratio}" if name == "rcbv_over_mirror" else rcbv.unit
        rows.append(Measurement(region.name, name, titles[name], value, unit, errors.get(name)))
    for name, words in _OTHER_MAPS.items():
        if name in maps:
            rows += _map_statistics(region, maps[name], name, words)
    hot_spot = np.zeros(region.share.shape, dtype=bool)
    hot_spot[inside & region.mostly] = places.voxels(values[in_disc])
    return RegionMeasures(
        region=region,
        measurements=tuple(rows),
        histogram=None if kind == "none" or not values.size else rcbv_histogram(values, weights),
        hot_spot=hot_spot,
        mirror=mirror,
        notes=_notes(region, inside, places, kind, settings, maps, errors),
    )


def rcbv_histogram(values: np.ndarray, weights: np.ndarray) -> Histogram:
    """Return the histogram of (V,) rCBV values in steps of 0.1 from 0 to 6, by (V,) weights."""
    edges = np.round(np.arange(round(HISTOGRAM_TOP / HISTOGRAM_STEP) + 1) * HISTOGRAM_STEP, 6)
    bins = np.digitize(values, edges)  # 0 below all, len(edges) above
    percent = 100.0 * np.bincount(bins, weights, minlength=edges.size + 1) / weights.sum()
    return Histogram(edges, percent[1:-1], float(percent[0]), float(percent[-1]))


def _require_one_grid(region: Region, maps: Mapping[str, ParameterMap], mirror: np.ndarray | None) -> None:
    grid = maps["rcbv"].values.shape
    others = {f"map {name}": map_.values.shape for name, map_ in maps.items()}
    others[f"region {region.name}"] = region.share.shape
    if mirror is not None:
        others["mirror image"] = mirror.shape
    for name, shape in others.items():
        if shape != grid:
            raise GeometryError(
                f"The {name} has the grid {shape}, the rCBV map {grid}; they must be the same. Draw the region on the "
                "map's images, or resample it to the map's grid."
            )


def _volumes(region: Region, inside: np.ndarray, affine: np.ndarray) -> list[Measurement]:
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    touched = region.share > 0
    rows = (
        ("volume", "Volume", float(region.share.sum(dtype=np.float64)) * voxel_ml, "ml"),
        ("voxels", "Voxels with a value", float(np.count_nonzero(inside)), "1"),
        ("voxels_without_value", "Voxels without a value", float(np.count_nonzero(touched & ~inside)), "1"),
    )
    return [Measurement(region.name, *row) for row in rows]


def _rcbv_statistics(
    values: np.ndarray,
    weights: np.ndarray,
    places: DiscPlaces,
    in_disc: np.ndarray,
    across: np.ndarray | None,
    settings: MeasureSettings,
    kind: str,
) -> dict[str, float]:
    """Return by name what is measured on (V,) values of rCBV; NaN where there is nothing to measure."""
    nothing = values.size == 0
    percentiles = (
        np.full(len(PERCENTILES) + 1, np.nan) if nothing else weighted_percentiles(values, weights, (50, *PERCENTILES))
    )
    mean = np.nan if nothing else weighted_mean(values, weights)
    found = {
        "rcbv_mean": mean,
        "rcbv_median": float(percentiles[0]),
        "rcbv_sd": np.nan if nothing else weighted_sd(values, weights),
        **{f"rcbv_p{p}": float(v) for p, v in zip(PERCENTILES, percentiles[1:], strict=True)},
        "rcbv_hot_spot": places.hottest(values[in_disc]),
    }
    if kind in ("nawm", "given"):
        shares = (np.nan,) * 3 if nothing else weighted_class_shares(values, weights, settings.cut_offs)
        found |= {f"ftb_{name}": 100.0 * share for name, share in zip(("low", "middle", "high"), shares, strict=True)}
    if across is not None:
        opposite = float(across.mean()) if across.size else np.nan
        found |= {"rcbv_mirror": opposite, "rcbv_over_mirror": mean / opposite if opposite > 0 else np.nan}
    return found


def _standard_errors(
    statistics: Any,
    inside: np.ndarray,
    opposite: np.ndarray | None,
    maps: Mapping[str, ParameterMap],
    provenance: Mapping[str, Any],
    found: Mapping[str, float],
) -> dict[str, float]:
    """Return by name the standard deviation of the measures over copies of the map with errors; empty without any."""
    shared = shared_errors(provenance)
    if shared is None or not {"uncertainty", "k2"} <= set(maps) or not inside.any():
        return {}
    rcbv, uncertainty, k2 = (maps[name].values for name in ("rcbv", "uncertainty", "k2"))
    affine = maps["rcbv"].affine
    copies = noisy_copies(rcbv, inside, uncertainty, k2, shared, affine)
    across: Iterable[np.ndarray | None] = itertools.repeat(None if opposite is None else np.empty(0))
    if opposite is not None and opposite.any():
        across = noisy_copies(rcbv, opposite, uncertainty, k2, shared, affine, stream=1)
    measured = [list(statistics(own, other).values()) for own, other in zip(copies, across, strict=False)]
    spread = dict(zip(found, np.std(measured, axis=0, ddof=1), strict=True))
    return {name: float(sd) for name, sd in spread.items() if np.isfinite(sd) and name != "rcbv_sd"}


def _map_statistics(region: Region, map_: ParameterMap, name: str, words: str) -> list[Measurement]:
    inside = (region.share > 0) & np.isfinite(map_.values)
    values, weights = map_.values[inside].astype(np.float64), region.share[inside].astype(np.float64)
    if values.size:
        low, middle, high = weighted_percentiles(values, weights, (10, 50, 90))
        numbers = (weighted_mean(values, weights), float(middle), weighted_sd(values, weights), float(low), float(high))
    else:
        numbers = (np.nan,) * 5
    rows = [
        Measurement(region.name, f"{name}_{suffix}", f"{title} {words}", value, map_.unit)
        for (suffix, title), value in zip(
            (("mean", "Mean"), ("median", "Median"), ("sd", "SD of"), ("p10", "10th percentile of"),
             ("p90", "90th percentile of")),
            numbers,
            strict=True,
        )
    ]  # fmt: skip
    count = float(np.count_nonzero(inside))
    return [*rows, Measurement(region.name, f"{name}_voxels", f"Voxels with {words}", count, "1")]


def _titles(settings: MeasureSettings) -> dict[str, str]:
    low, high = settings.cut_offs
    return {
        "rcbv_mean": "Mean rCBV",
        "rcbv_median": "Median rCBV",
        "rcbv_sd": "SD of rCBV",
        **{f"rcbv_p{p}": f"{p}th percentile of rCBV" for p in PERCENTILES},
        "rcbv_hot_spot": f"Hot spot: highest mean rCBV over a disc of {settings.hot_spot_area_mm2:g} mm²",
        "ftb_low": f"Fractional burden, rCBV ≤ {low:g}",
        "ftb_middle": f"Fractional burden, rCBV {low:g} to {high:g}",
        "ftb_high": f"Fractional burden, rCBV ≥ {high:g}",
        "rcbv_mirror": "Mean rCBV of the mirror image",
        "rcbv_over_mirror": "Mean rCBV over that of the mirror image",
    }


def _saturation(measured: RegionMeasures, saturated: np.ndarray) -> tuple[str, ...]:
    """Return a note where the bolus reaches the noise floor in a part of the region that counts, else nothing."""
    share = measured.region.share
    part = float(share[saturated].sum(dtype=np.float64) / share.sum(dtype=np.float64))
    in_hot_spot = bool((measured.hot_spot & saturated).any())
    if part < SATURATED and not in_hot_spot:
        return ()
    where = f"{part:.0%} of the volume" + (", the hot spot included" if in_hot_spot else "")
    return (f"The bolus takes the signal down to the noise in {where}: read rCBV there as “at least”.",)


def _notes(
    region: Region,
    inside: np.ndarray,
    places: DiscPlaces,
    kind: str,
    settings: MeasureSettings,
    maps: Mapping[str, ParameterMap],
    errors: Mapping[str, float],
) -> tuple[str, ...]:
    """Return what a reader must know beside the numbers, in whole sentences."""
    notes = []
    total = float(region.share.sum(dtype=np.float64))
    missing = 1.0 - float(region.share[inside].sum(dtype=np.float64)) / total
    voxels = int(np.count_nonzero(inside))
    if voxels == 0:
        notes.append("No voxel has a value: the region lies outside the brain mask, or the map is undefined there.")
    elif missing > WITHOUT_VALUE:
        notes.append(f"{missing:.0%} of the volume has no value; all measures are of the rest.")
    if 0 < voxels < FEW_VOXELS:
        notes.append(f"Only {voxels} voxels: percentiles and classes of burden stand on few values.")
    if voxels and places.weights.shape[0] == 0:
        notes.append(
            f"No hot spot: a disc of {settings.hot_spot_area_mm2:g} mm² fits into no slice of the region. Choose a "
            "smaller area for all patients that you compare."
        )
    if kind == "none":
        notes.append("The map is relative to nothing, so there are neither classes of burden nor a histogram.")
    elif kind == "brain":
        notes.append(
            "The map is relative to the whole brain; the classes of burden are defined relative to white matter and "
            "were left out."
        )
    if "uncertainty" in maps and voxels and not errors:
        notes.append("No standard errors: the map's provenance does not say which part of its error is shared.")
    return tuple(notes)
