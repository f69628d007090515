"""The command line: demo, map, check, measure, report, overlay, compare, dicom, simulate, train, evaluate, models."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from PerfusionCBVLib import __version__, check, compute_maps, load_series, write_result
from PerfusionCBVLib.alignment.volume import read_volume
from PerfusionCBVLib.arterial import ArterialRequest, read_arterial_curve
from PerfusionCBVLib.dicom_out import command as dicom_command
from PerfusionCBVLib.errors import Cancelled, ModelError, PerfusionError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.networks.cards import ARCHITECTURES, known_networks, read_card
from PerfusionCBVLib.output import PROVENANCE, as_json, require_own_folder
from PerfusionCBVLib.progress import Progress, part, silent
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.series import DynamicSeries
from PerfusionCBVLib.settings import DECONVOLUTIONS, METHODS, Settings
from PerfusionCBVLib.stored import StoredResult, read_result

if TYPE_CHECKING:
    from PerfusionCBVLib.alignment.registration import Registration
    from PerfusionCBVLib.measures.regions import Region


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (0 done, 2 usage, 3 input refused, 4 cancelled, 1 a fault of ours)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except PerfusionError as error:
        print(f"perfusion-cbv: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"perfusion-cbv: stopped: {error}", file=sys.stderr)
        return PerfusionError.exit_code
    except KeyboardInterrupt:
        print("perfusion-cbv: cancelled; nothing was written", file=sys.stderr)
        return Cancelled.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perfusion-cbv",
        description="Relative cerebral blood volume from DSC-MRI. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"perfusion-cbv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="simulate a patient and make maps and a report; needs no input")
    demo.add_argument("--output", type=Path, default=Path("perfusion-cbv-demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    map_ = commands.add_parser("map", help="make maps of one series")
    _add_input(map_)
    map_.add_argument("--output", type=Path, required=True, metavar="DIR")
    map_.add_argument("--method", choices=METHODS, default=Settings.method, help="default: %(default)s")
    map_.add_argument("--mask", type=Path, metavar="FILE", help="brain mask on the series' grid (NIfTI)")
    map_.add_argument("--reference", type=Path, metavar="FILE", help="region whose mean rCBV becomes 1 (NIfTI)")
    map_.add_argument("--normalize", choices=("nawm", "brain", "none"), default=Settings.normalize)
    map_.add_argument("--motion-correction", action="store_true", help="align every frame to the baseline first")
    map_.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default=Settings.device)
    map_.add_argument(
        "--aif",
        metavar="auto|FILE.csv|MASK.nii.gz",
        help="arterial input: found, a curve (time in s, ΔR2* in 1/s), or voxels; adds cbv, cbf, mtt, tmax, ttp, delay",
    )
    map_.add_argument(
        "--aif-relaxivity",
        type=float,
        metavar="NUMBER",
        help="1/s per mmol/l in tissue, where FILE.csv holds a concentration in mmol/l",
    )
    map_.add_argument(
        "--deconvolution", choices=DECONVOLUTIONS, default=Settings.deconvolution, help="default: %(default)s"
    )
    map_.add_argument("--json", action="store_true", help="print a summary as JSON")
    map_.set_defaults(run=_map)

    measure = commands.add_parser("measure", help="measure regions of maps: mean, burden, hot spot and more")
    measure.add_argument("maps", type=Path, metavar="MAPS", help="folder that `perfusion-cbv map` wrote")
    measure.add_argument(
        "--regions", type=Path, required=True, metavar="FILE", help="label map or segmentation (NIfTI, NRRD, .seg.nrrd)"
    )
    measure.add_argument("--output", type=Path, required=True, metavar="DIR")
    measure.add_argument(
        "--hot-spot-area", type=float, default=40.0, metavar="MM2", help="of the hottest disc; default: %(default)g mm²"
    )
    measure.add_argument(
        "--cut-offs", default="1.0,1.75", metavar="LOW,HIGH", help="of fractional burden; default: %(default)s"
    )
    _add_anatomy(measure, required=False)
    measure.add_argument("--mirror", action="store_true", help="compare each region with its mirror image in the brain")
    measure.add_argument("--json", action="store_true", help="print the measures as JSON")
    measure.set_defaults(run=_measure)

    report = commands.add_parser("report", help="write one page about maps for the referrer, with measures of regions")
    report.add_argument("maps", type=Path, metavar="MAPS", help="folder that `perfusion-cbv map` wrote")
    report.add_argument("--output", type=Path, required=True, metavar="FILE", help="page.pdf or page.html")
    report.add_argument("--regions", type=Path, metavar="FILE", help="label map or segmentation to measure and outline")
    _add_anatomy(report, required=False)
    report.add_argument(
        "--name-from", type=Path, metavar="DICOM", help="name patient and study on the page, from the maps' own series"
    )
    report.set_defaults(run=_report)

    check_ = commands.add_parser("check", help="say what is noteworthy about a series; make no map")
    _add_input(check_)
    check_.add_argument("--json", action="store_true", help="print the findings as JSON")
    check_.set_defaults(run=_check)

    overlay = commands.add_parser("overlay", help="register the maps of one series to an anatomical volume")
    overlay.add_argument("maps", type=Path, metavar="MAPS", help="folder that `map` wrote")
    _add_anatomy(overlay, required=True)
    overlay.add_argument("--output", type=Path, required=True, metavar="DIR")
    overlay.set_defaults(run=_overlay)

    compare = commands.add_parser("compare", help="compare the maps of two dates of one patient")
    compare.add_argument("earlier", type=Path, metavar="EARLIER", help="folder that `map` wrote")
    compare.add_argument("later", type=Path, metavar="LATER", help="folder that `map` wrote")
    _add_anatomy(compare, required=False)
    compare.add_argument(
        "--regions", type=Path, metavar="FILE", help="labels on the later series' or the anatomy's grid"
    )
    compare.add_argument(
        "--scale",
        choices=("own", "later", "earlier"),
        default="own",
        help="whose reference region is 1 in both maps; own: each date's (default)",
    )
    compare.add_argument("--output", type=Path, required=True, metavar="DIR")
    compare.set_defaults(run=_compare)
    dicom = commands.add_parser("dicom", help="make DICOM objects of maps; send them when asked for")
    dicom_command.add_arguments(dicom)
    dicom.set_defaults(run=_dicom)

    simulate = commands.add_parser("simulate", help="write a simulated series with its truth")
    simulate.add_argument("--output", type=Path, required=True, metavar="DIR")
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--parameters", type=Path, metavar="FILE", help="parameters.json of an earlier simulation")
    simulate.add_argument("--frames", type=int)
    simulate.add_argument("--repetition-time", type=float, metavar="SECONDS")
    simulate.add_argument("--echo-time", type=float, metavar="SECONDS")
    simulate.add_argument("--flip-angle", type=float, metavar="DEGREES")
    simulate.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    simulate.add_argument("--dicom", action="store_true", help="write the series as DICOM too")
    simulate.set_defaults(run=_simulate)

    train = commands.add_parser(
        "train", help="train a network on simulated patients or on a data set; resumes where it was stopped"
    )
    train.add_argument("--output", type=Path, required=True, metavar="DIR")
    train.add_argument("--network", choices=ARCHITECTURES, default="unet-gru", help="default: %(default)s")
    train.add_argument("--patients", metavar="DIR", help="keep drawn patients here for other runs, 25 MB each")
    train.add_argument("--minutes", type=float, default=60.0)
    train.add_argument("--workers", type=int, default=1, help="processes that simulate; default: %(default)s")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument(
        "--dataset",
        nargs=2,
        metavar=("upenn-gbm", "DIR"),
        help="train on the data set in this folder instead, and score the test patients as the source paper does",
    )
    train.add_argument("--from-scratch", action="store_true", help="with --dataset: not from the embedded weights")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="compare methods with a known truth")
    evaluate.add_argument("--object", type=Path, metavar="DIR", help="folder with dsc.nii.gz and truth_rcbv.nii.gz")
    evaluate.add_argument("--reference", type=Path, metavar="FILE", help="reference region, with --object")
    evaluate.add_argument("--subjects", type=int, default=8, help="simulated patients, without --object")
    evaluate.add_argument("--sampling", action="store_true", help="how maps of these patients move with frame interval")
    evaluate.add_argument("--methods", nargs="+", metavar="a,b", default=METHODS, help=f"of: {', '.join(METHODS)}")
    evaluate.add_argument("--output", type=Path, metavar="DIR", help="tables and plots; a second run goes on there")
    evaluate.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    evaluate.add_argument("--json", action="store_true", help="print the table as JSON")
    evaluate.set_defaults(run=_evaluate)

    models = commands.add_parser("models", help="list the embedded networks with their cards")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_models)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="DICOM folder or .zip, 4-D NIfTI, Slicer .seq.nrrd")
    parser.add_argument("--echo-time", type=float, metavar="SECONDS", help="where the input does not carry it")
    parser.add_argument("--repetition-time", type=float, metavar="SECONDS", help="where the input does not carry it")
    parser.add_argument("--series-uid", metavar="UID", help="which of several DICOM series")


def _add_anatomy(parser: argparse.ArgumentParser, *, required: bool) -> None:
    words = "T1 after contrast, FLAIR, ...: NIfTI, NRRD or a folder with a DICOM series"
    parser.add_argument("--anatomy", type=Path, required=required, metavar="FILE", help=words)
    parser.add_argument("--anatomy-uid", metavar="UID", help="which of several DICOM series is the anatomy")


def _demo(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.simulate import demo_parameters, simulate  # torch only where it is needed

    with _ProgressBar() as progress:
        progress(0.0, "Simulating a patient")
        subject = simulate(demo_parameters())
        result = compute_maps(subject.series, progress=progress)
        written = write_result(result, options.output)
    _print_summary(result, options.output)
    print(f"Open {options.output / 'report.html'} in a browser ({len(written)} files written).")
    return 0


def _map(options: argparse.Namespace) -> int:
    settings = Settings(
        options.method, options.normalize, options.motion_correction, options.device, options.deconvolution
    )
    with _ProgressBar() as progress:
        progress(0.0, "Reading")
        series = _load(options)
        mask = None if options.mask is None else read_mask(options.mask, series)
        reference = None if options.reference is None else read_mask(options.reference, series)
        aif = _arterial_request(options, series)
        result = compute_maps(series, settings, mask=mask, reference=reference, aif=aif, progress=progress)
        progress(0.95, "Writing")
        written = write_result(result, options.output)
    if options.json:
        keys = ("summary", "reference", "bolus", "findings", "agreement", "familiarity", "arterial_input", "flow")
        summary = {key: result.provenance.get(key) for key in keys}
        print(_json({"method": settings.method, "files": [str(path) for path in written], **summary}))
    else:
        _print_summary(result, options.output)
    return 0


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
    with _ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps)
        regions, registration = _regions(options, result, part(progress, 0.0, 0.5))
        measured = measure_regions(regions, result, settings, mirrors=options.mirror, progress=part(progress, 0.5, 1.0))
        source = {
            "maps": {"folder": str(options.maps), "provenance_sha256": sha256_of_file(options.maps / PROVENANCE)},
            "regions": {"file": options.regions.name, "sha256": sha256_of_file(options.regions)},
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
    from PerfusionCBVLib.identity import read_identity
    from PerfusionCBVLib.measures.measure import measure_regions
    from PerfusionCBVLib.one_page import Reading, write_page

    if options.anatomy is not None and options.regions is None:
        raise UsageError("--anatomy says where --regions were drawn; pass both or neither.")
    with _ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps)
        regions = () if options.regions is None else _regions(options, result, part(progress, 0.0, 0.5))[0]
        measured = measure_regions(regions, result, progress=part(progress, 0.5, 0.8))
        identity = {} if options.name_from is None else read_identity(options.name_from, result.provenance)
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
    anatomy = read_volume(options.anatomy, series_uid=options.anatomy_uid)
    drawn = read_regions(options.regions, anatomy.values.shape, anatomy.affine)
    regions, registration = regions_on_maps(drawn, anatomy, result, progress)
    _print_warnings(registration.findings)
    return regions, registration


def _arterial_request(options: argparse.Namespace, series: DynamicSeries) -> ArterialRequest | None:
    """Return what --aif asks for: nothing, "auto", a curve (.csv) or a mask (NIfTI)."""
    if options.aif is not None and options.aif.lower().endswith(".csv"):
        return read_arterial_curve(Path(options.aif), relaxivity_per_s_per_mm=options.aif_relaxivity)
    if options.aif_relaxivity is not None:
        raise UsageError("--aif-relaxivity belongs to --aif FILE.csv with a concentration; leave it out.")
    if options.aif is None or options.aif == "auto":
        return options.aif
    return read_mask(Path(options.aif), series)


def _check(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.networks.trust import check_networks

    series = _load(options)
    findings = [*check(series)]
    if series.acquisition.echo_time_s is not None and all(f.severity != "error" for f in findings):
        findings += check_networks(series)
    if options.json:
        print(_json([f.as_dict() for f in findings]))
    else:
        for finding in findings:
            print(f"{finding.severity.upper():8} {finding.code}: {finding.message} {finding.advice}".rstrip())
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        print(f"perfusion-cbv: {errors[0].message} {errors[0].advice}".rstrip(), file=sys.stderr)
        return 3
    return 0


def _overlay(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.alignment.overlay import make_overlay, write_overlay

    require_own_folder(options.output, "overlay")
    with _ProgressBar() as progress:
        progress(0.0, "Reading")
        result = read_result(options.maps)
        anatomy = read_volume(options.anatomy, series_uid=options.anatomy_uid)
        overlay = make_overlay(result, anatomy, progress)
        write_overlay(overlay, result, options.output)
    found = overlay.registration
    _print_warnings(found.findings)
    print(
        f"The brain was moved by {found.displacement_mm:.1f} mm and turned by {found.rotation_deg:.1f}°; look at "
        f"{options.output / 'registration.png'}. Research use only."
    )
    print(f"Written to {options.output}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.alignment.comparison_output import write_comparison
    from PerfusionCBVLib.alignment.longitudinal import compare

    if options.anatomy_uid is not None and options.anatomy is None:
        raise UsageError("--anatomy-uid names a series of --anatomy, which is missing; pass both or neither.")
    require_own_folder(options.output, "compare")
    with _ProgressBar() as progress:
        progress(0.0, "Reading")
        earlier, later = read_result(options.earlier), read_result(options.later)
        anatomy = None if options.anatomy is None else read_volume(options.anatomy, series_uid=options.anatomy_uid)
        regions = None if options.regions is None else read_volume(options.regions)
        comparison = compare(earlier, later, anatomy=anatomy, regions=regions, scale=options.scale, progress=progress)
        write_comparison(comparison, options.output)
    _print_warnings(comparison.findings)
    for name in dict.fromkeys(m.region for m in comparison.changes):
        value = {m.name: m.value for m in comparison.changes if m.region == name}
        print(
            f"{name}: mean rCBV {value['rcbv_mean_before']:.2f} before, {value['rcbv_mean_after']:.2f} after "
            f"({value['rcbv_mean_change_percent']:+.0f} %)"
        )
    print(f"Research use only. Written to {options.output}")
    return 0


def _dicom(options: argparse.Namespace) -> int:
    with _ProgressBar() as progress:
        lines, error = dicom_command.run(options, progress)
    print("\n".join(lines))
    if error is not None:
        raise error
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.simulate import SubjectParameters, draw_subject, simulate, write_subject

    if options.parameters is not None:
        parameters = SubjectParameters.from_json(options.parameters.read_text(encoding="utf-8"))
    else:
        given = {
            "frames": options.frames,
            "repetition_time_s": options.repetition_time,
            "echo_time_s": options.echo_time,
            "flip_angle_deg": options.flip_angle,
        }
        scan = {k: v for k, v in given.items() if v is not None}
        parameters = draw_subject(np.random.default_rng(options.seed), scan=scan)
    paths = write_subject(simulate(parameters, device=options.device), options.output, dicom=options.dicom)
    print("\n".join(str(path) for path in paths))
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.dataset is not None and options.dataset[0] != "upenn-gbm":
        raise UsageError(f"There is no data set {options.dataset[0]!r}; known: upenn-gbm.")
    if options.dataset is not None and options.patients is not None:
        raise UsageError("--patients keeps simulated patients, which --dataset does not use; leave one of them out.")
    if options.dataset is None and options.from_scratch:
        raise UsageError("--from-scratch belongs to --dataset; on simulated patients a training always is.")
    try:
        from PerfusionCBVLib.train.fine_tune import train_upenn_gbm
        from PerfusionCBVLib.train.loop import TrainingSettings, train
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModelError(
            "Training needs PyTorch, which is not installed: pip install 'perfusion-cbv[networks,train]'."
        ) from error

    settings = TrainingSettings(
        minutes=options.minutes, workers=options.workers, seed=options.seed, patients=options.patients
    )
    try:
        if options.dataset is None:
            train(options.network, options.output, settings, _say)
        else:
            train_upenn_gbm(
                options.network,
                Path(options.dataset[1]),
                options.output,
                settings,
                _say,
                from_scratch=options.from_scratch,
            )
    except KeyboardInterrupt as event:
        raise Cancelled(
            f"stopped; the same command goes on from the last checkpoint in {options.output}, if there is one"
        ) from event
    return 0


def _say(message: str) -> None:
    print(message, flush=True)


def _evaluate(options: argparse.Namespace) -> int:
    from PerfusionCBVLib import evaluate

    methods = list(dict.fromkeys(name for part in options.methods for name in part.split(",")))
    for method in methods:
        Settings(method=method)  # refuses an unknown one
    if options.object is not None and options.sampling:
        raise UsageError("--sampling simulates patients again, which an --object can't be; leave one of them out.")
    if options.object is None and options.reference is not None:
        raise UsageError("--reference is a region of an --object; simulated patients have their own grids.")
    write, folder = evaluate.report_markdown, options.output
    with _ProgressBar() as progress:
        if options.object is not None:
            rows = evaluate.evaluate_object(
                options.object, methods, progress, reference=options.reference, output=folder
            )
        else:
            run = evaluate.evaluate_sampling if options.sampling else evaluate.evaluate_simulated
            write = evaluate.sampling_markdown if options.sampling else write
            rows = run(options.subjects, methods, progress, folder=folder, workers=options.workers)
    print(_json([{k: None if v != v else v for k, v in row.items()} for row in rows]) if options.json else write(rows))
    if folder is not None:
        print(f"Written to {folder}. {evaluate.why_no_plots() or ''}".rstrip(), file=sys.stderr)
    return 0


def _models(options: argparse.Namespace) -> int:
    cards = [read_card(name) for name in known_networks()]
    if options.json:
        print(_json(cards))
        return 0
    for card in cards:
        scores = ", ".join(f"{k} {v:.3f}" for k, v in card["measured"].get("validation", {}).items())
        print(f"{card['name']}: {card['parameters']:,} parameters, sha256 {card['sha256'][:12]}…, validation {scores}")
    return 0


def _load(options: argparse.Namespace) -> DynamicSeries:
    return load_series(
        options.input,
        echo_time_s=options.echo_time,
        repetition_time_s=options.repetition_time,
        series_uid=options.series_uid,
    )


def _print_summary(result: MapResult, folder: Path) -> None:
    _print_warnings(result.findings)
    summary = result.provenance["summary"]
    print(
        f"rCBV in the brain: median {summary['rcbv_median']:.2f} "
        f"(quartiles {summary['rcbv_quartile_low']:.2f} to {summary['rcbv_quartile_high']:.2f}). Research use only."
    )
    print(f"Written to {folder}")


def _print_warnings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.severity == "warning":
            print(f"warning: {finding.message} {finding.advice}".rstrip())


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=_number)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} is not JSON")


class _ProgressBar:
    """A bar on a terminal, nothing elsewhere."""

    def __enter__(self) -> Progress:
        self.bar = (
            tqdm(total=100, leave=False, bar_format="{desc} {bar} {percentage:3.0f} %") if sys.stderr.isatty() else None
        )
        return silent if self.bar is None else self._show

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _show(self, fraction: float, message: str) -> None:
        assert self.bar is not None
        self.bar.set_description_str(message)
        self.bar.n = round(100 * fraction)
        self.bar.refresh()
