"""Fixtures that every test file may use."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

WEB_PACKAGES = ("trame", "trame_rca", "trame_plotly", "playwright")


def pytest_configure() -> None:
    """Where PERFUSIONCBV_REQUIRE_SLICER or _WEB is set, these tests must run: a skipped test is no passed one."""
    missing = [name for name in ("slicer", "PySide6") if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("PERFUSIONCBV_REQUIRE_SLICER"):
        raise pytest.UsageError(f"{' and '.join(missing)} must be installed (extra 'slicer'); see .ci/run")
    missing = [name for name in WEB_PACKAGES if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("chromium") or shutil.which("chromium-browser") else ["chromium"]
    if missing and os.environ.get("PERFUSIONCBV_REQUIRE_WEB"):
        raise pytest.UsageError(f"{' and '.join(missing)} must be installed (extras 'web' and 'dev'); see .ci/run")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the acceptance data (dro_a, osipi_dsc, invivo_curves), never part of the repository."""
    folder = os.environ.get("PERFUSIONCBV_SHARED")
    if not folder:
        pytest.skip("acceptance data not available: set PERFUSIONCBV_SHARED to the folder that holds dro_a, osipi_dsc")
    path = Path(folder)
    if not (path / "dro_a").is_dir():
        pytest.fail(f"PERFUSIONCBV_SHARED={folder} has no folder dro_a")
    return path
