"""Choices that Slicer does not connect to the parameter node by itself: a part of a node, and a file."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


class SegmentChoice:
    """Keeps a qMRMLSegmentSelectorWidget and two members of the parameter node alike.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    selector : qMRMLSegmentSelectorWidget
    segmentation, segment_id : str
        The members.
    """

    def __init__(self, widget: Any, selector: Any, segmentation: str, segment_id: str) -> None:
        self._widget, self._selector = widget, selector
        self._segmentation, self._segment_id = segmentation, segment_id
        self._showing = False
        selector.currentNodeChanged.connect(self._keep)
        selector.currentSegmentChanged.connect(self._keep)

    def show(self, parameters: Any) -> None:
        """Show what a parameter node holds."""
        self._showing = True  # choosing the node selects a segment by itself, which is not the user's choice
        try:
            self._selector.setCurrentNode(getattr(parameters, self._segmentation))
            self._selector.setCurrentSegmentID(getattr(parameters, self._segment_id))
        finally:
            self._showing = False

    def _keep(self, _chosen: Any = None) -> None:
        parameters = self._widget.parameters
        if parameters is None or self._showing:
            return
        with slicer.util.NodeModify(parameters):
            setattr(parameters, self._segmentation, self._selector.currentNode())
            setattr(parameters, self._segment_id, self._selector.currentSegmentID())


class ArterialFile:
    """The slot of the button that chooses the file.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        widget.ui.arterialFileButton.clicked.connect(self.choose)

    def choose(self) -> None:
        """Ask for the file and keep its path in the parameter node."""
        kinds = _("Curve") + " (*.csv *.txt *.tsv)"
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Curve of the artery"), "", kinds)
        if path and self._widget.parameters is not None:
            self._widget.parameters.arterialFile = path
