"""The panel's section on two dates: its slots, and what its widgets show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.gui.comparison import comparison_html

CLASSICAL = "bsw"
"""What the work needs installed: what a classical map does."""


class ComparisonSection:
    """The slots of the two buttons.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        widget.ui.compareButton.clicked.connect(self.compare_with_map)
        widget.ui.compareFolderButton.clicked.connect(self.compare_with_folder)

    def compare_with_map(self) -> None:
        """Compare with the chosen map of the scene."""
        self._compare(self._widget.parameters.earlierMap)

    def compare_with_folder(self) -> None:
        """Ask for the folder of an earlier result, and compare with it."""
        title = _("Folder with the earlier result, as Save the result or the command map wrote it")
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if folder:
            self._compare(Path(folder))

    def _compare(self, earlier: Any) -> None:
        widget, parameters = self._widget, self._widget.parameters
        node, segmentation = parameters.inputNode, parameters.comparedSegmentation
        scale = parameters.comparisonScale.value
        compared = widget.run(
            lambda progress: widget.logic.compare(node, earlier, segmentation, scale=scale, progress=progress),
            CLASSICAL,
        )
        if not compared:
            return
        widget.display.forget()
        if widget.parameters is not None:
            widget.parameters.shownMap = compared.change
            widget.onParametersChanged()
        widget.ui.statusLabel.text = _("Compared. The views show the change: red is more blood volume than before.")
        if compared.warnings:
            slicer.util.warningDisplay("\n\n".join(compared.warnings))


def show_comparison(ui: Any, parameters: Any, outputs: dict[str, Any], busy: bool) -> None:
    """Show what was compared, and enable comparing where it can be done."""
    no_map = "" if "rcbv" in outputs else _("Press Apply first: there is no map of this series yet.")
    missing = "" if parameters.earlierMap is not None else _("Select the map of the earlier date.")
    wait = _("Wait for the running work to end, or cancel it.") if busy else ""
    tip = _("Register the earlier date to this one and show how rCBV changed")
    folder_tip = _("The same with a result that was saved into a folder, here or by the command map")
    for button, why, text in (
        (ui.compareButton, wait or no_map or missing, tip),
        (ui.compareFolderButton, wait or no_map, folder_tip),
    ):
        button.enabled, button.toolTip = not why, why or text
    ui.comparisonLabel.text = comparison_html(parameters.inputNode)
    ui.comparisonLabel.visible = bool(ui.comparisonLabel.text)
