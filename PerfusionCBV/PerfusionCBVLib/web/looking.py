"""Views of a case: which volumes they show and how, where they stand, what is under a click."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.gui import display
from PerfusionCBVLib.gui.choices import Colours, View, WindowPreset
from PerfusionCBVLib.gui.curves import CurveSource
from PerfusionCBVLib.gui.input_nodes import shown_node
from PerfusionCBVLib.gui.output_nodes import outputs
from PerfusionCBVLib.gui.regions import voxel_at
from PerfusionCBVLib.settings import METHOD_TITLES
from PerfusionCBVLib.web.cases import Case
from PerfusionCBVLib.web.figures import EMPTY, curve_figure, readout
from PerfusionCBVLib.web.regions import Brush
from PerfusionCBVLib.web.solid import hide_solid, show_solid
from PerfusionCBVLib.web.state import EMPTY_READOUT, Desk
from PerfusionCBVLib.web.views import SliceView, SolidView

SLICES = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
SOLID = "Solid"
ORDER = ("Red", "Yellow", "Green", SOLID)
COMPARED = ("", "Classical", "Difference", "Uncertainty")
"""What the views of `gui.display.TAGS` show; the first shows the method that was chosen, and says its name."""

LEGEND_SIZE = (0.08, 0.6)
"""Of a view, which is smaller here than in the application."""

READ = {
    "rcbv": "rCBV",
    "rcbv_classical": "classical",
    "disagreement": "difference",
    "uncertainty": "SD",
    "k2": "K2 (1/s)",
    "psr": "PSR (%)",
    "cbv": "CBV (ml/100 g)",
    "cbf": "CBF (ml/100 g/min)",
    "mtt": "MTT (s)",
    "tmax": "Tmax (s)",
}


@dataclass
class Choices:
    """What `gui.display` asks of the panel's parameter node."""

    view: View = View.SERIES
    showCurves: bool = False  # noqa: N815  the parameter node's names
    showHistogram: bool = False  # noqa: N815
    colours: Colours = Colours.AUTOMATIC
    windowPreset: WindowPreset = WindowPreset.AUTOMATIC  # noqa: N815
    window: Any = field(default_factory=lambda: SimpleNamespace(minimum=0.0, maximum=4.0))
    threshold: float = 0.0
    opacity: float = 0.7
    legend: bool = True
    shownMap: Any = None  # noqa: N815
    anatomy: Any = None


class Looking:
    """The session's views.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.choices = Choices()
        self.views: dict[str, SliceView | SolidView] = {}
        self.drawn: Callable[[], None] = lambda: None
        """Called after the segments were changed by the mouse."""
        self._display = display.MapDisplay()
        self._case: Case | None = None
        self._source: CurveSource | None = None
        self._brush: Brush | None = None
        self._background = ""
        self._cloud: tuple[Any, ...] = ()
        self._moved: set[str] = set()
        self._watched: tuple[Any, int] | None = None
        self._applying = False
        self._make_views()
        self._tell_shown(None, {})

    # --- what is shown

    def show(self, case: Case | None, *, again: bool = False) -> None:
        """Show a case as the page's choices ask for; `again` after its map was made anew."""
        if case is not self._case or again:
            self._case, self._source = case, None
            self._brush = None
            self._display.forget()
            self._clear_readout()
        if case is None:
            self._show_background(None)
            self._cloud = ()
            hide_solid()
            self._tell_shown(None, {})
            return
        made = outputs(case.node)
        self.choices.shownMap = made.get(case.map_shown) if made else None
        self.choices.anatomy = case.anatomy
        self._applying = True
        try:
            if not made:
                self._show_background(shown_node(case.node))
                self._cloud = ()
                hide_solid()
            else:
                self._display.update(self.choices, made)
                self._solid(made)
        finally:
            self._applying = False
        self._tell_shown(case, made)
        self._fit_if_new(case, made)
        self._legends()
        self._watch_window(self.choices.shownMap)
        for view in self.views.values():
            if isinstance(view, SliceView):  # the 3-D view, which takes longest, says itself when it changes
                view.draw()

    def fit(self) -> None:
        """Show everything in all views."""
        for view in self.views.values():
            view.fit()

    def mouse(self, mode: str) -> None:
        """Let the left button look and click, set window and level, draw or erase."""
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")
        node.SetCurrentInteractionMode(node.AdjustWindowLevel if mode == "window" else node.ViewTransform)
        for view in self.views.values():
            if isinstance(view, SliceView):
                view.paints = mode in ("draw", "erase")

    # --- where the views stand

    def tell_slices(self) -> None:
        """Tell the page where the slices stand and which way is which."""
        names = [name for name in self._moved if isinstance(self.views.get(name), SliceView)]
        self._moved.clear()
        if not names:
            return
        with self.desk.state as state:
            told = dict(state.slices)
            for name in names:
                view = self.views[name]
                assert isinstance(view, SliceView)
                first, last, step, now = view.offsets()
                place = {"first": first, "last": last, "step": step, "now": round(now, 3)}
                count = round((last - first) / step) + 1 if step else 1
                told[name] = {
                    **place,
                    "count": count,
                    "number": min(max(round((now - first) / step) + 1, 1), count) if step else 1,
                    **view.marks(),
                }
            state.slices = told

    def _view_moved(self, view: SliceView) -> None:
        if not self._moved:
            asyncio.get_running_loop().call_later(0.03, self.tell_slices)
        self._moved.add(view.name)

    # --- what is under a click

    def clicked(self, view: SliceView, ras: tuple[float, float, float]) -> None:
        """Read the voxel at a place in the world, and bring the other views there."""
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        crosshair.SetCrosshairMode(crosshair.ShowIntersection)
        crosshair.SetCrosshairRAS(*ras)
        for other in self.views.values():
            if isinstance(other, SliceView) and other is not view:
                other.node.JumpSliceByOffsetting(*ras)
        self.read(ras)

    def read(self, ras: tuple[float, float, float]) -> None:
        """Tell the page what the maps say at a place, and show its curve."""
        case = self._case
        made = outputs(case.node) if case is not None else {}
        with self.desk.state as state:
            self._clear_readout()
            state.reading += 1
            if case is None or not made:
                state.readout = "Compute a map first: curves need its baseline and bolus window."
                return
            voxel = voxel_at(ras, made["baseline"])
            if voxel is None:
                state.readout = "This place lies outside the series."
                return
            i, j, k = voxel
            values = {role: float(slicer.util.arrayFromVolume(made[role])[k, j, i]) for role in READ if role in made}
            state.voxel = list(voxel)
            state.voxel_values = {role: value if np.isfinite(value) else None for role, value in values.items()}
            state.readout = readout(voxel, {READ[role]: value for role, value in values.items()})
            self.draw_curve()

    def draw_curve(self) -> None:
        """Draw the curve of the chosen voxel anew."""
        state, case = self.desk.state, self._case
        if case is None or case.result is None or not state.voxel:
            return
        if self._source is None:
            self._source = CurveSource.of_result(case.result)
        i, j, k = state.voxel
        state.curve = curve_figure(self._source, (i, j, k), signal=state.quantity == "signal")

    def brush(self, view: SliceView, places: np.ndarray) -> None:
        """Draw or erase at places of a view, (N, 3) mm in the world, in the segmentation of the case."""
        case = self._case
        if case is None or case.segmentation is None:
            return
        if self._brush is None:
            self._brush = Brush(case.segmentation, case.node)
        to_ras = slicer.util.arrayFromVTKMatrix(view.node.GetSliceToRAS())
        state = self.desk.state
        self._brush.paint(places, to_ras[:3, 2], float(state.brush_mm), erase=state.mouse == "erase")
        self.drawn()

    def forget_drawing(self) -> None:
        """Start the next stroke from what the scene holds then."""
        self._brush = None

    # --- inside

    def _tell_shown(self, case: Case | None, made: Any) -> None:
        """Tell the page which views it shows, what they are called, and why one has no colours."""
        if self.choices.view is not View.COMPARE or not made or case is None or case.result is None:
            told = [{"name": name, "title": SLICES.get(name, "3-D"), "none": ""} for name in ORDER]
        else:
            method = METHOD_TITLES[case.result.provenance["settings"]["method"]]
            told = [
                {"name": tag, "title": title or method, "none": "" if role in made else "This method has none."}
                for tag, title, role in zip(display.TAGS, COMPARED, display.COMPARED, strict=True)
            ]
        self.desk.state.shown = told
        names = {each["name"] for each in told}
        if self.desk.state.maximised not in names:
            self.desk.state.maximised = ""
        for view in self.views.values():
            view.on_page = view.name in names

    def _legends(self) -> None:
        for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
            legend.SetSize(*LEGEND_SIZE)
            legend.SetPosition(0.985, 0.5)
            legend.Modified()  # a view that has just got its map looks for the legend now

    def _clear_readout(self) -> None:
        self.desk.state.update({"readout": EMPTY_READOUT, "voxel": [], "voxel_values": {}, "curve": EMPTY})

    def _make_views(self) -> None:
        """Make all views at once: one that is made later does not see the legends that are there already."""
        for name in (*SLICES, *display.TAGS):
            orientation = SLICES.get(name, "Axial")
            self.views[name] = SliceView(name, orientation, self.clicked, self._view_moved, self.brush)
        self.views[SOLID] = SolidView(SOLID)
        for view in self.views.values():
            self.desk.server.controller.rc_area_register(view.adapter)
        self.mouse(self.desk.state.mouse)

    def _show_background(self, volume: Any) -> None:
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetForegroundVolumeID(None)
            composite.SetBackgroundVolumeID(volume.GetID() if volume is not None else None)
            view = self.views.get(composite.GetLayoutName())
            if isinstance(view, SliceView) and volume is not None:
                view.node.RotateToVolumePlane(volume)

    def _fit_if_new(self, case: Case, made: Any) -> None:
        """Fit the views when another volume lies under the map; its display does it for its own changes."""
        shown = [view for view in self.views.values() if isinstance(view, SliceView)]
        under = f"{case.key} {bool(made)} {[view.composite.GetBackgroundVolumeID() for view in shown]}"
        if under != self._background:
            self._background = under
            self.fit()
            for view in shown:  # the middle of the volume, where there is something to see
                first, last, _step, _now = view.offsets()
                view.go_to((first + last) / 2)

    def _solid(self, made: Any) -> None:
        shown = self.choices.shownMap
        if self.choices.view is View.COMPARE or shown is None:
            self._cloud = ()
            hide_solid()
            return
        look = shown.GetDisplayNode()
        cloud = (
            *(shown.GetID(), shown.GetImageData().GetMTime(), shown.GetTransformNodeID(), look.GetColorNodeID()),
            *(look.GetWindowLevelMin(), look.GetWindowLevelMax(), look.GetLowerThreshold()),
        )
        if cloud != self._cloud:
            first = not self._cloud
            self._cloud = cloud
            show_solid(shown)
            if first:
                self.views[SOLID].fit()

    def _watch_window(self, shown: Any) -> None:
        """Keep what the mouse does to the colours: the page's fields follow, and the next change starts from there."""
        if self._watched is not None:
            self._watched[0].RemoveObserver(self._watched[1])
            self._watched = None
        if shown is None:
            return
        shown_display = shown.GetDisplayNode()
        self.desk.state.window_low = round(shown_display.GetWindowLevelMin(), 3)
        self.desk.state.window_high = round(shown_display.GetWindowLevelMax(), 3)

        def changed(*_: Any) -> None:
            low, high = shown_display.GetWindowLevelMin(), shown_display.GetWindowLevelMax()
            window = self.choices.window
            if self._applying or (round(low, 3), round(high, 3)) == (window.minimum, window.maximum):
                return
            if abs(low - self.desk.state.window_low) < 2e-3 and abs(high - self.desk.state.window_high) < 2e-3:
                return
            window.minimum, window.maximum = low, high
            self.choices.windowPreset = WindowPreset.MANUAL
            with self.desk.state as state:
                state.update({"window_low": round(low, 3), "window_high": round(high, 3)})
                state.window_preset = WindowPreset.MANUAL.value

        self._watched = shown_display, shown_display.AddObserver(vtk.vtkCommand.ModifiedEvent, changed)
