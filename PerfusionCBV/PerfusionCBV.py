"""The Slicer module: wiring between the panel and PerfusionCBVLib, where all the work is done."""

import importlib
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

RESOURCES = Path(__file__).parent / "Resources"
# (name that the library and the command line use, what the panel shows)
METHODS = (
    ("anchored-unet", "Network that adjusts the leakage-corrected map"),
    ("bsw", "Leakage-corrected (Boxerman-Schmainda-Weisskoff)"),
    ("unet-gru", "UNet-GRU network"),
    ("conv3d", "Conv3D network"),
    ("bidirectional", "Leakage-corrected, bidirectional exchange"),
    ("integral", "Area under the curve, no leakage correction"),
    ("captk", "Area under the curve as in CaPTk"),
)
NETWORK_METHODS = ("anchored-unet", "unet-gru", "conv3d")


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


class PerfusionCBVWidget(ScriptedLoadableModuleWidget):
    """The panel: reads its controls, starts the logic, shows the map or the reason why there is none."""

    def setup(self):
        """Load the layout and connect it."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/PerfusionCBV.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        self.logic = PerfusionCBVLogic()
        for method, label in METHODS:
            self.ui.methodComboBox.addItem(_(label), method)
        self.ui.inputPathLineEdit.connect("currentPathChanged(QString)", self.updateApplyButton)
        self.ui.outputPathLineEdit.connect("currentPathChanged(QString)", self.updateApplyButton)
        self.ui.inputFolderButton.connect("clicked(bool)", self.onInputFolderButton)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.updateApplyButton()

    def updateApplyButton(self, _path: str = ""):
        """Enable Apply once there is something to read and somewhere to write."""
        self.ui.applyButton.enabled = bool(
            self.ui.inputPathLineEdit.currentPath and self.ui.outputPathLineEdit.currentPath
        )

    def onInputFolderButton(self, _checked: bool = False):
        """Choose a DICOM folder: the path control's own button offers files only."""
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("DICOM folder"))
        if folder:
            self.ui.inputPathLineEdit.currentPath = folder

    def onApplyButton(self, _checked: bool = False):
        """Compute the map and show it, or say why not."""
        method = self.ui.methodComboBox.currentData
        if not self.logic.ensurePackages(method):
            self.ui.statusLabel.text = _("Not computed: the Python packages that this method needs are not installed.")
            return
        # Only now: importing the library needs the packages that were just checked.
        from PerfusionCBVLib.errors import Cancelled, PerfusionError

        dialog = slicer.util.createProgressDialog(labelText=_("Reading the series"), maximum=100)

        def showProgress(fraction: float, message: str):
            dialog.labelText = message
            dialog.value = round(100 * fraction)
            slicer.app.processEvents()
            if dialog.wasCanceled:
                raise Cancelled("cancelled by the user")

        self.ui.statusLabel.text = _("Computing...")
        output = self.ui.outputPathLineEdit.currentPath
        try:
            self.logic.process(self.ui.inputPathLineEdit.currentPath, output, method, showProgress)
        except Cancelled:
            self.ui.statusLabel.text = _("Cancelled. Nothing was written.")
        except PerfusionError as error:
            self.ui.statusLabel.text = str(error)
            slicer.util.errorDisplay(str(error))
        else:
            self.ui.statusLabel.text = _("Done. Maps and report are in {folder}.").format(folder=output)
        finally:
            dialog.close()


class PerfusionCBVLogic(ScriptedLoadableModuleLogic):
    """The panel's work, usable without a panel."""

    def missingPackages(self, method: str) -> list[str]:
        """Return the requirements, as pip takes them, that Slicer's Python does not yet meet for this method."""
        files = ["requirements.txt"] + (["requirements-networks.txt"] if method in NETWORK_METHODS else [])
        lines = [line.strip() for name in files for line in (RESOURCES / name).read_text("utf-8").splitlines()]
        return [line for line in lines if line and not line.startswith("#") and not _isInstalled(line)]

    def ensurePackages(self, method: str) -> bool:
        """Offer to install what is missing; return whether the method can run."""
        missing = self.missingPackages(method)
        if not missing:
            return True
        question = _("This method needs Python packages that are not installed: {packages}. Install them now?")
        if not slicer.util.confirmOkCancelDisplay(question.format(packages=", ".join(missing))):
            return False
        slicer.util.pip_install(missing)
        importlib.invalidate_caches()
        return not self.missingPackages(method)

    def process(self, input_path: str, output_dir: str, method: str, progress: Callable[[float, str], None]):
        """Map one series, write the result into `output_dir` and return the loaded rCBV volume node."""
        from PerfusionCBVLib import Settings, compute_maps, load_series, write_result

        series = load_series(Path(input_path))
        result = compute_maps(series, Settings(method=method), progress=progress)
        write_result(result, Path(output_dir))
        return slicer.util.loadVolume(str(Path(output_dir) / "rcbv.nii.gz"))


def _isInstalled(requirement: str) -> bool:
    """Whether a `name>=version` requirement is met; releases are compared number by number."""
    name, minimum = requirement.split(">=")
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return _release(installed) >= _release(minimum)


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `2.6.0+cpu` gives (2, 6, 0)."""
    return tuple(int(number) for number in re.match(r"\d+(\.\d+)*", version)[0].split("."))


class PerfusionCBVTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer; the library has its own tests in Testing/."""

    def runTest(self):
        """Run every test of this class."""
        slicer.mrmlScene.Clear()
        self.test_panelOffersEveryMethodAndWaitsForInput()

    def test_panelOffersEveryMethodAndWaitsForInput(self):
        """The panel loads, lists the methods, and keeps Apply disabled until input and output are chosen."""
        widget = slicer.modules.perfusioncbv.widgetRepresentation().self()
        widget.ui.inputPathLineEdit.currentPath = ""
        assert widget.ui.methodComboBox.count == len(METHODS)
        assert not widget.ui.applyButton.enabled
