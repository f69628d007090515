"""One map as a DICOM Parametric Map: the very float32 values, unit, quantity, and the images behind every slice."""

from __future__ import annotations

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from PerfusionCBVLib.dicom_out.common import Author, quantity_code, short, unit_code
from PerfusionCBVLib.errors import QualityError
from PerfusionCBVLib.pictures import map_window
from PerfusionCBVLib.quantities import title


def parametric_map(author: Author, name: str, place: int) -> Dataset:
    """Return a map of a result as a Parametric Map (Float Pixel Data).

    Voxels without a value are stored as not-a-number, which PS3.5 section 8 allows, and which is also the object's
    Float Pixel Padding Value: a number in their stead could be taken for a measured one.

    Parameters
    ----------
    author : Author
    name : str
        Of the map.
    place : int
        Of its series among ours.

    Raises
    ------
    QualityError
        The map has no value anywhere.
    """
    result, source = author.result, author.source
    map_ = result.maps[name]
    planes = np.ascontiguousarray(map_.values[source.voxels(map_.values.shape, map_.affine)])
    finite = planes[np.isfinite(planes)]
    if not finite.size:
        raise QualityError(f"The map {name} has no value in any voxel, so there is nothing to store. Leave it out.")
    method = author.method_of(name)
    (low, high), _ = map_window(result, name)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=short(title(name), 16),
        lut_explanation=short(map_.description),
        unit=unit_code(map_.unit),
        value_range=(float(finite.min()), float(finite.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity_code(name),
    )
    dataset = highdicom.pm.ParametricMap(
        source_images=source.headers,
        pixel_array=planes,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation((low + high) / 2, high - low, voi_lut_function="LINEAR_EXACT")
        ],
        content_label=name.upper()[:16],
        content_description=short(f"{title(name)}, {author.method_of(name)}, research use only"),
        image_flavor="PERFUSION",
        derivation=codes.DCM.PerfusionImageAnalysis,
        **author.header(title(name), method, place, planes),
    )
    dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = float("nan")
    how = (
        f"{map_.description}. {author.how(method)} Made from all {source.time_points} time points; referenced is "
        f"time point {source.time_point}, the first of the baseline."
    )
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            derivation.DerivationDescription = how
    author.finish(dataset)
    return dataset
