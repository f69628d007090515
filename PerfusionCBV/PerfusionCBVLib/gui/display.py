"""Which map lies over which volume in which slice view, with which colours: nodes only, no widgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

from PerfusionCBVLib.gui.choices import Colours, View, WindowPreset
from PerfusionCBVLib.gui.colours import colour_node

Nodes = Mapping[str, Any]
"""Output nodes by role, as `PerfusionCBVLogic.outputs` gives them."""

ROLE, AUTOMATIC_WINDOW = "PerfusionCBV.Role", "PerfusionCBV.Window"

COMPARED = ("rcbv", "rcbv_classical", "disagreement", "uncertainty")
"""What the four views of the comparison show, row by row."""

BLOOD_VOLUMES = ("rcbv", "rcbv_classical")
"""Share window and threshold; all other maps keep their own."""

SIGNED = {"disagreement": "diverging", "k2": "diverging", "change": "diverging"}
TABLES = {"uncertainty": "uniform", **SIGNED}
LEGEND_TITLES = {
    "rcbv": "rCBV",
    "rcbv_classical": "rCBV",
    "disagreement": "Difference",
    "change": "Change of rCBV",
    "earlier": "rCBV, earlier",
    "uncertainty": "SD",
    "k1": "K1",
    "k2": "K2, 1/s",
    "kep": "kep, 1/s",
    "psr": "PSR, %",
}

COMPARE_LAYOUT, COMPARE_PLOT_LAYOUT = 26110, 26111
"""Numbers of our own layouts, far from those of Slicer and of other extensions."""

_VIEW = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
    '<property name="orientation" action="default">Axial</property>'
    '<property name="viewlabel" action="default">{label}</property>'
    '<property name="viewcolor" action="default">{colour}</property>'
    '<property name="viewgroup" action="default">{group}</property></view></item>'
)
_PLOT = '<item splitSize="350"><view class="vtkMRMLPlotViewNode" singletontag="PlotView1"/></item>'
_LABELS = (("Network", "N"), ("Classical", "C"), ("Difference", "D"), ("Uncertainty", "U"))
_VIEW_COLOURS = ("#1B5E9B", "#2B7A3D", "#C0392B", "#8A6D1D")
TAGS = tuple(f"PerfusionCBV{name}" for name, _ in _LABELS)


def layout_description(plot: bool) -> str:
    """Return the layout of the comparison, two by two linked slice views, with a plot below or without."""
    views = [
        _VIEW.format(tag=tag, label=label, colour=colour, group=COMPARE_LAYOUT)
        for tag, (_, label), colour in zip(TAGS, _LABELS, _VIEW_COLOURS, strict=True)
    ]
    rows = "".join(f'<item><layout type="horizontal">{views[i]}{views[i + 1]}</layout></item>' for i in (0, 2))
    above = f'<item splitSize="650"><layout type="vertical">{rows}</layout></item>'
    return f'<layout type="vertical" split="true">{above}{_PLOT if plot else ""}</layout>'


class MapDisplay:
    """Brings slice views and display nodes in line with the panel, and touches them only when a choice changed."""

    def __init__(self) -> None:
        self._layers: tuple[Any, ...] = ()
        self._looks: tuple[Any, ...] = ()
        self._arrangement: tuple[bool, bool] = (False, False)
        self._users_layout: int | None = None

    def update(self, parameters: Any, outputs: Nodes) -> None:
        """Show what the parameters ask for; without outputs nothing is touched.

        Parameters
        ----------
        parameters : PerfusionCBVParameterNode
        outputs : mapping of role to node
        """
        if not outputs:
            return
        self.arrange(compare=parameters.view is View.COMPARE, plot=parameters.showCurves or parameters.showHistogram)
        layers = wanted_layers(parameters, outputs)
        looks = (
            *(parameters.colours, parameters.windowPreset, parameters.window.minimum, parameters.window.maximum),
            *(parameters.threshold, parameters.opacity, parameters.legend, _identity(parameters.shownMap)),
        )
        names = tuple((tag, _identity(background), _identity(shown)) for tag, background, shown in layers)
        if names != self._layers:
            self._layers, self._looks = names, ()
            show_layers(layers)
        if looks != self._looks:
            self._looks = looks
            apply_looks(parameters, layers)

    def arrange(self, *, compare: bool, plot: bool) -> None:
        """Change the layout where the choice changed; remember the user's own and return to it in the end."""
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if node is None or self._arrangement == (compare, plot):
            return
        if self._users_layout is None:
            self._users_layout = node.GetViewArrangement()
        self._arrangement = compare, plot
        for number, with_plot in ((COMPARE_LAYOUT, False), (COMPARE_PLOT_LAYOUT, True)):
            if not node.IsLayoutDescription(number):
                node.AddLayoutDescription(number, layout_description(with_plot))
        if compare:
            node.SetViewArrangement(COMPARE_PLOT_LAYOUT if plot else COMPARE_LAYOUT)
        elif plot:
            node.SetViewArrangement(node.SlicerLayoutFourUpPlotView)
        else:
            node.SetViewArrangement(self._users_layout)
            self._users_layout = None

    def forget(self) -> None:
        """Show everything anew at the next update, whatever the user has changed in the views since."""
        self._layers = self._looks = ()


def wanted_layers(parameters: Any, outputs: Nodes) -> list[tuple[str, Any, Any]]:
    """Return (layout name, background, map) for each slice view; the name "" stands for all other views."""
    baseline = outputs.get("baseline")
    if parameters.view is View.COMPARE:
        return [(tag, baseline, outputs.get(role)) for tag, role in zip(TAGS, COMPARED, strict=True)]
    below = parameters.anatomy if parameters.view is View.ANATOMY and parameters.anatomy else baseline
    return [("", below, parameters.shownMap)]


def missing_in_comparison(outputs: Nodes) -> list[str]:
    """Return which of the four compared maps there are not."""
    return [role for role in COMPARED if outputs.get(role) is None]


def show_layers(layers: list[tuple[str, Any, Any]]) -> None:
    """Put volumes into the slice views, turn the views into the background's planes and fit them."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        name = composite.GetLayoutName()
        ours = {tag: (background, shown) for tag, background, shown in layers}
        if (name in TAGS) != ("" not in ours):
            continue
        background, shown = ours[name if name in TAGS else ""]
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(shown.GetID() if shown else None)
        if name in TAGS:
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
        view = slicer.vtkMRMLSliceLogic.GetSliceNode(composite)
        logic = slicer.app.applicationLogic().GetSliceLogic(view) if view else None
        if logic is not None and background is not None:
            view.RotateToVolumePlane(background)
            logic.FitSliceToBackground()


def apply_looks(parameters: Any, layers: list[tuple[str, Any, Any]]) -> None:
    """Give the shown maps colours, window, threshold, opacity and legend."""
    for _tag, _background, shown in layers:
        if shown is None:
            continue
        role = shown.GetAttribute(ROLE) or ""
        display = shown.GetDisplayNode()
        low, high = window_of(shown, parameters)
        unchanged = display.StartModify()
        display.SetAndObserveColorNodeID(colour_node(_table(parameters.colours, role)).GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(low, high)
        if role in BLOOD_VOLUMES:
            display.SetLowerThreshold(parameters.threshold)
            display.SetApplyThreshold(True)
        display.EndModify(unchanged)
        _legend(shown, role, parameters.legend)
    shown_here = {_identity(shown) for _, _, shown in layers}
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() in shown_here:
            composite.SetForegroundOpacity(parameters.opacity)


def window_of(node: Any, parameters: Any) -> tuple[float, float]:
    """Return the values at the two ends of a map's colours: its own, or for blood volume the chosen ones."""
    preset = parameters.windowPreset
    chosen = node.GetAttribute(ROLE) in BLOOD_VOLUMES or _identity(node) == _identity(parameters.shownMap)
    if preset is WindowPreset.MANUAL and chosen and parameters.window.maximum > parameters.window.minimum:
        return parameters.window.minimum, parameters.window.maximum
    if preset in (WindowPreset.AUTOMATIC, WindowPreset.MANUAL) or node.GetAttribute(ROLE) not in BLOOD_VOLUMES:
        low, high = (float(end) for end in node.GetAttribute(AUTOMATIC_WINDOW).split())
        return low, high
    low, high = (float(end) for end in preset.value.split())
    return low, high


def _table(colours: Colours, role: str) -> str:
    if colours is Colours.AUTOMATIC or role not in BLOOD_VOLUMES:
        return TABLES.get(role, "perfusion")
    return str(colours.value)


def _legend(node: Any, role: str, visible: bool) -> None:
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    if legend is None:
        if not visible:
            return
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(LEGEND_TITLES.get(role, node.GetName()))
        legend.SetLabelFormat("%.3f" if role == "k2" else "%.1f")
        legend.SetNumberOfLabels(5)
        legend.SetSize(0.1, 0.42)
        legend.SetPosition(0.97, 0.5)
        legend.GetLabelTextProperty().SetFontFamilyToArial()
    legend.SetVisibility(visible)
    legend.Modified()  # a view whose volumes changed does not look for legends by itself


def _identity(node: Any) -> str:
    return node.GetID() if node is not None else ""
