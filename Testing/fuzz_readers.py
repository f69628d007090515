"""Every reader against damaged input, as many as asked for: `python Testing/fuzz_readers.py nifti --inputs 10000`.

Each input is drawn from a seed of its own, so that any is made again by its number (`--only 4711 --keep DIR`). Allowed
outcomes are two: something was read, or an error of exit code 3 with one legible sentence. A traceback, a warning, more
than `TIME_LIMIT_S`, more than `MEMORY_LIMIT_BYTES` or images in another order than planted is a failure. Prints the
counts as JSON; its exit code is 1 after any failure. Runs on POSIX systems (it needs their limits and alarm).
"""

import argparse
import faulthandler
import gzip
import io
import json
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import header_dtype as nifti_header

import fuzz_dicom
from dicom_fixtures import make_phantom, write_nifti, write_sequence
from dsc_phantom import graded_head
from fuzz_mutations import ODD_TEXTS, bytes_damaged, damaged, header_damaged, json_damaged, text_damaged
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.alignment.volume import read_volume
from PerfusionCBVLib.arterial import read_arterial_curve
from PerfusionCBVLib.batch.cohort import Cohort
from PerfusionCBVLib.batch.manifest import read_manifest
from PerfusionCBVLib.batch.names import is_safe_name
from PerfusionCBVLib.dicom_out.structured_report import read_measures
from PerfusionCBVLib.errors import InputRefusedError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.map_request import MapRequest
from PerfusionCBVLib.masking import read_mask
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_regions
from PerfusionCBVLib.measures.output import write_measures
from PerfusionCBVLib.measures.region_files import read_regions
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.output import CURVES, PROVENANCE, write_result
from PerfusionCBVLib.series import Acquisition, DynamicSeries
from PerfusionCBVLib.stored import StoredResult, read_result

TIME_LIMIT_S = 20.0
MEMORY_LIMIT_BYTES = 6 * 1024**3
LONGEST_SENTENCE = 1200
SHAPE = (6, 5, 2, 16)


class FailureError(Exception):
    """An outcome that must not be."""


@dataclass(frozen=True)
class Case:
    """One input: what to read, and what must hold if it can be read."""

    read: Callable[[], Any]
    holds: Callable[[Any], bool] = lambda result: True


@contextmanager
def time_limit() -> Iterator[None]:
    """Break off Python code by an alarm, and the whole process where a library does not return to Python."""

    def stop(*_):
        raise FailureError(f"no end within {TIME_LIMIT_S:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    faulthandler.dump_traceback_later(2 * TIME_LIMIT_S, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


class _Loud(logging.Handler):
    """What a library would print through Python's logging is a failure, like a warning."""

    def emit(self, record):
        raise FailureError(f"printed: {record.getMessage()}")


def outcome(case: Case) -> str:
    """Return "read" or the class of the refusal; raise `FailureError` for anything else."""
    try:
        with time_limit(), warnings.catch_warnings():
            warnings.simplefilter("error")
            logging.lastResort = _Loud(logging.WARNING)
            result = case.read()
    except InputRefusedError as error:
        sentence = " ".join(str(error).split())  # as the command line prints it
        if not sentence.endswith((".", "?", "!")) or len(sentence) > LONGEST_SENTENCE or not sentence.isprintable():
            raise FailureError(f"no legible sentence of at most {LONGEST_SENTENCE} letters: {sentence!r}") from error
        return type(error).__name__
    except FailureError:
        raise
    except BaseException as error:
        raise FailureError(traceback.format_exc()) from error
    if not case.holds(result):
        raise FailureError("what was read is not what was planted")
    return "read"


def _series_is_sound(series: DynamicSeries) -> bool:
    return bool((np.diff(series.times_s) > 0).all() and np.isfinite(series.affine).all())


def _cohort_is_sound(cohort: Cohort) -> bool:
    return all(is_safe_name(case.id) and case.request.series.name for case in cohort.cases)


def _result_is_sound(result: StoredResult) -> bool:
    grids = {each.values.shape for each in result.maps.values()} | {result.mask.shape, result.status.shape}
    curves = {len(curve) for curve in result.curves_per_s.values()}
    return grids == {result.baseline.shape} and curves == {len(result.times_s)} and "rcbv" in result.maps


def _content(suffix: str, write: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"seed{suffix}")
        write(path)
        return path.read_bytes()


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


PHANTOM = make_phantom(SHAPE, oblique=True)
NIFTI = _content(".nii", lambda path: write_nifti(PHANTOM, path))
SIDECAR = json.dumps({"EchoTime": 0.03, "RepetitionTime": 1.5, "FlipAngle": 60, "Manufacturer": "Make"}).encode()
SEQUENCES = {
    encoding: _content(".seq.nrrd", lambda path, e=encoding: write_sequence(PHANTOM, path, encoding=e))
    for encoding in ("raw", "gzip", "ASCII")
}
AIF = (
    "time_s,delta_r2s_per_s\n" + "".join(f"{1.5 * t},{20 * np.exp(-((t - 8) ** 2) / 8):.4f}\n" for t in range(40))
).encode()
MANIFEST = (
    b"id,series,mask,reference,aif,echo_time,repetition_time\n"
    b"p1,p1/dsc.nii.gz,p1/mask.nii.gz,,auto,0.03,1.5\n"
    b'p2,"p2/d,s;c.nii.gz",,p2/nawm.nii.gz,p2/aif.csv,0.045,\n'
    b"p3,p3,,,,,2\n"
)
LABELS = np.indices(SHAPE[:3]).sum(axis=0).astype(np.int16) % 3
SERIES = DynamicSeries(PHANTOM.signal, PHANTOM.affine, PHANTOM.times_s, Acquisition())


def _written() -> tuple[dict[str, bytes], bytes]:
    """What `map` leaves in a folder, by file name, and what measuring its regions leaves."""
    head = graded_head(shape=(40, 46, 6), frames=40)
    mapped = compute_maps(head.series, Settings(method="bsw", normalize="brain"))
    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder, "maps")
        write_result(mapped, maps)
        measured = measure_regions([Region("lesion", head.lesion)], mapped, MeasureSettings())
        source = {"maps": {"provenance_sha256": "0"}}
        write_measures(measured, Path(folder), settings=MeasureSettings(), affine=mapped.affine, source=source)
        files = {path.name: path.read_bytes() for path in maps.iterdir()}
        return files, Path(folder, "measures.json").read_bytes()


RESULT, MEASURES = _written()

_nifti_mutators = [bytes_damaged, header_damaged(nifti_header), header_damaged(nifti_header)]
_nrrd_mutators = [bytes_damaged, text_damaged, text_damaged]


def label_nifti() -> bytes:
    return nibabel.Nifti1Image(LABELS, PHANTOM.affine).to_bytes()


def segmentation() -> bytes:
    import nrrd

    to_lps = np.diag([-1.0, -1.0, 1.0])
    header = {
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": (to_lps @ PHANTOM.affine[:3, :3]).T,
        "space origin": to_lps @ PHANTOM.affine[:3, 3],
    }
    for i, name in enumerate(("tumour", "normal")):
        header |= {f"Segment{i}_ID": f"Segment_{i}", f"Segment{i}_Name": name}
        header |= {f"Segment{i}_Layer": "0", f"Segment{i}_LabelValue": str(i + 1)}
    return _content(".seg.nrrd", lambda path: nrrd.write(str(path), LABELS, header, index_order="F"))


def nifti(rng: random.Random, folder: Path) -> Case:
    """A series as .nii, .nii.gz (damaged inside or as a stream), with or without a damaged sidecar."""
    content, path = NIFTI, folder / "dsc.nii"
    kind = rng.randrange(4)
    if kind != 1:
        content = damaged(rng, content, _nifti_mutators)
    if kind >= 2:
        path = folder / "dsc.nii.gz"
        content = _compressed(content)
    if kind == 3:
        content = damaged(rng, content, [bytes_damaged])
    if kind == 1 or rng.random() < 0.5:
        mutators = [json_damaged, json_damaged, bytes_damaged]
        (folder / "dsc.json").write_bytes(damaged(rng, SIDECAR, mutators) if kind == 1 else SIDECAR)
    path.write_bytes(content)
    return Case(lambda: load_series(path), _series_is_sound)


def nrrd(rng: random.Random, folder: Path) -> Case:
    """A Slicer sequence, raw, compressed or as text."""
    path = folder / "dsc.seq.nrrd"
    path.write_bytes(damaged(rng, SEQUENCES[rng.choice(("raw", "gzip", "ASCII"))], _nrrd_mutators))
    return Case(lambda: load_series(path), _series_is_sound)


def mask(rng: random.Random, folder: Path) -> Case:
    """A mask on the series' grid."""
    content, path = damaged(rng, label_nifti(), _nifti_mutators), folder / "mask.nii"
    if rng.random() < 0.5:
        content, path = _compressed(content), folder / "mask.nii.gz"
        if rng.random() < 0.5:
            content = bytes_damaged(rng, content)
    path.write_bytes(content)
    return Case(lambda: read_mask(path, SERIES), lambda m: m.dtype == bool and m.shape == SHAPE[:3] and m.any())


def regions(rng: random.Random, folder: Path) -> Case:
    """Label maps and segmentations with names."""
    if rng.random() < 0.3:
        content, path = damaged(rng, label_nifti(), _nifti_mutators), folder / "labels.nii"
    else:
        content, path = damaged(rng, segmentation(), _nrrd_mutators), folder / "labels.seg.nrrd"
    path.write_bytes(content)
    return Case(
        lambda: read_regions(path, SHAPE[:3], PHANTOM.affine),
        lambda found: len({r.name for r in found}) == len(found) > 0,
    )


def aif(rng: random.Random, folder: Path) -> Case:
    """An arterial curve."""
    path = folder / "aif.csv"
    content = damaged(rng, AIF, [bytes_damaged, text_damaged, text_damaged])
    if rng.random() < 0.1:
        content += rng.choice(ODD_TEXTS).encode("utf-8", "replace") * rng.choice((1, 100))
    path.write_bytes(content)
    return Case(lambda: read_arterial_curve(path), lambda curve: bool((np.diff(curve.times_s) > 0).all()))


def manifest(rng: random.Random, folder: Path) -> Case:
    """A cohort's table."""
    path = folder / "cohort.csv"
    path.write_bytes(damaged(rng, MANIFEST, [bytes_damaged, text_damaged, text_damaged, text_damaged]))
    return Case(lambda: read_manifest(path, MapRequest(series=Path())), _cohort_is_sound)


def anatomy(rng: random.Random, folder: Path) -> Case:
    """A single volume to register with: NIfTI, NRRD, DICOM."""
    kind = rng.randrange(5)
    if kind < 2:
        path, content = folder / "t1.nii.gz", _compressed(damaged(rng, label_nifti(), _nifti_mutators))
        path.write_bytes(damaged(rng, content, [bytes_damaged]) if rng.random() < 0.2 else content)
    elif kind < 4:
        path = folder / "t1.nrrd"
        path.write_bytes(damaged(rng, segmentation(), _nrrd_mutators))
    else:
        path = fuzz_dicom.write_damaged_volume(rng, folder)
    return Case(lambda: read_volume(path), lambda volume: volume.values.ndim == 3)


def result(rng: random.Random, folder: Path) -> Case:
    """The folder of a map, with one file damaged or missing."""
    for name, content in RESULT.items():
        (folder / name).write_bytes(content)
    path = folder / rng.choice((PROVENANCE, PROVENANCE, PROVENANCE, CURVES, *RESULT))
    if rng.random() < 0.1:
        path.unlink()
    elif path.suffix == ".gz":
        inside = damaged(rng, gzip.decompress(path.read_bytes()), _nifti_mutators)
        path.write_bytes(_compressed(inside))
    elif path.suffix == ".json":
        path.write_bytes(damaged(rng, path.read_bytes(), [json_damaged, json_damaged, json_damaged, bytes_damaged]))
    else:
        path.write_bytes(damaged(rng, path.read_bytes(), [text_damaged, bytes_damaged]))
    return Case(lambda: read_result(folder), _result_is_sound)


def measures(rng: random.Random, folder: Path) -> Case:
    """What was measured, as DICOM objects take it."""
    path = folder / "measures.json"
    path.write_bytes(damaged(rng, MEASURES, [json_damaged, json_damaged, json_damaged, text_damaged, bytes_damaged]))
    return Case(lambda: read_measures(path), lambda rows: all(isinstance(row.value, float) for row in rows))


def archive(rng: random.Random, folder: Path) -> Case:
    """A zip with one NIfTI and its sidecar, damaged as a file or in its names and sizes."""
    packed, path = io.BytesIO(), folder / "study.zip"
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as stream:
        names = ["dsc.nii", "dsc.json"]
        if rng.random() < 0.3:
            names[rng.randrange(2)] = rng.choice(("../x.nii", "/x", "a/b/c.nii", "x" * 300, "a\nb.nii", "ö.nii", "con"))
        stream.writestr(names[0], NIFTI)
        stream.writestr(names[1], SIDECAR)
    content = packed.getvalue()
    if rng.random() < 0.9:
        # Its directory stands at the end; half of the damage goes there.
        cut = content.index(b"PK\x01\x02") if rng.random() < 0.5 else 0
        content = content[:cut] + damaged(rng, content[cut:], [bytes_damaged])
    path.write_bytes(content)
    return Case(lambda: load_series(path), _series_is_sound)


def dicom(rng: random.Random, folder: Path) -> Case:
    """A series of classic instances, an enhanced one, or a zip of either; see `fuzz_dicom`."""
    path, planted = fuzz_dicom.write_damaged(rng, folder)
    if planted is None:
        return Case(lambda: load_series(path), _series_is_sound)
    return Case(lambda: load_series(path), lambda series: fuzz_dicom.is_as_planted(series, planted))


READERS: dict[str, Callable[[random.Random, Path], Case]] = {
    f.__name__: f for f in (nifti, nrrd, mask, regions, aif, manifest, anatomy, result, measures, archive, dicom)
}


def run(reader: str, inputs: range, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Return how often each outcome occurred, and every failure with the number of its input."""
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest_s = 0.0
    for number in inputs:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            case = READERS[reader](random.Random(f"{reader} {seed} {number}"), folder)
            start = time.perf_counter()
            counts[outcome(case)] += 1
            slowest_s = max(slowest_s, time.perf_counter() - start)
        except FailureError as failure:
            failures.append({"input": number, "what": str(failure)[-3000:]})
        finally:
            if keep is not None:
                shutil.copytree(folder, keep / f"{reader}-{seed}-{number}")
            shutil.rmtree(folder)
    return {
        "reader": reader,
        "seed": seed,
        "inputs": len(inputs),
        "outcomes": dict(counts.most_common()),
        "slowest_s": round(slowest_s, 2),
        "failures": failures,
    }


def main() -> int:
    """Run the readers' inputs and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", choices=READERS, nargs="+")
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one input")
    parser.add_argument("--keep", type=Path, help="folder for the inputs themselves")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    numbers = range(options.inputs) if options.only is None else range(options.only, options.only + 1)
    found = [run(reader, numbers, options.seed, options.keep) for reader in options.readers]
    print(json.dumps(found, indent=1))
    return 1 if any(one["failures"] for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
