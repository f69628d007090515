"""Slicer's scene without the application: what its start-up does otherwise, for a server process on slicer-core."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer
import slicer.util
import vtk

_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}
"""By the names under which the application registers them."""


class ServerApplication:
    """What the code in `gui` asks of `slicer.app`.

    Parameters
    ----------
    folder : Path
        Private; for temporary files.
    scene : vtkMRMLScene
    """

    def __init__(self, folder: Path, scene: Any) -> None:
        self.temporaryPath = str(folder)
        self._scene = scene
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetTemporaryPath(str(folder))
        self._logic.SetHomeDirectory(str(folder))
        (folder / "share" / "ColorFiles").mkdir(parents=True)
        self._logic.SetShareDirectory("share")
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceLogics(vtk.vtkCollection())
        self._logic.SetViewLogics(vtk.vtkCollection())
        self.logics: dict[str, Any] = {}  # nothing else keeps them alive

    def applicationLogic(self) -> Any:  # noqa: N802  Slicer's name
        """Return the logic that knows the slice views."""
        return self._logic

    def mrmlScene(self) -> Any:  # noqa: N802  Slicer's name
        """Return the scene."""
        return self._scene

    def processEvents(self) -> None:  # noqa: N802  Slicer's name
        """Do nothing: the server answers between the steps of the work, not inside them."""


def start_scene(folder: Path) -> None:
    """Give `slicer` a scene and an application, once in a process.

    Parameters
    ----------
    folder : Path
        Private to this process.
    """
    provide_translation()
    slicer.mrmlScene = scene = slicer.vtkMRMLScene()
    scene.SetRootDirectory(str(folder))
    slicer.app = ServerApplication(folder, scene)
    slicer.modules = SimpleNamespace()
    for name, class_name in _LOGICS.items():
        logic = slicer.app.logics[name] = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(scene)
        slicer.app.applicationLogic().SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), SimpleNamespace(logic=lambda logic=logic: logic))
    slicer.app.logics["Colors"].AddDefaultColorNodes()
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    crosshair.SetCrosshairName("default")
    patient_right_is_screen_left = True
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, patient_right_is_screen_left)


def provide_translation() -> None:
    """Give slicer-core the module `slicer.i18n`, which only the application has; texts stay English."""
    if "slicer.i18n" not in sys.modules:
        module = ModuleType("slicer.i18n")
        vars(module).update(tr=lambda text: text, translate=lambda _context, text: text)
        sys.modules["slicer.i18n"] = slicer.i18n = module
