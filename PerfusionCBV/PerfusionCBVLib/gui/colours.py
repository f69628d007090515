"""The colour tables that ship with the extension, as nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

FOLDER = Path(__file__).parents[2] / "Resources" / "Colors"
NAMES = {
    "perfusion": "Perfusion (PerfusionCBV)",
    "uniform": "Uniform (PerfusionCBV)",
    "diverging": "Diverging (PerfusionCBV)",
}
TABLE = "PerfusionCBV.ColorTable"


def colour_node(name: str) -> Any:
    """Return the node of a colour table of `colours.py`, read from its file when the scene does not have it yet.

    Parameters
    ----------
    name : "perfusion", "uniform" or "diverging"

    Returns
    -------
    vtkMRMLColorTableNode
        Saved with the scene, so that a scene keeps its colours where this extension is not installed.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode"):
        if node.GetAttribute(TABLE) == name:
            return node
    node = slicer.vtkMRMLColorTableNode()
    reader = slicer.vtkMRMLColorTableStorageNode()
    reader.SetFileName(str(FOLDER / f"{name}.ctbl"))
    if not reader.ReadData(node):
        raise RuntimeError(f"The colour table {reader.GetFileName()} that belongs to this extension can't be read.")
    node.SetName(NAMES[name])
    node.SetAttribute(TABLE, name)
    node.SetAttribute("Category", "Perfusion CBV")
    return slicer.mrmlScene.AddNode(node)
