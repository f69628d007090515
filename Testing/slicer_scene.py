"""slicer-core as a small Slicer without Qt: what the application's own start-up does otherwise; for tests only.

`start(folder)` gives `slicer` a fresh scene with the logic classes that observe it, and an application object that
remembers when it served the user's events. Everything below it is Slicer's own MRML. Inside the desktop application it
empties the scene and takes what is there, so that the same tests run in both.

What this does not show: Qt's event loop, the reader and writer plugins (`slicer.util.loadVolume`, `saveScene`), and the
plugins that add every new node to the subject hierarchy by themselves.
"""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import slicer
import slicer.util

from slicer_scripted import install_scripted

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
}
"""By the names under which the application registers them."""


THE_APPLICATION = getattr(slicer, "app", None)
"""Inside the desktop application; None on slicer-core."""

if THE_APPLICATION is None:
    install_scripted()


class EventRecord:
    """Remembers when the user's events were served, and what the user does then."""

    def __init__(self):
        self.served = []
        """Servings: (clock, s; processor time of this process, s)."""
        self.on_event = lambda: None

    def processEvents(self, *_):
        self.served.append((time.perf_counter(), time.process_time()))
        self.on_event()


class RecordedApplication(EventRecord):
    """The desktop application, with a record of its servings."""

    def processEvents(self, *arguments):
        super().processEvents()
        THE_APPLICATION.processEvents(*arguments)

    def __getattr__(self, name):
        return getattr(THE_APPLICATION, name)


class _Settings(dict):
    """Qt's settings as a file gives them back: what was no text is text."""

    def value(self, key):
        return self.get(key)

    def setValue(self, key, value):
        self[key] = str(value)


class Application(EventRecord):
    """What this extension asks of `slicer.app`, on slicer-core."""

    applicationName = "Slicer"

    def __init__(self, folder, scene):
        super().__init__()
        self.temporaryPath = str(folder / "temporary")
        self._scene = scene
        self._settings = _Settings()
        self._logic = slicer.vtkSlicerApplicationLogic()
        for name in ("temporary", "share/ColorFiles"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._logic.SetHomeDirectory(str(folder))
        self._logic.SetShareDirectory("share")
        self._logic.SetMRMLScene(scene)

    def applicationLogic(self):
        return self._logic

    def mrmlScene(self):
        return self._scene

    def settings(self):
        return self._settings

    def testingEnabled(self):
        return True

    def connect(self, signal, slot):
        pass


def start(folder):
    """Give `slicer` a fresh scene and application that keep their files in `folder`; return the application."""
    if THE_APPLICATION is not None:
        slicer.mrmlScene.Clear()
        slicer.app = RecordedApplication()
        return slicer.app
    folder = Path(folder)
    scene = slicer.vtkMRMLScene()
    scene.SetRootDirectory(str(folder))
    slicer.mrmlScene = scene
    slicer.app = Application(folder, scene)
    slicer.modules = SimpleNamespace()
    logics = {}
    for name, class_name in LOGICS.items():
        logic = logics[name] = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(scene)
        slicer.app.applicationLogic().SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), SimpleNamespace(logic=lambda logic=logic: logic))
    slicer.app.logics = logics  # nothing else keeps them alive
    logics["Colors"].AddDefaultColorNodes()
    scene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    return slicer.app


def save_bundle(path):
    """Save the scene as an .mrb file."""
    if THE_APPLICATION is not None:
        assert slicer.util.saveScene(str(path))
        return
    folder = Path(path).with_suffix("")
    folder.mkdir()
    assert slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(str(folder))
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    folder.with_suffix(".zip").rename(path)
    shutil.rmtree(folder)


def open_bundle(path, folder):
    """Open an .mrb file in a fresh scene."""
    start(folder)
    if THE_APPLICATION is not None:
        slicer.util.loadScene(str(path))
        return
    (Path(folder) / "bundle").mkdir()
    assert slicer.app.applicationLogic().OpenSlicerDataBundle(str(path), str(Path(folder) / "bundle"))


def update_proxies():
    """Bring the volumes that stand for sequences up to date, as the application does at the next event."""
    slicer.modules.sequences.logic().UpdateAllProxyNodes()


def scene_contents():
    """Return everything in the scene that a failed run must not change: nodes by ID, with when they changed last."""
    nodes = slicer.util.getNodesByClass("vtkMRMLNode")
    # The application's views change their nodes whenever events are served.
    return {node.GetID(): (node.GetName(), node.GetMTime() if THE_APPLICATION is None else 0) for node in nodes}
