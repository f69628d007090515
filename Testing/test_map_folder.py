"""What `write_result` wrote comes back as it was, or is refused with a reason."""

import json

import nibabel as nib
import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps, write_result
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.map_folder import read_map_folder


@pytest.fixture(scope="module")
def result():
    return compute_maps(graded_head().series, Settings(method="bsw"))


@pytest.fixture
def folder(result, tmp_path):
    write_result(result, tmp_path)
    return tmp_path


def change(folder, **values):
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def test_maps_mask_reference_and_provenance_come_back(folder, result):
    found = read_map_folder(folder)
    assert set(found.maps) == {"rcbv", "k2", "psr"}
    for name, map_ in found.maps.items():
        np.testing.assert_array_equal(map_.values, result.maps[name].values)
        assert map_.unit == result.maps[name].unit
        np.testing.assert_allclose(map_.affine, result.series.affine, atol=1e-5)
    np.testing.assert_array_equal(found.mask, result.mask)
    np.testing.assert_array_equal(found.reference, result.reference)
    np.testing.assert_array_equal(found.status, result.status)
    assert found.provenance["settings"]["method"] == "bsw"
    assert "psr.nii.gz" in found.provenance["files"]


def test_a_map_without_reference_keeps_its_unit(tmp_path):
    bare = compute_maps(graded_head().series, Settings(method="bsw", normalize="none"))
    write_result(bare, tmp_path)
    found = read_map_folder(tmp_path)
    assert (found.maps["rcbv"].unit, found.reference) == (bare.maps["rcbv"].unit, None)


def test_maps_of_another_version_are_refused(folder):
    change(folder, version="7.3.0")
    with pytest.raises(UnreadableInputError, match=r"7\.3\.0.*Map the series again"):
        read_map_folder(folder)


@pytest.mark.parametrize("name", ["rcbv.nii.gz", "k2.nii.gz", "mask.nii.gz"])
def test_an_incomplete_or_damaged_result_is_refused_by_name(folder, name):
    (folder / name).write_bytes(b"\x1f\x8bdamaged")
    with pytest.raises(UnreadableInputError, match=name):
        read_map_folder(folder)
    (folder / name).unlink()
    with pytest.raises(UnreadableInputError, match=f"incomplete: {name}"):
        read_map_folder(folder)


def test_a_map_of_another_series_in_the_folder_is_noticed(folder, result):
    image = nib.load(folder / "k2.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), folder / "k2.nii.gz")
    with pytest.raises(GeometryError, match=r"k2\.nii\.gz"):
        read_map_folder(folder)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), folder / "k2.nii.gz")
    with pytest.raises(GeometryError, match=r"k2\.nii\.gz"):
        read_map_folder(folder)


def test_a_folder_without_a_result_is_refused(tmp_path, folder):
    with pytest.raises(UnreadableInputError, match=r"no provenance\.json"):
        read_map_folder(tmp_path / "elsewhere")
    for text in ("{}", "[1]", "no JSON", '{"software": "other"}'):
        (folder / "provenance.json").write_text(text, "utf-8")
        with pytest.raises(UnreadableInputError, match=r"provenance\.json"):
            read_map_folder(folder)
