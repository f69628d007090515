"""What the panel's buttons start: each takes nodes, works in the background, and leaves nodes or one clear error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from PerfusionCBVLib.errors import InputRefusedError, TimingError, UsageError
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.gui.alignment import anatomy_volume, publish_alignment
from PerfusionCBVLib.gui.arterial import CurveFile
from PerfusionCBVLib.gui.background import Background, Steps, one_at_a_time
from PerfusionCBVLib.gui.histogram import publish_histogram
from PerfusionCBVLib.gui.input_nodes import (
    ACQUISITION,
    INPUT_SHA256,
    NodeSeries,
    describe,
)
from PerfusionCBVLib.gui.measures import measured_segments, measurements_in_scene, publish_measures
from PerfusionCBVLib.gui.output_nodes import layers_of, publish, unchanged_on_error
from PerfusionCBVLib.gui.regions import region_on_series
from PerfusionCBVLib.gui.scene_result import identity_in_scene, result_in_scene
from PerfusionCBVLib.gui.segments import drawn_segments, regions_on
from PerfusionCBVLib.gui.words import finding_in_the_panel, in_the_panel
from PerfusionCBVLib.progress import Progress
from PerfusionCBVLib.settings import Settings

if TYPE_CHECKING:  # they need packages that may not be installed yet
    from PerfusionCBVLib.alignment.registration import Registration
    from PerfusionCBVLib.arterial import ArterialRequest
    from PerfusionCBVLib.measures.measure import MeasureSettings, RegionMeasures
    from PerfusionCBVLib.result import MapResult
    from PerfusionCBVLib.series import DynamicSeries


@Background
def check_node(
    node: Any,
    *,
    echo_time_s: float | None,
    repetition_time_s: float | None,
    mask: Any,
    progress: Progress | None = None,
) -> Steps[tuple[Finding, ...]]:
    """Return what is noteworthy about a node's series.

    Raises
    ------
    InputRefusedError, Cancelled, UsageError
    """
    with one_at_a_time():
        facts = _facts(node, echo_time_s, repetition_time_s)
        inside = region_on_series(mask, node)

        def work(report: Progress) -> tuple[Finding, ...]:
            from PerfusionCBVLib.quality import check

            return check(facts.series(), mask=inside, progress=report)

        findings = yield work
    return tuple(finding_in_the_panel(finding) for finding in findings)


@Background
def process_node(
    node: Any,
    settings: Settings,
    *,
    echo_time_s: float | None,
    repetition_time_s: float | None,
    mask: Any,
    reference: Any,
    aif: Any,
    progress: Progress | None = None,
) -> Steps[tuple[MapResult, dict[str, Any]]]:
    """Make a node's maps; return the result and its nodes by role.

    Parameters
    ----------
    aif : None, "auto", a region as `regions.region_on_series` takes it, or CurveFile
        The arterial input; None makes no flow maps.

    Raises
    ------
    InputRefusedError, ModelError, Cancelled, UsageError
        The scene is as it was.
    """
    with one_at_a_time():
        facts = _facts(node, echo_time_s, repetition_time_s)
        if facts.acquisition.echo_time_s is None:
            raise InputRefusedError(
                f"The echo time of {facts.name} is unknown, and ΔR2* needs it. Enter the echo time (TE); the scan "
                "protocol states it."
            )
        inside, region = region_on_series(mask, node), region_on_series(reference, node)
        drawn = None if aif is None or aif == "auto" or isinstance(aif, CurveFile) else region_on_series(aif, node)

        def work(report: Progress) -> tuple[MapResult, list[Any]]:
            from PerfusionCBVLib.pipeline import compute_maps

            artery: ArterialRequest | None = "auto" if aif == "auto" else drawn
            if isinstance(aif, CurveFile):
                artery = aif.read()
            result = compute_maps(facts.series(), settings, mask=inside, reference=region, aif=artery, progress=report)
            return result, layers_of(result)

        result, layers = yield work
        if not slicer.mrmlScene.IsNodePresent(node):
            raise UsageError("The series was removed from the scene while its map was made. Load it again.")
        return result, publish(result, layers, node)


@Background
def measure_node(
    node: Any, segmentation: Any, settings: MeasureSettings, *, mirrors: bool, progress: Progress | None = None
) -> Steps[Any]:
    """Measure the segments of a segmentation on the latest map of a series; return the table node.

    Raises
    ------
    InputRefusedError, Cancelled, UsageError
        The scene is as it was.
    """
    with one_at_a_time():
        result, drawn = result_in_scene(node), drawn_segments(segmentation, node)

        def work(report: Progress) -> tuple[RegionMeasures, ...]:
            from PerfusionCBVLib.measures.measure import measure_regions

            return measure_regions(regions_on(drawn, result), result, settings, mirrors=mirrors, progress=report)

        measured = yield work
        with unchanged_on_error():
            publish_histogram(measured, node)
            return publish_measures(measured, settings, segmentation, drawn, node)


@Background
def align_nodes(node: Any, anatomy: Any, progress: Progress | None = None) -> Steps[tuple[Registration, Any]]:
    """Register a series with a map to an anatomical volume; return how well, and the transform node above both.

    Raises
    ------
    InputRefusedError, Cancelled, UsageError
        The scene is as it was.
    """
    with one_at_a_time():
        result, fixed = result_in_scene(node), anatomy_volume(anatomy)

        def work(report: Progress) -> Registration:
            from PerfusionCBVLib.alignment.registration import register
            from PerfusionCBVLib.alignment.volume import baseline_volume

            return register(baseline_volume(result), result.mask, fixed, report)

        registration = yield work
        with unchanged_on_error():
            return registration, publish_alignment(registration, anatomy, node)


@Background
def write_page_of(node: Any, path: Path, *, named: bool, progress: Progress | None = None) -> Steps[Path]:
    """Write the page for the referrer about the latest map of a series and its measures; return its path.

    Parameters
    ----------
    named : bool
        Whether the page names patient and study, as the subject hierarchy knows them.

    Raises
    ------
    PerfusionError, Cancelled
    """
    with one_at_a_time():
        result, measurements = result_in_scene(node), measurements_in_scene(node)
        drawn = measured_segments(node)
        identity = identity_in_scene(node) if named else {}

        def work(report: Progress) -> Path:
            from PerfusionCBVLib.one_page import Reading, write_page

            report(0.1, f"Writing {path.name}")
            regions = {each.name: each.mostly for each in regions_on(drawn, result)}
            return write_page(Reading(result, regions, measurements, identity), path)

        return (yield work)


@Background
def load_node(path: Path, progress: Progress | None = None) -> Steps[Any]:
    """Read a series from files; return its sequence node, with a browser and a volume to look at.

    Raises
    ------
    InputRefusedError, Cancelled, UsageError
        The scene is as it was.
    """

    def read(report: Progress) -> Sequence:
        from PerfusionCBVLib.load import load_series

        report(0.0, f"Reading {path.name}")
        try:
            return Sequence.of(load_series(path))
        except TimingError:  # a file without times is shown, so that the user can look at it and enter them
            return Sequence.of(load_series(path, repetition_time_s=1.0), timed=False)

    with one_at_a_time():
        return add_sequence((yield read))


@Background
def simulate_node(progress: Progress | None = None) -> Steps[Any]:
    """Simulate the demonstration patient; return its sequence node.

    Raises
    ------
    Cancelled, UsageError
    """

    def make(report: Progress) -> Sequence:
        from PerfusionCBVLib.simulate import demo_parameters, simulate

        report(0.0, "Simulating a patient")
        return Sequence.of(simulate(demo_parameters()).series)

    with one_at_a_time():
        return add_sequence((yield make))


@dataclass(frozen=True, eq=False)
class Sequence:
    """A series made ready for the scene, in another thread.

    Attributes
    ----------
    series : DynamicSeries
    frames : (T, z, y, x) array
        The signal, each frame in the order of an image's memory.
    timed : bool
        Whether its times are known; if not, those of `series` only hold the place.
    """

    series: DynamicSeries
    frames: np.ndarray
    timed: bool

    @classmethod
    def of(cls, series: DynamicSeries, *, timed: bool = True) -> Sequence:
        """Return the sequence of a series."""
        return cls(series, np.ascontiguousarray(series.signal.T), timed)


def add_sequence(content: Sequence) -> Any:
    """Put a series into the scene, so that `describe` reads it back without loss; return its sequence node.

    A browser and a volume to look at come with it.
    """
    series = content.series
    acquisition = series.acquisition.as_dict()
    if not content.timed:
        del acquisition["repetition_time_s"]
    with unchanged_on_error():
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", series.name)
        sequence.SetIndexName("time" if content.timed else "frame")
        sequence.SetIndexUnit("s" if content.timed else "")
        sequence.SetAttribute(ACQUISITION, json.dumps(acquisition))
        sequence.SetAttribute(INPUT_SHA256, json.dumps(dict(series.input_sha256)))
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetName(series.name)
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(series.affine))
        for number, (time_s, frame) in enumerate(zip(series.times_s, content.frames, strict=True)):
            image = vtk.vtkImageData()
            image.SetDimensions(frame.shape[::-1])
            image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(frame.ravel(), deep=True))
            volume.SetAndObserveImageData(image)
            sequence.SetDataNodeAtValue(volume, repr(float(time_s)) if content.timed else str(number))
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{series.name} browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return sequence


def _facts(node: Any, echo_time_s: float | None, repetition_time_s: float | None) -> NodeSeries:
    facts = describe(node, echo_time_s=echo_time_s, repetition_time_s=repetition_time_s)
    if facts.problem:
        raise InputRefusedError(in_the_panel(facts.problem))
    return facts
