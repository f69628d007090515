"""Methods compared on a digital reference object: a series on disk with its truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.evaluate.examples import plot_arrays
from PerfusionCBVLib.evaluate.plots import plot_object
from PerfusionCBVLib.evaluate.runs import Row, write_csv
from PerfusionCBVLib.evaluate.scores import all_scores
from PerfusionCBVLib.evaluate.summary import limits_of_agreement, tissue_rows
from PerfusionCBVLib.evaluate.tables import report_markdown, without_tissues
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.settings import Settings

TUMOUR_LABELS = {"necrosis": 1, "oedema": 2, "infiltration": 3, "enhancing": 4}
"""Values in an object's ``tumour.nii.gz``."""

ENHANCING_IN_OBJECT = TUMOUR_LABELS["enhancing"]


def evaluate_object(
    folder: Path,
    methods: Sequence[str],
    progress: Progress = silent,
    *,
    reference: Path | None = None,
    output: Path | None = None,
) -> list[Row]:
    """Return one row of scores a method for a digital reference object.

    The mask is found automatically, and so is the reference region unless a NIfTI of one is given.

    Parameters
    ----------
    folder : Path
        With ``dsc.nii.gz`` and its sidecar, ``truth_rcbv.nii.gz``, ``brain.nii.gz``, ``vessel.nii.gz`` and
        ``tumour.nii.gz`` (see `TUMOUR_LABELS`).
    methods : sequence of str
    reference : Path, optional
    output : Path, optional
        Where ``summary.csv``, ``tissues.csv``, ``summary.md`` and plots are written.

    Raises
    ------
    UnreadableInputError, GeometryError
        A file is missing or on another grid.
    """
    series = load_series(folder / "dsc.nii.gz")
    region = None if reference is None else read_mask(reference, series)
    files = ("truth_rcbv", "brain", "vessel", "tumour")
    try:
        truth, brain, vessel, tumour = (np.asarray(nib.load(folder / f"{n}.nii.gz").dataobj) for n in files)  # type: ignore[attr-defined]
    except (FileNotFoundError, nib.filebasedimages.ImageFileError) as error:
        raise UnreadableInputError(
            f"{folder} is no reference object ({error}); it needs {', '.join(files)}."
        ) from error
    grid = series.signal.shape[:3]
    for name, values in zip(files, (truth, brain, vessel, tumour), strict=True):
        if values.shape != grid:
            raise GeometryError(f"{name}.nii.gz is {values.shape}, the series {grid}; both must be on the same grid.")
    regions = {name: tumour == label for name, label in TUMOUR_LABELS.items()}
    results = {}
    rows: list[Row] = []
    for position, method in enumerate(methods):
        progress(position / len(methods), method)
        result = results[method] = compute_maps(series, Settings(method=method), reference=region)
        deviation = result.maps["uncertainty"].values if "uncertainty" in result.maps else None
        scores = all_scores(
            result.maps["rcbv"].values,
            truth,
            brain=brain > 0,
            vessel=vessel > 0,
            regions=regions,
            deviation=deviation,
        )
        low, high = limits_of_agreement([scores["bias"]], [scores["difference_sd"]])
        rows.append({"method": method, **scores, "loa_low": low, "loa_high": high})
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_csv(output / "summary.csv", without_tissues(rows))
        write_csv(output / "tissues.csv", tissue_rows(rows))
        (output / "summary.md").write_text(report_markdown(rows) + "\n", encoding="utf-8")
        plot_object(output, rows, plot_arrays(results, truth, (brain > 0) & (vessel == 0), seed=0))
    return rows
