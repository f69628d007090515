"""What the panel's last two sections do: measure segments, and take results out of Slicer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

CLASSICAL, DICOM = "bsw", "dicom"
"""What the work needs installed: what a classical map does, or more for DICOM objects."""


class Exports:
    """The slots of the buttons; what they need of the panel they take from its widget.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        ui = widget.ui
        for button, slot in (
            (ui.measureButton, self.measure),
            (ui.reportButton, self.open_report),
            (ui.saveButton, self.save),
            (ui.pageButton, self.write_page),
            (ui.dicomButton, self.write_dicom),
            (ui.alignButton, self.align),
        ):
            button.clicked.connect(slot)

    def measure(self) -> None:
        """Measure the chosen segmentation on the map."""
        parameters = self._widget.parameters
        node, segmentation = parameters.inputNode, parameters.measuredSegmentation
        area, cut_offs = parameters.hotSpotAreaMm2, (parameters.lowCutOff, parameters.highCutOff)
        choices = {"hot_spot_area_mm2": area, "cut_offs": cut_offs, "mirrors": parameters.mirror}
        logic = self._widget.logic
        if self._run(lambda progress: logic.measure(node, segmentation, **choices, progress=progress)):
            self._say(_("Measured. The table is in the Data module, and goes onto the page for the referrer."))

    def open_report(self) -> None:
        """Open the full report in the browser."""
        from PerfusionCBVLib.report import write_report

        path = Path(slicer.app.temporaryPath) / "PerfusionCBV-report.html"
        if self._run(lambda progress: write_report(self._widget.logic.result, path)):
            self._open(path)

    def save(self) -> None:
        """Write maps, report and provenance into a folder."""
        from PerfusionCBVLib import write_result

        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the result"))
        if folder and self._run(lambda progress: write_result(self._widget.logic.result, folder)):
            self._say(_("Maps and report are in {folder}.").format(folder=folder))

    def write_page(self) -> None:
        """Write the page for the referrer, and show it."""
        kinds = _("Page") + " (*.pdf *.html)"
        title = _("Page for the referrer")
        chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "rCBV.pdf", kinds)
        if not chosen:
            return
        node, named = self._widget.parameters.inputNode, self._widget.parameters.namePatient
        logic = self._widget.logic
        path = self._run(lambda progress: logic.writePage(node, chosen, named=named, progress=progress))
        if path:
            self._say(_("The page is in {path}.").format(path=path))
            self._open(path)

    def write_dicom(self) -> None:
        """Write DICOM objects, with patient and study of the series' own DICOM files."""
        window = slicer.util.mainWindow()
        source = qt.QFileDialog.getExistingDirectory(window, _("DICOM folder that this series came from"))
        folder = source and qt.QFileDialog.getExistingDirectory(window, _("Empty folder for the DICOM objects"))
        if not folder:
            return
        node, logic = self._widget.parameters.inputNode, self._widget.logic
        written = self._run(lambda progress: logic.writeDicom(node, source, folder, progress=progress), DICOM)
        if written:
            text = _("{count} DICOM objects are in {folder}. They hold the patient's name.")
            self._say(text.format(count=len(written), folder=folder))

    def align(self) -> None:
        """Lay the series and its maps onto the anatomical volume."""
        node, anatomy = self._widget.parameters.inputNode, self._widget.parameters.anatomy
        logic = self._widget.logic
        found = self._run(lambda progress: logic.align(node, anatomy, progress=progress))
        if not found:
            return
        registration = found[0]
        self._widget.display.forget()
        self._widget.onParametersChanged()
        text = _("Aligned: the brain was moved by {mm} mm and turned by {degrees}°. Look at the borders in all views.")
        self._say(text.format(mm=f"{registration.displacement_mm:.1f}", degrees=f"{registration.rotation_deg:.1f}"))
        if registration.doubtful:
            slicer.util.warningDisplay(" ".join(f"{each.message} {each.advice}" for each in registration.findings))

    def _run(self, work: Any, needs: str = CLASSICAL) -> Any:
        return self._widget.run(work, needs)

    def _say(self, text: str) -> None:
        self._widget.ui.statusLabel.text = text

    @staticmethod
    def _open(path: Path) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))
