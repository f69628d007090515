"""DICOM objects of the latest map of a series: made from what the scene holds, written, or sent to a PACS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from PerfusionCBVLib.errors import SendError, UsageError
from PerfusionCBVLib.gui.background import Background, Steps, one_at_a_time
from PerfusionCBVLib.gui.input_nodes import instance_uids
from PerfusionCBVLib.gui.measures import measured_segments, measurements_in_scene
from PerfusionCBVLib.gui.output_nodes import MADE, outputs
from PerfusionCBVLib.gui.scene_result import result_in_scene
from PerfusionCBVLib.gui.segments import regions_on
from PerfusionCBVLib.progress import Progress, part, silent

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.dicom_out.objects import DicomObject
    from PerfusionCBVLib.dicom_out.send import Outcome, Tls


@dataclass(frozen=True)
class Server:
    """Where objects go.

    Attributes
    ----------
    web : bool
        By DICOMweb (STOW-RS) to `address`; else by DICOM (C-STORE) to host, port and AE title.
    host, port : str, int
    called_aet, calling_aet : str
        Application entity titles of the server and of this program.
    tls : bool
        Whether the DICOM connection is encrypted; a web address says so by https.
    certificates : str
        File with certificates that the server's must descend from; "": the computer's own.
    address : str
        Root of the DICOMweb service.
    """

    web: bool = False
    host: str = ""
    port: int = 104
    called_aet: str = ""
    calling_aet: str = "PERFUSIONCBV"
    tls: bool = False
    certificates: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        """What to call it."""
        return self.address if self.web else f"{self.called_aet} at {self.host}:{self.port}"

    def problem(self) -> str:
        """Return what is missing or wrong, or "" where a connection can be tried."""
        if self.web:
            if not self.address.startswith(("http://", "https://")) or self.address.endswith("://"):
                return _("Enter the web address of the archive, beginning with https:// or http://.")
            return ""
        if not self.host or any(mark in self.host for mark in " :/"):
            return _("Enter the server: its name or IP address, without port.")
        for title, words in ((self.called_aet, _("Its AE title")), (self.calling_aet, _("Our AE title"))):
            if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
                return _("{field}: 1 to 16 letters, digits or signs are needed.").format(field=words)
        return ""

    def _tls(self) -> Tls | None:
        from PerfusionCBVLib.dicom_out.send import Tls

        certificates = Path(self.certificates) if self.certificates else None
        return Tls(ca=certificates) if (certificates is not None if self.web else self.tls) else None

    def take(self, objects: list[DicomObject], progress: Progress = silent) -> list[Outcome]:
        """Send objects; return what became of each. Without objects the connection is tried (C-ECHO).

        Raises
        ------
        SendError
            See `send.send_objects`.
        """
        if self.web:
            from PerfusionCBVLib.dicom_out.stow import stow_objects

            return stow_objects(objects, self.address, tls=self._tls(), progress=progress)
        from PerfusionCBVLib.dicom_out.send import send_objects

        titles = {"called_aet": self.called_aet, "calling_aet": self.calling_aet}
        return send_objects(objects, self.host, self.port, **titles, tls=self._tls(), progress=progress)


@Background
def write_dicom_of(node: Any, source: Path, folder: Path, progress: Progress | None = None) -> Steps[list[Path]]:
    """Write DICOM objects of the latest map of a series, its regions and measures; return their paths.

    Parameters
    ----------
    source : Path
        The DICOM folder or .zip that the series came from: patient, study and place are taken from it, after a check
        that its images are those of the node.
    folder : Path
        Without DICOM files.

    Raises
    ------
    InputRefusedError, UsageError, Cancelled
    """
    with one_at_a_time():
        make = _objects_of(node, source)

        def work(report: Progress) -> list[Path]:
            from PerfusionCBVLib.dicom_out.objects import write_objects

            return write_objects(make(part(report, 0.0, 0.9)), folder)

        return (yield work)


@Background
def try_connection(server: Server, progress: Progress | None = None) -> Steps[None]:
    """Ask a server for an association and a C-ECHO; nothing of a patient is sent.

    Raises
    ------
    SendError
        It does not answer, and why.
    """
    with one_at_a_time():

        def work(report: Progress) -> None:
            report(0.0, f"Asking {server.name}")
            server.take([])

        yield work


@Background
def send_dicom_of(node: Any, source: Path, server: Server, progress: Progress | None = None) -> Steps[int]:
    """Make the objects that `write_dicom_of` writes, and send them; return how many were taken.

    Raises
    ------
    SendError
        The server takes none, or not all: the sentence says how many, and why.
    InputRefusedError, UsageError, Cancelled
    """
    with one_at_a_time():
        make = _objects_of(node, source)

        def work(report: Progress) -> list[Outcome]:
            objects = make(part(report, 0.0, 0.6))
            return server.take(objects, part(report, 0.6, 1.0))

        outcomes = yield work
    failed = [one for one in outcomes if one.problem]
    if failed:
        raise SendError(
            f"{len(failed)} of {len(outcomes)} objects were not taken by {server.name}, the first "
            f"({failed[0].object.title}) because: {failed[0].problem}. Send again once the server takes them; what it "
            "has already is the same."
        )
    return len(outcomes)


def _objects_of(node: Any, source: Path) -> Callable[[Progress], list[DicomObject]]:
    """Take from the scene what the objects need; return what makes them in any thread."""
    result, measurements, drawn = result_in_scene(node), measurements_in_scene(node), measured_segments(node)
    uids = instance_uids(node)
    made = outputs(node)["rcbv"].GetAttribute(MADE)
    if not made:
        raise UsageError("The scene does not say when the map was made: Press Apply again.")
    read_by_us = any(key.startswith("dicom:") for key in result.provenance["input"]["sha256"])
    if not uids and not read_by_us:
        raise UsageError(
            "Nothing shows which DICOM series this one came from: it was loaded from a file. Load the DICOM series "
            "itself, or use the command `dicom --converted-elsewhere`."
        )

    def make(report: Progress) -> list[DicomObject]:
        from PerfusionCBVLib.dicom_out.objects import make_objects
        from PerfusionCBVLib.dicom_out.source import read_source

        report(0.0, "Reading the DICOM series")
        found = read_source(source, result.provenance, converted_elsewhere=not read_by_us)
        if not read_by_us and not {image.sop_instance_uid for image in found.images} <= uids:
            raise UsageError(f"The images in {source} are not those of this series. Choose its own DICOM folder.")
        regions = regions_on(drawn, result)
        return make_objects(
            result,
            found,
            datetime.fromisoformat(made),
            segments=regions,
            measures=measurements,
            progress=part(report, 0.2, 1.0),
        )

    return make
