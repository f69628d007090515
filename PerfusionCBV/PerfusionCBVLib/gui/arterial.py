"""The artery that flow maps are made with: chosen in the panel, checked by the library, shown as segment and curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PerfusionCBVLib.gui.choices import Arterial

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.arterial import ArterialCurve


@dataclass(frozen=True)
class CurveFile:
    """A CSV file with an arterial curve.

    Attributes
    ----------
    path : Path
    relaxivity_per_s_per_mm : float or None
        Of the agent in tissue, 1/s per mmol/l, where the file holds concentrations.
    """

    path: Path
    relaxivity_per_s_per_mm: float | None

    def read(self) -> ArterialCurve:
        """Return the curve; see `arterial.read_arterial_curve` for what is refused."""
        from PerfusionCBVLib.arterial import read_arterial_curve

        return read_arterial_curve(self.path, relaxivity_per_s_per_mm=self.relaxivity_per_s_per_mm)


def arterial_choice(parameters: Any) -> Any:
    """Return what flow maps shall be made with: None, "auto", (segmentation, segment ID) or a `CurveFile`."""
    chosen = parameters.arterial
    if chosen is Arterial.NONE:
        return None
    if chosen is Arterial.AUTOMATIC:
        return "auto"
    if chosen is Arterial.SEGMENT:
        return parameters.arterialSegmentation, parameters.arterialSegmentID
    return CurveFile(Path(parameters.arterialFile), parameters.arterialRelaxivity or None)


def why_no_artery(parameters: Any) -> str:
    """Return what is missing of the chosen arterial input, or ""."""
    if parameters.arterial is Arterial.SEGMENT and not (
        parameters.arterialSegmentation is not None and parameters.arterialSegmentID
    ):
        return _("Choose the segment of the artery for the flow maps, or no flow maps.")
    if parameters.arterial is Arterial.FILE and not parameters.arterialFile:
        return _("Choose the CSV file with the arterial curve for the flow maps, or no flow maps.")
    return ""


def file_text(parameters: Any) -> tuple[str, str]:
    """Return text and tooltip of the button that chooses the file."""
    needed = _("Two columns: time in s from the first frame of the series, and ΔR2* in 1/s or concentration in mmol/l.")
    if not parameters.arterialFile:
        return _("Choose a CSV file..."), needed
    return Path(parameters.arterialFile).name, f"{parameters.arterialFile}. {needed}"
