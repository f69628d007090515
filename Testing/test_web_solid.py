"""The map in 3-D: what is drawn, and in which colours."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (extra 'slicer')")
pytestmark = pytest.mark.web

import slicer_scene  # noqa: E402, F401  it asks before us whether this is the application
from PerfusionCBVLib.colours import colour_table  # noqa: E402


@pytest.fixture
def shown(tmp_path):
    from PerfusionCBVLib.web.scene import start_scene

    start_scene(tmp_path)
    from PerfusionCBVLib.gui.colours import colour_node

    values = np.linspace(-1, 6, 5 * 6 * 7).reshape(5, 6, 7).astype(np.float32)
    values[0, 0, :3] = np.nan
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "map")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-2.0, -2.0, 5.0, 1.0])))
    slicer.util.updateVolumeFromArray(node, values)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colour_node("perfusion").GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 4.0)
    display.SetThreshold(0.0, 1e6)
    display.ApplyThresholdOn()
    return node


def look_of(cloud):
    rendering = slicer.modules.volumerendering.logic().GetFirstVolumeRenderingDisplayNode(cloud)
    return rendering, rendering.GetVolumePropertyNode().GetVolumeProperty()


def test_what_is_drawn_is_the_map_where_it_has_values_and_transparent_elsewhere(shown):
    from PerfusionCBVLib.web.solid import show_solid

    cloud = show_solid(shown)
    drawn, values = slicer.util.arrayFromVolume(cloud), slicer.util.arrayFromVolume(shown)
    known = np.isfinite(values)
    np.testing.assert_array_equal(drawn[known], values[known])
    _rendering, look = look_of(cloud)
    assert np.isfinite(drawn).all()
    assert all(look.GetScalarOpacity().GetValue(float(value)) == 0 for value in drawn[~known])
    np.testing.assert_array_equal(cloud.GetSpacing(), shown.GetSpacing())


def test_its_colours_are_those_of_the_slices(shown):
    from PerfusionCBVLib.web.solid import show_solid

    _rendering, look = look_of(show_solid(shown))
    table = colour_table("perfusion")
    for value, entry in ((0.0, 0), (2.0, 128), (4.0, 255)):
        seen = 255 * np.array(look.GetRGBTransferFunction().GetColor(value))
        np.testing.assert_allclose(seen, table[entry], atol=4)


def test_what_lies_below_the_threshold_is_transparent_and_one_volume_serves_all_maps(shown):
    from PerfusionCBVLib.web.solid import hide_solid, show_solid

    first = show_solid(shown)
    opacity = look_of(first)[1].GetScalarOpacity()
    assert opacity.GetValue(2.5) > 0
    shown.GetDisplayNode().SetLowerThreshold(3.0)
    assert show_solid(shown) is first
    rendering, look = look_of(first)
    assert look.GetScalarOpacity().GetValue(2.9) == 0
    assert look.GetScalarOpacity().GetValue(3.9) > 0
    hide_solid()
    assert not rendering.GetVisibility()
