"""The module file and what it asks of Slicer before any package is there, against small stand-ins for Slicer."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from PerfusionCBVLib.errors import PerfusionError

MODULE = Path(__file__).parent.parent / "PerfusionCBV"
BASES = ("", "Widget", "Logic", "Test")


class FakeSlicer(ModuleType):
    """Records what is asked of Slicer."""

    def __init__(self):
        super().__init__("slicer")
        self.__path__ = []
        self.installed, self.questions, self.connected = [], [], {}
        self.answer = True
        self.app = SimpleNamespace(connect=lambda signal, slot: self.connected.update({signal: slot}))
        self.util = SimpleNamespace(confirmOkCancelDisplay=self.ask, pip_install=self.installed.extend)
        self.modules = SimpleNamespace()

    def ask(self, question):
        self.questions.append(question)
        return self.answer


@pytest.fixture
def slicer(monkeypatch):
    """Slicer 5.10: without slicer.packaging."""
    fake = FakeSlicer()
    i18n, scripted, util = (ModuleType(f"slicer.{name}") for name in ("i18n", "ScriptedLoadableModule", "util"))
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    for part in BASES:
        base = type("Base", (), {"__init__": lambda self, parent=None: setattr(self, "parent", parent)})
        setattr(scripted, f"ScriptedLoadableModule{part}", base)
    util.VTKObservationMixin = type("Mixin", (), {})
    fakes = {"slicer": fake, "qt": ModuleType("qt"), "vtk": ModuleType("vtk"), "ctk": ModuleType("ctk")}
    fakes |= {module.__name__: module for module in (i18n, scripted, util)} | {"slicer.packaging": None}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def dependencies(slicer):
    return load(MODULE / "PerfusionCBVLib" / "gui" / "dependencies.py")


def load(path):
    """A module of its own, so that nothing of the stand-ins stays behind."""
    spec = importlib.util.spec_from_file_location(f"_{path.stem}_with_fakes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packaging(monkeypatch):
    """Slicer 5.12: packages are offered by slicer.packaging."""
    module = ModuleType("slicer.packaging")
    module.ensured = []
    module.pip_ensure = lambda requirements, requester: module.ensured.append((requirements, requester))
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    return module


# --- the module file --------------------------------------------------------------------------------------------------


def test_importing_the_module_imports_neither_numpy_nor_torch_nor_the_library():
    code = """
import sys, types
for name in ("slicer", "slicer.i18n", "slicer.util", "slicer.ScriptedLoadableModule", "qt", "vtk", "ctk"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["slicer.i18n"].tr = sys.modules["slicer.i18n"].translate = None
sys.modules["slicer.util"].VTKObservationMixin = type("Mixin", (), {})
for part in ("", "Widget", "Logic", "Test"):
    setattr(sys.modules["slicer.ScriptedLoadableModule"], "ScriptedLoadableModule" + part, type("Base", (), {}))
import PerfusionCBV
found = {"numpy", "torch", "SimpleITK", "PerfusionCBVLib"} & set(sys.modules)
sys.exit(", ".join(sorted(found)) if found else 0)
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=MODULE, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_module_file_is_wiring_only():
    text = (MODULE / "PerfusionCBV.py").read_text("utf-8")
    assert len(text.splitlines()) < 500
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & {"numpy", "torch", "scipy", "SimpleITK", "nibabel"}


def test_the_module_entry_says_research_use_only_and_offers_sample_data_when_slicer_has_started(slicer):
    parent = SimpleNamespace()
    module = load(MODULE / "PerfusionCBV.py")
    module.PerfusionCBV(parent)
    assert "Research use only" in parent.helpText
    assert parent.categories == ["Quantification"]
    assert slicer.connected == {"startupCompleted()": module.registerSampleData}


# --- packages ---------------------------------------------------------------------------------------------------------


def test_torch_is_asked_for_only_where_it_is_needed(dependencies, monkeypatch):
    monkeypatch.setattr(dependencies, "_is_installed", lambda requirement: False)
    without, with_torch = (dependencies.missing_packages(torch=torch) for torch in (False, True))
    assert [line for line in with_torch if line not in without] == ["torch>=2.6"]
    assert "nibabel>=5.2" in without


def missing_until_installed(dependencies, installed, monkeypatch, names):
    monkeypatch.setattr(dependencies, "_is_installed", lambda line: not line.startswith(names) or line in installed)


def test_slicer_5_10_asks_and_installs_what_is_missing(dependencies, slicer, monkeypatch):
    missing_until_installed(dependencies, slicer.installed, monkeypatch, ("pynrrd",))
    assert dependencies.ensure_packages(torch=False)
    assert slicer.installed == ["pynrrd>=1.0"]
    assert "pynrrd>=1.0" in slicer.questions[0]
    assert dependencies.ensure_packages(torch=False)
    assert len(slicer.questions) == 1


def test_slicer_5_12_leaves_question_and_installation_to_its_own_packaging(
    dependencies, slicer, packaging, monkeypatch
):
    monkeypatch.setattr(dependencies, "_is_installed", lambda line: not line.startswith("pynrrd") or packaging.ensured)
    assert dependencies.ensure_packages(torch=True)
    assert packaging.ensured == [(["pynrrd>=1.0"], "Perfusion CBV")]
    assert slicer.questions == []


def test_without_consent_nothing_is_installed(dependencies, slicer, packaging, monkeypatch):
    monkeypatch.setattr(dependencies, "_is_installed", lambda line: False)

    def decline(requirements, requester):
        raise RuntimeError("User declined package installation")

    packaging.pip_ensure = decline
    assert not dependencies.ensure_packages(torch=False)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    slicer.answer = False
    assert not dependencies.ensure_packages(torch=False)
    assert slicer.installed == []


def test_the_pytorch_extension_installs_torch_where_it_is_there(dependencies, slicer, monkeypatch):
    asked = []
    utils = ModuleType("PyTorchUtils")
    utils.PyTorchUtilsLogic = lambda: SimpleNamespace(
        installTorch=lambda **options: (asked.append(options), slicer.installed.append("torch>=2.6"))
    )
    monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
    slicer.modules.pytorchutils = object()
    missing_until_installed(dependencies, slicer.installed, monkeypatch, ("torch", "tqdm"))
    assert dependencies.ensure_packages(torch=True)
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.6"}]
    assert slicer.installed == ["tqdm>=4.66", "torch>=2.6"]


def test_a_failed_installation_is_explained_in_one_sentence(dependencies, slicer, monkeypatch):
    def fail(requirements):
        raise subprocess.CalledProcessError(1, "pip")

    slicer.util.pip_install = fail
    monkeypatch.setattr(dependencies, "_is_installed", lambda line: not line.startswith("tqdm"))
    with pytest.raises(PerfusionError, match=r"tqdm>=4.66 could not be installed .* try again"):
        dependencies.ensure_packages(torch=False)


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
def test_a_version_is_compared_number_by_number(dependencies, monkeypatch, installed, requirement, met):
    monkeypatch.setattr(dependencies.importlib.metadata, "version", lambda name: installed)
    assert dependencies._is_installed(requirement) is met


def test_a_package_that_is_absent_is_not_installed(dependencies):
    assert not dependencies._is_installed("no-such-package-anywhere>=1")
