"""Storing objects on a DICOMweb server (STOW-RS); only when somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient

from PerfusionCBVLib.dicom_out.objects import DicomObject
from PerfusionCBVLib.dicom_out.send import TIMEOUT_S, Outcome, Tls
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.progress import Progress, silent

_ONE_PIECE = 2**31
"""Not every server takes a request of unknown length."""


def require_address(url: str) -> None:
    """Refuse what is no address of a web service.

    Raises
    ------
    UsageError
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--stow needs the http or https address of a DICOMweb service, e.g. https://pacs/dicom-web.")


def stow_objects(
    objects: Sequence[DicomObject], url: str, *, tls: Tls | None = None, progress: Progress = silent
) -> list[Outcome]:
    """Store objects by STOW-RS, one request each; return what became of each.

    Parameters
    ----------
    objects : sequence of DicomObject
    url : str
        Root of the DICOMweb service, http or https.
    tls : Tls, optional
        For https with certificates that the system does not know.
    progress : callable (fraction, message), optional

    Raises
    ------
    UsageError
        No such URL.
    SendError
        A TLS file can't be used.
    """
    require_address(url)
    session = requests.Session()
    if tls is not None:
        tls.context()  # says which file is wrong, where requests would not
        session.verify = str(tls.ca) if tls.ca else True
        session.cert = (str(tls.certificate), str(tls.key)) if tls.certificate else None
    client = DICOMwebClient(url.rstrip("/"), session, chunk_size=_ONE_PIECE, timeout=TIMEOUT_S)
    client.set_http_retry_params(retry=False)
    outcomes = []
    with session:
        for count, each in enumerate(objects, start=1):
            progress(count / len(objects), f"Storing {each.file_name}")
            outcomes.append(Outcome(each, _store(client, each)))
            if outcomes[-1].problem.startswith("no connection"):
                outcomes += [Outcome(rest, "not sent") for rest in objects[count:]]
                break
    return outcomes


def _store(client: DICOMwebClient, each: DicomObject) -> str:
    """Store one object; return what went wrong."""
    try:
        answer = client.store_instances([each.dataset])
    except requests.HTTPError as error:
        return f"refused: HTTP {'' if error.response is None else error.response.status_code}"
    except requests.exceptions.SSLError:
        return "no connection: the server's certificate is not trusted, or it wants ours"
    except (requests.ConnectionError, requests.Timeout):
        return "no connection: nobody answers there, or the connection was closed"
    except requests.RequestException as error:
        return f"failed: {type(error).__name__}"
    stored = {str(item.ReferencedSOPInstanceUID): item for item in answer.get("ReferencedSOPSequence", [])}
    item = stored.get(str(each.dataset.SOPInstanceUID))
    if item is None:
        failed = [f"0x{int(one.get('FailureReason', 0)):04X}" for one in answer.get("FailedSOPSequence", [])]
        return f"refused: {', '.join(failed) or 'the server does not confirm it'}"
    return f"stored with changes: 0x{int(item.WarningReason):04X}" if item.get("WarningReason") else ""
