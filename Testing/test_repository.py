"""Facts about the repository itself: what ships, what is imported, what the entry points say."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import PerfusionCBVLib
import write_colour_files as colour_files

ROOT = Path(__file__).parent.parent
MODULE = ROOT / "PerfusionCBV"
LIBRARY = MODULE / "PerfusionCBVLib"
SLICER_PACKAGES = {"slicer", "qt", "vtk", "ctk"}
DATA_SUFFIXES = {".json", ".safetensors", ".npz", ".txt", ".html", ".css", ".js", ".png"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def listed(variable: str) -> list[str]:
    """The entries of one `set(...)` of the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text("utf-8")
    return re.search(rf"set\({variable}\s+(.*?)\)", text, flags=re.DOTALL)[1].split()


def relative(paths) -> list[str]:
    return [p.relative_to(MODULE).as_posix() for p in paths if p.is_file() and not p.name.startswith(".")]


def requirements(name: str) -> set[str]:
    lines = (MODULE / "Resources" / name).read_text("utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("variable", "in_tree"),
    [
        ("MODULE_PYTHON_SCRIPTS", ["PerfusionCBV.py", *relative(LIBRARY.rglob("*.py"))]),
        (
            "MODULE_PYTHON_RESOURCES",
            relative([*(MODULE / "Resources").rglob("*"), *(p for s in DATA_SUFFIXES for p in LIBRARY.rglob(f"*{s}"))]),
        ),
    ],
)
def test_slicer_build_lists_exactly_the_files_that_ship(variable, in_tree):
    entries = listed(variable)
    assert len(entries) == len(set(entries)), f"{variable} lists a file twice"
    to_add = [f"add     {name}" for name in sorted(set(in_tree) - set(entries))]
    to_remove = [f"remove  {name}" for name in sorted(set(entries) - set(in_tree))]
    difference = "\n".join(to_add + to_remove)
    assert difference == "", f"PerfusionCBV/CMakeLists.txt, {variable}:\n{difference}"


def extension(variable: str) -> str:
    """One `set(EXTENSION_...)` of the top-level CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text("utf-8")
    return re.search(rf'set\(EXTENSION_{variable} "(.*?)"\)', text)[1]


def test_the_extension_metadata_are_complete_and_agree_with_the_index_description():
    entry = json.loads((ROOT / "PerfusionCBV.json").read_text("utf-8"))
    assert {"$schema", "category", "scm_url", "scm_revision", "build_dependencies", "tier"} <= set(entry)
    assert entry["category"] == extension("CATEGORY")
    assert entry["build_dependencies"] == [extension("DEPENDS")] == ["PyTorch"]
    assert "Research use only" in extension("DESCRIPTION")
    assert extension("CONTRIBUTORS")
    # The addresses follow where the source is published; the files that they name are here.
    pictures = [extension("ICONURL"), *extension("SCREENSHOTURLS").split(" ")]
    for address in pictures:
        assert (ROOT / address.removeprefix("${PerfusionCBV_FILES_URL}/")).is_file()


@pytest.mark.parametrize("name", colour_files.NAMES)
def test_colour_files_hold_the_librarys_tables(name):
    assert (colour_files.FOLDER / f"{name}.ctbl").read_text("utf-8") == colour_files.colour_file(name)


def test_library_holds_no_file_of_a_kind_that_nothing_ships():
    kinds = {p.suffix for p in LIBRARY.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert kinds <= {".py"} | DATA_SUFFIXES


def test_version_is_the_same_in_pyproject_library_and_changelog():
    assert project()["version"] == PerfusionCBVLib.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)[1]
    assert newest == PerfusionCBVLib.__version__


def test_licence_is_apache_2():
    words = " ".join((ROOT / "LICENSE").read_text("utf-8").split())
    assert words.startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in words
    assert project()["license"] == "Apache-2.0"


def test_continuous_integration_checks_and_tests_and_stops_at_the_first_failure():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text("utf-8").splitlines()]
    assert "set -euo pipefail" in lines
    assert lines.index("make check") < lines.index("make test")


def test_readme_names_the_two_commands_a_newcomer_needs():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_slicer_requirements_are_the_library_dependencies_that_slicer_does_not_bring():
    dependencies = {re.split(r"[<>=]", d)[0]: d for d in project()["dependencies"]}
    brought_by_slicer = {"numpy", "SimpleITK"}
    assert requirements("requirements.txt") == {d for name, d in dependencies.items() if name not in brought_by_slicer}
    assert requirements("requirements-networks.txt") == set(project()["optional-dependencies"]["networks"])
    assert requirements("requirements-dicom.txt") == set(project()["optional-dependencies"]["dicom"])


def test_import_scan_finds_imports_inside_functions(tmp_path):
    source = tmp_path / "example.py"
    source.write_text("import numpy.linalg\ndef f():\n    from slicer.util import loadVolume\n", "utf-8")
    assert imported_packages(source) == {"numpy", "slicer"}


def test_library_imports_nothing_of_slicer():
    faces = {LIBRARY / "gui", LIBRARY / "web"}  # the only places that may
    files = [p for p in LIBRARY.rglob("*.py") if not faces & set(p.parents)]
    assert files
    offenders = {str(p.relative_to(ROOT)): found for p in files if (found := imported_packages(p) & SLICER_PACKAGES)}
    assert offenders == {}


def test_what_panel_and_browser_share_imports_nothing_of_qt():
    """The browser's server has no Qt; what it imports of `gui` must not either."""
    queue, seen = [*(LIBRARY / "web").glob("*.py")], set()
    while queue:
        path = queue.pop()
        seen.add(path)
        assert not imported_packages(path) & {"qt", "ctk"}, path
        text = path.read_text("utf-8")
        named = re.findall(r"PerfusionCBVLib\.gui\.(\w+)", text)
        for several in re.findall(r"from PerfusionCBVLib\.gui import ([\w, ]+)", text):
            named += several.split(", ")
        for name in named:
            wanted = LIBRARY / "gui" / f"{name}.py"
            queue += [wanted] if wanted.exists() and wanted not in seen else []
    assert LIBRARY / "gui" / "logic.py" in seen


def test_importing_the_library_imports_no_torch():
    code = "import sys, PerfusionCBVLib; sys.exit('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr or "torch was imported"
