"""Whose series it is: read from the very DICOM files that the maps were made from, and only when asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.withheld import IDENTITY

FIELDS = {
    "Patient": "PatientName",
    "ID": "PatientID",
    "Born": "PatientBirthDate",
    "Sex": "PatientSex",
    "Study": "StudyDescription",
    "Date": "StudyDate",
    "Accession": "AccessionNumber",
}


def read_identity(source: Path, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return what a page says of patient and study, by title; "" where the series says nothing.

    Parameters
    ----------
    source : Path
        DICOM folder, .zip or file.
    provenance : mapping
        Of the maps: their series is found by its UID and the hash of its files, so that no other patient's name can
        come onto the page.

    Raises
    ------
    InputRefusedError
        Not the series that the maps were made from.
    """
    from PerfusionCBVLib.dicom_out.source import read_header  # pydicom only where DICOM is read

    header = read_header(source, provenance)
    return {title: readable(title, str(header.get(keyword, "") or "")) for title, keyword in FIELDS.items()}


def kept_identity(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return what `map --with-identifiers` kept of patient and study, for the page.

    Raises
    ------
    UsageError
        It kept nothing.
    """
    kept = provenance.get(IDENTITY)
    if not kept:
        raise UsageError(
            "These maps don't know whose they are: they were made without --with-identifiers, or not from DICOM. Name "
            "their DICOM series with --name-from."
        )
    return dict(kept)


def readable(title: str, value: str) -> str:
    """Return a DICOM value of `FIELDS` as people write it: Petrenko Olena, 2026-11-22; anything else as it is."""
    value = value.strip()
    if title == "Patient":
        return " ".join(value.replace("^", " ").replace("=", " / ").split())
    is_date = title in ("Born", "Date") and len(value) == 8 and value.isdecimal()
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if is_date else value
