"""Maps without a screen: what `perfusion-cbv map` does, run by Slicer.

    Slicer --no-main-window --python-script batch.py -- --input FOLDER --output FOLDER [options of `map`]

`--install-packages` installs the Python packages that are missing. Exit codes: 0 done, 2 wrong usage, 3 input refused,
4 cancelled, 1 a fault of ours.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def command(arguments):
    """Return the command line's arguments for this script's: `--input FILE` is its first word there."""
    words = [word for word in arguments if word != "--"]
    if "--input" in words[:-1]:
        at = words.index("--input")
        words = [words[at + 1], *words[:at], *words[at + 2 :]]
    return ["map", *words]


def run(arguments):
    """Make the maps; return the exit code."""
    import slicer

    from PerfusionCBVLib.gui.dependencies import missing_packages
    from PerfusionCBVLib.settings import CLASSICAL_METHODS

    install_packages = "--install-packages" in arguments
    arguments = [word for word in arguments if word != "--install-packages"]
    missing = missing_packages(torch=not any(name in arguments for name in CLASSICAL_METHODS))
    if missing and install_packages:
        slicer.util.pip_install(missing)
    elif missing:
        packages = ", ".join(missing)
        print(f"perfusion-cbv: Python packages are missing ({packages}); add --install-packages.", file=sys.stderr)
        return 1
    from PerfusionCBVLib.cli import main

    return main(command(arguments))


if __name__ == "__main__":
    code = 1
    try:
        code = run(sys.argv[1:])
    except SystemExit as usage:  # argparse, after it has said what is wrong
        code = usage.code
    finally:
        sys.stdout.flush()
        # An uncaught error would leave Slicer running without a window.
        import slicer

        slicer.util.exit(code)
