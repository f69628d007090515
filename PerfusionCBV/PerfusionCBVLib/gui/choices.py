"""Choices that need no parameter node, so that panel and browser can share them."""

from enum import Enum

from slicer.i18n import tr as _


class View(Enum):
    """What the slice views show."""

    SERIES = "series"
    ANATOMY = "anatomy"
    COMPARE = "compare"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "series": _("Map over the series"),
            "anatomy": _("Map over another volume"),
            "compare": _("Compare four maps"),
        }[self.value]


class Colours(Enum):
    """The colour table; the value is the library's name, except ``automatic``: the one that suits each map."""

    AUTOMATIC = "automatic"
    PERFUSION = "perfusion"
    UNIFORM = "uniform"
    DIVERGING = "diverging"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "automatic": _("Automatic"),
            "perfusion": _("Perfusion rainbow"),
            "uniform": _("Uniform"),
            "diverging": _("Blue to red about zero"),
        }[self.value]


class WindowPreset(Enum):
    """The values at the two ends of the colours."""

    AUTOMATIC = "automatic"
    GLIOMA = "0 3.5"
    TUMOUR = "0 5"
    VESSELS = "0 10"
    MANUAL = "manual"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "automatic": _("Automatic"),
            "0 3.5": _("0 to 3.5: glioma"),
            "0 5": _("0 to 5: vascular tumour"),
            "0 10": _("0 to 10: meningioma"),
            "manual": _("As set below"),
        }[self.value]


class Arterial(Enum):
    """Where the arterial input of the flow maps comes from."""

    NONE = "none"
    AUTOMATIC = "auto"
    SEGMENT = "segment"
    FILE = "file"

    def label(self) -> str:
        """Return what the panel shows."""
        return {
            "none": _("Not computed"),
            "auto": _("With an artery, found"),
            "segment": _("With a segment you drew"),
            "file": _("With a curve from a file"),
        }[self.value]


class Quantity(Enum):
    """What the curves show."""

    DELTA_R2S = "delta_r2s"
    SIGNAL = "signal"

    def label(self) -> str:
        """Return what the panel shows."""
        return {"delta_r2s": _("ΔR2*: contrast agent"), "signal": _("Signal as measured")}[self.value]
