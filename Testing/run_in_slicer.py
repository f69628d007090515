"""The tests of nodes, logic and batch inside Slicer itself; the same files run on slicer-core with `make test`.

    Slicer --testing --no-main-window --additional-module-paths PerfusionCBV --python-script Testing/run_in_slicer.py

Arguments after the script go to pytest. Missing packages are installed into Slicer's Python, pytest among them.
Exit codes: pytest's; 1 also when anything else goes wrong.
"""

import sys
from pathlib import Path

TESTING = Path(__file__).resolve().parent
FILES = ("nodes", "logic", "batch")
"""The others bring substitutes for what Slicer has itself."""

sys.path[:0] = [str(TESTING), str(TESTING.parent / "PerfusionCBV")]


def run(arguments):
    """Install what is missing, run the tests, return pytest's exit code."""
    import slicer

    from PerfusionCBVLib.gui.dependencies import missing_packages

    missing = missing_packages(torch=True)
    try:
        import pytest
    except ModuleNotFoundError:
        missing.append("pytest>=8")
    if missing:
        slicer.util.pip_install(missing)
        import pytest
    files = [str(TESTING / f"test_slicer_{name}.py") for name in FILES]
    # Slicer's standard output is no file, so pytest can't capture it.
    return int(pytest.main(["-s", "-p", "no:cacheprovider", "--rootdir", str(TESTING.parent), *files, *arguments]))


if __name__ == "__main__":
    code = 1
    try:
        code = run([word for word in sys.argv[1:] if word != "--"])
    finally:
        import slicer

        slicer.util.exit(code)
