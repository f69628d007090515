"""Paths as file systems have them: links in a loop, pipes, names that look like options, thousands of files."""

import os

import numpy as np
import pytest

from dicom_fixtures import at_positions_of, make_phantom, write_classic, write_nifti
from PerfusionCBVLib.arterial import read_arterial_curve
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import InputRefusedError, UnreadableInputError
from PerfusionCBVLib.load import load_series

NAMES = [
    "a b",
    "-x",
    "--output",
    "ä☢",
    "new\nline",
    "tab\t",
    "'quote\"",
    "%s",
    "*",
    "$(x)",
    "a;b",
    ".hidden",
    "x" * 200,
]


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((8, 6, 2, 16))


def refused(path, words=None):
    with pytest.raises(InputRefusedError, match=words) as caught:
        load_series(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_is_read(tmp_path, phantom, name):
    path = write_nifti(phantom, tmp_path / f"{name}.nii")
    np.testing.assert_array_equal(load_series(path).signal, phantom.signal)
    (tmp_path / f"{name}.nii.gz").write_bytes(b"damaged")
    refused(tmp_path / f"{name}.nii.gz", "truncated, damaged")


def test_a_loop_of_links_in_a_folder_has_an_end(tmp_path, phantom):
    folder = write_classic(phantom, tmp_path / "d")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "nowhere").symlink_to(folder / "missing")
    np.testing.assert_array_equal(at_positions_of(load_series(folder), phantom), phantom.signal)
    refused(folder / "self")
    refused(folder / "nowhere")


@pytest.mark.parametrize("name", ["pipe", "pipe.nii", "pipe.nii.gz", "pipe.seq.nrrd", "pipe.zip"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, phantom, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "is a pipe or device")
    folder = write_classic(phantom, tmp_path / "d")
    os.mkfifo(folder / name)
    assert load_series(folder).frames == 16


def test_a_sidecar_or_arterial_curve_that_is_a_pipe_or_device_is_refused(tmp_path, phantom):
    path = write_nifti(phantom, tmp_path / "dsc.nii")
    os.mkfifo(tmp_path / "dsc.json")
    refused(path, "dsc.json is a pipe or device")
    for source in (tmp_path / "dsc.json", "/dev/zero", tmp_path):
        with pytest.raises(UnreadableInputError):
            read_arterial_curve(source)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "/dev/zero", "/dev/null", "nothing"])
def test_paths_that_are_no_file_are_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(name)


def test_a_folder_of_more_files_than_any_study_is_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("PerfusionCBVLib.load.MOST_FILES", 20)
    for count in range(30):
        (tmp_path / f"{count}").touch()
    refused(tmp_path, "more than 20 files")


def test_two_thousand_small_files_of_other_kinds_are_passed_over(tmp_path, phantom):
    folder = write_classic(phantom, tmp_path / "d")
    for count in range(2000):
        (folder / f"{count}.txt").touch()
    np.testing.assert_array_equal(at_positions_of(load_series(folder), phantom), phantom.signal)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_that_may_not_be_read_are_refused(tmp_path, phantom):
    folder = write_classic(phantom, tmp_path / "d")
    (folder / "IM00003.dcm").chmod(0)
    refused(folder, "can't be opened")
    path = write_nifti(phantom, tmp_path / "dsc.nii")
    path.chmod(0)
    refused(path, "can't be opened")


def test_the_command_line_ends_with_3_and_one_line_for_a_name_with_a_line_break(tmp_path, capsys):
    path = tmp_path / "a\nb\x1b[31m.nii"
    path.write_bytes(b"no image")
    assert main(["check", str(path)]) == 3
    assert capsys.readouterr().err == (
        "perfusion-cbv: a b?[31m.nii is truncated, damaged or no NIfTI file. Copy or export it again.\n"
    )


@pytest.mark.parametrize("text", ["0,1\n1," + "9" * 200_000, '"' + "x" * 200_000, "\0", "a" * 10_000, "1;2\n" * 3])
def test_a_hostile_arterial_curve_is_refused_in_one_short_sentence(tmp_path, text):
    (tmp_path / "aif.csv").write_text(text)
    with pytest.raises(InputRefusedError) as caught:
        read_arterial_curve(tmp_path / "aif.csv")
    assert len(str(caught.value)) < 600
