"""Maps on the anatomy: registered, resampled once, with the transform and what speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.alignment.picture import registration_picture
from PerfusionCBVLib.alignment.region_shares import as_drawn, region_on
from PerfusionCBVLib.alignment.registration import Registration, register
from PerfusionCBVLib.alignment.resampling import resample
from PerfusionCBVLib.alignment.rigid import write_itk_transform
from PerfusionCBVLib.alignment.volume import Volume, baseline_volume
from PerfusionCBVLib.json_text import write_json
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.output import REGISTRATION, require_own_folder, whole_folder, write_nifti
from PerfusionCBVLib.progress import Progress, part, silent
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.stored import StoredResult

COMMAND = "overlay"
TRANSFORM = "dsc_to_anatomy.tfm"


@dataclass(frozen=True, eq=False)
class Overlay:
    """Maps of a result on an anatomy's grid.

    Attributes
    ----------
    registration : Registration
        Of the baseline image to the anatomy.
    maps : dict of str to ParameterMap
        As in the result, on the anatomy's grid.
    baseline : Volume
        The result's own, not resampled.
    mask : (x, y, z) bool array
        Brain, on the baseline's grid.
    anatomy : Volume
    """

    registration: Registration
    maps: dict[str, ParameterMap]
    baseline: Volume
    mask: np.ndarray
    anatomy: Volume


def make_overlay(result: StoredResult, anatomy: Volume, progress: Progress = silent) -> Overlay:
    """Return the maps of a result on an anatomical volume's grid.

    Each map is interpolated once, linearly, from its native grid; no value enters from outside the brain. For
    measuring, use the native map and `region_shares.region_on`: a resampled map is smoother.

    Parameters
    ----------
    result : StoredResult
    anatomy : Volume
        Of the same patient.
    progress : callable (fraction, message), optional
        May raise `Cancelled`, which passes through.

    Raises
    ------
    GeometryError, QualityError
        See `registration.register`.
    """
    baseline = baseline_volume(result)
    registration = register(baseline, result.mask, anatomy, part(progress, 0.0, 0.7))
    maps = {}
    for number, (name, map_) in enumerate(result.maps.items()):
        progress(0.7 + 0.3 * number / len(result.maps), f"Moving {name} onto {anatomy.name}")
        inside = np.where(result.mask, map_.values, np.float32(np.nan))
        values = resample(inside, result.affine, anatomy.values.shape, anatomy.affine, registration.matrix)
        maps[name] = ParameterMap(name, values, anatomy.affine, map_.unit, f"{map_.description}, on {anatomy.name}")
    return Overlay(registration, maps, baseline, result.mask, anatomy)


def regions_on_maps(
    regions: Sequence[Region], anatomy: Volume, result: StoredResult, progress: Progress = silent
) -> tuple[tuple[Region, ...], Registration]:
    """Return regions that were drawn on an anatomical volume as shares of the native maps' voxels.

    Parameters
    ----------
    regions : sequence of Region
        On the anatomy's grid.
    anatomy : Volume
        Of the same patient.
    result : StoredResult
    progress : callable (fraction, message), optional

    Returns
    -------
    regions : tuple of Region
        On the maps' grid.
    registration : Registration
        Look at its findings: where it is wrong, so is every measure.

    Raises
    ------
    GeometryError, QualityError
        See `registration.register`; or a region lies outside the maps.
    """
    baseline = baseline_volume(result)
    registration = register(baseline, result.mask, anatomy, progress)
    shape, matrix = result.mask.shape, registration.matrix
    drawn = as_drawn(regions, anatomy.affine)
    return tuple(region_on(each, shape, result.affine, matrix) for each in drawn), registration


def write_overlay(overlay: Overlay, result: StoredResult, folder: Path | str) -> list[Path]:
    """Write registered maps, transform, ``registration.json`` and picture; return their paths.

    All files or none, as `output.write_result` does.

    Raises
    ------
    UsageError
        The folder holds a result of another command, whose files would be mixed with these.
    """
    folder = Path(folder)
    require_own_folder(folder, COMMAND)
    with whole_folder(folder, REGISTRATION) as fresh:
        for name, map_ in overlay.maps.items():
            write_nifti(fresh / f"{name}.nii.gz", map_.values, map_.affine)
        write_itk_transform(fresh / TRANSFORM, overlay.registration.matrix)
        registration_picture(overlay.registration, overlay.baseline, overlay.mask, overlay.anatomy).save(
            fresh / "registration.png"
        )
        names = sorted(path.name for path in fresh.iterdir())
        record: dict[str, Any] = {
            "software": "PerfusionCBV",
            "command": COMMAND,
            "version": __version__,
            "intended_use": "research use only",
            "result": result.origin,
            "input": result.provenance.get("input"),
            "anatomy": {"name": overlay.anatomy.name, "sha256": dict(overlay.anatomy.input_sha256)},
            "registration": overlay.registration.as_dict(),
            "transform_file": {
                "name": TRANSFORM,
                "convention": "ITK: from the anatomy's points to the DSC series' points, LPS, mm",
            },
            "interpolation": "linear, once, voxels without a value take no part",
            "maps": {name: {"unit": m.unit, "description": m.description} for name, m in overlay.maps.items()},
            "files": [*names, REGISTRATION],
        }
        write_json(fresh / REGISTRATION, record)
    return [folder / name for name in record["files"]]
