"""What the slice views show, rendered off-screen and compared by value at known voxels."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import vtk

import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import ParameterMap, Settings, compute_maps
from PerfusionCBVLib.colours import colour_table
from slice_view import SliceView, render_plot

pytestmark = pytest.mark.slicer

BLOCK = 8
"""Edge, voxels, of the squares of one value, so that a pixel beside a voxel's centre still has its value."""

VALUES = (0.4, 1.0, 1.6, 2.2, 2.8, 3.4, 6.0, -0.5, np.nan)
"""One for each square, over and over: inside the window of 0 to 4, above it, below the threshold, without a number."""

SLICE = 3


@pytest.fixture(scope="module")
def head():
    return graded_head(shape=(40, 46, 6), frames=40)


@pytest.fixture(scope="module")
def result(head):
    """A result whose maps are replaced by squares of known values, each map by other ones."""
    made = compute_maps(head.series, Settings(method="anchored-unet"))
    shape, affine = made.mask.shape, head.series.affine
    i, j, _k = np.indices(shape)
    number = i // BLOCK + 5 * (j // BLOCK)
    maps = {}
    for shift, name in enumerate(("rcbv", "rcbv_classical", "uncertainty")):
        values = np.array(VALUES, np.float32)[(number + shift) % len(VALUES)]
        maps[name] = ParameterMap(name, values, affine, "{ratio}", f"squares {name}")
    between = maps["rcbv"].values - maps["rcbv_classical"].values
    maps["disagreement"] = ParameterMap("disagreement", between, affine, "{ratio}", "network minus classical squares")
    baseline = np.where(i % (2 * BLOCK) < BLOCK, 200.0, 600.0).astype(np.float32)
    return replace(made, maps=maps, baseline=baseline, mask=np.ones(shape, bool))


@pytest.fixture
def outputs(result, head, tmp_path):
    slicer_scene.start(tmp_path / "slicer")
    work = importlib.import_module("PerfusionCBVLib.gui.logic")
    output_nodes = importlib.import_module("PerfusionCBVLib.gui.output_nodes")
    node = work.add_sequence(work.Sequence.of(head.series))
    slicer_scene.update_proxies()
    return output_nodes.publish(result, output_nodes.layers_of(result), node)


@pytest.fixture
def parameters(outputs):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    node = module.PerfusionCBVParameterNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    node.shownMap = outputs["rcbv"]
    node.windowPreset = module.WindowPreset.MANUAL
    node.window = module.FloatRange(0, 4)
    node.legend = False
    return node


@pytest.fixture
def show(outputs, parameters):
    """Function (view names) -> views, with the display brought in line with the parameters."""
    display = importlib.import_module("PerfusionCBVLib.gui.display").MapDisplay()
    opened = []

    def show(*names):
        if not opened:
            opened.extend(SliceView(name) for name in names)
        display.update(parameters, outputs)
        for view in opened:
            view.logic.SetSliceOffset(float(centre(outputs["rcbv"], (0, 0, SLICE))[2]))
        return opened

    yield show
    for view in opened:
        view.close()


def centre(volume, voxel):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix.MultiplyPoint((*voxel, 1.0))[:3]


def voxels():
    """Middles of the squares that lie wholly inside the picture."""
    return [(x + BLOCK // 2, y + BLOCK // 2, SLICE) for x in range(0, 40, BLOCK) for y in range(0, 40, BLOCK)]


def colour(value, low, high, table="perfusion"):
    index = np.clip(round((value - low) / (high - low) * 255), 0, 255)
    return colour_table(table)[int(index)].astype(float)


def grey(outputs, voxel):
    low, high = (float(end) for end in outputs["baseline"].GetAttribute("PerfusionCBV.Window").split())
    value = slicer.util.arrayFromVolume(outputs["baseline"])[voxel[::-1]]
    return np.full(3, np.clip((value - low) / (high - low) * 255, 0, 255))


def check(view, outputs, role, *, window, opacity, lowest=0.0, table="perfusion"):
    """Compare a view with the map's values at every square; return how many showed a colour and how many did not."""
    picture = view.render().astype(float)
    values = slicer.util.arrayFromVolume(outputs[role])
    coloured = 0
    for voxel in voxels():
        value = values[voxel[::-1]]
        expected = grey(outputs, voxel)
        if value >= lowest:  # False where not a number
            expected = opacity * colour(value, *window, table) + (1 - opacity) * expected
            coloured += 1
        found = picture[view.pixel_of(centre(outputs[role], voxel))]
        np.testing.assert_allclose(found, expected, atol=4, err_msg=f"voxel {voxel}, value {value}")
    return coloured, len(voxels()) - coloured


@pytest.mark.parametrize("opacity", [0.0, 0.6, 1.0])
def test_a_voxel_has_its_values_colour_over_the_baseline_at_the_opacity(show, outputs, parameters, opacity):
    parameters.opacity = opacity
    (view,) = show("Red")
    coloured, not_coloured = check(view, outputs, "rcbv", window=(0, 4), opacity=opacity)
    assert coloured > 15
    assert not_coloured > 3  # negative or not a number: the baseline alone


def test_the_threshold_uncovers_what_lies_below_it(show, outputs, parameters):
    parameters.threshold = 1.9
    (view,) = show("Red")
    coloured, not_coloured = check(view, outputs, "rcbv", window=(0, 4), opacity=0.7, lowest=1.9)
    assert coloured > 8
    assert not_coloured > 12


def test_window_and_colour_table_change_the_colours(show, outputs, parameters):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    parameters.windowPreset = module.WindowPreset.TUMOUR
    parameters.colours = module.Colours.UNIFORM
    (view,) = show("Red")
    check(view, outputs, "rcbv", window=(0, 5), opacity=0.7, table="uniform")


def test_the_map_lies_over_an_anatomical_volume_of_another_grid(show, outputs, parameters):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    anatomy = slicer.util.addVolumeFromArray(np.full((30, 90, 90), 50, np.float32), name="T1")
    anatomy.SetSpacing(2, 2, 2)
    anatomy.SetOrigin(-20, -20, -20)
    anatomy.CreateDefaultDisplayNodes()
    anatomy.GetDisplayNode().AutoWindowLevelOff()
    anatomy.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    parameters.view, parameters.anatomy = module.View.ANATOMY, anatomy
    (view,) = show("Red")
    picture = view.render().astype(float)
    values = slicer.util.arrayFromVolume(outputs["rcbv"])
    for voxel in voxels():
        value = values[voxel[::-1]]
        expected = np.full(3, 127.5)
        if value >= 0:
            expected = 0.7 * colour(value, 0, 4) + 0.3 * expected
        np.testing.assert_allclose(picture[view.pixel_of(centre(outputs["rcbv"], voxel))], expected, atol=4)


def test_the_legend_shows_the_ends_of_the_window_in_their_colours_and_can_be_hidden(show, parameters):
    (view,) = show("Red")
    before = view.render()
    parameters.legend = True
    show()
    drawn = view.render()
    rows, columns = np.nonzero((before != drawn).any(axis=-1))
    assert columns.min() > 0.6 * drawn.shape[1]  # at the right edge
    bar = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3).astype(int)
    for end in (colour(0.2, 0, 4), colour(2.0, 0, 4), colour(4, 0, 4)):
        assert np.abs(bar - end).sum(axis=1).min() < 12
    parameters.legend = False
    show()
    np.testing.assert_array_equal(view.render(), before)


def test_the_patients_right_is_on_the_left_of_the_picture_and_the_front_at_the_top(show, outputs):
    (view,) = show("Red")
    middle = np.array(centre(outputs["rcbv"], (20, 23, SLICE)))
    right, front = np.array([10.0, 0.0, 0.0]), np.array([0.0, 10.0, 0.0])
    row, column = view.pixel_of(middle)
    assert view.pixel_of(middle + right)[1] < column
    assert view.pixel_of(middle + front)[0] < row


def test_each_of_the_four_views_shows_its_own_map(show, outputs, parameters):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    parameters.view = module.View.COMPARE
    views = show(*display.TAGS)
    roles = dict(zip(display.COMPARED, views, strict=True))
    own = {
        role: tuple(map(float, outputs[role].GetAttribute("PerfusionCBV.Window").split()))
        for role in outputs
        if role in roles
    }
    check(roles["rcbv"], outputs, "rcbv", window=(0, 4), opacity=0.7)
    check(roles["rcbv_classical"], outputs, "rcbv_classical", window=(0, 4), opacity=0.7)
    check(roles["uncertainty"], outputs, "uncertainty", window=own["uncertainty"], opacity=0.7, table="uniform")
    check(
        roles["disagreement"],
        outputs,
        "disagreement",
        window=own["disagreement"],
        opacity=0.7,
        lowest=-1e5,
        table="diverging",
    )


def test_each_of_the_four_views_has_its_own_legend(show, parameters):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    parameters.legend = True
    views = [*show(*display.TAGS)]  # the map has a legend before it moves to a view of its own
    parameters.view = module.View.COMPARE
    show()
    with_legend = [view.render() for view in views]
    parameters.legend = False
    show()
    for view, picture in zip(views, with_legend, strict=True):
        rows, columns = np.nonzero((picture != view.render()).any(axis=-1))
        assert columns.min() > 0.5 * picture.shape[1]
        assert rows.max() - rows.min() > 0.3 * picture.shape[0]


def test_scrolling_one_linked_view_scrolls_all(show, parameters):
    module = importlib.import_module("PerfusionCBVLib.gui.parameters")
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    parameters.view = module.View.COMPARE
    views = show(*display.TAGS)
    link = slicer.vtkMRMLSliceLinkLogic()
    link.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    link.SetMRMLScene(slicer.mrmlScene)
    for view in views:
        view.node.SetViewGroup(display.COMPARE_LAYOUT)  # in the application the layout does it
    first = views[0].logic
    first.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    first.SetSliceOffset(first.GetSliceOffset() + 6.0)
    first.EndSliceNodeInteraction()
    offsets = [view.logic.GetSliceOffset() for view in views]
    assert offsets == pytest.approx([offsets[0]] * 4)


def test_the_plot_draws_every_curve_in_its_colour(outputs, parameters, result, head):
    plots = importlib.import_module("PerfusionCBVLib.gui.plots")
    parameters.inputNode = outputs["rcbv"].GetNodeReference("PerfusionCBV.Input")
    parameters.showCurves = True
    plot = plots.CurvePlot()
    plot.update(parameters, outputs, replace(result, mask=head.series.signal[..., 0] > 300))
    plot.show_at(centre(outputs["rcbv"], (20, 34, 3)), parameters)
    picture = render_plot(plots.chart_node()).reshape(-1, 3).astype(int)
    for wanted in (plots.VOXEL_COLOUR, plots.FIT_COLOUR, plots.WINDOW_COLOURS["bolus"]):
        distance = np.abs(picture - np.round(255 * np.array(wanted))).sum(axis=1)
        assert (distance < 24).sum() > 50
