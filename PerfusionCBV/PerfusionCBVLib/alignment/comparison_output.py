"""Writing a comparison of two dates: maps, table of changes, provenance and picture; all files or none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from PerfusionCBVLib import __version__
from PerfusionCBVLib.alignment.longitudinal import Comparison, date_volume
from PerfusionCBVLib.alignment.picture import registration_picture
from PerfusionCBVLib.alignment.rigid import write_itk_transform
from PerfusionCBVLib.json_text import write_json
from PerfusionCBVLib.measures.output import write_measurements
from PerfusionCBVLib.output import PROVENANCE, require_own_folder, whole_folder, write_nifti
from PerfusionCBVLib.pictures import map_strips, symmetric_window, unit_text
from PerfusionCBVLib.series import ParameterMap

COMMAND = "compare"
TRANSFORM = "earlier_to_later.tfm"
SMALLEST_WINDOW, SMALLEST_DIFFERENCE = 4.0, 1.0


def write_comparison(comparison: Comparison, folder: Path | str) -> list[Path]:
    """Write the two maps and their difference, ``changes.csv``, transform, provenance and pictures; return their paths.

    Raises
    ------
    UsageError
        The folder holds the result of another command.
    """
    folder = Path(folder)
    require_own_folder(folder, COMMAND)
    with whole_folder(folder, PROVENANCE) as fresh:
        for name, map_ in _maps(comparison).items():
            write_nifti(fresh / f"{name}.nii.gz", map_.values, map_.affine)
        write_measurements(fresh / "changes.csv", comparison.changes)
        write_itk_transform(fresh / TRANSFORM, comparison.registration.matrix)
        comparison_picture(comparison).save(fresh / "comparison.png")
        earlier, later = comparison.earlier_result, comparison.later_result
        before, after = date_volume(earlier, "earlier"), date_volume(later, "later")
        registration_picture(comparison.registration, before, earlier.mask, after).save(fresh / "registration.png")
        names = sorted(path.name for path in fresh.iterdir())
        record: dict[str, Any] = {
            "software": "PerfusionCBV",
            "command": COMMAND,
            "version": __version__,
            "intended_use": "research use only",
            **comparison.provenance,
            "transform_file": {
                "name": TRANSFORM,
                "convention": "ITK: from the later series' points to the earlier one's, LPS, mm",
            },
            "maps": {name: {"unit": m.unit, "description": m.description} for name, m in _maps(comparison).items()},
            "changes": [asdict(m) for m in comparison.changes],
            "findings": [f.as_dict() for f in comparison.findings],
            "files": [*names, PROVENANCE],
        }
        write_json(fresh / PROVENANCE, record)
    return [folder / name for name in record["files"]]


def comparison_picture(comparison: Comparison) -> Image.Image:
    """Return earlier, later and difference, one under the other on the same slices, over the later baseline image."""
    unit = unit_text(comparison.later.unit)
    window, difference = comparison_windows(comparison)
    return map_strips(
        comparison.later_result,
        [
            ("Earlier, registered to later", comparison.earlier.values, "perfusion", window, f"rCBV ({unit})"),
            ("Later", comparison.later.values, "perfusion", window, f"rCBV ({unit})"),
            ("Later - earlier", comparison.difference.values, "diverging", difference, f"difference ({unit})"),
        ],
    )


def comparison_windows(comparison: Comparison) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the values at the two ends of the colours: of both dates' maps, and of their difference."""
    mask = comparison.later_result.mask
    values = np.concatenate([m.values[mask] for m in (comparison.earlier, comparison.later)])
    window = 0.0, max(float(np.nanpercentile(values, 99.0)), SMALLEST_WINDOW)
    return window, symmetric_window(comparison.difference.values[mask], SMALLEST_DIFFERENCE)


def _maps(comparison: Comparison) -> dict[str, ParameterMap]:
    return {m.name: m for m in (comparison.earlier, comparison.later, comparison.difference)}
