"""All tests of the Slicer side, inside Slicer itself; the same files run on slicer-core with `make test`.

    Slicer --testing --no-main-window --additional-module-paths PerfusionCBV --python-script Testing/run_in_slicer.py

Arguments after the script go to pytest. Missing packages are installed into Slicer's Python, pytest among them.
Exit codes: pytest's; 1 also when anything else goes wrong.
"""

import sys
from pathlib import Path

TESTING = Path(__file__).resolve().parent
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
    # The panel's tests bring substitutes for Qt's widgets, which Slicer has itself.
    files = [str(file) for file in sorted(TESTING.glob("test_slicer_*.py")) if file.stem != "test_slicer_panel"]
    return int(pytest.main(["-p", "no:cacheprovider", "--rootdir", str(TESTING.parent), *files, *arguments]))


if __name__ == "__main__":
    code = 1
    try:
        code = run([word for word in sys.argv[1:] if word != "--"])
    finally:
        import slicer

        slicer.util.exit(code)
