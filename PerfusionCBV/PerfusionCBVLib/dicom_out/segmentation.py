"""Brain mask, reference region and given segments as one DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from PerfusionCBVLib.dicom_out.common import SOFTWARE, Author, short
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.measures.regions import Region

BRAIN, REFERENCE = "Brain", "Reference region"

_COLOURS = ((80, 150, 255), (255, 210, 0), (255, 60, 60), (60, 220, 90), (220, 110, 255), (255, 140, 0))


def all_segments(author: Author, given: Sequence[Region]) -> list[Region]:
    """Return the regions of a result, then those given, in the order of their segment numbers.

    Raises
    ------
    UsageError
        Two of them have one name, so that a measure could not be told whose it is.
    """
    result = author.result
    anatomy = tuple(codes.SCT.AnatomicalStructure)[:3]
    segments = [Region(BRAIN, result.mask, anatomy, tuple(codes.SCT.Brain)[:3])]
    if result.reference is not None:
        place = tuple(codes.SCT.SpatialAndRelationalConcept)[:3]
        segments.append(Region(REFERENCE, result.reference, place, tuple(codes.NCIt.ReferenceRegion)[:3]))
    segments += given
    names = [segment.name.casefold() for segment in segments]
    twice = sorted({segment.name for segment in segments if names.count(segment.name.casefold()) > 1})
    if twice:
        raise UsageError(f"Several segments are called {', '.join(twice)}; give each its own name.")
    return segments


def segmentation(author: Author, segments: Sequence[Region], place: int) -> Dataset:
    """Return regions as a binary Segmentation; slices without any are left out.

    Brain and reference region were found by this program, unless the provenance says that they were given; segments
    from outside count as drawn by hand, and are tissue where their file gives no code.

    Parameters
    ----------
    author : Author
    segments : sequence of Region
        `all_segments`, none empty.
    place : int
        Of its series among ours.
    """
    result, source = author.result, author.source
    index = source.voxels(result.mask.shape, result.affine)
    planes = np.stack([segment.mostly[index] for segment in segments], axis=-1).astype(np.uint8)
    tissue = tuple(codes.SCT.Tissue)[:3]
    ours = {BRAIN: "mask", REFERENCE: "reference"}
    descriptions = []
    for number, segment in enumerate(segments, start=1):
        fact = result.provenance.get(ours.get(segment.name, ""), {})
        found_here = segment.name in ours and fact.get("kind") != "given"
        descriptions.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=short(segment.name),
                segmented_property_category=highdicom.sr.CodedConcept(*(segment.category or tissue)),
                segmented_property_type=highdicom.sr.CodedConcept(*(segment.kind or tissue)),
                algorithm_type="AUTOMATIC" if found_here else "MANUAL",
                algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                    name=f"{SOFTWARE} {segment.name.lower()}",
                    family=codes.DCM.MorphologicalOperations,
                    version=str(result.provenance["version"]),
                )
                if found_here
                else None,
                tracking_uid=author.uid("segment", segment.name, planes[..., number - 1]),
                tracking_id=short(segment.name),
                display_color=highdicom.color.CIELabColor.from_rgb(*_COLOURS[(number - 1) % len(_COLOURS)]),
            )
        )
    names = "\n".join(segment.name for segment in segments)
    dataset = highdicom.seg.Segmentation(
        source_images=source.headers,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        content_label="REGIONS",
        content_description="Regions of perfusion maps, research use only",
        **author.header("Regions", author.method, place, planes, names),
    )
    dataset.BurnedInAnnotation = "NO"
    author.finish(dataset)
    return dataset
