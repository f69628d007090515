"""Looking for dynamic series below folders, by their headers only."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import nrrd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from PerfusionCBVLib.batch.cohort import PassedOver
from PerfusionCBVLib.batch.folder import is_batch_output
from PerfusionCBVLib.dicom_headers import SeriesHeaders, is_dicom_file, read_headers
from PerfusionCBVLib.errors import InputRefusedError
from PerfusionCBVLib.load_dicom import choose_series
from PerfusionCBVLib.progress import Progress, silent
from PerfusionCBVLib.series import MINIMUM_FRAMES

_NO_TYPE = "no DICOM file, NIfTI, NRRD or .zip"
_NO_DICOM = (".json", ".txt", ".csv", ".tsv", ".bval", ".bvec", ".html", ".pdf", ".png", ".jpg", ".xml", ".md")
"""Not opened to look for the DICOM mark."""


@dataclass(frozen=True)
class Found:
    """A series, or what may be one: files that can't be read become cases, so that no patient is lost in silence."""

    path: Path
    series_uid: str | None = None
    trouble: str | None = None


def search(
    roots: Sequence[Path], base: Path, output: Path | None = None, progress: Progress = silent
) -> tuple[list[Found], list[PassedOver]]:
    """Return the dynamic series in and below files and folders, and what was passed over.

    A DICOM series is one folder's. What evidently is no dynamic series (a single volume, another modality, diffusion)
    is passed over; what is damaged or can't be opened is not.

    Parameters
    ----------
    roots : sequence of Path
        Absolute.
    base : Path
        What paths are shown relative to.
    output : Path, optional
        A folder that is not searched.
    """
    finder = _Finder(base, output, progress)
    for root in roots:
        finder.look_at(root)
    finder.settle_split_series()
    return list(finder.found.values()), finder.passed_over


class _Finder:
    def __init__(self, base: Path, output: Path | None, progress: Progress) -> None:
        self.base, self.progress = base, progress
        self.output = None if output is None else output.resolve()
        self.found: dict[Path, Found] = {}
        self.passed_over: list[PassedOver] = []
        self.folders_of_series: dict[str, list[Path]] = defaultdict(list)

    def look_at(self, root: Path) -> None:
        if not root.is_dir():
            if self.file(root):
                self.found[root] = Found(root)  # an enhanced multi-frame file, named itself
            return
        for name, folders, files in os.walk(root, onerror=self.unreadable):
            folder = Path(name)
            if folder.resolve() == self.output or is_batch_output(folder):
                self.pass_over(folder, "output of perfusion-cbv batch")
                folders.clear()
                continue
            for inner in sorted(folders):
                if inner.startswith(".") or inner == "__MACOSX":
                    self.pass_over(folder / inner, "a hidden folder")
                elif (folder / inner).is_symlink():
                    self.pass_over(folder / inner, "a link to a folder; name it itself to have it searched")
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
            self.progress(0.0, f"Looking for series: {len(self.found)} found")
            dicom = [folder / each for each in sorted(files) if not each.startswith(".") and self.file(folder / each)]
            if dicom:
                self.dicom_folder(folder, dicom)

    def file(self, path: Path) -> bool:
        """Take note of one file; return whether it is a DICOM file of a folder, which is looked at as a whole."""
        name = path.name.lower()
        reason = None
        if path in self.found:
            return False
        if name.endswith((".nii", ".nii.gz")):
            reason = _nifti_is_no_series(path)
        elif name.endswith((".nrrd", ".nhdr")):
            reason = _nrrd_is_no_series(path)
        elif name.endswith(".zip"):
            reason = _zip_is_no_series(path)
        elif name.endswith(".json") and any(path.with_suffix(ending).exists() for ending in (".nii", ".nii.gz")):
            return False  # the sidecar of a series that is looked at itself
        elif name.endswith(_NO_DICOM):
            reason = _NO_TYPE
        else:
            try:
                if is_dicom_file(path):
                    return True
                reason = _NO_TYPE
            except InputRefusedError as error:
                self.found[path] = Found(path, trouble=str(error))
                return False
        if reason is None:
            self.found[path] = Found(path)
        else:
            self.pass_over(path, reason)
        return False

    def dicom_folder(self, folder: Path, files: Iterable[Path]) -> None:
        try:
            series = read_headers(files)
        except InputRefusedError as error:
            self.found[folder] = Found(folder, trouble=str(error))
            return
        for one in series:
            self.folders_of_series[one.uid].append(folder)
        try:
            chosen, _ = choose_series(series, None)
            self.found[folder] = Found(folder, chosen.uid)
        except InputRefusedError as error:
            if any(_may_be_dynamic(one) for one in series):
                self.found[folder] = Found(folder, trouble=str(error))
            else:
                self.pass_over(folder, str(error))

    def settle_split_series(self) -> None:
        """Refuse a series whose images lie in several folders: a part of it would give a map that looks right."""
        for uid, folders in self.folders_of_series.items():
            if len(folders) < 2:
                continue
            files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
            together = [one for one in read_headers(files) if one.uid == uid]
            if not any(_may_be_dynamic(one) for one in together):
                continue
            shown = ", ".join(self.shown(folder) for folder in folders[:3]) + (", ..." if len(folders) > 3 else "")
            trouble = (
                f"The images of one series lie in {len(folders)} folders ({shown}). Put them into one folder, or "
                "remove the copy."
            )
            for folder in folders:
                if folder in self.found and self.found[folder].series_uid == uid:
                    del self.found[folder]
            self.found[folders[0]] = Found(folders[0], uid, trouble)

    def unreadable(self, error: OSError) -> None:
        path = Path(error.filename)
        reason = error.strerror or type(error).__name__
        self.found[path] = Found(
            path, trouble=f"The folder can't be read ({reason}). Check that you may read it, and run the batch again."
        )

    def pass_over(self, path: Path, reason: str) -> None:
        self.passed_over.append(PassedOver(self.shown(path), reason))

    def shown(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix() if path.is_relative_to(self.base) else str(path)


def _may_be_dynamic(one: SeriesHeaders) -> bool:
    is_mr = str(one.header.get("Modality", "")) in ("MR", "")
    return is_mr and not one.is_diffusion_weighted() and (bool(one.truncated) or one.time_points() > 1)


def _shape_is_no_series(shape: Sequence[int], frames_axis: int) -> str | None:
    text = " × ".join(map(str, shape))
    if len(shape) != 4:
        return f"no dynamic series but {text} voxels"
    frames = shape[frames_axis]
    return None if frames >= MINIMUM_FRAMES else f"{frames} volumes; a series has {MINIMUM_FRAMES} frames or more"


def _nifti_is_no_series(path: Path) -> str | None:
    try:
        shape = nibabel.load(path).shape  # type: ignore[attr-defined]
    except (ImageFileError, HeaderDataError, EOFError, zlib.error, ValueError, OSError):
        return None  # the loader will say what is wrong with it
    return _shape_is_no_series(tuple(n for axis, n in enumerate(shape) if axis < 3 or n > 1), 3)


def _nrrd_is_no_series(path: Path) -> str | None:
    if path.name.lower().endswith(".seg.nrrd"):
        return "a segmentation"
    try:
        sizes = [int(n) for n in nrrd.read_header(str(path))["sizes"]]
    except (nrrd.NRRDError, ValueError, LookupError, TypeError, StopIteration, OSError):
        return None
    # Which axis is time only the loader says; no other is as short as too few frames would be.
    return None if len(sizes) == 4 else _shape_is_no_series(sizes, 3)


def _zip_is_no_series(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if sum(member.filename.lower().endswith((".nii", ".nii.gz")) for member in members) == 1:
                return None
            for member in members:
                with archive.open(member) as stream:
                    if stream.read(132)[128:] == b"DICM":
                        return None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError):
        return None
    return "an archive with neither DICOM files nor exactly one NIfTI"
