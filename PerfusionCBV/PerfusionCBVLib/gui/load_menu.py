"""The menu of the Load button: a DICOM folder, a file, or the simulated patient."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


class LoadMenu:
    """The menu and its slots.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        self.menu = qt.QMenu(widget.ui.loadButton)
        for text, slot in (
            (_("DICOM folder..."), self.load_folder),
            (_("File: .zip, NIfTI or sequence..."), self.load_file),
            (_("Simulated patient"), self.load_sample),
        ):
            self.menu.addAction(text).triggered.connect(slot)
        widget.ui.loadButton.setMenu(self.menu)

    def load_folder(self) -> None:
        """Load a DICOM folder."""
        self._load(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("DICOM folder")))

    def load_file(self) -> None:
        """Load a .zip, a NIfTI or a Slicer sequence."""
        kinds = _("Series") + " (*.zip *.nii *.nii.gz *.nrrd)"
        self._load(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("DSC-MRI series"), "", kinds))

    def load_sample(self) -> None:
        """Simulate a patient on this computer."""
        # The simulator needs what a network needs.
        self._select(lambda progress: self._widget.logic.loadSample(progress=progress), "unet-gru")

    def _load(self, path: str) -> None:
        if path:
            self._select(lambda progress: self._widget.logic.load(path, progress=progress), "bsw")

    def _select(self, work: Any, needs: str) -> None:
        node = self._widget.run(work, needs)
        if node is not None and self._widget.parameters is not None:
            self._widget.parameters.inputNode = node
