"""The real panel - its .ui file and its widget class - off-screen, over slicer-core's real MRML: fixtures.

PythonQt, ctk and qMRML widgets are the substitutes of `qt_slicer`, whose docstring says what they don't show. Tests
take the fixtures by `pytest_plugins` and import the functions, so pytest gets it when it is imported already:
PYTEST_DONT_REWRITE.
"""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import slicer

import qt_slicer
import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.series import Acquisition

qt_slicer.attribute_style(__name__)

MODULE = Path(__file__).parent.parent / "PerfusionCBV"


@pytest.fixture(scope="session")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(scope="session")
def results(head):
    """Results by method, computed once."""
    return {method: compute_maps(head.series, Settings(method=method)) for method in ("bsw", "anchored-unet")}


@pytest.fixture
def app(tmp_path):
    events = qt_slicer.start_qt().processEvents
    application = slicer_scene.start(tmp_path / "slicer")
    application.on_event = events
    qt_slicer.forget()
    return application


@pytest.fixture
def module(app, monkeypatch):
    monkeypatch.syspath_prepend(str(MODULE))
    library = loaded_library()
    yield qt_slicer.load_module()
    del sys.modules["PerfusionCBV"]
    if loaded_library()["PerfusionCBVLib"] is library["PerfusionCBVLib"]:
        return
    # After a reload the next test gets the first library again, and nothing but it.
    for name in loaded_library():
        del sys.modules[name]
    sys.modules.update(library)
    for name, package in library.items():
        for part in [part for part, found in vars(package).items() if isinstance(found, ModuleType)]:
            if vars(package)[part].__name__ == f"{name}.{part}" and f"{name}.{part}" not in library:
                delattr(package, part)


def loaded_library():
    return {name: found for name, found in sys.modules.items() if name.split(".")[0] == "PerfusionCBVLib"}


@pytest.fixture
def open_panel(module):
    yield lambda: qt_slicer.open_module(module)
    qt_slicer.close_module()


@pytest.fixture
def panel(open_panel):
    return open_panel()


@pytest.fixture
def parts(app):
    """The panel's library modules, as the open panel uses them (a reload makes new ones)."""
    return importlib.import_module("PerfusionCBVLib.gui.parameters")


def add(series, name="DSC perfusion"):
    """Put a series into the scene; return its sequence node."""
    work = importlib.import_module("PerfusionCBVLib.gui.logic")
    node = work.add_sequence(work.Sequence.of(series))
    node.SetName(name)
    slicer_scene.update_proxies()
    return node


def without(series, *names):
    """Return a series that does not know some of its acquisition values."""
    known = {name: None if name in names else value["value"] for name, value in series.acquisition.as_dict().items()}
    return replace(series, acquisition=Acquisition(**known))


def quick(panel, results, monkeypatch, *, at=None):
    """Let the panel's logic put ready results into the scene, with progress as the real work reports it.

    `at(fraction)` is called between two reports: what the user does meanwhile.
    """
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    calls = []

    def process(
        node, settings, *, mask=None, reference=None, aif=None, echo_time_s=None, repetition_time_s=None, progress=None
    ):
        calls.append({"settings": settings, "reference": reference, "echo_time_s": echo_time_s, "aif": aif})
        for fraction in (0.0, 0.25, 0.5, 0.75, 0.9):
            progress(fraction, f"Step at {fraction}")
            if at:
                at(fraction)
            slicer.app.processEvents()
        result = results[settings.method]
        panel.logic.result = result
        return output_nodes.publish(result, output_nodes.layers_of(result), node)

    monkeypatch.setattr(panel.logic, "process", process)
    return calls


def unchecked(panel, monkeypatch, findings=()):
    """Let checks of a series find this at once."""
    monkeypatch.setattr(panel.logic, "check", lambda node, **options: tuple(findings))


def findings_text(panel):
    """What the findings say, without icons."""
    lines = panel.ui.findingsBrowser.plainText.replace("\N{OBJECT REPLACEMENT CHARACTER}", "").splitlines()
    return "\n".join(line for line in lines if line)


def choose(combo, text):
    combo.currentIndex = next(i for i in range(combo.count) if text in combo.itemText(i))


@pytest.fixture
def ready(panel, head, results, monkeypatch):
    """A panel with a chosen, checked series and quick work."""
    unchecked(panel, monkeypatch)
    panel.calls = quick(panel, results, monkeypatch)
    panel.ui.inputSelector.setCurrentNode(add(head.series))
    slicer.app.processEvents()
    return panel
