"""The panel's state, kept in a parameter node so that it is saved and comes back with the scene."""

from enum import Enum
from typing import Annotated

from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Default, FloatRange, RangeBounds, WithinRange, parameterNodeWrapper

from PerfusionCBVLib.gui.choices import Arterial, Colours, Quantity, View, WindowPreset
from PerfusionCBVLib.settings import NETWORK_METHODS, Settings


class Method(Enum):
    """How the map is made; the value is the library's name, or ``classical``: then `Leakage` has it."""

    ANCHORED_UNET = "anchored-unet"
    CLASSICAL = "classical"
    UNET_GRU = "unet-gru"
    CONVLSTM2D = "convlstm2d"
    CONV3D = "conv3d"
    CAPTK = "captk"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "anchored-unet": _("Network: anchored U-Net"),
            "classical": _("Classical: area under curve"),
            "unet-gru": _("Network: UNet-GRU"),
            "convlstm2d": _("Network: ConvLSTM2D"),
            "conv3d": _("Network: Conv3D"),
            "captk": _("CaPTk's operator"),
        }[self.value]


class Leakage(Enum):
    """Leakage correction of the classical map; the value is the library's method."""

    ONE_WAY = "bsw"
    BOTH_WAYS = "bidirectional"
    NONE = "integral"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "bsw": _("Out of the vessels"),
            "bidirectional": _("Out and back in"),
            "integral": _("Not corrected"),
        }[self.value]


class Reference(Enum):
    """The region whose mean rCBV becomes 1."""

    AUTOMATIC = "automatic"
    SEGMENT = "segment"
    BRAIN = "brain"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "automatic": _("Automatic: white matter"),
            "segment": _("A segment you drew"),
            "brain": _("Whole brain"),
        }[self.value]


class ComparisonScale(Enum):
    """Whose reference region has the value 1 when two dates are compared; the value is the library's name."""

    OWN = "own"
    LATER = "later"
    EARLIER = "earlier"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "own": _("Each date's own"),
            "later": _("This date's, for both"),
            "earlier": _("The earlier date's, for both"),
        }[self.value]


class Device(Enum):
    """Where a network runs; the value is the library's name."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "auto": _("Automatic"),
            "cpu": _("Processor"),
            "cuda": _("NVIDIA graphics card"),
            "mps": _("Apple graphics processor"),
        }[self.value]


@parameterNodeWrapper
class PerfusionCBVParameterNode:
    """All choices of the panel. Times are in ms, the unit of the scanner's console; 0 means that nothing was typed."""

    inputNode: vtkMRMLNode
    echoTimeMs: Annotated[float, WithinRange(0, 300)] = 0.0
    repetitionTimeMs: Annotated[float, WithinRange(0, 20000)] = 0.0

    method: Method = Method.ANCHORED_UNET
    leakage: Leakage = Leakage.ONE_WAY
    reference: Reference = Reference.AUTOMATIC
    referenceSegmentation: vtkMRMLSegmentationNode
    referenceSegmentID: str = ""
    motionCorrection: bool = False
    device: Device = Device.AUTO
    arterial: Arterial = Arterial.NONE
    arterialSegmentation: vtkMRMLSegmentationNode
    arterialSegmentID: str = ""
    arterialFile: str = ""
    arterialRelaxivity: Annotated[float, WithinRange(0, 1000)] = 0.0

    view: View = View.SERIES
    shownMap: vtkMRMLScalarVolumeNode
    anatomy: vtkMRMLScalarVolumeNode
    colours: Colours = Colours.AUTOMATIC
    windowPreset: WindowPreset = WindowPreset.AUTOMATIC
    window: Annotated[FloatRange, RangeBounds(-5, 20), Default(FloatRange(0, 4))]  # a range widget needs Default
    opacity: Annotated[float, WithinRange(0, 1)] = 0.7
    threshold: Annotated[float, WithinRange(0, 5)] = 0.0
    legend: bool = True

    quantity: Quantity = Quantity.DELTA_R2S
    followMouse: bool = True
    curveSegmentation: vtkMRMLSegmentationNode
    showCurves: bool = False
    showFit: bool = True
    showWindows: bool = True
    showArterial: bool = True

    measuredSegmentation: vtkMRMLSegmentationNode
    hotSpotAreaMm2: Annotated[float, WithinRange(1, 500)] = 40.0
    lowCutOff: Annotated[float, WithinRange(0.1, 10)] = 1.0
    highCutOff: Annotated[float, WithinRange(0.1, 10)] = 1.75
    mirror: bool = False
    showHistogram: bool = False

    earlierMap: vtkMRMLScalarVolumeNode
    comparisonScale: ComparisonScale = ComparisonScale.OWN
    comparedSegmentation: vtkMRMLSegmentationNode

    namePatient: bool = False


def library_method(parameters: PerfusionCBVParameterNode) -> str:
    """Return the library's name of the method that the panel's two controls choose together."""
    return parameters.leakage.value if parameters.method is Method.CLASSICAL else parameters.method.value


def settings(parameters: PerfusionCBVParameterNode) -> Settings:
    """Return the choices as the library takes them."""
    return Settings(
        method=library_method(parameters),
        normalize="brain" if parameters.reference is Reference.BRAIN else "nawm",
        motion_correction=parameters.motionCorrection,
        device=parameters.device.value,
    )


def uses_network(parameters: PerfusionCBVParameterNode) -> bool:
    """Return whether the chosen method is a network, for which a device can be chosen."""
    return parameters.method.value in NETWORK_METHODS


def reference_segment(parameters: PerfusionCBVParameterNode) -> tuple[vtkMRMLSegmentationNode, str] | None:
    """Return (segmentation, segment ID) when the reference region shall be a segment, or None.

    Either is empty while the user has not chosen it.
    """
    if parameters.reference is not Reference.SEGMENT:
        return None
    return parameters.referenceSegmentation, parameters.referenceSegmentID
