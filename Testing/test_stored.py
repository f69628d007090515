"""A result that is read back is the result that was written."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps, sealed_record, write_result
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.pictures import comparison_picture
from PerfusionCBVLib.stored import read_result


@pytest.fixture(scope="module")
def result():
    head = graded_head(shape=(40, 46, 6), frames=40)
    return compute_maps(head.series, Settings(method="anchored-unet", normalize="brain"))


@pytest.fixture
def folder(result, tmp_path):
    write_result(result, tmp_path / "maps")
    return tmp_path / "maps"


def test_maps_masks_curves_and_findings_come_back(result, folder):
    found = read_result(folder)
    assert found.maps.keys() == result.maps.keys()
    for name, map_ in result.maps.items():
        np.testing.assert_array_equal(found.maps[name].values, map_.values)
        assert (found.maps[name].unit, found.maps[name].description) == (map_.unit, map_.description)
    np.testing.assert_allclose(found.affine, result.series.affine, atol=1e-5)
    for name in ("baseline", "mask", "reference", "status"):
        np.testing.assert_array_equal(getattr(found, name), getattr(result, name))
    np.testing.assert_allclose(found.times_s, result.series.times_s)
    assert found.curves_per_s.keys() == result.curves_per_s.keys()
    for name, curve in result.curves_per_s.items():
        np.testing.assert_allclose(found.curves_per_s[name], curve, rtol=1e-6)
    assert [dataclasses.asdict(f) for f in found.findings] == result.provenance["findings"]


def test_pictures_of_the_stored_result_are_those_of_the_result(result, folder):
    np.testing.assert_array_equal(comparison_picture(read_result(folder)), comparison_picture(result))


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"holds no provenance\.json.*map --output"):
        read_result(tmp_path)


@pytest.mark.parametrize("name", ["rcbv.nii.gz", "baseline.nii.gz", "curves.csv", "provenance.json"])
def test_a_missing_or_damaged_file_is_named(folder, name):
    (folder / name).write_bytes(b"damaged")
    with pytest.raises(UnreadableInputError, match=name):
        read_result(folder)
    (folder / name).unlink()
    with pytest.raises(UnreadableInputError, match=name):
        read_result(folder)


@pytest.mark.parametrize("name", ["rcbv", "baseline", "mask", "reference", "status"])
def test_another_patients_volume_on_the_same_grid_is_refused(folder, name):
    path = folder / f"{name}.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.roll(values, 3, axis=0), image.affine, image.header), path)
    with pytest.raises(UnreadableInputError, match=rf"{name}\.nii\.gz is not the file that was written.*`map`"):
        read_result(folder)


def rewritten(folder, change):
    """The folder with a changed provenance, sealed anew as another version would have."""
    path = folder / "provenance.json"
    content = json.loads(path.read_text("utf-8"))
    path.unlink()
    change(content)
    sealed_record.write_sealed_record(path, {key: value for key, value in content.items() if key != "seal"})


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["settings"].update(method="bsw"),
        lambda content: content["reference"].update(mean_before_normalisation=1.0),
        lambda content: content["findings"].clear(),
        lambda content: content.pop("network"),
    ],
)
def test_an_edited_provenance_is_refused(folder, change):
    path = folder / "provenance.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UnreadableInputError, match=r"provenance\.json is not as it was written"):
        read_result(folder)


def test_a_provenance_that_was_only_laid_out_anew_is_read(folder):
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=7), "utf-8")
    assert "rcbv" in read_result(folder).maps


def test_a_result_of_an_older_version_is_refused_with_what_it_lacks(folder):
    rewritten(folder, lambda content: content.pop("maps"))
    with pytest.raises(UnreadableInputError, match="lacks maps"):
        read_result(folder)


def test_a_result_of_another_version_is_refused_because_its_scale_may_differ(folder):
    rewritten(folder, lambda content: content.update(version="7.1.0"))
    with pytest.raises(UnreadableInputError, match=r"made by version 7\.1\.0"):
        read_result(folder)
