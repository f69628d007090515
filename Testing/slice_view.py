"""Slicer's slice and plot views without Qt: rendered off-screen to arrays; for tests and the README's pictures.

A slice view is Slicer's own vtkMRMLSliceLogic (which blends background and foreground) and its own displayable managers
(which draw colour legend and crosshair); only the window is ours. The plot is a vtkChartXY fed from the plot nodes as
qMRMLPlotView does it; fonts and margins are ours.
"""

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

MANAGERS = ("vtkMRMLColorLegendDisplayableManager", "vtkMRMLCrosshairDisplayableManager")


class SliceView:
    """One slice view by its layout name; makes its slice node and composite node where the scene has none.

    Parameters
    ----------
    name : str
        "Red", or a singleton tag of a layout of our own.
    size : (width, height), pixels
    """

    def __init__(self, name, size=(400, 400)):
        application = slicer.app.applicationLogic()
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.renderer, self.window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        if application.GetSliceLogics() is None:
            application.SetSliceLogics(vtk.vtkCollection())
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)  # the scene's own where it has one of this name
        if self.node.GetOrientation() == "Reformat":  # the application's views start from its presets
            self.node.SetOrientation("Axial")
        self.group.SetMRMLDisplayableNode(self.node)
        self.logic.ResizeSliceNode(*size)
        self.composite = self.logic.GetSliceCompositeNode()
        self.mapper = vtk.vtkImageMapper()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(self.mapper)
        self.actor.GetProperty().SetDisplayLocationToBackground()

    def render(self):
        """Return the view as (height, width, 3) uint8, the first row at the top."""
        connection = self.logic.GetImageDataConnection()
        if connection is not None and not self.renderer.HasViewProp(self.actor):
            self.renderer.AddViewProp(self.actor)
        self.mapper.SetInputConnection(connection)
        return _pixels(self.window)

    def pixel_of(self, ras):
        """Return (row, column) of a position in the world, as `render` counts them."""
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), to_xy)
        x, y, _z, _one = to_xy.MultiplyPoint((*ras, 1.0))
        return self.window.GetSize()[1] - 1 - round(y), round(x)

    def close(self):
        """Let go of window and scene."""
        slicer.app.applicationLogic().GetSliceLogics().RemoveItem(self.logic)
        self.group.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)
        self.window.Finalize()


def render_plot(chart, size=(900, 420)):
    """Return a chart node as (height, width, 3) uint8, drawn from its plot series and tables."""
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetMultiSamples(4)
    window.SetSize(*size)
    view = vtk.vtkContextView()
    view.SetRenderWindow(window)
    view.GetRenderer().SetBackground(1, 1, 1)
    drawn = vtk.vtkChartXY()
    view.GetScene().AddItem(drawn)
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(number)
        line = drawn.AddPlot(vtk.vtkChart.LINE)
        line.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
        line.SetLabel(series.GetName())
        line.SetColorF(*series.GetColor())
        line.SetWidth(series.GetLineWidth())
        line.GetPen().SetLineType(series.GetLineStyle())  # both count none, solid, dash, dot from 0
    for axis, title in ((0, chart.GetYAxisTitle()), (1, chart.GetXAxisTitle())):
        drawn.GetAxis(axis).SetTitle(title)
        drawn.GetAxis(axis).GetTitleProperties().SetFontSize(16)
        drawn.GetAxis(axis).GetLabelProperties().SetFontSize(14)
    drawn.SetShowLegend(True)
    drawn.GetLegend().SetLabelSize(14)
    pixels = _pixels(window)
    window.Finalize()
    return pixels


def _pixels(window):
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()
