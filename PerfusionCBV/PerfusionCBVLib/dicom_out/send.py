"""Sending objects to a PACS: C-ECHO, then C-STORE, with TLS where wanted; only when somebody asks for it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import code_to_category

from PerfusionCBVLib.dicom_out.objects import DicomObject
from PerfusionCBVLib.errors import SendError, UsageError
from PerfusionCBVLib.progress import Progress, silent

TIMEOUT_S = 60
_SUCCESS = 0x0000


@dataclass(frozen=True)
class Outcome:
    """What became of one object: `problem` is empty where it was taken."""

    object: DicomObject
    problem: str = ""


@dataclass(frozen=True)
class Tls:
    """Files for an encrypted connection.

    Attributes
    ----------
    ca : Path or None
        Certificates that the server's must descend from; the system's own where None.
    certificate, key : Path or None
        Ours, where the server asks for one.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError("A TLS certificate and its key belong together; give both --tls-cert and --tls-key.")

    def context(self) -> ssl.SSLContext:
        """Return what checks the server's certificate and name.

        Raises
        ------
        SendError
            A file can't be used.
        """
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise SendError(f"A TLS file can't be used ({error}). Check --tls-ca, --tls-cert and --tls-key.") from error
        return context


def require_titles(*titles: str) -> None:
    """Refuse what is no application entity title.

    Raises
    ------
    UsageError
    """
    for title in titles:
        if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            raise UsageError(f"{title!r} is no application entity title (1 to 16 ASCII characters, no backslash).")


def send_objects(
    objects: Sequence[DicomObject],
    host: str,
    port: int,
    *,
    called_aet: str,
    calling_aet: str = "PERFUSIONCBV",
    tls: Tls | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """Send objects to a DICOM server by C-STORE after a C-ECHO; return what became of each.

    Objects travel as they are (Explicit VR Little Endian); a server that takes only other encodings gets none. A status
    other than success, warnings included, counts as a problem, for the stored object then differs from ours.

    Parameters
    ----------
    objects : sequence of DicomObject
    host, port : str, int
    called_aet, calling_aet : str
        Application entity titles of the server and of this program.
    tls : Tls, optional
        Without it the connection is not encrypted.
    progress : callable (fraction, message), optional

    Raises
    ------
    SendError
        No server, no association, or no answer to the C-ECHO; nothing was sent.
    UsageError
        Titles that DICOM does not allow.
    """
    require_titles(called_aet, calling_aet)
    entity = AE(ae_title=calling_aet)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = TIMEOUT_S
    entity.add_requested_context(Verification)
    for sop_class in sorted({str(each.dataset.SOPClassUID) for each in objects}):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    server = f"{called_aet} at {host}:{port}"
    tls_args = None if tls is None else (tls.context(), host)
    association = entity.associate(host, port, ae_title=called_aet, tls_args=tls_args)
    if not association.is_established:
        raise SendError(
            f"No association with {server}: {_why(association)}. Check address, port, titles"
            f"{' and certificates' if tls else ', and whether the server wants TLS'}; nothing was sent."
        )
    try:
        echo = association.send_c_echo()
        if echo.get("Status") != _SUCCESS:
            raise SendError(f"{server} does not answer a C-ECHO ({_status(echo)}); nothing was sent.")
        outcomes = []
        for count, each in enumerate(objects, start=1):
            progress(count / len(objects), f"Sending {each.file_name}")
            outcomes.append(Outcome(each, _store(association, each)))
        return outcomes
    finally:
        if association.is_established:
            association.release()


def _store(association: Association, each: DicomObject) -> str:
    """Send one object; return what went wrong."""
    if not association.is_established:
        return "the server closed the connection"
    try:
        status = association.send_c_store(each.dataset)
    except (ValueError, RuntimeError) as error:  # no presentation context accepted, or the association is gone
        return f"not sent: {' '.join(str(error).split())}"
    return "" if status.get("Status") == _SUCCESS else _status(status)


def _status(answer: object) -> str:
    code = getattr(answer, "Status", None)
    if code is None:
        return "no answer in time, or the connection was closed"
    comment = str(getattr(answer, "ErrorComment", "") or "").strip()
    return f"{code_to_category(code)} 0x{code:04X}{': ' + comment if comment else ''}"


def _why(association: Association) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        return f"the server rejected it{'' if answer is None else f' ({answer.reason_str})'}"
    return "nobody answers there, or the connection was closed"
