"""Results to take away: report, page for the referrer, maps, DICOM objects; each one file to download."""

from __future__ import annotations

import re
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

from PerfusionCBVLib.gui import logic
from PerfusionCBVLib.gui.background import Steps
from PerfusionCBVLib.gui.dicom_objects import write_dicom_of
from PerfusionCBVLib.progress import Progress
from PerfusionCBVLib.web.background import one_step
from PerfusionCBVLib.web.cases import Case
from PerfusionCBVLib.web.opening import DOWNLOADS
from PerfusionCBVLib.web.state import Desk


class Exports:
    """Makes files in the session's folder and tells the page when one is ready.

    Parameters
    ----------
    desk : Desk
    folder : Path
        The session's.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._folder = desk, folder / DOWNLOADS

    async def make(self, what: str, case: Case) -> None:
        """Make `report`, `page`, `maps` or `dicom` of a case; the page fetches the file from the address in `ready`."""
        key = secrets.token_hex(8)
        place = self._folder / key
        place.mkdir(parents=True)
        name = re.sub(r"[^\w.-]+", "-", case.name).strip("-.") or "series"
        path = await self._desk.work("export", self._steps(what, case, place, name))
        if path is None:
            shutil.rmtree(place, ignore_errors=True)
            return
        with self._desk.state as state:
            state.ready = f"download/{key}/{path.name}"

    def _steps(self, what: str, case: Case, place: Path, name: str) -> Steps[Path]:
        if what == "report":
            return one_step(lambda progress: _report(case, place / f"{name}-report.html", progress))
        if what == "maps":
            return one_step(lambda progress: _maps(case, place / f"{name}-maps.zip", progress))
        if what == "page":
            return _page(case, place / f"{name}.pdf")
        return _dicom(case, place / f"{name}-dicom.zip")


def _report(case: Case, path: Path, progress: Progress) -> Path:
    from PerfusionCBVLib.report import write_report

    progress(0.1, "Writing the report")
    assert case.result is not None
    write_report(case.result, path)
    return path


def _maps(case: Case, path: Path, progress: Progress) -> Path:
    from PerfusionCBVLib.output import write_result

    progress(0.1, "Writing maps, report and provenance")
    assert case.result is not None
    folder = path.with_suffix("")
    write_result(case.result, folder)
    return _zipped(folder, path)


def _page(case: Case, path: Path) -> Steps[Path]:
    return (yield from logic.write_page_of.steps(case.node, path, named=False))


def _dicom(case: Case, path: Path) -> Steps[Path]:
    folder = path.with_suffix("")
    assert case.path is not None
    yield from write_dicom_of.steps(case.node, case.path, folder)

    def pack(progress: Progress) -> Any:
        progress(0.95, "Packing")
        return _zipped(folder, path)

    return (yield pack)


def _zipped(folder: Path, path: Path) -> Path:
    """Return a .zip of a folder's files, and remove the folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # .nii.gz is packed already
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(file, file.relative_to(folder))
    shutil.rmtree(folder)
    return path
