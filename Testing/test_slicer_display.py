"""What the slice views show for the choices of the panel."""

import importlib
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
pytest.importorskip("PySide6", reason="PySide6 is not installed: pip install '.[slicer]'")
import qt_slicer
from slicer_panel_case import choose

pytestmark = pytest.mark.slicer
pytest_plugins = ["slicer_panel_case"]
qt_slicer.attribute_style(__name__)


@pytest.fixture
def views(ready):
    """Three slice views as the application has them, and a map."""
    composites = {}
    for name in ("Red", "Green", "Yellow"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(slicer.mrmlScene)
        logic.AddSliceNode(name)
        composites[name] = logic
    ready.views = composites
    ready.ui.applyButton.click()
    return {name: logic.GetSliceCompositeNode() for name, logic in composites.items()}


def shown(composite):
    nodes = (
        slicer.mrmlScene.GetNodeByID(i or "")
        for i in (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
    )
    return [node.GetName() if node else None for node in nodes]


def test_the_map_lies_over_the_baseline_in_every_view(ready, views):
    for composite in views.values():
        assert shown(composite) == ["DSC perfusion baseline", "DSC perfusion rCBV (Anchored U-Net)"]
        assert composite.GetForegroundOpacity() == pytest.approx(0.7)
    ready.ui.opacitySlider.value = 0.3
    assert views["Red"].GetForegroundOpacity() == pytest.approx(0.3)


def test_the_map_lies_over_a_chosen_anatomical_volume(ready, views):
    anatomy = slicer.util.addVolumeFromArray(np.ones((4, 8, 8), np.float32), name="T1 post")
    ready.parent.show()
    choose(ready.ui.viewComboBox, "another volume")
    assert ready.ui.anatomySelector.visible
    assert "Select the volume" in ready.ui.displayNoteLabel.text
    ready.ui.anatomySelector.setCurrentNode(anatomy)
    assert shown(views["Red"])[0] == "T1 post"
    choose(ready.ui.viewComboBox, "over the series")
    assert shown(views["Red"])[0] == "DSC perfusion baseline"


def test_another_map_can_be_shown(ready, views):
    k2 = ready.logic.outputs(ready.parameters.inputNode)["k2"]
    ready.ui.mapSelector.setCurrentNode(k2)
    assert shown(views["Red"])[1] == k2.GetName()
    assert k2.GetDisplayNode().GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "diverging"
    assert not ready.ui.windowPresetComboBox.enabled
    assert "own colours" in ready.ui.displayNoteLabel.text


def test_the_map_selector_offers_maps_only(panel):
    assert ("vtkMRMLScalarVolumeNode", "PerfusionCBV.Map", "yes") in panel.ui.mapSelector.attributes


@pytest.mark.parametrize(("preset", "expected"), [("0 to 3.5", (0, 3.5)), ("0 to 5", (0, 5)), ("0 to 10", (0, 10))])
def test_a_preset_sets_the_window_and_automatic_brings_back_the_maps_own(ready, views, preset, expected):
    display = ready.parameters.shownMap.GetDisplayNode()
    own = tuple(float(end) for end in ready.parameters.shownMap.GetAttribute("PerfusionCBV.Window").split())
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(own)
    choose(ready.ui.windowPresetComboBox, preset)
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(expected)
    choose(ready.ui.windowPresetComboBox, "Automatic")
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(own)


def test_the_window_can_be_set_by_hand(ready, views):
    ready.parent.show()
    assert not ready.ui.windowRangeWidget.visible
    choose(ready.ui.windowPresetComboBox, "As set below")
    assert ready.ui.windowRangeWidget.visible
    ready.ui.windowRangeWidget.setValues(0.5, 2.5)
    display = ready.parameters.shownMap.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0.5, 2.5))


def test_colour_table_and_threshold_reach_the_map(ready, views):
    display = ready.parameters.shownMap.GetDisplayNode()
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "perfusion"
    choose(ready.ui.coloursComboBox, "Uniform")
    assert display.GetColorNode().GetAttribute("PerfusionCBV.ColorTable") == "uniform"
    ready.ui.thresholdSlider.value = 1.5
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == pytest.approx(1.5)


def test_the_legend_can_be_switched_off_and_on(ready, views):
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(ready.parameters.shownMap)
    assert legend.GetVisibility()
    assert legend.GetTitleText() == "rCBV"
    ready.ui.legendCheckBox.click()
    assert not legend.GetVisibility()
    ready.ui.legendCheckBox.click()
    assert legend.GetVisibility()


def test_what_the_user_changes_in_the_views_stays_while_other_choices_change(ready, views):
    views["Red"].SetForegroundVolumeID(None)
    ready.ui.motionCheckBox.click()
    ready.ui.echoTimeSpinBox.value = 12
    assert shown(views["Red"])[1] is None


def test_four_maps_are_compared_in_linked_views_and_the_old_layout_comes_back(ready, views, parts):
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    logics = []
    for tag in display.TAGS:  # the application makes them from the layout
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(slicer.mrmlScene)
        logic.AddSliceNode(tag)
        logics.append(logic)
    ready.parameters.method = parts.Method.ANCHORED_UNET
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "Compare")
    assert layout.GetViewArrangement() == display.COMPARE_LAYOUT
    names = [shown(logic.GetSliceCompositeNode()) for logic in logics]
    maps = ("rCBV (Anchored U-Net)", "rCBV (Boxerman", "rCBV difference", "rCBV uncertainty")
    for (background, foreground), name in zip(names, maps, strict=True):
        assert background == "DSC perfusion baseline"
        assert name in foreground
    assert all(logic.GetSliceCompositeNode().GetHotLinkedControl() for logic in logics)
    assert ready.ui.displayNoteLabel.text == ""
    choose(ready.ui.viewComboBox, "over the series")
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView


def test_another_run_or_a_closed_scene_does_not_lose_the_users_layout(ready, views, parts):
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
    choose(ready.ui.viewComboBox, "Compare")
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "over the series")
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView
    choose(ready.ui.viewComboBox, "Compare")
    slicer.mrmlScene.Clear(False)
    assert layout.GetViewArrangement() == layout.SlicerLayoutConventionalView


def test_another_run_shows_its_map_again(ready, views):
    views["Red"].SetForegroundVolumeID(None)
    ready.ui.applyButton.click()
    assert "rCBV" in shown(views["Red"])[1]


def test_the_comparison_says_which_maps_there_are_not(ready, views):
    choose(ready.ui.methodComboBox, "Classical")
    ready.ui.applyButton.click()
    choose(ready.ui.viewComboBox, "Compare")
    assert ready.ui.displayNoteLabel.text == "This result comes without: classical map, difference, uncertainty."


def test_layouts_of_our_own_are_layouts_that_slicer_reads(app, parts):
    display = importlib.import_module("PerfusionCBVLib.gui.display")
    for plot in (False, True):
        views = ElementTree.fromstring(display.layout_description(plot)).findall(".//view")
        slices = [view for view in views if view.get("class") == "vtkMRMLSliceNode"]
        assert [view.get("singletontag") for view in slices] == list(display.TAGS)
        groups = {view.find("property[@name='viewgroup']").text for view in slices}
        assert len(groups) == 1  # linked views are those of one group
        assert ("vtkMRMLPlotViewNode" in [view.get("class") for view in views]) == plot
