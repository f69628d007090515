"""What every object says alike: who made it and how, under which UIDs, when, and that it is for research only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from PerfusionCBVLib import __version__
from PerfusionCBVLib.dicom_out.source import Source
from PerfusionCBVLib.json_text import as_json
from PerfusionCBVLib.quantities import QUANTITIES, title, unit_meaning
from PerfusionCBVLib.settings import METHOD_TITLES, NETWORK_METHODS

if TYPE_CHECKING:
    from PerfusionCBVLib.pictures import AnyResult

SOFTWARE = "PerfusionCBV"
SCHEME = "99PERFCBV"
"""Our own codes, for what the standard has none for."""

_LONGEST_DESCRIPTION = 64
_RANDOM_UIDS = "1.2.826.0.1.3680043.10.511.3."
"""Root of the UIDs that highdicom draws."""


@dataclass(frozen=True, eq=False)
class Author:
    """How a result came about, for the headers of its objects.

    UIDs follow from content: the same result of the same source gives the same objects, byte by byte, so that sending
    them again stores nothing twice; whatever changes an object gives it other UIDs.

    Attributes
    ----------
    result : MapResult or StoredResult
    source : Source
    made_at : datetime
        When the maps were made.
    """

    result: AnyResult
    source: Source
    made_at: datetime

    @property
    def method(self) -> str:
        """Name of the method, of `settings.METHODS`."""
        return str(self.result.provenance["settings"]["method"])

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the network's weights; None for a classical method."""
        return self.result.provenance.get("network", {}).get("weights_sha256")

    def method_of(self, name: str) -> str:
        """Return the method behind a map: K1, K2, kep and the classical rCBV beside a network come from ``bsw``."""
        by_the_method = name in ("rcbv", "disagreement", "uncertainty")
        return "bsw" if self.method in NETWORK_METHODS and not by_the_method else self.method

    def how(self, method: str) -> str:
        """Return a sentence on method, version and weights."""
        weights = f", weights SHA-256 {self.weights_sha256}" if method == self.method and self.weights_sha256 else ""
        version = self.result.provenance["version"]
        return f"{METHOD_TITLES[method]}, {SOFTWARE} {version}{weights}. Research use only."

    def series_description(self, what: str, method: str) -> str:
        """Return "rCBV (Anchored U-Net), research use only", with the method's short name where that is too long."""
        texts = [f"{what} ({name}), research use only" for name in (METHOD_TITLES[method], method)]
        return next(text for text in texts if len(text) <= _LONGEST_DESCRIPTION)

    def uid(self, *what: str | bytes | np.ndarray) -> str:
        """Return the UID of something made from this result; `what` names it and holds what else went into it."""
        digest = hashlib.sha256()
        for part in (
            *(__version__, highdicom.__version__, pydicom.__version__, self.source.series_uid),
            *(str(i.sop_instance_uid) + str(i.frame_number) for i in self.source.images),
            *(self.made_at.isoformat(), as_json(self.result.provenance)),
            *what,
        ):
            content = (
                part if isinstance(part, bytes) else part.tobytes() if isinstance(part, np.ndarray) else part.encode()
            )
            digest.update(hashlib.sha256(content).digest())
        return str(generate_uid(entropy_srcs=[digest.hexdigest()]))

    def series_number(self, place: int) -> int:
        """Return the number of our series `place`: 501 and on beside series 5, 9001 and on beside one without."""
        number = int(self.source.headers[0].get("SeriesNumber") or 0)
        return 100 * (number if 0 < number < 1_000_000 else 90) + place

    def header(self, what: str, method: str, place: int, *identity: str | bytes | np.ndarray) -> dict[str, Any]:
        """Return the keyword arguments that highdicom's multi-frame images and reports share."""
        kind = f"{what} {method} {place}"
        return {
            "series_instance_uid": self.uid(kind, "series", *identity),
            "sop_instance_uid": self.uid(kind, "instance", *identity),
            "series_number": self.series_number(place),
            "instance_number": 1,
            "manufacturer": SOFTWARE,
            "manufacturer_model_name": METHOD_TITLES[method],
            "software_versions": str(self.result.provenance["version"]),
            # A device needs a number; what tells this one from others is its weights.
            "device_serial_number": (self.weights_sha256 if method == self.method else None) or "none",
            "series_description": self.series_description(what, method),
            "contributing_equipment": [self.equipment(method)],
        }

    def equipment(self, method: str) -> highdicom.ContributingEquipment:
        """Return this program as equipment that contributed to an object."""
        return highdicom.ContributingEquipment(
            manufacturer=SOFTWARE,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=METHOD_TITLES[method],
            software_versions=str(self.result.provenance["version"]),
            contribution_datetime=self.made_at,
            contribution_description=self.how(method),
        )

    def finish(self, dataset: Dataset) -> None:
        """Replace, in place, what would differ from run to run: dates of creation and UIDs drawn by chance."""
        self.source.name_true_images(dataset)
        if dataset.Modality not in ("SR", "SEG"):
            dataset.BodyPartExamined = self.source.headers[0].get("BodyPartExamined") or "BRAIN"
        scheme = Dataset()
        scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, f"{SOFTWARE} codes"
        scheme.CodingSchemeResponsibleOrganization = SOFTWARE
        dataset.CodingSchemeIdentificationSequence = [scheme]
        day, time = self.made_at.strftime("%Y%m%d"), self.made_at.strftime("%H%M%S")
        for moment in ("InstanceCreation", "Content", "Series"):
            setattr(dataset, f"{moment}Date", day)
            setattr(dataset, f"{moment}Time", time)
        if "DateOfSecondaryCapture" in dataset:
            dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = day, time
        for item in dataset.get("ContributingEquipmentSequence", []):
            if item.Manufacturer not in (SOFTWARE, self.source.headers[0].get("Manufacturer")):
                item.ContributionDateTime = self.made_at.strftime("%Y%m%d%H%M%S")
        inherited = {str(e.value) for header in self.source.headers for e in header if e.VR == "UI"}
        drawn: dict[str, str] = {}
        for element in dataset.iterall():
            if element.VR == "UI" and str(element.value).startswith(_RANDOM_UIDS) and element.value not in inherited:
                new = self.uid("drawn", str(dataset.SOPInstanceUID), str(len(drawn)))
                element.value = drawn.setdefault(str(element.value), new)


def quantity_code(name: str) -> highdicom.sr.CodedConcept:
    """Return what a map shows as a code: the standard's where it has the very quantity, else our own."""
    quantity = name.removesuffix("_classical")  # the same quantity by another method
    if quantity in QUANTITIES:
        return highdicom.sr.CodedConcept(*QUANTITIES[quantity])
    return own_code(name, title(name))


def own_code(value: str, meaning: str) -> highdicom.sr.CodedConcept:
    """Return a code of our own scheme."""
    return highdicom.sr.CodedConcept(value, SCHEME, short(meaning))


def short(text: str, bytes_: int = 64) -> str:
    """Return a text cut to what a short DICOM field holds; a backslash, which would divide it, becomes a slash.

    The limits of DICOM are in characters, but much software counts bytes.
    """
    return text.replace("\\", "/").encode()[:bytes_].decode(errors="ignore").strip()


def unit_code(unit: str) -> highdicom.sr.CodedConcept:
    """Return a UCUM code."""
    return highdicom.sr.CodedConcept(unit, "UCUM", short(unit_meaning(unit)))


def warnings_of(result: AnyResult) -> Iterable[str]:
    """Return the codes of the findings that are warnings, which a picture must not be shown without."""
    return [finding.code for finding in result.findings if finding.severity == "warning"]
