"""A cohort as a table: one row a case, as spreadsheets write it."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PerfusionCBVLib.batch.cohort import Case, Cohort
from PerfusionCBVLib.batch.names import LONGEST_NAME, is_safe_name, name_of
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.load_common import cannot_open, shown
from PerfusionCBVLib.map_request import MapRequest

COLUMNS = (
    "id",
    "series",
    "mask",
    "reference",
    "regions",
    "aif",
    "aif_relaxivity",
    "echo_time",
    "repetition_time",
    "series_uid",
)
LARGEST_BYTES = 64 * 1024**2


def read_manifest(path: Path, shared: MapRequest) -> Cohort:
    """Return the cases of a CSV file.

    Parameters
    ----------
    path : Path
        UTF-8, with a row of column names from `COLUMNS`; separated by comma, semicolon or tabulator. Paths in it are
        relative to its own folder. Only ``series`` must be there. Without ``id`` a case is called after its series.
    shared : MapRequest
        What holds where a row says nothing.

    Raises
    ------
    UnreadableInputError
        It is no such table; the message names row and column. A file that is missing is the case's own matter.
    """
    rows = _rows(_text(path), path.name)
    head = [name.strip().lower() for name in rows[0][1]]
    _require_columns(head, path.name)
    folder = path.resolve().parent
    cases = []
    for number, cells in rows[1:]:
        if len(cells) != len(head):
            raise UnreadableInputError(
                f"Row {number} of {path.name} has {len(cells)} cells, its head {len(head)}. Quote a path that holds "
                "the separator, or correct the row."
            )
        row = dict(zip(head, (cell.strip() for cell in cells), strict=True))
        cases.append(_case(row, _Place(path.name, number), folder, shared))
    return Cohort(tuple(cases))


class _Place:
    """Where in a manifest something stands, for messages."""

    def __init__(self, name: str, row: int) -> None:
        self.name, self.row = name, row

    def error(self, column: str, value: str, advice: str) -> UnreadableInputError:
        return UnreadableInputError(f"Row {self.row} of {self.name}: {column} is {shown(value)!r}. {advice}")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise cannot_open(path, error) from error
    if len(content) > LARGEST_BYTES:
        raise UnreadableInputError(f"{path.name} is larger than any list of cases (64 MB). Pass a CSV manifest.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableInputError(f"{path.name} is written in UTF-16. Save it as 'CSV UTF-8' in the spreadsheet.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableInputError(
            f"{path.name} is not written in UTF-8 (byte {error.start}). Save it as 'CSV UTF-8' in the spreadsheet."
        ) from error
    if "\0" in text:
        raise UnreadableInputError(f"{path.name} is no text. Save it as 'CSV UTF-8' in the spreadsheet.")
    return text


def _rows(text: str, name: str) -> list[tuple[int, list[str]]]:
    """Return the rows that hold anything, with their numbers in the file; the first is the head."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)  # names of columns hold none of them
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UnreadableInputError(f"{name} is no CSV table ({shown(error)}). Save it as 'CSV UTF-8' again.") from error
    if not rows:
        raise UnreadableInputError(f"{name} is empty. It needs a row of column names and a row for each case.")
    return rows


def _require_columns(head: list[str], name: str) -> None:
    unknown = [column for column in head if column not in COLUMNS]
    twice = sorted({column for column in head if head.count(column) > 1})
    if unknown:
        found = ", ".join(repr(shown(column)) for column in unknown[:5])
        raise UnreadableInputError(f"{name} has unknown columns: {found}. Known: {', '.join(COLUMNS)}.")
    if twice:
        raise UnreadableInputError(f"{name} has the column {twice[0]!r} twice. Remove one.")
    if "series" not in head:
        raise UnreadableInputError(f"{name} has no column 'series', which names each case's file or folder. Add it.")


def _case(row: Mapping[str, str], place: _Place, folder: Path, shared: MapRequest) -> Case:
    def file(column: str) -> Path | None:
        return folder / Path(row[column]) if row.get(column) else None

    series = file("series")
    if series is None:
        raise place.error("series", "", "Name the case's file or folder, relative to the manifest.")
    if "id" in row and not is_safe_name(row["id"]):
        advice = f"It must be a folder's name: letters, digits, '_', '.' and '-', at most {LONGEST_NAME}."
        raise place.error("id", row["id"], advice)
    aif = shared.aif
    if row.get("aif"):
        aif = "auto" if row["aif"].lower() == "auto" else str(folder / row["aif"])
    echo_time_s, repetition_time_s = (_number(row, name, place) for name in ("echo_time", "repetition_time"))
    relaxivity = _number(row, "aif_relaxivity", place)
    request = replace(
        shared,
        series=series,
        mask=file("mask"),
        reference=file("reference"),
        aif=aif,
        aif_relaxivity=relaxivity,
        echo_time_s=shared.echo_time_s if echo_time_s is None else echo_time_s,
        repetition_time_s=shared.repetition_time_s if repetition_time_s is None else repetition_time_s,
        series_uid=row.get("series_uid") or shared.series_uid,
    )
    private = "id" in row
    name = row["id"] if private else name_of(_below(Path(row["series"])))
    source = f"{place.name}, row {place.row}" if private else Path(row["series"]).as_posix()
    return Case(name, request, source, regions=file("regions"), private=private)


def _below(path: Path) -> Path:
    """Return a path without what no folder's name can hold: the root and steps upwards."""
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    return Path(*parts) if parts else Path("series")


def _number(row: Mapping[str, str], column: str, place: _Place) -> float | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        unit = "" if column == "aif_relaxivity" else " in seconds"
        raise place.error(column, text, f"A number{unit} with a decimal point is needed, for example 0.03.")
    return value
