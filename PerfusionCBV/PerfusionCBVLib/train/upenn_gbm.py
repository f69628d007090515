"""UPENN-GBM as the source paper prepares it: find the files, cut the slices, keep them, split by patient.

Taken to the letter from Diumin & Alkhimova 2026 (doi 10.15587/1729-4061.2026.360606): every 15th axial slice from 25 to
130, 128 × 128 pixels by nearest neighbour, all 45 frames, intensities and labels over the training set's maximum,
patients split 68/12/20. Readings taken where the paper is silent: slices count from 0 at the feet, a pixel takes the
value of the voxel that its centre lies in, and the maximum is that of the slices so cut.
"""

from __future__ import annotations

import glob
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from PerfusionCBVLib.errors import (
    GeometryError,
    InputRefusedError,
    QualityError,
    TimingError,
    UnreadableInputError,
    UsageError,
)

SLICES = range(25, 131, 15)
FRAMES = 45
PIXELS = 128
SHARES = {"training": 0.68, "validation": 0.12, "test": 0.20}

SPLIT_FILE, CACHE_FOLDER = "split.json", "prepared"
_NAME = re.compile(r"(UPENN-GBM-\d{5}_\d{2})_DSC(_ap-rCBV)?\.nii(\.gz)?")
_WANTED = "NAME_DSC.nii.gz (45 frames) and NAME_DSC_ap-rCBV.nii.gz, NAME being like UPENN-GBM-00055_11"


@dataclass(frozen=True)
class Case:
    """One visit of a patient.

    Attributes
    ----------
    name : str
        Like UPENN-GBM-00055_11; _11 is a baseline, _21 a follow-up of the same patient.
    series, label : Path
        The DSC series and CaPTk's ap-rCBV.
    """

    name: str
    series: Path
    label: Path


@dataclass(frozen=True, eq=False)
class CaseSlices:
    """A case as the networks take it, both arrays over the training set's maximum.

    Attributes
    ----------
    signal : (8, 45, 128, 128) float32 array
    label : (8, 128, 128) float32 array
    """

    signal: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Split:
    """Who trains, who validates, who tests, and what intensities and labels are divided by.

    Attributes
    ----------
    seed : int
    patients, cases : dict
        Each set's names.
    signal_maximum, label_maximum : float
        Over the training set's slices.
    """

    seed: int
    patients: dict[str, list[str]]
    cases: dict[str, list[str]]
    signal_maximum: float
    label_maximum: float

    @classmethod
    def read(cls, folder: Path) -> Split:
        """Return the split that an output folder holds.

        Raises
        ------
        UnreadableInputError
            It can't be read.
        """
        try:
            return cls(**json.loads((folder / SPLIT_FILE).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UnreadableInputError(
                f"{folder / SPLIT_FILE} can't be read as a split of patients. Choose another --output folder."
            ) from error

    def files(self, folder: Path, part: str) -> list[Path]:
        """Return the prepared files of a set."""
        return [cached(folder, name) for name in self.cases[part]]

    def load(self, path: Path) -> CaseSlices:
        """Return a prepared case over the maxima."""
        with np.load(path) as kept:
            return CaseSlices(
                kept["signal"] / np.float32(self.signal_maximum), kept["label"] / np.float32(self.label_maximum)
            )


def patient_of(name: str) -> str:
    """Return the patient of a case: UPENN-GBM-00055 of UPENN-GBM-00055_11 and of UPENN-GBM-00055_21."""
    return name.rpartition("_")[0]


def cached(folder: Path, name: str) -> Path:
    """Return where an output folder keeps a prepared case."""
    return folder / CACHE_FOLDER / f"{name}.npz"


def prepare_split(data: Path, folder: Path, seed: int, report: Callable[[str], None]) -> Split:
    """Find and prepare all cases, split their patients, and write ``split.json``; a resumed run keeps its split.

    Parameters
    ----------
    data : Path
        Searched with all its subfolders.
    folder : Path
        Keeps the prepared cases, about 12 MB each.
    seed : int
    report : callable
        Told which cases are left out, and why.

    Raises
    ------
    UnreadableInputError
        No usable case, fewer than three patients, or patients of the folder's earlier run are missing.
    UsageError
        The folder's earlier run had another seed.
    """
    maxima = _prepare(find_cases(data, report), folder, report)
    found = {patient_of(name) for name in maxima}
    path = folder / SPLIT_FILE
    if path.exists():
        earlier = Split.read(folder)
        _require_same(earlier, seed, found, path)
        patients, signal_maximum, label_maximum = earlier.patients, earlier.signal_maximum, earlier.label_maximum
        if more := found.difference(*patients.values()):
            report(f"not used: {len(more)} patients that came after the split of {path} was drawn")
    else:
        patients = split_patients(found, seed)
        chosen = [values for name, values in maxima.items() if patient_of(name) in patients["training"]]
        signal_maximum, label_maximum = (max(values) for values in zip(*chosen, strict=True))
    cases = {part: sorted(name for name in maxima if patient_of(name) in members) for part, members in patients.items()}
    split = Split(seed, patients, cases, signal_maximum, label_maximum)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(split), indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)
    return split


def find_cases(data: Path, report: Callable[[str], None]) -> list[Case]:
    """Return the cases under a folder that have both a series and a map; they may lie in different trees.

    Raises
    ------
    UnreadableInputError
        There is none.
    """
    if not data.is_dir():
        raise UnreadableInputError(f"{data} is no folder. Give the one that holds the UPENN-GBM files {_WANTED}.")
    found: dict[str, dict[bool, list[Path]]] = {}
    # Not `rglob`, which would not enter linked folders.
    for path in sorted(glob.glob("**/UPENN-GBM-*_DSC*.nii*", root_dir=data, recursive=True)):
        if match := _NAME.fullmatch(Path(path).name):
            found.setdefault(match[1], {False: [], True: []})[bool(match[2])].append(data / path)
    series, maps = (sum(bool(files[kind]) for files in found.values()) for kind in (False, True))
    for kind, missing in ((True, "the series has no map _DSC_ap-rCBV"), (False, "the map has no series _DSC")):
        if names := [name for name, files in found.items() if not files[kind]]:
            report(f"left out, {missing} ({len(names)}): {', '.join(names)}")
    cases = []
    for name, files in found.items():
        if twice := next((paths for paths in files.values() if len(paths) > 1), None):
            report(f"left out {name}: found twice, {twice[0]} and {twice[1]}; remove one of them")
        elif files[False] and files[True]:
            cases.append(Case(name, files[False][0], files[True][0]))
    if not cases:
        raise UnreadableInputError(
            f"{data} holds {series} UPENN-GBM series and {maps} ap-rCBV maps, but no usable pair of both. Needed are "
            f"{_WANTED}, anywhere below the folder: the collection delivers the two kinds as separate downloads."
        )
    return cases


def read_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return a case's slices as they are.

    Returns
    -------
    (8, 45, 128, 128) int16 array, float32 where int16 can't hold the values
        Raw intensity.
    (8, 128, 128) float32 array
        The map.

    Raises
    ------
    InputRefusedError
        The files can't be read, do not belong together, or are not what the paper's networks take.
    """
    series, label = _open(case.series), _open(case.label)
    if len(series.shape) != 4 or series.shape[3] != FRAMES:
        frames = f"{series.shape[3]} frames" if len(series.shape) == 4 else f"{len(series.shape)} dimensions"
        raise TimingError(f"{case.series.name} has {frames}; a series of {FRAMES} frames is needed.")
    if label.shape != series.shape[:3]:
        raise GeometryError(
            f"{case.label.name} has {_text(label.shape)} voxels, its series {_text(series.shape[:3])}; both have to be "
            "on one grid. Download them again."
        )
    if series.shape[2] <= SLICES[-1]:
        raise GeometryError(
            f"{case.series.name} has {series.shape[2]} slices; slices {SLICES[0]} to {SLICES[-1]} are needed. Use the "
            "series that the collection delivers registered to the atlas."
        )
    if nibabel.aff2axcodes(series.affine)[2] != "S":
        raise GeometryError(f"{case.series.name} is not stored in axial slices from feet to head. Download it again.")
    signal = np.stack([_cut(series, frame) for frame in range(FRAMES)], axis=1)
    values = _cut(label).astype(np.float32)
    for path, array in ((case.series, signal), (case.label, values)):
        if not np.isfinite(array).all() or not array.max() > 0:
            raise QualityError(f"{path.name} holds values that are no number, or nothing above 0, in its slices.")
    fits = signal.min() >= -32768 and signal.max() <= 32767 and np.array_equal(signal, np.rint(signal))
    return signal.astype(np.int16 if fits else np.float32), values


def split_patients(patients: Iterable[str], seed: int) -> dict[str, list[str]]:
    """Return the patients of each set, at least one in each, the same for the same seed.

    Raises
    ------
    UnreadableInputError
        Fewer than three patients.
    """
    names = sorted(patients)
    if len(names) < len(SHARES):
        raise UnreadableInputError(
            f"There are {len(names)} usable patients; at least {len(SHARES)} are needed, for {', '.join(SHARES)}."
        )
    shuffled = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    test, validation = (max(1, round(SHARES[part] * len(names))) for part in ("test", "validation"))
    return {
        "training": sorted(shuffled[test + validation :]),
        "validation": sorted(shuffled[test : test + validation]),
        "test": sorted(shuffled[:test]),
    }


def _require_same(earlier: Split, seed: int, found: set[str], path: Path) -> None:
    if earlier.seed != seed:
        raise UsageError(
            f"{path} was drawn with seed {earlier.seed}, asked for is {seed}. Pass --seed {earlier.seed}, or choose "
            "another --output folder."
        )
    if gone := set().union(*earlier.patients.values()) - found:
        raise UnreadableInputError(
            f"{len(gone)} patients of {path} are not usable any more, {min(gone)} for one. Restore their files, or "
            "choose another --output folder."
        )


def _prepare(cases: Sequence[Case], folder: Path, report: Callable[[str], None]) -> dict[str, tuple[float, float]]:
    """Keep every usable case's slices; return the maxima of its signal and of its label by name."""
    (folder / CACHE_FOLDER).mkdir(parents=True, exist_ok=True)
    maxima = {}
    for number, case in enumerate(cases, 1):
        try:
            maxima[case.name] = _kept_maxima(case, cached(folder, case.name))
        except InputRefusedError as error:
            report(f"left out {case.name}: {error}")
        if number % 25 == 0:
            report(f"prepared {number} of {len(cases)} cases")
    if not maxima:
        raise UnreadableInputError(f"None of the {len(cases)} cases can be used; the reasons are given above.")
    return maxima


def _kept_maxima(case: Case, path: Path) -> tuple[float, float]:
    """Return the maxima of the prepared case, read again only where its files changed since."""
    files = [path.stat() for path in (case.series, case.label)]
    source = np.array([number for file in files for number in (file.st_size, file.st_mtime_ns)])
    if path.exists():
        try:
            with np.load(path) as kept:
                if np.array_equal(kept["source"], source):
                    return float(kept["maxima"][0]), float(kept["maxima"][1])
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError):
            pass  # damaged: made again
    signal, label = read_case(case)
    maxima = float(signal.max()), float(label.max())
    fresh = path.with_name(f".{path.name}")
    np.savez(fresh, signal=signal, label=label, maxima=maxima, source=source)
    os.replace(fresh, path)
    return maxima


def _open(path: Path) -> nibabel.Nifti1Image:
    try:
        # Kept open: a gzip that is reopened for every frame would be unpacked from its start every time.
        image = nibabel.load(path, keep_file_open=True)
    except (ImageFileError, HeaderDataError, EOFError, zlib.error, ValueError, OSError) as error:
        raise _damaged(path) from error
    if not isinstance(image, nibabel.Nifti1Image) or image.get_data_dtype().kind not in "iuf":
        raise _damaged(path)
    return image


def _cut(image: nibabel.Nifti1Image, *frame: int) -> np.ndarray:
    """Return (8, 128, 128) values of the slices, x first."""
    try:
        volume = np.asarray(image.dataobj[(slice(None), slice(None), slice(SLICES[0], SLICES[-1] + 1, 15), *frame)])
    except (EOFError, zlib.error, ValueError, OSError) as error:
        raise _damaged(Path(image.get_filename() or "")) from error
    centres = (np.arange(PIXELS) + 0.5) / PIXELS
    rows, columns = ((centres * n).astype(int) for n in volume.shape[:2])
    return np.moveaxis(volume[rows[:, None], columns], 2, 0)


def _damaged(path: Path) -> UnreadableInputError:
    return UnreadableInputError(f"{path.name} is truncated, damaged or no NIfTI file. Download it again.")


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
