"""The Slicer module: wiring between the panel and PerfusionCBVLib, where all the work is done."""

import sys
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

RESOURCES = Path(__file__).parent / "Resources"


class PerfusionCBV(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Perfusion CBV")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        self.parent.dependencies = []
        self.parent.contributors = ["PerfusionCBV contributors"]
        self.parent.helpText = _(
            "Computes relative cerebral blood volume (rCBV) maps from a DSC-MRI series. Research use only."
        )
        self.parent.acknowledgementText = _("Licensed under the Apache License 2.0.")
        slicer.app.connect("startupCompleted()", registerSampleData)


class PerfusionCBVWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: keeps its state in a parameter node, starts the logic, shows the result or why there is none."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.parameters = None
        self._guiTag = None
        self._inputID = None  # the series that typed times and findings belong to
        self._resultOf = None  # the series that logic.result was made of
        self._findings = None
        self._busy = self._cancelled = False

    # Opening, closing, reloading

    def setup(self):
        """Load the layout and connect it."""
        ScriptedLoadableModuleWidget.setup(self)
        # Only now: at start-up Slicer imports this file, and nothing else of the extension.
        from PerfusionCBVLib.gui.comparison_section import ComparisonSection
        from PerfusionCBVLib.gui.display import MapDisplay
        from PerfusionCBVLib.gui.exports import Exports
        from PerfusionCBVLib.gui.histogram import HistogramPlot
        from PerfusionCBVLib.gui.load_menu import LoadMenu
        from PerfusionCBVLib.gui.plots import CurvePlot
        from PerfusionCBVLib.gui.selectors import ArterialFile, SegmentChoice
        from PerfusionCBVLib.gui.send_section import SendSection

        panel = slicer.util.loadUI(self.resourcePath("UI/PerfusionCBV.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = PerfusionCBVLogic()
        self.display, self.plot, self.histogram = MapDisplay(), CurvePlot(), HistogramPlot()
        self.ui.mapSelector.addAttribute("vtkMRMLScalarVolumeNode", "PerfusionCBV.Map", "yes")
        self.loading = LoadMenu(self)
        for button, slot in (
            (self.ui.checkButton, self.onCheckButton),
            (self.ui.applyButton, self.onApplyButton),
            (self.ui.cancelButton, self.onCancelButton),
        ):
            button.clicked.connect(slot)
        self.ui.earlierMapSelector.addAttribute("vtkMRMLScalarVolumeNode", "PerfusionCBV.Role", "rcbv")
        self.exports, self.comparison, self.sending = Exports(self), ComparisonSection(self), SendSection(self)
        # These have no connection to a parameter of their kind: several node types, a part of a node, a file's name.
        self.ui.inputSelector.currentNodeChanged.connect(self.onInputSelected)
        self.segmentChoices = [
            SegmentChoice(self, selector, f"{what}Segmentation", f"{what}SegmentID")
            for what, selector in (
                ("reference", self.ui.referenceSegmentSelector),
                ("arterial", self.ui.arterialSegmentSelector),
            )
        ]
        self.arterialFile = ArterialFile(self)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneChanged)
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            self.addObserver(crosshair, crosshair.CursorPositionModifiedEvent, self.onCursorMoved)
            self.addObserver(crosshair, vtk.vtkCommand.ModifiedEvent, self.onCrosshairMoved)
        self.initializeParameterNode()

    def cleanup(self):
        """Let go of the scene when the application closes or the module is reloaded."""
        self._cancelled = True
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Show the scene's state when the user opens the module."""
        self.initializeParameterNode()

    def exit(self):
        """Stop following the scene when the user leaves the module."""
        self.setParameterNode(None)

    def onReload(self):
        """Take the library's files anew, too."""
        for name in [name for name in sys.modules if name.split(".")[0] == "PerfusionCBVLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, _caller=None, _event=None):
        """Stop the work and forget the scene that is about to go."""
        self._cancelled = True
        self.setParameterNode(None)
        self.logic.result = self._inputID = self._resultOf = self._findings = None
        self.display.arrange(compare=False, plot=False)
        self.display.forget()
        self.plot.forget()

    def onSceneChanged(self, _caller=None, _event=None):
        """Start anew after the scene was closed or loaded, if the user is looking."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Follow the scene's parameter node; select its only kind of input to save a click."""
        self.setParameterNode(self.logic.getParameterNode())
        if self.parameters.inputNode is None:
            classes = ("vtkMRMLSequenceNode", "vtkMRMLMultiVolumeNode", "vtkMRMLVectorVolumeNode")
            nodes = (node for name in classes for node in slicer.util.getNodesByClass(name))
            self.parameters.inputNode = next((node for node in nodes if self.logic.isDynamic(node)), None)

    def setParameterNode(self, parameters):
        """Show a parameter node in the panel, and the panel's choices in it; None disconnects."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObservers(self.onParametersChanged)
        self.parameters = parameters
        if parameters is None:
            return
        self._guiTag = parameters.connectGui(self.ui)
        for choice in self.segmentChoices:
            choice.show(parameters)
        self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.onParametersChanged()

    # Showing the state

    def onParametersChanged(self, _caller=None, _event=None):
        """Bring panel, views and plot in line with the parameter node."""
        from PerfusionCBVLib.gui import panel

        if self.parameters is None or self._inputChanged():
            return
        node, outputs = self.parameters.inputNode, self._outputs()
        result = self.logic.result if self._hasResult() else None
        self.ui.inputSelector.setCurrentNode(node)
        reason = panel.show_state(
            self.ui, self.logic, self.parameters, outputs, findings=self._findings, busy=self._busy, result=result
        )
        self.sending.show(outputs, self._busy)
        if self._busy:
            return
        panel.show_reason(self.ui, reason)
        self.display.update(self.parameters, outputs)
        self.histogram.update(self.parameters, outputs)
        self.plot.update(self.parameters, outputs, result)
        self.ui.curveLabel.text = self.plot.text

    def _inputChanged(self):
        """Forget what was typed for and found in another series: times are never carried over."""
        node = self.parameters.inputNode
        current = node.GetID() if node is not None else ""
        if current == self._inputID:
            return False
        before, self._inputID = self._inputID, current
        self._findings = self.logic.findings(node) if node is not None else None
        if self._findings is None and node is not None:
            qt.QTimer.singleShot(0, self.onSeriesChosen)
        if not before:
            return False
        with slicer.util.NodeModify(self.parameters):
            self.parameters.echoTimeMs = self.parameters.repetitionTimeMs = 0.0
            self.parameters.shownMap = self._outputs().get("rcbv")
        self.onParametersChanged()
        return True

    def _outputs(self):
        node = self.parameters.inputNode
        return self.logic.outputs(node) if node is not None else {}

    def _hasResult(self):
        node = self.parameters.inputNode
        return self.logic.result is not None and node is not None and node.GetID() == self._resultOf

    def onInputSelected(self, _node=None):
        """Keep the chosen series in the parameter node."""
        if self.parameters is not None:
            self.parameters.inputNode = self.ui.inputSelector.currentNode()

    def onCursorMoved(self, crosshair, _event=None):
        """Show the curve under the mouse."""
        position = [0.0, 0.0, 0.0]
        if self._follows(True) and crosshair.GetCursorPositionRAS(position):
            self._showCurveAt(position)

    def onCrosshairMoved(self, crosshair, _event=None):
        """Show the curve at the crosshair."""
        if self._follows(False):
            self._showCurveAt(crosshair.GetCrosshairRAS())

    def _follows(self, mouse):
        shown = self.parameters is not None and self.parameters.showCurves and not self._busy
        return shown and self.parameters.followMouse == mouse

    def _showCurveAt(self, position):
        self.plot.show_at(position, self.parameters)
        self.ui.curveLabel.text = self.plot.text

    # Working

    def onSeriesChosen(self):
        """Check a series that was just chosen, if that needs no installation."""
        ready = self.parameters is not None and self.ui.checkButton.enabled and self._findings is None
        if ready and not self.logic.missingPackages("bsw"):
            self.onCheckButton()

    def onCheckButton(self):
        """Look at the series without making a map."""
        from PerfusionCBVLib.gui.panel import typed_times
        from PerfusionCBVLib.gui.panel_text import checked_text

        node, times = self.parameters.inputNode, typed_times(self.logic, self.parameters)
        findings = self.run(lambda progress: self.logic.check(node, **times, progress=progress), "bsw")
        if findings is not None:
            self._findings = findings
            self.ui.statusLabel.text = checked_text(findings)
            self.onParametersChanged()

    def onApplyButton(self):
        """Make the map and show it."""
        from PerfusionCBVLib.gui.arterial import arterial_choice
        from PerfusionCBVLib.gui.panel import typed_times
        from PerfusionCBVLib.gui.panel_text import done_text
        from PerfusionCBVLib.gui.parameters import reference_segment, settings

        node, chosen, region = self.parameters.inputNode, settings(self.parameters), reference_segment(self.parameters)
        times, aif = typed_times(self.logic, self.parameters), arterial_choice(self.parameters)
        nodes = self.run(
            lambda progress: self.logic.process(node, chosen, reference=region, aif=aif, **times, progress=progress),
            chosen.method,
        )
        if nodes is None:
            return
        self._resultOf, self._findings = node.GetID(), self.logic.result.findings
        self.display.forget()
        if self.parameters is None:
            return  # the user looks at another module meanwhile
        self.parameters.shownMap = nodes["rcbv"]
        self.onParametersChanged()
        self.ui.displayCollapsibleButton.collapsed = False
        self.ui.statusLabel.text = done_text(self.logic.result.provenance)

    def onCancelButton(self):
        """Stop at the next step."""
        self._cancelled = True
        self.ui.statusLabel.text = _("Cancelling ...")

    def run(self, work, method):
        """Return what work(progress) returns; None when it was cancelled or refused, which the user is told."""
        from PerfusionCBVLib.gui.running import run

        self._busy, self._cancelled = True, False
        self.onParametersChanged()
        try:
            ended = run(self.ui, work, lambda: self.logic.ensurePackages(method), lambda: self._cancelled)
        finally:
            self._busy = False
        self.onParametersChanged()
        if ended.said:
            self.ui.statusLabel.text = ended.said
        if ended.problem:
            slicer.util.errorDisplay(ended.problem)
        return ended.outcome


class PerfusionCBVLogic(ScriptedLoadableModuleLogic):
    """The panel's work, usable without a panel; see `PerfusionCBVLib.gui.logic`.

    `progress(fraction, message)` is called on the main thread and may raise `Cancelled`. What can't be done is raised
    as a `PerfusionError` of one sentence, and the scene is as it was.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.result = None  # MapResult of the last `process`

    def getParameterNode(self):
        """Return the panel's state as it is kept in the scene."""
        from PerfusionCBVLib.gui.parameters import PerfusionCBVParameterNode

        return PerfusionCBVParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    def missingPackages(self, method):
        """Return the requirements, as pip takes them, that Slicer's Python does not meet yet for this method."""
        from PerfusionCBVLib.gui.dependencies import missing_packages
        from PerfusionCBVLib.settings import NETWORK_METHODS

        return missing_packages(torch=method in NETWORK_METHODS)

    def ensurePackages(self, work):
        """Offer to install what is missing; return whether the work, a method or "dicom", can be done."""
        from PerfusionCBVLib.gui.dependencies import ensure_packages
        from PerfusionCBVLib.settings import NETWORK_METHODS

        return ensure_packages(torch=work in NETWORK_METHODS, dicom=work == "dicom")

    def isDynamic(self, node):
        """Return whether a node may hold a DSC-MRI series."""
        from PerfusionCBVLib.gui.input_nodes import is_dynamic

        return is_dynamic(node)

    def describe(self, inputNode, *, echo_time_s=None, repetition_time_s=None):
        """Return what a node says about its series, without arithmetic on its voxels."""
        from PerfusionCBVLib.gui.input_nodes import describe

        return describe(inputNode, echo_time_s=echo_time_s, repetition_time_s=repetition_time_s)

    def load(self, path, progress=None):
        """Read a DICOM folder or .zip, NIfTI or .seq.nrrd; return its sequence node."""
        from PerfusionCBVLib.gui.logic import load_node

        return load_node(Path(path), progress)

    def check(self, inputNode, *, mask=None, echo_time_s=None, repetition_time_s=None, progress=None):
        """Return what is noteworthy about a series, as findings with advice."""
        from PerfusionCBVLib.gui.logic import check_node

        times = {"echo_time_s": echo_time_s, "repetition_time_s": repetition_time_s}
        return check_node(inputNode, mask=mask, **times, progress=progress)

    def process(
        self,
        inputNode,
        settings,
        *,
        mask=None,
        reference=None,
        aif=None,
        echo_time_s=None,
        repetition_time_s=None,
        progress=None,
    ):
        """Make the maps of a series; return their nodes by role. A rerun updates its nodes.

        `mask`, `reference` and `aif` are label volumes or pairs (segmentation node, segment ID); `aif` may also be
        "auto" or a `PerfusionCBVLib.gui.arterial.CurveFile`.
        """
        from PerfusionCBVLib.gui.logic import process_node

        self.result = None
        regions = {"mask": mask, "reference": reference, "aif": aif}
        times = {"echo_time_s": echo_time_s, "repetition_time_s": repetition_time_s}
        self.result, nodes = process_node(inputNode, settings, **regions, **times, progress=progress)
        return nodes

    def outputs(self, inputNode, method=""):
        """Return what the scene holds of a method's run on a series (without a method: the latest), by role."""
        from PerfusionCBVLib.gui.output_nodes import outputs

        return outputs(inputNode, method)

    def findings(self, inputNode):
        """Return the findings of the latest run on a series, also of a scene that was loaded; None without a run."""
        from PerfusionCBVLib.gui.output_nodes import findings

        return findings(inputNode)

    def measure(self, inputNode, segmentation, *, hot_spot_area_mm2, cut_offs, mirrors=False, progress=None):
        """Measure every segment on the latest map of a series; return the table node."""
        from PerfusionCBVLib.gui.logic import measure_node
        from PerfusionCBVLib.measures.measure import MeasureSettings

        settings = MeasureSettings(hot_spot_area_mm2, tuple(cut_offs))
        return measure_node(inputNode, segmentation, settings, mirrors=mirrors, progress=progress)

    def align(self, inputNode, anatomy, progress=None):
        """Register a series with a map to a volume node; return the registration and the transform above its nodes."""
        from PerfusionCBVLib.gui.logic import align_nodes

        return align_nodes(inputNode, anatomy, progress)

    def compare(self, inputNode, earlier, segmentation=None, *, scale="own", progress=None):
        """Compare the latest map of a series with an earlier date's, a map node or a folder; return what was made."""
        from PerfusionCBVLib.gui.comparison import compare_node

        return compare_node(inputNode, earlier, segmentation, scale, progress)

    def writeDicom(self, inputNode, source, folder, progress=None):
        """Write DICOM objects, in the study of the series' own DICOM folder; return their paths."""
        from PerfusionCBVLib.gui.dicom_objects import write_dicom_of

        return write_dicom_of(inputNode, Path(source), Path(folder), progress)

    def testConnection(self, server, progress=None):
        """Ask a `PerfusionCBVLib.gui.dicom_objects.Server` whether it answers; a `SendError` says why not."""
        from PerfusionCBVLib.gui.dicom_objects import try_connection

        try_connection(server, progress)

    def send(self, inputNode, source, server, progress=None):
        """Send the objects that `writeDicom` writes to a server; return how many it took."""
        from PerfusionCBVLib.gui.dicom_objects import send_dicom_of

        return send_dicom_of(inputNode, Path(source), server, progress)

    def writePage(self, inputNode, path, *, named=False, progress=None):
        """Write the page for the referrer (.pdf or .html); `named` puts patient and study on it. Return its path."""
        from PerfusionCBVLib.gui.logic import write_page_of

        return write_page_of(inputNode, Path(path), named=named, progress=progress)

    def loadSample(self, progress=None):
        """Simulate the demonstration patient; return its sequence node."""
        from PerfusionCBVLib.gui.logic import simulate_node

        return simulate_node(progress)


def registerSampleData():
    """Offer the simulated patient in the Sample Data module."""
    from PerfusionCBVLib.gui.sample_data import register

    register()


class PerfusionCBVTest(ScriptedLoadableModuleTest):
    """What needs this very module; Testing/run_in_slicer.py runs the other tests of the Slicer side inside Slicer."""

    def runTest(self):
        """Run every test of this class."""
        for test in (self.test_fromSampleDataToMaps, self.test_panelOpens):
            self.setUp()
            test()

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def test_fromSampleDataToMaps(self):
        """The simulated patient becomes a map in colour; a second run updates it."""
        from PerfusionCBVLib.settings import Settings

        logic = PerfusionCBVLogic()
        if logic.missingPackages("unet-gru"):
            self.skipTest("Python packages are missing; open the module and press Apply to install them")
        series = logic.loadSample()
        first = logic.process(series, Settings(method="bsw"))
        rcbv = first["rcbv"]
        assert rcbv.GetName() == f"{series.GetName()} rCBV (Boxerman-Schmainda-Weisskoff)"
        assert rcbv.GetVoxelValueQuantity().GetCodeValue() == "126398"
        assert rcbv.GetDisplayNode().GetColorNode()
        assert logic.process(series, Settings(method="bsw")) == first

    def test_panelOpens(self):
        """Without a series Apply is disabled and says why."""
        widget = slicer.modules.perfusioncbv.widgetRepresentation().self()
        assert not widget.ui.applyButton.enabled
        assert widget.ui.applyButton.toolTip
