"""Slicer's slice and 3-D views in windows of this process, streamed to the page; the mouse works as in Slicer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from trame_rca.encoders import RcaImageEncoder
from trame_rca.rca import VtkRemoteControlledArea
from trame_rca.schedulers import RcaImageRenderScheduler
from trame_rca.view_adapter import RcaViewAdapter

SLICE_MANAGERS = (
    "vtkMRMLScalarBarDisplayableManager",  # it also sets window and level by the mouse
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
SOLID_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLModelDisplayableManager",
)

FRAMES_PER_S = 60.0
STILL_AFTER_FRAMES = 10
QUALITY_MOVING, QUALITY_STILL = 70, 95
CLICK_REACH_PX = 4
"""A press and a release closer than this are a click, farther apart a drag."""

SIZE_DOUBT_PX = 5
"""What the page tells of a view's size is rounded, by one of its own pixels, which may be four of the screen's."""

STROKE_STEP_PX = 3
"""Between the discs of a stroke; the page sends fewer places than the mouse passes."""

_DIRECTIONS = (("R", "L"), ("A", "P"), ("S", "I"))
"""Letters of the positive and the negative end of each axis of RAS."""


class _Area(VtkRemoteControlledArea):
    """A window on the page that says when its size changed, and takes no click that was aimed at another size."""

    def __init__(self, window: Any, resized: Callable[[int, int], None]) -> None:
        super().__init__(window)
        self._window, self._resized = window, resized

    def process_resize_event(self, width: int, height: int) -> None:
        super().process_resize_event(width, height)
        self._resized(width, height)

    def process_interaction_event(self, event: dict[str, Any]) -> None:
        """Leave out a button pressed while the page lays its views out anew: it would be read at another place."""
        sizes = zip((event.get("w", 0), event.get("h", 0)), self._window.GetSize(), strict=True)
        if event["type"].endswith("ButtonPress") and any(abs(told - own) > SIZE_DOUBT_PX for told, own in sizes):
            return
        super().process_interaction_event(event)


class _Scheduler(RcaImageRenderScheduler):
    """Sends JPEG while something moves, and PNG, which loses nothing, once it stands still."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._n_period_until_still_render = STILL_AFTER_FRAMES

    def _render_frame(self, quality: int) -> None:
        self._rca_encoder = RcaImageEncoder.PNG if quality == self._still_quality else RcaImageEncoder.JPEG
        super()._render_frame(quality)


class _View:
    """A window with one renderer and Slicer's displayable managers, streamed under a name.

    Parameters
    ----------
    name : str
        Of the area on the page, and the view node's singleton tag.
    """

    def __init__(self, name: str, factory: Any, managers: tuple[str, ...], node_style: Any) -> None:
        self.name = name
        self.application = slicer.app.applicationLogic()
        factory.SetMRMLApplicationLogic(self.application)
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.renderer, self.window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetSize(400, 300)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.group.AddObserver(vtk.vtkCommand.UpdateEvent, lambda *_: self.draw())
        self.style = node_style
        self.style.SetDisplayableManagers(self.group)
        self.on_page = False
        area = _Area(self.window, self.resized)
        self.scheduler = _Scheduler(
            area, target_fps=FRAMES_PER_S, interactive_quality=QUALITY_MOVING, still_quality=QUALITY_STILL
        )
        self.adapter = RcaViewAdapter(area, name, scheduler=self.scheduler, do_schedule_render_on_interaction=False)

    def draw(self) -> None:
        """Send the view soon, if the page shows it."""
        if self.on_page:
            self.scheduler.schedule_render()

    def resized(self, width: int, height: int) -> None:
        """Take the size that the page gives the view, pixels."""
        raise NotImplementedError


class SliceView(_View):
    """A slice view.

    Parameters
    ----------
    name : str
        Layout name: "Red", or a tag of `gui.display.TAGS`.
    orientation : str
        Axial, Sagittal or Coronal.
    clicked : callable (SliceView, ras)
        Called with the position, mm in the world, of a click.
    moved : callable (SliceView)
        Called after slice, zoom or volumes changed.
    painted : callable (SliceView, (N, 3) array)
        Called instead of `clicked` while `paints` is set, with places, mm in the world, along the stroke.
    """

    def __init__(
        self,
        name: str,
        orientation: str,
        clicked: Callable[[SliceView, tuple[float, float, float]], None],
        moved: Callable[[SliceView], None],
        painted: Callable[[SliceView, np.ndarray], None],
    ) -> None:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        super().__init__(name, factory, SLICE_MANAGERS, slicer.vtkMRMLSliceViewInteractorStyle())
        self._clicked, self._moved, self._painted = clicked, moved, painted
        self.paints = False
        self._fitted = False
        self._pressed: tuple[int, int] | None = None
        self._painted_to: tuple[int, int] | None = None
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(self.application)
        self.application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetMappedInLayout(True)
        self.group.SetMRMLDisplayableNode(self.node)
        self.composite = self.logic.GetSliceCompositeNode()
        self._mapper, self._actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self.style.SetSliceLogic(self.logic)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.style.SetInteractor(self.interactor)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._changed())
        self.node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._changed())
        self.interactor.AddObserver(vtk.vtkCommand.LeftButtonPressEvent, lambda *_: self._press(), 10.0)
        self.interactor.AddObserver(vtk.vtkCommand.LeftButtonReleaseEvent, lambda *_: self._release(), 10.0)
        self.interactor.AddObserver(vtk.vtkCommand.MouseMoveEvent, lambda *_: self._drag(), 10.0)

    def resized(self, width: int, height: int) -> None:
        """Take the size that the page gives the view, pixels."""
        self.logic.ResizeSliceNode(width, height)
        if not self._fitted:
            self.fit()

    def fit(self) -> None:
        """Show the whole background volume; in the middle of it when it is shown first."""
        if self.composite.GetBackgroundVolumeID():
            self.logic.FitSliceToBackground()
            self._fitted = True
        self.draw()

    def offsets(self) -> tuple[float, float, float, float]:
        """Return the first and last place of a slice, the step between slices and the present place, mm."""
        ends, step = [0.0, 0.0], vtk.reference(1.0)
        if not self.logic.GetSliceOffsetRangeResolution(ends, step):
            return 0.0, 0.0, 1.0, 0.0
        return ends[0], ends[1], float(step), self.logic.GetSliceOffset()

    def go_to(self, offset_mm: float) -> None:
        """Show another slice; linked views follow."""
        self.logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
        self.logic.SetSliceOffset(offset_mm)
        self.logic.SnapSliceOffsetToIJK()
        self.logic.EndSliceNodeInteraction()

    def step(self, count: int) -> None:
        """Go `count` slices on."""
        first, last, step, now = self.offsets()
        self.go_to(min(max(now + count * step, first), last))

    def marks(self) -> dict[str, str]:
        """Return which way is left, right, top and bottom of the view, as letters of the patient's directions."""
        to_ras = slicer.util.arrayFromVTKMatrix(self.node.GetSliceToRAS())
        right, left = _ends(to_ras[:3, 0])
        top, bottom = _ends(to_ras[:3, 1])
        return {"left": left, "right": right, "top": top, "bottom": bottom}

    def position_of(self, x: float, y: float) -> tuple[float, float, float]:
        """Return the place in the world, mm, of a pixel counted from the lower left corner."""
        r, a, s, _one = self.node.GetXYToRAS().MultiplyPoint((x, y, 0.0, 1.0))
        return r, a, s

    def _changed(self) -> None:
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        if connection is not None and not self.renderer.HasViewProp(self._actor):
            self.renderer.AddViewProp(self._actor)
        self._actor.SetVisibility(connection is not None)
        self._moved(self)
        self.draw()

    def _press(self) -> None:
        self._pressed, self._painted_to = self.interactor.GetEventPosition(), None
        self._drag()

    def _drag(self) -> None:
        if not self.paints or self._pressed is None:
            return
        now = self.interactor.GetEventPosition()
        before = self._painted_to or now
        self._painted_to = now
        count = int(np.abs(np.subtract(now, before)).max() / STROKE_STEP_PX) + 1
        pixels = before + np.outer(np.arange(1, count + 1) / count, np.subtract(now, before))
        self._painted(self, np.array([self.position_of(x, y) for x, y in pixels]))

    def _release(self) -> None:
        if self._pressed is None:
            return
        moved = np.subtract(self.interactor.GetEventPosition(), self._pressed)
        if np.abs(moved).max() < CLICK_REACH_PX and not self.paints:
            self._clicked(self, self.position_of(*self._pressed))
        self._pressed = None


class SolidView(_View):
    """A 3-D view.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(name, factory, SOLID_MANAGERS, slicer.vtkMRMLThreeDViewInteractorStyle())
        self.style.SetInteractor(self.interactor)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyle3D())
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(self.application)
        self.application.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddViewNode(name)
        self.node.SetMappedInLayout(True)
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.node.SetBackgroundColor(0, 0, 0)
        self.node.SetBackgroundColor2(0, 0, 0)
        self.group.SetMRMLDisplayableNode(self.node)

    def resized(self, width: int, height: int) -> None:
        """Take the size that the page gives the view, pixels."""
        self.draw()

    def fit(self) -> None:
        """Look at everything from the front."""
        self.renderer.ResetCamera()
        camera = self.group.GetDisplayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()
        if camera is not None:
            camera.RotateTo(slicer.vtkMRMLCameraNode.Anterior)
        self.renderer.ResetCamera()
        self.renderer.GetActiveCamera().Zoom(1.5)  # the volume's box is larger than what is seen of it
        self.renderer.ResetCameraClippingRange()
        self.draw()


def _ends(direction: np.ndarray) -> tuple[str, str]:
    """Return the letters of where a direction in RAS points to and where it comes from."""
    axis = int(np.argmax(np.abs(direction)))
    positive, negative = _DIRECTIONS[axis]
    return (positive, negative) if direction[axis] > 0 else (negative, positive)
