"""Fixtures that every test file may use."""

import os
from pathlib import Path

import pytest


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
