"""The commands that work on what `map` wrote: measure, report, overlay, compare, dicom."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PerfusionCBVLib import cli_options
from PerfusionCBVLib.alignment.volume import Volume, read_volume
from PerfusionCBVLib.dicom_out import command as dicom_command
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.json_text import as_json
from PerfusionCBVLib.output import PROVENANCE, require_own_folder
from PerfusionCBVLib.progress import Progress, part
from PerfusionCBVLib.stored import StoredResult, read_result
from PerfusionCBVLib.terminal import ProgressBar, print_warnings

if TYPE_CHECKING:
    from PerfusionCBVLib.alignment.registration import Registration
    from PerfusionCBVLib.measures.regions import Region


POSITIONAL = ("maps", "earlier", "later")


def add_identifier_option(
    parser: argparse.ArgumentParser, what: str = "let names of files and folders through"
) -> None:
    """Give a command that reads a patient's files the one switch that lets names through, see `withheld`."""
    parser.add_argument("--with-identifiers", action="store_true", help=f"{what}; otherwise nothing names the patient")


def add_commands(commands: Any) -> None:
    """Add these commands to the command line's."""
    measure = commands.add_parser("measure", help="measure regions of maps: mean, burden, hot spot and more")
    measure.add_argument("maps", type=cli_options.path, metavar="MAPS", help="folder that `perfusion-cbv map` wrote")
    measure.add_argument(
        "--regions",
        type=cli_options.path,
        required=True,
        metavar="FILE",
        help="label map or segmentation (NIfTI, NRRD, .seg.nrrd)",
    )
    measure.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    measure.add_argument(
        "--hot-spot-area", type=float, default=40.0, metavar="MM2", help="of the hottest disc; default: %(default)g mm²"
    )
    measure.add_argument(
        "--cut-offs", default="1.0,1.75", metavar="LOW,HIGH", help="of fractional burden; default: %(default)s"
    )
    _add_anatomy(measure, required=False)
    measure.add_argument("--mirror", action="store_true", help="compare each region with its mirror image in the brain")
    measure.add_argument("--json", action="store_true", help="print the measures as JSON")
    add_identifier_option(measure)
    measure.set_defaults(run=_measure)

    report = commands.add_parser("report", help="write one page about maps for the referrer, with measures of regions")
    report.add_argument("maps", type=cli_options.path, metavar="MAPS", help="folder that `perfusion-cbv map` wrote")
    report.add_argument(
        "--output", type=cli_options.page_file, required=True, metavar="FILE", help="page.pdf or page.html"
    )
    report.add_argument(
        "--regions", type=cli_options.path, metavar="FILE", help="label map or segmentation to measure and outline"
    )
    _add_anatomy(report, required=False)
    report.add_argument(
        "--name-from",
        type=cli_options.path,
        metavar="DICOM",
        help="name patient and study on the page, from the maps' own series",
    )
    add_identifier_option(report, "name patient and study as `map --with-identifiers` kept them")
    report.set_defaults(run=_report)

    overlay = commands.add_parser("overlay", help="register the maps of one series to an anatomical volume")
    overlay.add_argument("maps", type=cli_options.path, metavar="MAPS", help="folder that `map` wrote")
    _add_anatomy(overlay, required=True)
    overlay.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    add_identifier_option(overlay)
    overlay.set_defaults(run=_overlay)

    compare = commands.add_parser("compare", help="compare the maps of two dates of one patient")
    compare.add_argument("earlier", type=cli_options.path, metavar="EARLIER", help="folder that `map` wrote")
    compare.add_argument("later", type=cli_options.path, metavar="LATER", help="folder that `map` wrote")
    _add_anatomy(compare, required=False)
    compare.add_argument(
        "--regions", type=cli_options.path, metavar="FILE", help="labels on the later series' or the anatomy's grid"
    )
    compare.add_argument(
        "--scale",
        choices=("own", "later", "earlier"),
        default="own",
        help="whose reference region is 1 in both maps; own: each date's (default)",
    )
    compare.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    add_identifier_option(compare)
    compare.set_defaults(run=_compare)
    dicom = commands.add_parser("dicom", help="make DICOM objects of maps; send them when asked for")
    dicom_command.add_arguments(dicom)
    add_identifier_option(dicom, "let names of files and folders into messages; the objects hold the patient's anyway")
    dicom.set_defaults(run=_dicom)


def _add_anatomy(parser: argparse.ArgumentParser, *, required: bool) -> None:
    words = "T1 after contrast, FLAIR, ...: NIfTI, NRRD or a folder with a DICOM series"
    parser.add_argument("--anatomy", type=cli_options.path, required=required, metavar="FILE", help=words)
    parser.add_argument("--anatomy-uid", metavar="UID", help="which of several DICOM series is the anatomy")


def _measure(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.load_common import sha256_of_file
    from PerfusionCBVLib.measures.measure import MeasureSettings, measure_regions
    from PerfusionCBVLib.measures.output import measures_as_dict, measures_as_text, write_measures

    try:
        low, high = (float(part) for part in options.cut_offs.split(","))
    except ValueError as error:
        raise UsageError(
            f"The cut-offs are {options.cut_offs!r}; two numbers with a comma between are needed, for example 1.0,1.75."
        ) from error
    settings = MeasureSettings(options.hot_spot_area, (low, high))
    with ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps, with_identifiers=options.with_identifiers)
        regions, registration = _regions(options, result, part(progress, 0.0, 0.5))
        measured = measure_regions(regions, result, settings, mirrors=options.mirror, progress=part(progress, 0.5, 1.0))
        source = {
            "maps": {"folder": result.origin, "provenance_sha256": sha256_of_file(options.maps / PROVENANCE)},
            "regions": {
                "file": options.regions.name if options.with_identifiers else None,
                "sha256": sha256_of_file(options.regions),
            },
            "registration": None if registration is None else registration.as_dict(),
            "provenance": result.provenance,
        }
        write_measures(measured, options.output, settings=settings, affine=result.affine, source=source)
    print(as_json(measures_as_dict(measured, settings, source)) if options.json else measures_as_text(measured))
    for each in measured:
        for note in each.notes:
            print(f"{each.region.name}: {note}", file=sys.stderr)
    if not options.json:
        print(f"\nWritten to {options.output}. Research use only.")
    return 0


def _report(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.identity import kept_identity, read_identity
    from PerfusionCBVLib.measures.measure import measure_regions
    from PerfusionCBVLib.one_page import Reading, write_page

    if options.anatomy is not None and options.regions is None:
        raise UsageError("--anatomy says where --regions were drawn; pass both or neither.")
    with ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps, with_identifiers=options.with_identifiers)
        identity = {}
        if options.name_from is not None:
            identity = read_identity(options.name_from, result.provenance)
        elif options.with_identifiers:
            identity = kept_identity(result.provenance)
        regions = () if options.regions is None else _regions(options, result, part(progress, 0.0, 0.5))[0]
        measured = measure_regions(regions, result, progress=part(progress, 0.5, 0.8))
        reading = Reading(
            result=result,
            regions={region.name: region.mostly for region in regions},
            measurements=[row for each in measured for row in each.measurements],
            identity=identity,
        )
        progress(0.8, "Writing the page")
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_page(reading, options.output)
    print(f"Written to {options.output}. Research use only.")
    return 0


def _regions(
    options: argparse.Namespace, result: StoredResult, progress: Progress
) -> tuple[tuple[Region, ...], Registration | None]:
    """Return the regions on the maps' grid and, where they were drawn on an anatomical volume, how that was aligned."""
    from PerfusionCBVLib.alignment.overlay import regions_on_maps
    from PerfusionCBVLib.measures.region_files import read_regions

    if options.anatomy is None:
        return read_regions(options.regions, result.mask.shape, result.affine), None
    anatomy = _anatomy(options)
    drawn = read_regions(options.regions, anatomy.values.shape, anatomy.affine)
    regions, registration = regions_on_maps(drawn, anatomy, result, progress)
    print_warnings(registration.findings)
    return regions, registration


def _anatomy(options: argparse.Namespace) -> Volume:
    return _called(read_volume(options.anatomy, series_uid=options.anatomy_uid), "anatomy", options)


def _called(volume: Volume, role: str, options: argparse.Namespace) -> Volume:
    """Return a volume that goes by its role instead of its file's or series' name, unless names were asked for."""
    if options.with_identifiers:
        return volume
    return replace(volume, name=role, input_sha256=_by_role(role, volume.input_sha256))


def _by_role(role: str, hashes: Mapping[str, str]) -> dict[str, str]:
    return {f"{role}-{count}": value for count, value in enumerate(hashes.values(), start=1)}


def _overlay(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.alignment.overlay import make_overlay, write_overlay

    require_own_folder(options.output, "overlay")
    with ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps, with_identifiers=options.with_identifiers)
        anatomy = _anatomy(options)
        overlay = make_overlay(result, anatomy, progress)
        write_overlay(overlay, result, options.output)
    found = overlay.registration
    print_warnings(found.findings)
    print(
        f"The brain was moved by {found.displacement_mm:.1f} mm and turned by {found.rotation_deg:.1f}°; look at "
        f"{options.output / 'registration.png'}. Research use only."
    )
    print(f"Written to {options.output}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.alignment.comparison_output import write_comparison
    from PerfusionCBVLib.alignment.longitudinal import compare
    from PerfusionCBVLib.alignment.region_shares import read_drawn

    if options.anatomy_uid is not None and options.anatomy is None:
        raise UsageError("--anatomy-uid names a series of --anatomy, which is missing; pass both or neither.")
    require_own_folder(options.output, "compare")
    with ProgressBar() as progress:
        progress(0.0, "Reading")
        earlier, later = (
            read_result(folder, with_identifiers=options.with_identifiers)
            for folder in (options.earlier, options.later)
        )
        anatomy = None if options.anatomy is None else _anatomy(options)
        regions = None
        if options.regions is not None:
            regions = read_drawn(options.regions, later.mask.shape, later.affine, anatomy)
            if not options.with_identifiers:
                hashes = _by_role("regions", regions.source["sha256"])
                regions = replace(regions, source={"name": "regions", "sha256": hashes})
        comparison = compare(earlier, later, anatomy=anatomy, regions=regions, scale=options.scale, progress=progress)
        write_comparison(comparison, options.output)
    print_warnings(comparison.findings)
    for name in dict.fromkeys(m.region for m in comparison.changes):
        value = {m.name: m.value for m in comparison.changes if m.region == name}
        print(
            f"{name}: mean rCBV {value['rcbv_mean_before']:.2f} before, {value['rcbv_mean_after']:.2f} after "
            f"({value['rcbv_mean_change_percent']:+.0f} %)"
        )
    print(f"Research use only. Written to {options.output}")
    return 0


def _dicom(options: argparse.Namespace) -> int:
    with ProgressBar() as progress:
        lines, error = dicom_command.run(options, progress)
    print("\n".join(lines))
    if error is not None:
        raise error
    return 0
