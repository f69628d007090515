"""Errors a caller can act on: each message says what was found, what is needed and what to do."""


def one_line(text: object) -> str:
    """Return a text on one line, without control characters and other signs that are not meant to be seen."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))


class PerfusionError(Exception):
    """Root of every error that the library raises on purpose.

    Names and values from files enter messages; whatever they hold, a message stays one legible line.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class InputRefusedError(PerfusionError):
    """The input can't give a trustworthy map, and the message says why."""

    exit_code = 3


class UnreadableInputError(InputRefusedError):
    """The files can't be read as a DSC-MRI series: missing, truncated, ambiguous, of the wrong kind."""


class GeometryError(InputRefusedError):
    """Shape, affine or grid does not fit: 3-D input, missing slices, a mask on another grid."""


class TimingError(InputRefusedError):
    """Frame times or acquisition times are missing or inconsistent, or frames are missing."""


class QualityError(InputRefusedError):
    """The signal itself does not allow the map: no bolus, too many invalid voxels."""


class ModelError(PerfusionError):
    """Weights or their card are missing, altered or unusable, or the network library is not installed."""


class UsageError(PerfusionError):
    """Options contradict each other or have impossible values."""

    exit_code = 2


class Cancelled(PerfusionError):  # noqa: N818  an event, not a failure
    """The user cancelled; raised by a `progress` callback and never swallowed."""

    exit_code = 4


class MissingPackageError(PerfusionError):
    """A Python package that an extra brings is not installed; the message names the extra."""


class SendError(PerfusionError):
    """Objects could not be sent, or a server refused some; what was written on this computer is whole."""
