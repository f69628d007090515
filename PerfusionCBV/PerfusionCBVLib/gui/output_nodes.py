"""Results as nodes: made once for a series and a method, updated by the next run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from PerfusionCBVLib import quantities
from PerfusionCBVLib.concentration import Status
from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.gui.colours import colour_node
from PerfusionCBVLib.gui.input_nodes import grid_node, parent_transform, shown_node
from PerfusionCBVLib.gui.regions import oriented_image
from PerfusionCBVLib.gui.words import finding_in_the_panel
from PerfusionCBVLib.settings import METHOD_TITLES, NETWORK_METHODS

if TYPE_CHECKING:  # needs packages that may not be installed yet
    from PerfusionCBVLib.result import MapResult

PREFIX = "PerfusionCBV."
INPUT = PREFIX + "Input"
ROLE, METHOD, WINDOW = PREFIX + "Role", PREFIX + "Method", PREFIX + "Window"
MADE = PREFIX + "Made"
"""When the map was made, ISO: DICOM objects of one map are the same objects whenever they are written or sent."""

MAP = PREFIX + "Map"
"""Set on what is shown in colour; the panel's selector of maps looks for it."""

OF_THE_METHOD = ("disagreement", "uncertainty", "cbv_network")
"""Beside a network's map, where its settings give them."""

FLOW = ("cbv", "cbf", "mtt", "tmax", "ttp", "delay")
"""With an arterial input."""

SHARED_ROLES = ("baseline", "regions", "curves")
"""One node for a series whatever the method; its method is the latest run's."""

TITLES = {**quantities.TITLES, "baseline": "baseline", "regions": "regions", "curves": "curves"}

FAR = 1e6
"""Beyond every value of a map."""

SEGMENTS = (
    ("brain", "Brain", (0.3, 0.6, 1.0)),
    ("reference", "Reference region", (1.0, 0.8, 0.0)),
    ("saturated", "Signal at the noise floor: read as at least", (1.0, 0.2, 0.2)),
    ("arterial", "Arterial input", (0.55, 0.11, 0.35)),
)
TIME_COLUMN = "Time (s)"
ARTERIAL_COLUMN = "Arterial input"
CURVE_COLUMNS = {"brain": "Brain", "reference": "Reference region", "leaking": "Leaking tissue"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A volume to be, ready for the scene.

    Attributes
    ----------
    role, method : str
    values : (z, y, x) float32 array
    window : (low, high)
    colours : str
        Of `colours.NAMES`; empty for grey.
    unit : str
        UCUM code; empty for none.
    description : str
    """

    role: str
    method: str
    values: np.ndarray
    window: tuple[float, float]
    colours: str
    unit: str
    description: str


@dataclass(frozen=True)
class _Run:
    """What one publication needs everywhere."""

    node: Any
    method: str
    attributes: dict[str, str]
    weights_sha256: str | None
    transform: Any
    study: int


def layers_of(result: MapResult) -> list[Layer]:
    """Return a result's volumes with their windows; touches no node, so another thread may call it."""
    from PerfusionCBVLib import pictures

    method = result.provenance["settings"]["method"]
    layers = []
    for name, map_ in result.maps.items():
        made_by = method if name in ("rcbv", *OF_THE_METHOD) else _fitted_by(method)
        window, table = pictures.map_window(result, name)
        role = "rcbv" if name == "rcbv_classical" else name
        layers.append(Layer(role, made_by, _zyx(map_.values), window, table, map_.unit, map_.description))
    brightest = float(np.percentile(result.baseline[result.mask], 99.5))
    description = "Mean signal before the bolus, arbitrary units"
    layers.append(Layer("baseline", method, _zyx(result.baseline), (0.0, 1.2 * brightest), "", "", description))
    return layers


def publish(result: MapResult, layers: list[Layer], node: Any) -> dict[str, Any]:
    """Put a result into the scene, beside its series; return the nodes by role.

    Nodes of an earlier run of the same method on the same series are updated. On an error the scene is left as it was.

    Parameters
    ----------
    result : MapResult
    layers : list of Layer
        `layers_of(result)`.
    node : vtkMRMLNode
        The series' node.
    """
    run = _start(result, node)
    with unchanged_on_error():
        for layer in layers:
            _publish_volume(layer, run)
        _publish_regions(result, run)
        _publish_curves(result, run)
    made = {(layer.role, layer.method) for layer in layers}
    optional = {(role, run.method) for role in OF_THE_METHOD} | {(role, _fitted_by(run.method)) for role in FLOW}
    for role, method in optional - made:  # of an earlier run with other settings
        if stale := _find(node, role, method):
            slicer.mrmlScene.RemoveNode(stale)
    return outputs(node, run.method)


@contextmanager
def unchanged_on_error() -> Iterator[None]:
    """Take the nodes that were added inside out of the scene again when an error leaves it."""
    before = {each.GetID() for each in slicer.util.getNodesByClass("vtkMRMLNode")}
    try:
        yield
    except BaseException:
        for each in reversed(slicer.util.getNodesByClass("vtkMRMLNode")):
            if each.GetID() not in before:
                slicer.mrmlScene.RemoveNode(each)
        raise


def outputs(node: Any, method: str = "") -> dict[str, Any]:
    """Return what the scene holds of a method's run on a series, by role; without a method, of the latest run.

    `rcbv_classical` stands beside a network's map: it is the node that a run of ``bsw`` makes, too.
    """
    if not method:
        baseline = _find(node, "baseline")
        if baseline is None:
            return {}
        method = baseline.GetAttribute(METHOD)
    wanted = {
        **{role: (role, method) for role in ("rcbv", *OF_THE_METHOD)},
        **({"rcbv_classical": ("rcbv", "bsw")} if method in NETWORK_METHODS else {}),
        **{role: (role, _fitted_by(method)) for role in ("k1", "k2", "kep", "psr", *FLOW)},
        **{role: (role, "") for role in SHARED_ROLES},
    }
    found = {name: _find(node, *key) for name, key in wanted.items()}
    return {name: each for name, each in found.items() if each is not None} if found["rcbv"] is not None else {}


def provenance(node: Any) -> dict[str, Any]:
    """Return how an output node came about."""
    return json.loads(node.GetAttribute(PREFIX + "Provenance") or "{}")


def findings(node: Any) -> tuple[Finding, ...] | None:
    """Return what the latest run on a series had to say, in the panel's words; None without a run."""
    rcbv = outputs(node).get("rcbv")
    if rcbv is None:
        return None
    return tuple(finding_in_the_panel(Finding(**entry)) for entry in provenance(rcbv)["findings"])


def made_of(node: Any) -> list[Any]:
    """Return all nodes in the scene that were made of a series, whatever the method and the work."""
    nodes = slicer.util.getNodesByClass("vtkMRMLStorableNode")
    return [each for each in nodes if each.GetNodeReferenceID(INPUT) == node.GetID()]


def study_item(node: Any) -> int:
    """Return the subject hierarchy item of a node's study; where there is none, of the folder that holds it."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    shown = shown_node(node)
    item = hierarchy.GetItemByDataNode(shown) if shown is not None else 0
    if not item:
        return hierarchy.GetSceneItemID()
    return hierarchy.GetItemAncestorAtLevel(item, "Study") or hierarchy.GetItemParent(item)


def place(node: Any, parent: int) -> None:
    """Put a node under an item of the subject hierarchy."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(node)  # the application has made one already
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def _start(result: MapResult, node: Any) -> _Run:
    from PerfusionCBVLib.json_text import as_json

    facts = result.provenance
    attributes = {
        "Provenance": as_json(facts),
        "Version": facts["version"],
        "IntendedUse": facts["intended_use"],
        "Made": datetime.now().replace(microsecond=0).isoformat(),
        "InputSHA256": json.dumps(facts["input"]["sha256"]),
    }
    weights_sha256 = facts.get("network", {}).get("weights_sha256")
    method = facts["settings"]["method"]
    return _Run(node, method, attributes, weights_sha256, parent_transform(node), study_item(node))


def _find(node: Any, role: str, method: str = "") -> Any:
    for each in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        made_from = each.GetNodeReferenceID(INPUT) == node.GetID()
        if made_from and each.GetAttribute(ROLE) == role and method in ("", each.GetAttribute(METHOD)):
            return each
    return None


def _node_for(role: str, method: str, class_name: str, run: _Run) -> Any:
    """Return the node of a role, made where the scene has none, with this run's provenance."""
    shared = role in SHARED_ROLES
    output = _find(run.node, role, "" if shared else method)
    if output is None:
        title = TITLES.get(role, role.upper()) + ("" if shared else f" ({METHOD_TITLES[method]})")
        output = slicer.mrmlScene.AddNewNodeByClass(class_name, f"{run.node.GetName()} {title}")
        output.SetNodeReferenceID(INPUT, run.node.GetID())
        output.SetAttribute(ROLE, role)
    output.SetAttribute(METHOD, method)
    for key, value in run.attributes.items():
        output.SetAttribute(PREFIX + key, value)
    output.SetAttribute(PREFIX + "WeightsSHA256", run.weights_sha256 if method in NETWORK_METHODS else None)
    if output.IsA("vtkMRMLTransformableNode"):
        output.SetAndObserveTransformNodeID(run.transform.GetID() if run.transform else None)
    place(output, run.study)
    return output


def _publish_volume(layer: Layer, run: _Run) -> None:
    fill_volume(_node_for(layer.role, layer.method, "vtkMRMLScalarVolumeNode", run), layer, grid_node(run.node))


def fill_volume(volume: Any, layer: Layer, grid: Any) -> None:
    """Give a volume node the values of a layer, their codes, colours and window, on the grid of another volume node."""
    matrix = vtk.vtkMatrix4x4()
    grid.GetIJKToRASMatrix(matrix)
    volume.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(volume, layer.values)
    volume.SetDescription(layer.description)
    if layer.unit:
        volume.SetVoxelValueUnits(_code(layer.unit, "UCUM", quantities.unit_meaning(layer.unit)))
    if layer.role in quantities.QUANTITIES:
        volume.SetVoxelValueQuantity(_code(*quantities.QUANTITIES[layer.role]))
    volume.SetAttribute(MAP, "yes" if layer.colours else None)
    window = f"{layer.window[0]:.6g} {layer.window[1]:.6g}"
    display = volume.GetDisplayNode()
    if display is None:
        volume.CreateDefaultDisplayNodes()
        display = volume.GetDisplayNode()
        if layer.colours:
            display.SetAndObserveColorNodeID(colour_node(layer.colours).GetID())
            # Voxels outside the threshold are transparent, and so are those without a number.
            display.SetThreshold(-FAR if layer.window[0] < 0 else 0.0, FAR)
            display.ApplyThresholdOn()
    # A window that the user has set stays.
    shown = f"{display.GetWindowLevelMin():.6g} {display.GetWindowLevelMax():.6g}"
    if volume.GetAttribute(WINDOW) in (None, shown):
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(*layer.window)
    volume.SetAttribute(WINDOW, window)


def _publish_regions(result: MapResult, run: _Run) -> None:
    node = _node_for("regions", run.method, "vtkMRMLSegmentationNode", run)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetVisibility2DFill(False)
    baseline = _find(run.node, "baseline")
    node.SetReferenceImageGeometryParameterFromVolumeNode(baseline)
    saturated = result.status == Status.SATURATED
    masks: dict[str, np.ndarray | None] = {
        "brain": result.mask,
        "reference": result.reference,
        "saturated": saturated if saturated.any() else None,
        "arterial": None if result.arterial is None else result.arterial.mask,
    }
    for segment_id, name, colour in SEGMENTS:
        if node.GetSegmentation().GetSegment(segment_id):
            node.GetSegmentation().RemoveSegment(segment_id)
        if (inside := masks[segment_id]) is not None:
            image = oriented_image(inside, baseline)
            node.AddSegmentFromBinaryLabelmapRepresentation(image, name, colour, segment_id)
    node.GetDisplayNode().SetSegmentVisibility("brain", False)


def _publish_curves(result: MapResult, run: _Run) -> None:
    table = _node_for("curves", run.method, "vtkMRMLTableNode", run)
    table.RemoveAllColumns()
    columns = {TIME_COLUMN: result.series.times_s}
    columns |= {CURVE_COLUMNS[name]: curve for name, curve in result.curves_per_s.items()}
    if result.arterial is not None:
        columns[ARTERIAL_COLUMN] = result.arterial.curve_per_s
    arrays = tuple(np.asarray(column, dtype=np.float64) for column in columns.values())
    slicer.util.updateTableFromArray(table, arrays, tuple(columns))
    table.SetDescription("Mean ΔR2*, 1/s, before leakage correction")


def _fitted_by(method: str) -> str:
    """Return the classical method whose fit stands beside a method's map."""
    return "bsw" if method in NETWORK_METHODS else method


def _zyx(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T, dtype=np.float32)


def _code(value: str, scheme: str, meaning: str) -> Any:
    code = slicer.vtkCodedEntry()
    code.SetValueSchemeMeaning(value, scheme, meaning)
    return code
