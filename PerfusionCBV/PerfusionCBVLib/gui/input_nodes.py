"""Series in Slicer's scene to `DynamicSeries`: sequences, multi-volumes and vector volumes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib.errors import GeometryError, InputRefusedError, TimingError
from PerfusionCBVLib.load_common import (
    CLOCKS,
    GIVEN_BY_USER,
    SECONDS_PER_UNIT,
    AcquisitionCollector,
    collect_multi_volume,
    start_collecting,
    uniform_times_s,
)
from PerfusionCBVLib.series import Acquisition, DynamicSeries

ACQUISITION = "PerfusionCBV.Acquisition"
"""Attribute of a sequence that this extension loaded: the reader's acquisition values, with sources, as JSON."""

INPUT_SHA256 = "PerfusionCBV.InputSHA256"

MOST_COLOUR_COMPONENTS = 4
"""A volume with more components than RGBA has them for time."""

LARGEST_OFFSET_MM = 1e-3
"""By which the grids of two frames may differ: rounding in a file."""

# Value, DICOM tag, factor to our unit.
_DICOM_NUMBERS = (
    ("echo_time_s", "0018,0081", 1e-3),
    ("repetition_time_s", "0018,0080", 1e-3),
    ("flip_angle_deg", "0018,1314", 1.0),
    ("field_strength_t", "0018,0087", 1.0),
    ("contrast_dose_ml", "0018,1041", 1.0),
)
_DICOM_TEXTS = (("manufacturer", "0008,0070"), ("contrast_agent", "0018,0010"))


@dataclass(frozen=True, eq=False)
class NodeSeries:
    """What a node says about its series, without arithmetic on its voxels.

    Attributes
    ----------
    name : str
    volumes : tuple of (z, y, x) array
        The frames as they lie in the node, not copied.
    affine : (4, 4) array
        Voxel index to RAS, mm, without the node's parent transform.
    times_s : (T,) array or None
        The first 0; None where neither node nor user gives them.
    times_source : str
        Where the times come from, or why there are none.
    acquisition : Acquisition
    input_sha256 : dict
        Of the files, where this extension loaded them.
    problem : str
        Why no map can be made of the node as it is; empty for none.
    """

    name: str
    volumes: tuple[np.ndarray, ...]
    affine: np.ndarray
    times_s: np.ndarray | None
    times_source: str
    acquisition: Acquisition
    input_sha256: dict[str, str]
    problem: str

    @property
    def frames(self) -> int:
        """Number of time frames."""
        return len(self.volumes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        z, y, x = self.volumes[0].shape if self.volumes else (0, 0, 0)
        return x, y, z

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def series(self) -> DynamicSeries:
        """Return the series with its voxels; needs no node any more, so another thread may call it.

        Raises
        ------
        InputRefusedError
            As `problem` says, or as `DynamicSeries` finds when it looks at the voxels.
        """
        if self.problem or self.times_s is None:
            raise InputRefusedError(self.problem)
        signal = np.empty((*self.shape, self.frames), dtype=np.float32)
        stored = hashlib.sha256()
        for frame, volume in enumerate(self.volumes):
            signal[..., frame] = volume.T
            stored.update(np.ascontiguousarray(volume).data)
        return DynamicSeries(
            signal=signal,
            affine=self.affine,
            times_s=self.times_s,
            acquisition=self.acquisition,
            name=self.name,
            source=f"Slicer node {self.name}",
            input_sha256={**self.input_sha256, "voxels": stored.hexdigest()},
            notes=(f"Frame times: {self.times_source}.",),
        )


def is_dynamic(node: Any) -> bool:
    """Return whether a node may hold a series: a sequence of volumes, or a volume with a component for each frame."""
    if node is None:
        return False
    if node.IsA("vtkMRMLSequenceNode"):
        first = node.GetNthDataNode(0) if node.GetNumberOfDataNodes() > 1 else None
        return first is not None and first.IsA("vtkMRMLScalarVolumeNode")
    # Diffusion volumes have components, too, but not for time.
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLDiffusionImageVolumeNode"):
        return False
    image = node.GetImageData()
    return image is not None and image.GetNumberOfScalarComponents() > MOST_COLOUR_COMPONENTS


def describe(node: Any, *, echo_time_s: float | None = None, repetition_time_s: float | None = None) -> NodeSeries:
    """Return what a dynamic node says about its series; what is wrong with it stands in `problem`.

    Parameters
    ----------
    node : vtkMRMLNode
        For which `is_dynamic` holds.
    echo_time_s, repetition_time_s : float, optional
        Given by the user, s; they override what the node says. The repetition time is the time between frames, too.
    """
    name = node.GetName() or "DSC series"
    volumes: tuple[np.ndarray, ...] = ()
    affine, acquisition, times_s, source = np.eye(4), Acquisition(), None, "unknown"
    problem = ""
    try:
        volumes = tuple(frames_of(node))
        affine = _affine(node)
        collector = start_collecting(echo_time_s, repetition_time_s)
        _collect(collector, node)
        times_s, source = _times_s(node, len(volumes), repetition_time_s)
        if times_s is not None and times_s.size > 1:
            collector.add("repetition_time_s", float(np.median(np.diff(times_s))), f"frame interval ({source})")
        acquisition = collector.acquisition()
    except InputRefusedError as error:
        problem = str(error)
    if not problem and times_s is None:
        problem = f"The times of the frames are unknown ({source}). Enter the repetition time (TR)."
    hashes = json.loads(node.GetAttribute(INPUT_SHA256) or "{}")
    return NodeSeries(name, volumes, affine, times_s, source, acquisition, hashes, problem)


def series_from_node(
    node: Any, *, echo_time_s: float | None = None, repetition_time_s: float | None = None
) -> DynamicSeries:
    """Return the series that a dynamic node holds.

    Raises
    ------
    InputRefusedError
    """
    return describe(node, echo_time_s=echo_time_s, repetition_time_s=repetition_time_s).series()


def frames_of(node: Any) -> list[np.ndarray]:
    """Return the frames of a dynamic node as (z, y, x) arrays that share its memory.

    Raises
    ------
    GeometryError
        A frame is missing or differs in size or place from the first.
    """
    if not node.IsA("vtkMRMLSequenceNode"):
        voxels = slicer.util.arrayFromVolume(node)  # (z, y, x, T)
        return [voxels[..., frame] for frame in range(voxels.shape[-1])]
    frames = []
    first = None
    for number in range(node.GetNumberOfDataNodes()):
        volume = node.GetNthDataNode(number)
        image = volume.GetImageData()
        if image is None or image.GetNumberOfScalarComponents() != 1:
            raise GeometryError(
                f"Frame {number + 1} of {node.GetName()} is no grey-value image. Load the series again."
            )
        place = (image.GetDimensions(), _ijk_to_ras(volume))
        first = first or place
        if place[0] != first[0] or np.abs(place[1] - first[1]).max() > LARGEST_OFFSET_MM:
            raise GeometryError(
                f"Frame {number + 1} of {node.GetName()} differs in size or place from the first frame. Choose the "
                "series as it was acquired."
            )
        frames.append(slicer.util.arrayFromVolume(volume))
    return frames


def grid_node(node: Any) -> Any:
    """Return the volume node whose grid a dynamic node has: itself, or a sequence's first frame."""
    return node.GetNthDataNode(0) if node.IsA("vtkMRMLSequenceNode") else node


def shown_node(node: Any) -> Any:
    """Return the volume that stands for a dynamic node on screen, or None: itself, or a sequence's proxy."""
    if not node.IsA("vtkMRMLSequenceNode"):
        return node
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if proxy := browser.GetProxyNode(node):
            return proxy
    return None


def parent_transform(node: Any) -> Any:
    """Return the transform node above a dynamic node, or None."""
    shown = shown_node(node)
    return None if shown is None else shown.GetParentTransformNode()


def _affine(node: Any) -> np.ndarray:
    return _ijk_to_ras(grid_node(node))


def _ijk_to_ras(volume: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _collect(collector: AcquisitionCollector, node: Any) -> None:
    """Record what the node knows of the acquisition: from our reader, from attributes, from the DICOM database."""
    for name, entry in json.loads(node.GetAttribute(ACQUISITION) or "{}").items():
        collector.add(name, entry["value"], entry["source"] or "stored with the sequence")
    nodes = [each for each in (node, grid_node(node), shown_node(node)) if each is not None]
    for each in nodes:
        collect_multi_volume(collector, {key: each.GetAttribute(key) for key in each.GetAttributeNames()}, "the node")
    database = getattr(slicer, "dicomDatabase", None)  # only in the desktop application
    uid = next((uids[0] for each in nodes if (uids := _instance_uids(each))), None)
    if database is None or uid is None:
        return
    for name, tag, factor in _DICOM_NUMBERS:
        if text := database.instanceValue(uid, tag).strip():
            collector.add(name, float(text.split("\\")[0]) * factor, f"DICOM ({tag})")
    for name, tag in _DICOM_TEXTS:
        collector.add(name, database.instanceValue(uid, tag).strip() or None, f"DICOM ({tag})")


def _instance_uids(node: Any) -> list[str]:
    return (node.GetAttribute("DICOM.instanceUIDs") or "").split()


def instance_uids(node: Any) -> set[str]:
    """Return the DICOM instances that a dynamic node was loaded from, where Slicer's DICOM module said so."""
    nodes = [each for each in (node, grid_node(node), shown_node(node)) if each is not None]
    return {uid for each in nodes for uid in _instance_uids(each)}


def _times_s(node: Any, frames: int, repetition_time_s: float | None) -> tuple[np.ndarray | None, str]:
    """Return the frame times, s, and their source; or None and why there are none."""
    if repetition_time_s is not None:
        return uniform_times_s(frames, repetition_time_s), GIVEN_BY_USER
    if node.IsA("vtkMRMLSequenceNode"):
        clock, unit, source = node.GetIndexName(), node.GetIndexUnit(), "sequence index"
        labels = [node.GetNthIndexValue(number) for number in range(frames)]
    else:
        clock = node.GetAttribute("MultiVolume.FrameIdentifyingDICOMTagName") or ""
        unit = node.GetAttribute("MultiVolume.FrameIdentifyingDICOMTagUnits") or ""
        labels, source = (node.GetAttribute("MultiVolume.FrameLabels") or "").split(","), "MultiVolume.FrameLabels"
    if clock.lower() not in CLOCKS:
        return None, f"the frames are labelled with {clock}, which is no time"
    factor = SECONDS_PER_UNIT.get(unit.strip().lower())
    if factor is None:
        return None, f"{source} has no unit of time" + (f" but {unit!r}" if unit else "")
    try:
        times_s = np.array([float(label) for label in labels]) * factor
    except ValueError:
        return None, f"{source} holds labels that are not numbers"
    if times_s.size != frames:
        raise TimingError(
            f"{node.GetName()} has {frames} frames but {times_s.size} times; frames or times are missing. Load the "
            "complete series, or enter the repetition time (TR)."
        )
    return times_s - times_s[0], f"{source} in {unit.strip()}"
