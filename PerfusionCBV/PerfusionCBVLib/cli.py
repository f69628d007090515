"""The command line: exit codes, and the commands that begin with a series or a simulation."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from PerfusionCBVLib import (
    __version__,
    check,
    cli_batch,
    cli_options,
    cli_results,
    cli_view,
    compute_maps,
    write_result,
)
from PerfusionCBVLib.errors import Cancelled, ModelError, PerfusionError, UsageError
from PerfusionCBVLib.identity import read_identity
from PerfusionCBVLib.json_text import read_json_object
from PerfusionCBVLib.map_request import MapRequest, make_maps
from PerfusionCBVLib.networks.cards import ARCHITECTURES, known_networks, read_card
from PerfusionCBVLib.result import MapResult
from PerfusionCBVLib.settings import METHODS, Settings
from PerfusionCBVLib.terminal import ProgressBar, print_warnings
from PerfusionCBVLib.withheld import IDENTITY, withhold, without_identifiers

LARGEST_SEED = 2**32 - 1
LARGEST_PARAMETERS_BYTES = 1024**2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (0 done, 2 usage, 3 input refused, 4 cancelled, 1 a fault of ours)."""
    options = _parser().parse_args(arguments)
    try:
        with _ended_like_cancelled() if hasattr(options, "with_identifiers") else nullcontext():
            return options.run(options)
    except PerfusionError as error:
        print(f"perfusion-cbv: {_sayable(error, options)}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"perfusion-cbv: stopped: {_sayable(error, options)}", file=sys.stderr)
        return PerfusionError.exit_code
    except KeyboardInterrupt:
        print("perfusion-cbv: cancelled; nothing was written", file=sys.stderr)
        return Cancelled.exit_code


@contextmanager
def _ended_like_cancelled() -> Iterator[None]:
    """Let a request to end (SIGTERM of a shutdown or a scheduler) clean up as Ctrl-C does.

    Without it images of a patient would stay in the folder for temporary files.
    """
    if threading.current_thread() is not threading.main_thread():  # Python hears signals there only
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _sayable(error: Exception, options: argparse.Namespace) -> str:
    """Return an error's message on one line, with names of the input only where they were asked for."""
    text = " ".join(str(error).split())
    if getattr(options, "with_identifiers", True):  # commands without the option read data sets, not a patient's files
        return text
    given = {key: value for key, value in vars(options).items() if key != "output" and isinstance(value, str | Path)}
    paths = {_role(key): Path(value) for key, value in given.items() if isinstance(value, Path) or key == "aif"}
    return withhold(text, paths)


def _role(key: str) -> str:
    """Return how the help text calls an option that holds a path."""
    return key.upper() if key in ("input", *cli_results.POSITIONAL) else f"--{key.replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all of our errors do, instead of below a list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"{self.prog}: {message}. `{self.prog} --help` lists what is possible.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="perfusion-cbv",
        description="Relative cerebral blood volume from DSC-MRI. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"perfusion-cbv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="simulate a patient and make maps and a report; needs no input")
    demo.add_argument("--output", type=cli_options.output_folder, default=Path("perfusion-cbv-demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    map_ = commands.add_parser("map", help="make maps of one series")
    _add_input(map_)
    map_.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    cli_options.add_settings(map_)
    map_.add_argument("--mask", type=cli_options.path, metavar="FILE", help="brain mask on the series' grid (NIfTI)")
    map_.add_argument(
        "--reference", type=cli_options.path, metavar="FILE", help="region whose mean rCBV becomes 1 (NIfTI)"
    )
    map_.add_argument(
        "--aif",
        type=cli_options.text,
        metavar="auto|FILE.csv|MASK.nii.gz",
        help="arterial input: found, a curve (time in s, ΔR2* in 1/s), or voxels; adds cbv, cbf, mtt, tmax, ttp, delay",
    )
    map_.add_argument(
        "--aif-relaxivity",
        type=float,
        metavar="NUMBER",
        help="1/s per mmol/l in tissue, where FILE.csv holds a concentration in mmol/l",
    )
    map_.add_argument("--json", action="store_true", help="print a summary as JSON")
    cli_results.add_identifier_option(
        map_, "keep names of files and series, and of patient and study where DICOM has them"
    )
    map_.set_defaults(run=_map)

    check_ = commands.add_parser("check", help="say what is noteworthy about a series; make no map")
    _add_input(check_)
    check_.add_argument("--json", action="store_true", help="print the findings as JSON")
    cli_results.add_identifier_option(check_)
    check_.set_defaults(run=_check)

    cli_batch.add_command(commands)
    cli_results.add_commands(commands)
    cli_view.add_command(commands)

    simulate = commands.add_parser("simulate", help="write a simulated series with its truth")
    simulate.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    simulate.add_argument("--seed", type=cli_options.number(int, 0, LARGEST_SEED), default=1)
    simulate.add_argument(
        "--parameters", type=cli_options.path, metavar="FILE", help="parameters.json of an earlier simulation"
    )
    simulate.add_argument("--frames", type=int)
    simulate.add_argument("--repetition-time", type=float, metavar="SECONDS")
    simulate.add_argument("--echo-time", type=float, metavar="SECONDS")
    simulate.add_argument("--flip-angle", type=float, metavar="DEGREES")
    simulate.add_argument("--device", choices=cli_options.DEVICES, default="cpu", help="default: %(default)s")
    simulate.add_argument("--dicom", action="store_true", help="write the series as DICOM too")
    simulate.set_defaults(run=_simulate)

    train = commands.add_parser(
        "train", help="train a network on simulated patients or on a data set; resumes where it was stopped"
    )
    train.add_argument("--output", type=cli_options.output_folder, required=True, metavar="DIR")
    train.add_argument("--network", choices=ARCHITECTURES, default="unet-gru", help="default: %(default)s")
    train.add_argument(
        "--patients", type=cli_options.text, metavar="DIR", help="keep drawn patients here for other runs, 25 MB each"
    )
    train.add_argument("--minutes", type=cli_options.number(float, 0, 1e6), default=60.0)
    train.add_argument(
        "--workers",
        type=cli_options.number(int, 0, cli_options.MOST_WORKERS),
        default=1,
        help="processes that simulate; default: %(default)s",
    )
    train.add_argument("--seed", type=cli_options.number(int, 0, LARGEST_SEED), default=1)
    train.add_argument(
        "--dataset",
        nargs=2,
        metavar=("upenn-gbm", "DIR"),
        help="train on the data set in this folder instead, and score the test patients as the source paper does",
    )
    train.add_argument("--from-scratch", action="store_true", help="with --dataset: not from the embedded weights")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="compare methods with a known truth")
    evaluate.add_argument(
        "--object", type=cli_options.path, metavar="DIR", help="folder with dsc.nii.gz and truth_rcbv.nii.gz"
    )
    evaluate.add_argument("--reference", type=cli_options.path, metavar="FILE", help="reference region, with --object")
    evaluate.add_argument(
        "--subjects", type=cli_options.number(int, 1, 100_000), default=8, help="simulated patients, without --object"
    )
    evaluate.add_argument("--sampling", action="store_true", help="how maps of these patients move with frame interval")
    evaluate.add_argument("--methods", nargs="+", metavar="a,b", default=METHODS, help=f"of: {', '.join(METHODS)}")
    evaluate.add_argument(
        "--output", type=cli_options.output_folder, metavar="DIR", help="tables and plots; a second run goes on there"
    )
    evaluate.add_argument(
        "--workers",
        type=cli_options.number(int, 1, cli_options.MOST_WORKERS),
        default=1,
        help="processes; default: %(default)s",
    )
    evaluate.add_argument("--json", action="store_true", help="print the table as JSON")
    evaluate.set_defaults(run=_evaluate)

    models = commands.add_parser("models", help="list the embedded networks with their cards")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_models)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=cli_options.path, metavar="INPUT", help="DICOM folder or .zip, 4-D NIfTI, Slicer .seq.nrrd"
    )
    cli_options.add_times(parser)
    parser.add_argument("--series-uid", metavar="UID", help="which of several DICOM series")


def _demo(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.simulate import demo_parameters, simulate  # torch only where it is needed

    with ProgressBar() as progress:
        progress(0.0, "Simulating a patient")
        subject = simulate(demo_parameters())
        result = compute_maps(subject.series, progress=progress)
        written = write_result(result, options.output, with_identifiers=True)  # nobody's
    _print_summary(result, options.output)
    print(f"Open {options.output / 'report.html'} in a browser ({len(written)} files written).")
    return 0


def _map(options: argparse.Namespace) -> int:
    settings = cli_options.settings_of(options)
    request = replace(
        _request(options),
        mask=options.mask,
        reference=options.reference,
        aif=options.aif,
        aif_relaxivity=options.aif_relaxivity,
    )
    with ProgressBar() as progress:
        result = make_maps(request, settings, progress)
        progress(0.95, "Writing")
        if not options.with_identifiers:
            result = without_identifiers(result)
        elif any(key.startswith("dicom:") for key in result.series.input_sha256):
            result.provenance[IDENTITY] = read_identity(options.input, result.provenance)
        written = write_result(result, options.output, with_identifiers=options.with_identifiers)
    if options.json:
        keys = ("summary", "reference", "bolus", "findings", "agreement", "familiarity", "arterial_input", "flow")
        summary = {key: result.provenance.get(key) for key in keys}
        print(_json({"method": settings.method, "files": [str(path) for path in written], **summary}))
    else:
        _print_summary(result, options.output)
    return 0


def _check(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.networks.trust import check_networks

    series = _request(options).load()
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


def _simulate(options: argparse.Namespace) -> int:
    from PerfusionCBVLib.networks.inference import choose_device
    from PerfusionCBVLib.simulate import SubjectParameters, draw_subject, simulate, write_subject

    given = {
        "frames": options.frames,
        "repetition_time_s": options.repetition_time,
        "echo_time_s": options.echo_time,
        "flip_angle_deg": options.flip_angle,
    }
    scan = {k: v for k, v in given.items() if v is not None}
    if options.parameters is not None:
        if scan:
            raise UsageError("--parameters holds the whole protocol; leave it or the options of the protocol out.")
        parameters = SubjectParameters.from_dict(
            read_json_object(options.parameters, LARGEST_PARAMETERS_BYTES, "Pass the parameters.json of a simulation.")
        )
    else:
        parameters = draw_subject(np.random.default_rng(options.seed), scan=scan)
    subject = simulate(parameters, device=str(choose_device(options.device)))
    paths = write_subject(subject, options.output, dicom=options.dicom)
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
    with ProgressBar() as progress:
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
        print(f"{card['name']}: {card['parameters']:,} parameters, sha256 {card['sha256'][:12]}…, {_measured(card)}")
    return 0


def _measured(card: dict) -> str:
    """Return a card's errors as text; a network fresh from training has none before they are put in by hand."""
    if not {"test", "other_simulator"} <= card["measured"].keys():
        return "no measured error on its card"
    test, heads = card["measured"]["test"], card["measured"]["other_simulator"]
    return (
        f"NRMSE {test['nrmse']:.3f} on {test['patients']} simulated patients (bsw {test['nrmse_classical']:.3f}), "
        f"{heads['to_classical']:.2f} × bsw on heads of another simulator"
    )


def _request(options: argparse.Namespace) -> MapRequest:
    return MapRequest(
        series=options.input,
        echo_time_s=options.echo_time,
        repetition_time_s=options.repetition_time,
        series_uid=options.series_uid,
    )


def _print_summary(result: MapResult, folder: Path) -> None:
    print_warnings(result.findings)
    summary = result.provenance["summary"]
    print(
        f"rCBV in the brain: median {summary['rcbv_median']:.2f} "
        f"(quartiles {summary['rcbv_quartile_low']:.2f} to {summary['rcbv_quartile_high']:.2f}). Research use only."
    )
    print(f"Written to {folder}")


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=_number)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} is not JSON")
