"""From a sequence node to the map on screen: seconds, and the longest time in which Slicer did not answer.

    PERFUSIONCBV_SHARED=DATA QT_QPA_PLATFORM=offscreen PYTHONPATH=Testing python benchmarks/slicer_panel.py [METHOD ...]

Digital reference object A, 80 × 96 × 20 voxels in 45 frames, goes into the scene; the panel's Apply is pressed; the
time ends with a slice view that is drawn with the map in it. Every method runs in the same session, after one run that
does not count (it imports what the method needs, once a session).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import qt_slicer
import slicer_scene
from slice_view import SliceView

MODULE = Path(__file__).resolve().parent.parent / "PerfusionCBV"
REPEATS = 3
qt_slicer.attribute_style(__name__)


def main(methods):
    sys.path.insert(0, str(MODULE))
    with tempfile.TemporaryDirectory() as temporary:
        application = slicer_scene.start(temporary)
        application.on_event = qt_slicer.start_qt().processEvents
        panel = qt_slicer.open_module(qt_slicer.load_module())
        from PerfusionCBVLib.gui import parameters

        view = SliceView("Red", (460, 460))
        panel.parameters.inputNode = panel.logic.load(Path(os.environ["PERFUSIONCBV_SHARED"], "dro_a", "dsc.nii.gz"))
        application.processEvents()
        for method in methods:
            classical = method in [each.value for each in parameters.Leakage]
            panel.parameters.method = parameters.Method("classical" if classical else method)
            if classical:
                panel.parameters.leakage = parameters.Leakage(method)
            runs = [run(panel, view, application) for _ in range(1 + REPEATS)][1:]
            seconds, gaps_s = np.array(runs).T
            print(f"{method:15s} {np.median(seconds):.2f} s, longest without an answer {gaps_s.max():.2f} s")
        view.close()
        qt_slicer.close_module()


def run(panel, view, application):
    """Press Apply; return seconds until the view is drawn, and the longest between two servings of events."""
    application.served.clear()
    start = time.perf_counter()
    panel.ui.applyButton.click()
    view.render()
    end = time.perf_counter()
    if "rCBV" not in (panel.ui.mapSelector.currentNode() or panel.parameters.shownMap).GetName():
        raise RuntimeError(panel.ui.statusLabel.text)
    return end - start, np.diff([start, *(clock for clock, _ in application.served), end]).max()


if __name__ == "__main__":
    main(sys.argv[1:] or ["bsw", "anchored-unet", "unet-gru", "convlstm2d", "conv3d"])
