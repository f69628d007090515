"""Writing measures: a table, the same as JSON, histograms and the regions that were found; all files or none."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from PerfusionCBVLib import __version__
from PerfusionCBVLib.csv_cells import harmless
from PerfusionCBVLib.json_text import write_json
from PerfusionCBVLib.measures.histogram_picture import histogram_picture
from PerfusionCBVLib.measures.measure import MeasureSettings, RegionMeasures
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.output import whole_folder, write_nifti
from PerfusionCBVLib.pictures import unit_text

LISTING = "measures.json"
COLUMNS = ("region", "name", "title", "value", "unit", "standard_error")


def write_measures(
    measured: Sequence[RegionMeasures],
    folder: Path | str,
    *,
    settings: MeasureSettings,
    affine: np.ndarray,
    source: Mapping[str, Any],
) -> list[Path]:
    """Write ``measures.csv``, ``measures.json``, ``histogram.png`` and regions into a folder; return their paths.

    Hot spots and mirror images are written as ``region_1_hot_spot.nii.gz``, ``region_1_mirror.nii.gz``, … in the order
    of the regions. Everything is written beside the folder first and moved in when complete. Files of earlier measures
    in the same folder are replaced or removed; others are kept.

    Parameters
    ----------
    measured : sequence of RegionMeasures
    folder : Path
    settings : MeasureSettings
    affine : (4, 4) array
        Of the maps, voxel index to RAS, mm.
    source : mapping
        What was measured, for the JSON: files, hashes, the maps' provenance.

    Raises
    ------
    UnreadableInputError
        The folder holds a foreign ``measures.json``.
    """
    folder = Path(folder)
    with whole_folder(folder, LISTING) as fresh:
        write_measurements(fresh / "measures.csv", (row for each in measured for row in each.measurements))
        if any(each.histogram is not None for each in measured):
            histogram_picture(measured, settings.cut_offs).save(fresh / "histogram.png")
        for number, each in enumerate(measured, start=1):
            if each.hot_spot.any():
                write_nifti(fresh / f"region_{number}_hot_spot.nii.gz", each.hot_spot.astype(np.uint8), affine)
            if each.mirror is not None:
                write_nifti(fresh / f"region_{number}_mirror.nii.gz", each.mirror.astype(np.uint8), affine)
        names = sorted(path.name for path in fresh.iterdir())
        content = measures_as_dict(measured, settings, source)
        write_json(fresh / LISTING, {**content, "files": [*names, LISTING]})
    return [folder / name for name in [*names, LISTING]]


def measures_as_dict(
    measured: Sequence[RegionMeasures], settings: MeasureSettings, source: Mapping[str, Any]
) -> dict[str, Any]:
    """Return measures as written to ``measures.json``, NaN still as NaN."""
    return {
        "software": "PerfusionCBV",
        "version": __version__,
        "intended_use": "research use only",
        "settings": asdict(settings),
        "source": dict(source),
        "regions": [
            {
                "name": each.region.name,
                "notes": each.notes,
                "measurements": [{k: v for k, v in asdict(row).items() if k != "region"} for row in each.measurements],
                "histogram": None if each.histogram is None else asdict(each.histogram),
            }
            for each in measured
        ],
    }


def measures_as_text(measured: Sequence[RegionMeasures]) -> str:
    """Return measures as a table for a terminal, one block a region."""
    blocks = []
    for each in measured:
        width = max(len(row.title) for row in each.measurements)
        lines = [each.region.name]
        for row in each.measurements:
            error = "" if row.standard_error is None else f" ± {_short(row.standard_error)}"
            unit = "" if row.unit in ("1", "{ratio}") else f" {unit_text(row.unit)}"
            lines.append(f"  {row.title:{width}}  {_short(row.value)}{error}{unit}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write a CSV file, a row a measurement, with the fields of `Measurement` as columns.

    A cell is empty where there is no value, or nothing is known about its error.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in measurements:
            value, error = (
                "" if v is None or not np.isfinite(v) else f"{v:.6g}" for v in (row.value, row.standard_error)
            )
            writer.writerow((harmless(row.region), row.name, row.title, value, row.unit, error))


def _short(value: float) -> str:
    return "no value" if not np.isfinite(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
