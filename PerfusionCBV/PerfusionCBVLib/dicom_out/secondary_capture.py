"""A map in colour over the baseline image, slice by slice, for viewers that know nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import highdicom
import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from PerfusionCBVLib.colours import apply, colour_table
from PerfusionCBVLib.dicom_out.common import Author, warnings_of
from PerfusionCBVLib.pictures import BAR_WIDTH, NOTICE, colour_bar, font, grey_baseline, map_window, unit_text
from PerfusionCBVLib.quantities import title

if TYPE_CHECKING:
    from PerfusionCBVLib.pictures import AnyResult

SLICE_HEIGHT = 512
FOOTER_HEIGHT = 62

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "H": "F", "F": "H"}
_TO_THE_RIGHT, _DOWN = ("L", "P"), ("P", "F")
"""Where pictures lead in radiological convention, whichever way the slices lie."""


def capture_pictures(author: Author, name: str) -> list[Image.Image]:
    """Return a map over the baseline image as pictures, one for each slice, in radiological convention.

    Each has the letters of the patient's directions, a colour bar with numbers, one window for all slices, what warned
    about the series, and "Research use only". No text identifies the patient.

    Parameters
    ----------
    author : Author
    name : str
        Of the map.
    """
    result, source = author.result, author.source
    index = source.voxels(result.mask.shape, result.affine)
    (low, high), table = map_window(result, name)
    map_ = result.maps[name]
    # Colours stay inside the brain mask; a network may give values outside it.
    rgba = apply(np.where(result.mask, map_.values, np.float32(np.nan))[index], colour_table(table), low, high)
    grey = grey_baseline(result)[index]
    rgb = np.where(rgba[..., 3:] > 0, rgba[..., :3], grey[..., None])
    header = source.headers[0]
    down_mm, right_mm = (float(v) for v in header.PixelSpacing)
    turned = _turned(header)
    if turned.is_transposed:
        down_mm, right_mm = right_mm, down_mm
    planes = np.stack([turned.plane(plane) for plane in rgb])
    size = round(SLICE_HEIGHT * planes.shape[2] * right_mm / (planes.shape[1] * down_mm)), SLICE_HEIGHT
    bar = colour_bar(table, low, high, f"{title(name)} ({unit_text(map_.unit)})")
    what = author.series_description(title(name), author.method_of(name)).rpartition(",")[0]
    pictures = []
    for number, plane in enumerate(planes, start=1):
        picture = Image.new("RGB", (size[0] + BAR_WIDTH, size[1] + FOOTER_HEIGHT), "black")
        picture.paste(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.NEAREST), (0, 0))
        picture.paste(bar, (size[0], 0))
        _letter(picture, size, turned, f"{number} of {len(planes)}")
        draw = ImageDraw.Draw(picture)
        draw.text((6, size[1] + 2), NOTICE, font=font(16), fill="white")
        draw.text((6, size[1] + 22), what, font=font(13), fill="#dddddd")
        draw.text((6, size[1] + 41), _warning(result, picture.width - 12), font=font(13), fill="#ffd200")
        pictures.append(picture)
    return pictures


def secondary_captures(author: Author, name: str, place: int) -> list[Dataset]:
    """Return `capture_pictures` as single-frame Secondary Capture images of one series.

    Single frames, for many viewers show no multi-frame true colour. BurnedInAnnotation is NO, for what is burned in
    does not identify the patient. The pictures have no place in the patient; each names the image that it lies over.

    Parameters
    ----------
    author : Author
    name : str
        Of the map.
    place : int
        Of the series among ours.
    """
    source, method = author.source, author.method_of(name)
    pictures = [np.asarray(picture) for picture in capture_pictures(author, name)]
    shared = author.header(f"{title(name)} in colour", method, place, *pictures)
    turned = _turned(source.headers[0])
    captures: list[Dataset] = []
    for number, (pixels, image) in enumerate(zip(pictures, source.images, strict=True), start=1):
        dataset: Dataset = highdicom.sc.SCImage.from_ref_dataset(
            ref_dataset=image.header,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=(turned.right[0], turned.down[0]),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            **{
                **shared,
                "instance_number": number,
                "sop_instance_uid": author.uid("capture", name, str(number), *pictures),
            },
        )
        dataset.PatientOrientation = [turned.right, turned.down]  # highdicom takes no oblique ones
        dataset.BurnedInAnnotation = "NO"
        dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        dataset.DerivationDescription = f"{author.result.maps[name].description}. {author.how(method)}"
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.header.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.header.SOPInstanceUID
        dataset.SourceImageSequence = [reference]
        dataset.LossyImageCompression = str(image.header.get("LossyImageCompression") or "00")
        author.finish(dataset)
        captures.append(dataset)
    return captures


@dataclass(frozen=True)
class _Turned:
    """How the source's planes are turned for a picture, and where the picture then leads in the patient."""

    is_transposed: bool
    is_mirrored: bool
    is_upside_down: bool
    right: str
    down: str

    def plane(self, plane: np.ndarray) -> np.ndarray:
        """Return a plane of the source as it is shown."""
        plane = np.swapaxes(plane, 0, 1) if self.is_transposed else plane
        return plane[:: -1 if self.is_upside_down else 1, :: -1 if self.is_mirrored else 1]


def _turned(header: Dataset) -> _Turned:
    orientation = [float(step) for step in header.ImageOrientationPatient]
    right, down = _letters(orientation[:3]), _letters(orientation[3:])
    # Left to right lies across whenever it is in the plane, head to foot down.
    is_transposed = down[0] in "LR" or right[0] in "HF"
    if is_transposed:
        right, down = down, right
    is_mirrored, is_upside_down = right[0] not in _TO_THE_RIGHT, down[0] not in _DOWN
    return _Turned(
        is_transposed,
        is_mirrored,
        is_upside_down,
        _reversed(right) if is_mirrored else right,
        _reversed(down) if is_upside_down else down,
    )


def _letters(direction: list[float]) -> str:
    """Return where a direction leads, most direct letter first (PS3.3, C.7.6.1.1.1)."""
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join("LPH"[a] if direction[a] > 0 else "RAF"[a] for a in order if abs(direction[a]) > 0.1)


def _reversed(letters: str) -> str:
    return "".join(_OPPOSITE[letter] for letter in letters)


def _letter(picture: Image.Image, size: tuple[int, int], turned: _Turned, count: str) -> None:
    draw, (width, height) = ImageDraw.Draw(picture), size
    for place, text, anchor in (
        ((6, height // 2), _OPPOSITE[turned.right[0]], "lm"),
        ((width - 6, height // 2), turned.right[0], "rm"),
        ((width // 2, 4), _OPPOSITE[turned.down[0]], "ma"),
        ((width // 2, height - 4), turned.down[0], "md"),
        ((6, 4), count, "la"),
    ):
        draw.text(place, text, anchor=anchor, font=font(16), fill="white", stroke_width=1, stroke_fill="black")


def _warning(result: AnyResult, width: int) -> str:
    """Return the findings that warn, as many as fit, those about the network first; "" without any."""
    names = sorted(warnings_of(result), key=lambda name: not name.startswith("network-"))
    for kept in range(len(names), 0, -1):
        more = f" and {len(names) - kept} more" if kept < len(names) else ""
        text = f"Warnings: {', '.join(names[:kept])}{more}"
        if font(13).getlength(text) <= width:
            return text
    return f"{len(names)} warnings" if names else ""
