"""The brush and loaded segments, on Slicer's own scene."""

import nibabel
import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (extra 'slicer')")
pytestmark = pytest.mark.web

import slicer_scene  # noqa: E402
from dsc_phantom import graded_head  # noqa: E402
from PerfusionCBVLib import Settings, compute_maps  # noqa: E402
from PerfusionCBVLib.errors import UsageError  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return compute_maps(graded_head().series, Settings(method="bsw"))


@pytest.fixture
def node(tmp_path, result):
    from PerfusionCBVLib.gui import logic, output_nodes

    slicer_scene.start(tmp_path)
    node = logic.add_sequence(logic.Sequence.of(result.series))
    output_nodes.publish(result, output_nodes.layers_of(result), node)
    return node


def drawn(node, segmentation):
    from PerfusionCBVLib.gui.regions import region_on_series

    return region_on_series((segmentation, "drawn"), node)


def place(result, voxel):
    return (result.affine @ [*voxel, 1.0])[:3]


@pytest.mark.parametrize(("axis", "radius_mm"), [(2, 12.0), (0, 9.0), (1, 15.0)])
def test_the_brush_paints_the_voxels_of_one_slice_whose_centres_lie_within_its_radius(node, result, axis, radius_mm):
    from PerfusionCBVLib.web.regions import Brush, new_segmentation

    segmentation, voxel = new_segmentation(node), (25, 30, 4)
    normal = result.affine[:3, axis] / np.linalg.norm(result.affine[:3, axis])
    Brush(segmentation, node).paint(place(result, voxel), normal, radius_mm, erase=False)
    index = np.moveaxis(np.indices(result.mask.shape), 0, -1)
    far_mm = np.linalg.norm((index - voxel) * result.series.voxel_size_mm, axis=-1)
    expected = (far_mm <= radius_mm) & (index[..., axis] == voxel[axis])
    np.testing.assert_array_equal(drawn(node, segmentation), expected)


def test_erasing_takes_away_what_was_painted_and_a_second_brush_goes_on(node, result):
    from PerfusionCBVLib.web.regions import Brush, new_segmentation

    segmentation, normal = new_segmentation(node), np.array([0.0, 0.0, 1.0])
    here, there = place(result, (25, 30, 4)), place(result, (35, 30, 4))
    Brush(segmentation, node).paint(here, normal, 8.0, erase=False)
    first = drawn(node, segmentation)
    brush = Brush(segmentation, node)
    brush.paint(there, normal, 8.0, erase=False)
    assert (drawn(node, segmentation) & first).sum() == first.sum()
    brush.paint(there, normal, 8.0, erase=True)
    np.testing.assert_array_equal(drawn(node, segmentation), first)
    brush.paint(here, normal, 9.0, erase=True)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_file_on_the_maps_grid_becomes_segments_of_the_same_voxels(node, result, tmp_path):
    from PerfusionCBVLib.gui.scene_result import result_in_scene
    from PerfusionCBVLib.gui.segments import drawn_segments, regions_on
    from PerfusionCBVLib.web.regions import add_regions_of_file, histograms, new_segmentation

    labels = np.zeros(result.mask.shape, np.uint8)
    labels[20:25, 25:33, 3:5] = 1
    labels[30:34, 25:33, 4] = 2
    nibabel.save(nibabel.Nifti1Image(labels, result.affine), tmp_path / "labels.nii.gz")
    segmentation = new_segmentation(node)
    assert add_regions_of_file(tmp_path / "labels.nii.gz", segmentation, node) == ["label 1", "label 2"]
    covered = {each.name: each.share for each in regions_on(drawn_segments(segmentation, node), result_in_scene(node))}
    for number in (1, 2):
        np.testing.assert_allclose(covered[f"label {number}"], labels == number, atol=1e-6)
    values = result.maps["rcbv"].values[labels == 1]
    found = histograms(segmentation, node)["label 1"]
    assert found.percent.sum() + found.below + found.above == pytest.approx(100.0)
    assert found.below == pytest.approx(100 * np.mean(values[np.isfinite(values)] < 0))
    with pytest.raises(UsageError, match="there already"):
        add_regions_of_file(tmp_path / "labels.nii.gz", segmentation, node)


def test_without_a_map_there_is_nothing_to_draw_on(tmp_path, result):
    from PerfusionCBVLib.gui import logic
    from PerfusionCBVLib.web.regions import new_segmentation

    slicer_scene.start(tmp_path)
    with pytest.raises(UsageError, match="Compute a map first"):
        new_segmentation(logic.add_sequence(logic.Sequence.of(result.series)))
