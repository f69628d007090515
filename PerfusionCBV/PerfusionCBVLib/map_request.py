"""One map as it is asked for: the files of one series and what the user knows about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PerfusionCBVLib.arterial import ArterialRequest, read_arterial_curve
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.pipeline import compute_maps
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.settings import Settings


@dataclass(frozen=True)
class MapRequest:
    """What a map is made from; the command line's `map` and every case of a batch.

    Attributes
    ----------
    series : Path
        Anything that `load_series` takes.
    mask, reference : Path or None
        Brain and reference region on the series' grid (NIfTI).
    aif : str or None
        "auto", a curve (.csv) or a mask (NIfTI); None: no flow.
    aif_relaxivity : float or None
        1/s per mmol/l, where the curve holds a concentration.
    echo_time_s, repetition_time_s : float or None
        Where the series does not carry them.
    series_uid : str or None
        Which of several DICOM series.
    """

    series: Path
    mask: Path | None = None
    reference: Path | None = None
    aif: str | None = None
    aif_relaxivity: float | None = None
    echo_time_s: float | None = None
    repetition_time_s: float | None = None
    series_uid: str | None = None

    def load(self) -> DynamicSeries:
        """Return the series.

        Raises
        ------
        InputRefusedError
        """
        return load_series(
            self.series,
            echo_time_s=self.echo_time_s,
            repetition_time_s=self.repetition_time_s,
            series_uid=self.series_uid,
        )


def make_maps(request: MapRequest, settings: Settings, progress: Progress = silent) -> MapResult:
    """Read what was asked for and return its maps.

    Raises
    ------
    InputRefusedError, UsageError, ModelError
        See `load_series` and `compute_maps`.
    """
    progress(0.0, "Reading")
    series = request.load()
    mask = None if request.mask is None else read_mask(request.mask, series)
    reference = None if request.reference is None else read_mask(request.reference, series)
    aif = _arterial_request(request, series)
    return compute_maps(series, settings, mask=mask, reference=reference, aif=aif, progress=progress)


def _arterial_request(request: MapRequest, series: DynamicSeries) -> ArterialRequest | None:
    if request.aif is not None and request.aif.lower().endswith(".csv"):
        return read_arterial_curve(Path(request.aif), relaxivity_per_s_per_mm=request.aif_relaxivity)
    if request.aif_relaxivity is not None:
        raise UsageError("--aif-relaxivity belongs to --aif FILE.csv with a concentration; leave it out.")
    if request.aif is None:
        return None
    return "auto" if request.aif == "auto" else read_mask(Path(request.aif), series)
