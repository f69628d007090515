"""Measures of regions as a DICOM structured report, TID 1500, that points at the regions' segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from PerfusionCBVLib.dicom_out.common import SCHEME, SOFTWARE, Author, own_code, quantity_code, unit_code
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.json_text import read_json
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.quantities import QUANTITIES
from PerfusionCBVLib.sealed_record import LARGEST_BYTES
from PerfusionCBVLib.settings import METHOD_TITLES

STATISTICS = {
    "mean": codes.SCT.Mean,
    "median": codes.SCT.Median,
    "sd": codes.SCT.StandardDeviation,
    "min": codes.SCT.Minimum,
    "max": codes.SCT.Maximum,
    "p5": codes.SCT.FifthPercentile,
    "p10": codes.SCT.TenthPercentile,
    "p90": codes.SCT.NinetiethPercentile,
    "p95": codes.SCT.NinetyFifthPercentile,
}
"""What a measure's name ends with, as the derivation of the quantity that it begins with."""

_MR_BRAIN = Code("24590-2", "LN", "MR Brain")


def read_measures(
    path: Path | str, *, provenance_sha256: str | None = None, segments_sha256: str | None = None
) -> list[Measurement]:
    """Return the measures of a JSON file.

    The file holds a list of objects with the fields of `Measurement`, or what ``measure`` writes: an object with such
    lists by region and the hashes of what was measured. A value of null is not a number; the standard error may be left
    out.

    Parameters
    ----------
    path : path-like
    provenance_sha256, segments_sha256 : str, optional
        Of the maps' provenance.json and of the segments' file, compared where the file has them.

    Raises
    ------
    UnreadableInputError
        Not such a file, or measured on other maps or segments.
    """
    path = Path(path)
    content = read_json(path, LARGEST_BYTES, "A JSON list of measures is needed.")
    if isinstance(content, dict):
        _require_same_source(content, path, provenance_sha256, segments_sha256)
        content = _by_region(content)
    if not isinstance(content, list) or not content:
        raise UnreadableInputError(f"{path.name} is no list of measures. Pass the file that measuring wrote.")
    return [_checked(entry, f"Measure {count} of {path.name}") for count, entry in enumerate(content, start=1)]


def _require_same_source(
    content: dict[str, Any], path: Path, provenance_sha256: str | None, segments_sha256: str | None
) -> None:
    source = content.get("source")
    if not isinstance(source, dict):
        return
    for what, key, field, expected in (
        ("maps", "maps", "provenance_sha256", provenance_sha256),
        ("segments", "regions", "sha256", segments_sha256),
    ):
        found = source[key].get(field) if isinstance(source.get(key), dict) else None
        if found is not None and expected is not None and found != expected:
            raise UnreadableInputError(
                f"The measures in {path.name} were made of other {what} (SHA-256 {str(found)[:12]}…, given "
                f"{expected[:12]}…). Measure these {what} again."
            )


def _by_region(content: dict[str, Any]) -> list[Any] | None:
    try:
        return [{**row, "region": region["name"]} for region in content["regions"] for row in region["measurements"]]
    except (KeyError, TypeError):
        return None


def _checked(entry: Any, where: str) -> Measurement:
    known = {field.name for field in fields(Measurement)}
    needed = known - {"standard_error"}
    if not isinstance(entry, dict) or not needed <= entry.keys() <= known:
        raise UnreadableInputError(
            f"{where} does not have the fields {', '.join(sorted(needed))} and, if known, standard_error. Pass the "
            "file that measuring wrote."
        )
    region, name, title, unit = texts = [entry[key] for key in ("region", "name", "title", "unit")]
    value = math.nan if entry["value"] is None else entry["value"]
    error = entry.get("standard_error")
    numbers = [value, 0.0 if error is None else error]
    if not all(isinstance(text, str) and text for text in texts) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    ):
        raise UnreadableInputError(
            f"{where} has a field of the wrong kind: region, name, title and unit are texts, value and standard_error "
            "numbers."
        )
    return Measurement(region, name, title, float(value), unit, None if error is None else float(error))


def segment_numbers(measures: Sequence[Measurement], segments: Sequence[Region]) -> dict[str, int]:
    """Return the number of each segment, from 1, by its name in small letters.

    Raises
    ------
    UnreadableInputError
        A measure's region is not among the segments.
    """
    numbers = {segment.name.casefold(): number for number, segment in enumerate(segments, start=1)}
    missing = [m.region for m in measures if m.region.casefold() not in numbers]
    if missing:
        raise UnreadableInputError(
            f"There are measures of {', '.join(dict.fromkeys(missing))}, but only the segments "
            f"{', '.join(segment.name for segment in segments)}. Pass the segments that were measured (--regions)."
        )
    return numbers


def structured_report(
    author: Author, measures: Sequence[Measurement], segments: Sequence[Region], segmentation: Dataset, place: int
) -> Dataset:
    """Return measures as a Comprehensive 3D SR (TID 1500): a volumetric group for each region.

    Names are the standard's where it has the quantity (with mean, median, SD, percentiles as derivations), else codes
    of our own scheme. What could not be measured is an evaluation "Not a number" (114000, DCM). A standard error hangs
    under its number as a property of our own scheme.

    Parameters
    ----------
    author : Author
    measures : sequence of Measurement
    segments : sequence of Region
        In the order of `segmentation`.
    segmentation : Dataset
        The Segmentation that the report points at.
    place : int
        Of its series among ours.

    Raises
    ------
    UnreadableInputError
        See `segment_numbers`.
    """
    numbers = segment_numbers(measures, segments)
    regions = list(dict.fromkeys(measure.region for measure in measures))
    method = author.method
    algorithm = sr.AlgorithmIdentification(
        name=f"{SOFTWARE} {METHOD_TITLES[method]}",
        version=str(author.result.provenance["version"]),
        parameters=[author.how(method)],
    )
    groups = []
    for region in regions:
        number = numbers[region.casefold()]
        description = segmentation.SegmentSequence[number - 1]
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(str(description.TrackingUID), region),
                referenced_segment=sr.ReferencedSegment(
                    sop_class_uid=str(segmentation.SOPClassUID),
                    sop_instance_uid=str(segmentation.SOPInstanceUID),
                    segment_number=number,
                    source_series=sr.SourceSeriesForSegmentation(author.source.series_uid),
                ),
                finding_type=_concept(description.SegmentedPropertyTypeCodeSequence[0]),
                algorithm_id=algorithm,
                measurements=[_measurement(m) for m in measures if m.region == region and math.isfinite(m.value)],
                qualitative_evaluations=[
                    _without_value(m) for m in measures if m.region == region and not math.isfinite(m.value)
                ],
            )
        )
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=author.uid("observer"),
        name=SOFTWARE,
        manufacturer_name=SOFTWARE,
        model_name=METHOD_TITLES[method],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=_MR_BRAIN,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = sr.Comprehensive3DSR(
        evidence=[*author.source.headers, segmentation],
        content=report,
        is_complete=True,
        is_final=False,  # research: nobody has signed it
        **author.header("Measures", method, place, repr(list(measures)), str(segmentation.SOPInstanceUID)),
    )
    author.finish(dataset)
    return dataset


def _name(measure: Measurement) -> tuple[sr.CodedConcept, Code | None]:
    """Return what was measured and how it was derived from that, None where the name says all."""
    quantity, _, statistic = measure.name.rpartition("_")
    if quantity in QUANTITIES and statistic in STATISTICS:
        return quantity_code(quantity), STATISTICS[statistic]
    if measure.name == "volume" and measure.unit == "ml":
        return sr.CodedConcept(*tuple(codes.SCT.Volume)[:3]), None
    return own_code(measure.name, measure.title), None


def _measurement(measure: Measurement) -> sr.Measurement:
    name, derivation = _name(measure)
    unit = unit_code(measure.unit)
    item = sr.Measurement(name=name, value=float(measure.value), unit=unit, derivation=derivation)
    if measure.standard_error is not None and math.isfinite(measure.standard_error):
        error = sr.NumContentItem(
            name=own_code("standard_error", "Standard error"),
            value=float(measure.standard_error),
            unit=unit,
            relationship_type="HAS PROPERTIES",
        )
        number = item[0]
        if "ContentSequence" not in number:
            number.ContentSequence = sr.ContentSequence()
        number.ContentSequence.append(error)
    return item


def _without_value(measure: Measurement) -> sr.QualitativeEvaluation:
    # A number without a value is allowed, too, but readers (highdicom's among them) stumble over it.
    name, _ = _name(measure)
    if name.scheme_designator != SCHEME:
        name = own_code(measure.name, measure.title)  # "mean" can't be said of an evaluation
    return sr.QualitativeEvaluation(name=name, value=codes.DCM.NotANumber)


def _concept(item: Dataset) -> sr.CodedConcept:
    return sr.CodedConcept(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
