"""The Slicer module against small stand-ins for Slicer: what it asks of Slicer and of the library."""

import importlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from PerfusionCBVLib import settings
from PerfusionCBVLib.errors import TimingError

MODULE = Path(__file__).parent.parent / "PerfusionCBV"


class FakeSignals(SimpleNamespace):
    """A Qt object that remembers what was connected to it."""

    def connect(self, signal, slot):
        self.slots = {**getattr(self, "slots", {}), signal: slot}


class FakeComboBox:
    def __init__(self):
        self.items, self.currentIndex = [], 0

    def addItem(self, text, data):
        self.items.append((text, data))

    @property
    def currentData(self):
        return self.items[self.currentIndex][1]


class FakeDialog:
    def __init__(self):
        self.wasCanceled, self.closed, self.value, self.labelText = False, False, 0, ""

    def close(self):
        self.closed = True


class FakeScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class FakeWidgetBase:
    def __init__(self):
        self.layout = SimpleNamespace(addWidget=lambda widget: None)

    def setup(self):
        pass

    def resourcePath(self, name):
        return str(MODULE / "Resources" / name)


class FakeSlicer(ModuleType):
    """Records what the module asks of Slicer."""

    def __init__(self):
        super().__init__("slicer")
        self.installed, self.errors, self.questions, self.loaded = [], [], [], []
        self.answer = True
        self.dialog = FakeDialog()
        self.ui = SimpleNamespace(
            methodComboBox=FakeComboBox(),
            inputPathLineEdit=FakeSignals(currentPath=""),
            outputPathLineEdit=FakeSignals(currentPath=""),
            inputFolderButton=FakeSignals(),
            applyButton=FakeSignals(enabled=True),
            statusLabel=SimpleNamespace(text=""),
        )
        self.app = SimpleNamespace(processEvents=lambda: None)
        self.util = SimpleNamespace(
            loadUI=self.check_layout_exists,
            childWidgetVariables=lambda widget: self.ui,
            confirmOkCancelDisplay=self.ask,
            pip_install=self.installed.extend,
            errorDisplay=self.errors.append,
            createProgressDialog=lambda **options: self.dialog,
            loadVolume=self.load,
            mainWindow=lambda: None,
        )

    def check_layout_exists(self, path):
        assert Path(path).is_file()

    def ask(self, question):
        self.questions.append(question)
        return self.answer

    def load(self, path):
        self.loaded.append(path)
        return f"node of {path}"


@pytest.fixture
def slicer(monkeypatch):
    fake = FakeSlicer()
    i18n, scripted, qt = ModuleType("slicer.i18n"), ModuleType("slicer.ScriptedLoadableModule"), ModuleType("qt")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    scripted.ScriptedLoadableModule = FakeScriptedLoadableModule
    scripted.ScriptedLoadableModuleWidget = FakeWidgetBase
    scripted.ScriptedLoadableModuleLogic = object
    scripted.ScriptedLoadableModuleTest = object
    qt.QFileDialog = SimpleNamespace(getExistingDirectory=lambda parent, title: "/study/dicom")
    fakes = {"slicer": fake, "slicer.i18n": i18n, "slicer.ScriptedLoadableModule": scripted, "qt": qt}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def module(slicer, monkeypatch):
    monkeypatch.syspath_prepend(str(MODULE))
    monkeypatch.delitem(sys.modules, "PerfusionCBV", raising=False)
    loaded = importlib.import_module("PerfusionCBV")
    yield loaded
    sys.modules.pop("PerfusionCBV", None)


@pytest.fixture
def library(monkeypatch):
    """The library's public names, replaced by recorders; `fault` is raised from the computation when set."""
    import PerfusionCBVLib

    calls = SimpleNamespace(order=[], fault=None)

    def load_series(path):
        calls.order.append(("load", path))
        return "series"

    def compute_maps(series, settings, *, progress):
        calls.order.append(("compute", series, settings.method))
        progress(0.25, "Finding the bolus")
        if calls.fault:
            raise calls.fault
        return "result"

    def write_result(result, folder):
        calls.order.append(("write", result, folder))

    monkeypatch.setattr(PerfusionCBVLib, "load_series", load_series, raising=False)
    monkeypatch.setattr(PerfusionCBVLib, "compute_maps", compute_maps, raising=False)
    monkeypatch.setattr(PerfusionCBVLib, "write_result", write_result, raising=False)
    monkeypatch.setattr(PerfusionCBVLib, "Settings", SimpleNamespace, raising=False)
    return calls


@pytest.fixture
def panel(module, slicer, library, monkeypatch):
    monkeypatch.setattr(module, "_isInstalled", lambda requirement: True)
    widget = module.PerfusionCBVWidget()
    widget.setup()
    slicer.ui.inputPathLineEdit.currentPath = "/study/dsc.nii.gz"
    slicer.ui.outputPathLineEdit.currentPath = "/study/out"
    return widget


def test_importing_the_module_imports_neither_numpy_nor_torch_nor_the_library():
    code = """
import sys, types
for name in ("slicer", "slicer.i18n", "slicer.ScriptedLoadableModule", "qt"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["slicer.i18n"].tr = sys.modules["slicer.i18n"].translate = None
for part in ("", "Widget", "Logic", "Test"):
    setattr(sys.modules["slicer.ScriptedLoadableModule"], "ScriptedLoadableModule" + part, type("Base", (), {}))
import PerfusionCBV
found = {"numpy", "torch", "SimpleITK", "PerfusionCBVLib"} & set(sys.modules)
sys.exit(", ".join(sorted(found)) if found else 0)
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=MODULE, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_layout_file_has_every_control_that_the_panel_uses(slicer):
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "PerfusionCBV.ui")
    names = [widget.get("name") for widget in tree.iter("widget")]
    assert set(vars(slicer.ui)) <= set(names)
    assert len(names) == len(set(names))
    declared = {element.findtext("class") for element in tree.iter("customwidget")}
    used = {widget.get("class") for widget in tree.iter("widget")}
    assert {name for name in used if not name.startswith("Q")} == declared


def test_module_entry_says_research_use_only(module):
    parent = SimpleNamespace()
    module.PerfusionCBV(parent)
    assert "Research use only" in parent.helpText


def test_panel_offers_exactly_the_methods_of_the_library(module):
    assert {method for method, _ in module.METHODS} == set(settings.METHODS)
    assert set(module.NETWORK_METHODS) == set(settings.NETWORK_METHODS)


def test_logic_reads_computes_writes_and_loads_the_map_in_this_order(module, slicer, library):
    seen = []
    node = module.PerfusionCBVLogic().process("in.zip", "out", "bsw", lambda fraction, message: seen.append(fraction))
    assert library.order == [
        ("load", Path("in.zip")),
        ("compute", "series", "bsw"),
        ("write", "result", Path("out")),
    ]
    assert seen == [0.25]
    assert slicer.loaded == [str(Path("out") / "rcbv.nii.gz")]
    assert node == f"node of {slicer.loaded[0]}"


def test_apply_waits_until_input_and_output_are_chosen(panel, slicer):
    changed = slicer.ui.inputPathLineEdit.slots["currentPathChanged(QString)"]
    states = []
    for source, target in (("", ""), ("a.nii", ""), ("", "out"), ("a.nii", "out")):
        slicer.ui.inputPathLineEdit.currentPath, slicer.ui.outputPathLineEdit.currentPath = source, target
        changed(source)
        states.append(slicer.ui.applyButton.enabled)
    assert states == [False, False, False, True]


def test_folder_button_puts_the_chosen_folder_into_the_input(panel, slicer):
    slicer.ui.inputFolderButton.slots["clicked(bool)"](False)
    assert slicer.ui.inputPathLineEdit.currentPath == "/study/dicom"


def test_apply_runs_the_method_that_is_chosen_and_says_where_the_result_is(panel, module, slicer, library):
    slicer.ui.methodComboBox.currentIndex = [name for name, _ in module.METHODS].index("bidirectional")
    slicer.ui.applyButton.slots["clicked(bool)"](False)
    assert ("compute", "series", "bidirectional") in library.order
    assert slicer.dialog.value == 25
    assert slicer.dialog.labelText == "Finding the bolus"
    assert slicer.dialog.closed
    assert "/study/out" in slicer.ui.statusLabel.text
    assert slicer.errors == []


def test_a_refused_series_is_explained_and_nothing_is_written_or_loaded(panel, slicer, library):
    library.fault = TimingError("12 frames found, at least 15 are needed: choose the dynamic series")
    panel.onApplyButton()
    assert slicer.errors == [str(library.fault)]
    assert slicer.ui.statusLabel.text == str(library.fault)
    assert slicer.dialog.closed
    assert slicer.loaded == []
    assert "write" not in [call[0] for call in library.order]


def test_cancelling_writes_nothing_and_is_not_shown_as_an_error(panel, slicer, library):
    slicer.dialog.wasCanceled = True
    panel.onApplyButton()
    assert slicer.errors == []
    assert slicer.dialog.closed
    assert "Cancelled" in slicer.ui.statusLabel.text
    assert "write" not in [call[0] for call in library.order]


def test_a_fault_of_ours_is_not_hidden_but_closes_the_progress_dialog(panel, slicer, library):
    library.fault = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        panel.onApplyButton()
    assert slicer.dialog.closed


def test_torch_is_asked_for_by_network_methods_only(module, monkeypatch):
    monkeypatch.setattr(module, "_isInstalled", lambda requirement: False)
    logic = module.PerfusionCBVLogic()
    for method, _ in module.METHODS:
        needs_torch = any(line.startswith("torch") for line in logic.missingPackages(method))
        assert needs_torch == (method in module.NETWORK_METHODS)


def test_missing_packages_are_installed_after_consent(module, slicer, monkeypatch):
    monkeypatch.setattr(
        module,
        "_isInstalled",
        lambda requirement: not requirement.startswith("pynrrd") or requirement in slicer.installed,
    )
    assert module.PerfusionCBVLogic().ensurePackages("bsw")
    assert [line.split(">=")[0] for line in slicer.installed] == ["pynrrd"]
    assert "pynrrd" in slicer.questions[0]
    assert module.PerfusionCBVLogic().ensurePackages("bsw")
    assert len(slicer.questions) == 1


def test_without_consent_nothing_is_installed_and_nothing_computed(panel, module, slicer, library, monkeypatch):
    monkeypatch.setattr(module, "_isInstalled", lambda requirement: False)
    slicer.answer = False
    panel.onApplyButton()
    assert slicer.installed == []
    assert library.order == []
    assert "not installed" in slicer.ui.statusLabel.text


@pytest.mark.parametrize(
    ("installed", "requirement", "met"),
    [
        ("2.10.0+cpu", "torch>=2.6", True),
        ("2.5.1", "torch>=2.6", False),
        ("1.0.20250505", "dcm2niix>=1.0.20250505", True),
        ("1.0.20241211", "dcm2niix>=1.0.20250505", False),
        ("10.0.0", "pillow>=10", True),
        ("3.0rc1", "pydicom>=3.0", True),
    ],
)
def test_a_version_is_compared_number_by_number(module, monkeypatch, installed, requirement, met):
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: installed)
    assert module._isInstalled(requirement) is met


def test_a_package_that_is_absent_is_not_installed(module):
    assert not module._isInstalled("no-such-package-anywhere>=1")
