"""Makes the README's pictures of the Slicer panel: `make screenshots`. Needs slicer-core and PySide6, no display.

The patient is the simulated one that the panel's Load menu offers. Slice views and colour legend are Slicer's own,
rendered off-screen; panel and plot are drawn with the substitutes of `qt_slicer` and `slice_view`, so in the
application their frame and fonts differ.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import slicer
import vtk
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

import qt_slicer
import slicer_scene
from slice_view import SliceView, render_plot

MODULE = Path(__file__).resolve().parent.parent / "PerfusionCBV"
qt_slicer.attribute_style(__name__)
PANEL_WIDTH = 470
VIEW = 460


def main(folder):
    sys.path.insert(0, str(MODULE))
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        application = slicer_scene.start(temporary)
        application.on_event = qt_slicer.start_qt().processEvents
        panel = qt_slicer.open_module(qt_slicer.load_module())
        from PerfusionCBVLib.gui import display, parameters, plots
        from PerfusionCBVLib.simulate import demo_parameters, simulate
        from PerfusionCBVLib.simulate.anatomy import TISSUES

        panel.loading.menu.actions()[2].trigger()  # the simulated patient
        slicer_scene.update_proxies()
        serve()
        panel.parameters.inputNode.SetName("Simulated patient")
        red = SliceView("Red", (VIEW, VIEW))
        compared = [SliceView(tag, (VIEW, VIEW)) for tag in display.TAGS]
        panel.parameters.method = parameters.Method.ANCHORED_UNET
        panel.ui.applyButton.click()
        patient = simulate(demo_parameters())
        enhancing = patient.tissue == TISSUES.index("enhancing")
        middle = middle_of(enhancing, patient.series.affine)
        look_at(red, middle)
        save(red.render(), folder / "slicer-overlay.png")
        panel.parameters.view = parameters.View.COMPARE
        for view in compared:
            look_at(view, middle)
        save(four_up(compared), folder / "slicer-compare.png")
        panel.parameters.view = parameters.View.SERIES
        panel.parameters.curveSegmentation = panel.logic.outputs(panel.parameters.inputNode)["regions"]
        panel.ui.plotButton.click()
        slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCursorPositionRAS(rim(panel, middle))
        chart = plots.chart_node()
        save(render_plot(chart), folder / "slicer-curves.png")
        picture_of(panel, folder / "slicer-panel.png")
        measure(panel, {"Enhancing": enhancing, "Oedema": patient.tissue == TISSUES.index("oedema")})
        picture_of_section(panel, panel.ui.measureCollapsibleButton, folder / "slicer-measures.png")
        picture_of_page(panel, Path(temporary) / "page.pdf", folder / "one-page.png")
        for view in (red, *compared):
            view.close()
        qt_slicer.close_module()


def serve():
    for _ in range(5):
        slicer.app.processEvents()


def middle_of(inside, affine):
    """Return the middle, RAS in mm, of a region in the slice that has most of it."""
    k = inside.sum(axis=(0, 1)).argmax()
    i, j = np.argwhere(inside[..., k]).mean(axis=0)
    return (affine @ (i, j, k, 1.0))[:3]


def measure(panel, segments):
    """Press Measure with these segments, as if they had been drawn."""
    from PerfusionCBVLib.gui.regions import oriented_image

    baseline = panel.logic.outputs(panel.parameters.inputNode)["baseline"]
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    for name, inside in segments.items():
        image = oriented_image(inside, baseline)
        drawn.AddSegmentFromBinaryLabelmapRepresentation(image, name, (1.0, 0.4, 0.2), name)
    panel.ui.measuredSegmentationSelector.setCurrentNode(drawn)
    panel.ui.mirrorCheckBox.checked = True
    panel.ui.measureButton.click()


def rim(panel, middle):
    """Return the position of the highest blood volume within 15 mm of a position, in its slice."""
    node = panel.parameters.shownMap
    to_ras, to_ijk = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    node.GetRASToIJKMatrix(to_ijk)
    i, j, k = (round(n) for n in to_ijk.MultiplyPoint((*middle, 1.0))[:3])
    reach = round(15 / node.GetSpacing()[0])
    smooth = gaussian_filter(np.nan_to_num(slicer.util.arrayFromVolume(node)[k]), 1)
    near = smooth[j - reach : j + reach, i - reach : i + reach]
    row, column = np.unravel_index(np.argmax(near), near.shape)
    return list(to_ras.MultiplyPoint((i - reach + column, j - reach + row, k, 1.0))[:3])


def look_at(view, middle):
    view.logic.FitSliceToBackground()
    view.logic.SetSliceOffset(middle[2])  # the simulated patient's slices are axial


def four_up(views):
    titles = ("Anchored U-Net", "Classical (Boxerman)", "Network minus classical", "Uncertainty (standard deviation)")
    tiles = []
    for view, title in zip(views, titles, strict=True):
        tile = Image.fromarray(view.render())
        ImageDraw.Draw(tile).text((8, 6), title, fill="white", font=ImageFont.load_default(16))
        tiles.append(np.asarray(tile))
    gap = np.full((VIEW, 3, 3), 90, np.uint8)
    rows = [np.hstack([tiles[i], gap, tiles[i + 1]]) for i in (0, 2)]
    return np.vstack([rows[0], np.full((3, rows[0].shape[1], 3), 90, np.uint8), rows[1]])


def picture_of(panel, path):
    """Grab the panel with the sections open that a first user sees, at the width of Slicer's module panel."""
    panel.parent.show()
    panel.ui.displayCollapsibleButton.collapsed = False
    for _ in range(2):
        panel.parent.resize(PANEL_WIDTH, panel.parent.heightForWidth(PANEL_WIDTH))
        serve()
    panel.parent.grab().save(str(path))


def picture_of_section(panel, section, path):
    section.collapsed = False
    for _ in range(3):
        section.resize(PANEL_WIDTH, section.layout().totalSizeHint().height() + 30)
        serve()
    section.grab().save(str(path))


def picture_of_page(panel, page, path):
    """Draw the page for the referrer with pdftoppm (Debian package poppler-utils)."""
    panel.logic.writePage(panel.parameters.inputNode, page)
    subprocess.run(["pdftoppm", "-r", "90", "-png", "-singlefile", page, path.with_suffix("")], check=True)
    print(path)


def save(pixels, path):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MODULE.parent / "Resources")
    main(parser.parse_args().output)
