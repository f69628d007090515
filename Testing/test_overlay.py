"""Maps over the anatomy, as the command line makes them: files, places, exit codes, nothing half-written."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own documentation's name

from PerfusionCBVLib import __version__
from PerfusionCBVLib.alignment.rigid import inverse
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.sealed_record import write_sealed_record
from registration_bench import displacement_mm, registered_pair, small_pair, two_dates


def write_maps(folder, picture):
    """A result folder as `map` leaves it, made by hand: rCBV is the left-right position, so that places show."""
    folder.mkdir()
    index = np.indices(picture.brain.shape)
    x = np.tensordot(picture.affine[0, :3], index, axes=1) + picture.affine[0, 3]
    volumes = {
        "baseline": picture.values,
        "mask": picture.brain.astype(np.uint8),
        "status": picture.brain.astype(np.uint8),
        "reference": picture.brain.astype(np.uint8),
        "rcbv": np.where(picture.brain, 2 + x / 100, np.nan).astype(np.float32),
    }
    for name, values in volumes.items():
        nib.save(nib.Nifti1Image(values, picture.affine), folder / f"{name}.nii.gz")
    (folder / "curves.csv").write_text("time_s,brain\n0,0\n1,2\n", "utf-8")
    record = {
        "version": __version__,
        "settings": {"method": "bsw"},
        "reference": {"kind": "nawm"},
        "findings": [],
        "maps": {"rcbv": {"unit": "{ratio}", "description": "rCBV"}},
        "files": ["reference.nii.gz"],
    }
    write_sealed_record(folder / "provenance.json", record)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    baseline, anatomy, true = small_pair()
    nib.save(nib.Nifti1Image(anatomy.values, anatomy.affine), folder / "t1c.nii.gz")
    return write_maps(folder / "maps", baseline), folder / "t1c.nii.gz", baseline, true


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "overlay"
    with pytest.MonkeyPatch.context() as patch:  # found once for all tests
        patch.setattr("PerfusionCBVLib.alignment.overlay.register", lambda *_: registered_pair())
        assert main(["overlay", str(study[0]), "--anatomy", str(study[1]), "--output", str(out)]) == 0
    return out


def test_overlay_writes_what_it_promises(written):
    names = {path.name for path in written.iterdir()}
    assert names == {"rcbv.nii.gz", "dsc_to_anatomy.tfm", "registration.json", "registration.png"}
    assert set(json.loads((written / "registration.json").read_text("utf-8"))["files"]) == names


def test_the_map_lies_on_the_anatomy_where_the_head_is(study, written):
    _, path, baseline, true = study
    record = json.loads((written / "registration.json").read_text("utf-8"))
    matrix = np.array(record["registration"]["moving_to_fixed_ras_mm"])
    assert displacement_mm(matrix, true, baseline).max() < 1.2
    moved, anatomy = nib.load(written / "rcbv.nii.gz"), nib.load(path)
    assert moved.shape == anatomy.shape
    np.testing.assert_allclose(moved.affine, anatomy.affine)
    values = np.asarray(moved.dataobj)
    index = np.argwhere(np.isfinite(values))
    back = inverse(true) @ moved.affine
    x = index @ back[0, :3] + back[0, 3]
    error = values[np.isfinite(values)] - (2 + x / 100)
    assert np.abs(error).mean() < 0.012  # a hundredth is a millimetre; half a voxel at the mask's border
    volume_ml = index.shape[0] * 2.5**3 / 1000
    assert volume_ml == pytest.approx(baseline.brain.sum() * abs(np.linalg.det(baseline.affine)) / 1000, rel=0.04)


def test_itk_resampling_with_the_written_transform_gives_the_written_map(study, written):
    maps, path, _, _ = study
    # 0 outside, as ITK has no NaN: compare deep inside only.
    native = sitk.ReadImage(str(maps / "rcbv.nii.gz"))
    filled = sitk.GetImageFromArray(np.nan_to_num(sitk.GetArrayFromImage(native)))
    filled.CopyInformation(native)
    mask = sitk.Cast(sitk.ReadImage(str(maps / "mask.nii.gz")), sitk.sitkFloat32)
    transform = sitk.ReadTransform(str(written / "dsc_to_anatomy.tfm"))
    reference = sitk.ReadImage(str(path))
    theirs, weight = (sitk.GetArrayFromImage(sitk.Resample(i, reference, transform)).T for i in (filled, mask))
    ours = np.asarray(nib.load(written / "rcbv.nii.gz").dataobj)
    inside = weight > 0.9999
    assert inside.sum() > 10_000
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-3)


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_one_line(capsys, study, tmp_path):
    maps, anatomy, *_ = study
    out = tmp_path / "out"
    for arguments, expected in (
        (("overlay", tmp_path, "--anatomy", anatomy), 3),
        (("overlay", maps, "--anatomy", tmp_path / "none.nii.gz"), 3),
        (("compare", maps, tmp_path), 3),
        (("compare", maps, maps, "--anatomy-uid", "1.2"), 2),
    ):
        code, err = run(capsys, *arguments, "--output", out)
        assert (code, err.count("\n")) == (expected, 1)
    assert not out.exists() or not list(out.iterdir())


def test_the_folder_of_the_maps_is_not_written_into(capsys, study):
    maps, anatomy, *_ = study
    before = sorted(path.name for path in maps.iterdir())
    for command in (("overlay", maps, "--anatomy", anatomy), ("compare", maps, maps)):
        code, err = run(capsys, *command, "--output", maps)
        assert (code, "another command" in err) == (2, True)
    assert sorted(path.name for path in maps.iterdir()) == before


def test_a_full_disk_leaves_the_earlier_overlay_whole(capsys, monkeypatch, study, written):
    before = {path.name: path.read_bytes() for path in written.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PerfusionCBVLib.alignment.overlay.register", lambda *_: registered_pair())
    monkeypatch.setattr("PerfusionCBVLib.alignment.overlay.registration_picture", full)
    code, err = run(capsys, "overlay", study[0], "--anatomy", study[1], "--output", written)
    assert (code, "No space left" in err) == (1, True)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_compare_finds_that_nothing_changed_between_a_date_and_itself(capsys, tmp_path):
    maps = write_maps(tmp_path / "maps", two_dates()[0])
    code = main(["compare", str(maps), str(maps), "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert code == 0
    assert "whole brain" in out
    record = json.loads((tmp_path / "out" / "provenance.json").read_text("utf-8"))
    assert record["registration"]["displacement_mm"] < 0.1
    difference = np.asarray(nib.load(tmp_path / "out" / "difference.nii.gz").dataobj)
    assert np.nanmax(np.abs(difference)) < 0.01  # a tenth of a voxel's step


def test_a_region_drawn_on_the_anatomy_measures_the_native_map_at_its_place(study, tmp_path, monkeypatch, capsys):
    """rCBV is the left-right position: the mean over a ball on the anatomy says where in the series it was found."""
    maps, path, _, true = study
    monkeypatch.setattr("PerfusionCBVLib.alignment.overlay.register", lambda *_: registered_pair())
    anatomy = nib.load(path)
    middle = np.array([18.0, -6.0, 12.0])  # of the ball, RAS in the series' space
    at = (true @ [*middle, 1])[:3]
    index = np.moveaxis(np.indices(anatomy.shape), 0, -1)
    places = index @ anatomy.affine[:3, :3].T + anatomy.affine[:3, 3]
    ball = (np.linalg.norm(places - at, axis=-1) < 9).astype(np.uint8)
    nib.save(nib.Nifti1Image(ball, anatomy.affine), tmp_path / "ball.nii.gz")
    command = ["measure", str(maps), "--regions", str(tmp_path / "ball.nii.gz"), "--output", str(tmp_path / "m")]
    assert main(command) == 3  # it is not on the maps' grid
    assert "--anatomy" in capsys.readouterr().err
    assert main([*command, "--anatomy", str(path)]) == 0
    written = json.loads((tmp_path / "m" / "measures.json").read_text("utf-8"))
    values = {row["name"]: row["value"] for row in written["regions"][0]["measurements"]}
    assert values["rcbv_mean"] == pytest.approx(2 + middle[0] / 100, abs=0.01)  # within 1 mm
    assert values["volume"] == pytest.approx(4 / 3 * np.pi * 9**3 / 1000, rel=0.03)
    assert written["source"]["registration"]["moving_to_fixed_ras_mm"]
