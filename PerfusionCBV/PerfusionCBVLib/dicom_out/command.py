"""The command `dicom`: objects of a folder of maps, written and, when asked for, sent."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from PerfusionCBVLib import cli_options
from PerfusionCBVLib.dicom_out.objects import made_at, make_objects, require_no_objects, require_packages, write_objects
from PerfusionCBVLib.dicom_out.source import read_source
from PerfusionCBVLib.errors import SendError, UsageError
from PerfusionCBVLib.load_common import sha256_of_file
from PerfusionCBVLib.measures.region_files import read_regions
from PerfusionCBVLib.output import PROVENANCE
from PerfusionCBVLib.progress import Progress, part
from PerfusionCBVLib.stored import read_result

if TYPE_CHECKING:
    from PerfusionCBVLib.dicom_out.send import Outcome, Tls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `dicom`."""
    parser.add_argument("maps", type=cli_options.path, metavar="MAPS", help="folder that map wrote")
    parser.add_argument(
        "--source",
        type=cli_options.path,
        required=True,
        metavar="DICOM",
        help="folder, .zip or file the maps were made from",
    )
    parser.add_argument(
        "--output", type=cli_options.output_folder, required=True, metavar="DIR", help="folder without DICOM files"
    )
    parser.add_argument(
        "--regions", type=cli_options.path, metavar="FILE", help="labels on the maps' grid (NIfTI, .seg.nrrd)"
    )
    parser.add_argument(
        "--measures", type=cli_options.path, metavar="FILE", help="measures of those regions (measures.json)"
    )
    parser.add_argument(
        "--converted-elsewhere",
        action="store_true",
        help="the maps were made from a conversion of this series; geometry must still agree",
    )
    parser.add_argument("--series-uid", metavar="UID", help="with --converted-elsewhere: which of several series")
    parser.add_argument("--send", metavar="HOST:PORT", help="send the objects by C-STORE; patient data leave")
    parser.add_argument("--called-aet", metavar="NAME", help="application entity title of the server, with --send")
    parser.add_argument("--calling-aet", metavar="NAME", default="PERFUSIONCBV", help="ours; default: %(default)s")
    parser.add_argument("--stow", metavar="URL", help="store the objects by DICOMweb; patient data leave")
    parser.add_argument(
        "--tls-ca", type=cli_options.path, metavar="FILE", help="certificates to trust; switches TLS on"
    )
    parser.add_argument("--tls-cert", type=cli_options.path, metavar="FILE", help="our certificate; switches TLS on")
    parser.add_argument("--tls-key", type=cli_options.path, metavar="FILE", help="key of our certificate")


def run(options: argparse.Namespace, progress: Progress) -> tuple[list[str], SendError | None]:
    """Make, write and, when asked for, send the objects; return what to say, and the error where one was not taken.

    Raises
    ------
    PerfusionError
        See `read_source`, `make_objects`, `send_objects`, `stow_objects`.
    """
    require_packages()
    address, tls = _address(options), _tls(options)
    require_no_objects(options.output)
    progress(0.0, "Reading")
    result = read_result(options.maps)
    source = read_source(
        options.source,
        result.provenance,
        converted_elsewhere=options.converted_elsewhere,
        series_uid=options.series_uid,
    )
    regions = () if options.regions is None else read_regions(options.regions, result.mask.shape, result.affine)
    measures = []
    if options.measures is not None:
        from PerfusionCBVLib.dicom_out.structured_report import read_measures

        measures = read_measures(
            options.measures,
            provenance_sha256=sha256_of_file(options.maps / PROVENANCE),
            segments_sha256=None if options.regions is None else sha256_of_file(options.regions),
        )
    objects = make_objects(
        result,
        source,
        made_at(options.maps),
        segments=regions,
        measures=measures,
        progress=part(progress, 0.2, 0.7),
    )
    written = write_objects(objects, options.output)
    lines = [
        f"{len(written)} DICOM objects written to {options.output}. They hold the patient's name and study as "
        "the source does. Research use only."
    ]
    outcomes: list[Outcome] = []
    if address is not None:
        from PerfusionCBVLib.dicom_out.send import send_objects

        host, port = address
        outcomes += send_objects(
            objects,
            host,
            port,
            called_aet=options.called_aet,
            calling_aet=options.calling_aet,
            tls=tls,
            progress=part(progress, 0.7, 0.85),
        )
    if options.stow is not None:
        from PerfusionCBVLib.dicom_out.stow import stow_objects

        outcomes += stow_objects(objects, options.stow, tls=tls, progress=part(progress, 0.85, 1.0))
    lines += [
        f"{'FAILED' if one.problem else 'sent':6} {one.object.file_name} {one.problem}".rstrip() for one in outcomes
    ]
    failed = [one for one in outcomes if one.problem]
    if not failed:
        return lines, None
    return lines, SendError(
        f"{len(failed)} of {len(outcomes)} objects were not taken, the first ({failed[0].object.file_name}) because: "
        f"{failed[0].problem}. The files are written; send them again once the server takes them."
    )


def _address(options: argparse.Namespace) -> tuple[str, int] | None:
    if options.series_uid is not None and not options.converted_elsewhere:
        raise UsageError("--series-uid belongs to --converted-elsewhere; the maps know which series they came from.")
    if options.stow is not None:
        from PerfusionCBVLib.dicom_out.stow import require_address

        require_address(options.stow)
    if options.send is None:
        if options.called_aet is not None:
            raise UsageError("--called-aet belongs to --send; give both or none.")
        return None
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):(\d{1,5})", options.send)
    if found is None or not 0 < int(found[3]) < 65536:
        raise UsageError(f"--send needs HOST:PORT, for example pacs.example.org:104, not {options.send!r}.")
    if options.called_aet is None:
        raise UsageError("--send needs --called-aet, the application entity title of the server.")
    from PerfusionCBVLib.dicom_out.send import require_titles

    require_titles(options.called_aet, options.calling_aet)
    return found[1] or found[2], int(found[3])


def _tls(options: argparse.Namespace) -> Tls | None:
    files = (options.tls_ca, options.tls_cert, options.tls_key)
    if not any(files):
        return None
    if options.send is None and options.stow is None:
        raise UsageError("--tls-ca, --tls-cert and --tls-key belong to --send or --stow.")
    from PerfusionCBVLib.dicom_out.send import Tls

    return Tls(*files)
