"""Maps without a screen, as Slicer runs the script; the code it exits with."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
import nibabel

import slicer_scene
from dsc_phantom import graded_head
from PerfusionCBVLib import cli, load_series, map_request
from PerfusionCBVLib.gui import dependencies

pytestmark = pytest.mark.slicer

SCRIPT = Path(__file__).parent.parent / "PerfusionCBV" / "Resources" / "batch.py"


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Run the script with arguments as Slicer passes them on; return the exit code that Slicer gets."""
    slicer_scene.start(tmp_path / "slicer")
    codes = []
    monkeypatch.setattr(slicer.util, "exit", codes.append)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--", *map(str, arguments)])
        codes.clear()
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return codes[-1]

    return run


@pytest.fixture
def series_file(tmp_path):
    return write(tmp_path / "dsc.nii.gz", graded_head(shape=(40, 46, 6), frames=40).series.signal)


def write(path, signal):
    image = nibabel.Nifti1Image(signal, np.diag([3.4, 3.4, 6.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nibabel.save(image, path)
    path.with_name("dsc.json").write_text(json.dumps({"EchoTime": 0.03}))
    return path


def test_maps_are_written_as_the_command_line_writes_them(batch, series_file, tmp_path):
    assert batch("--input", series_file, "--output", tmp_path / "maps", "--method", "bsw") == 0
    assert cli.main(["map", str(series_file), "--output", str(tmp_path / "cli"), "--method", "bsw"]) == 0
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {p.name for p in (tmp_path / "cli").iterdir()}
    ours, theirs = (nibabel.load(tmp_path / name / "rcbv.nii.gz").get_fdata() for name in ("maps", "cli"))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(nibabel.load(tmp_path / "maps/rcbv.nii.gz").affine, load_series(series_file).affine)


@pytest.mark.parametrize("arguments", [["--input", "a"], ["--output", "b"], ["--input", "a", "--output", "b", "--x"]])
def test_wrong_usage_exits_with_2_and_says_what_is_missing(batch, arguments, capsys):
    assert batch(*arguments) == 2
    assert "--help` lists what is possible" in capsys.readouterr().err


def test_a_refused_series_exits_with_3_and_one_line(batch, tmp_path, capsys):
    flat = write(tmp_path / "dsc.nii.gz", np.full((20, 20, 4, 30), 500, np.float32))
    assert batch("--input", flat, "--output", tmp_path / "maps") == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "maps").exists()


def test_an_interrupted_run_exits_with_4(batch, series_file, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(map_request, "compute_maps", interrupt)
    assert batch("--input", series_file, "--output", tmp_path / "maps") == 4


def test_a_fault_of_ours_exits_with_1_and_is_not_hidden(batch, series_file, tmp_path, monkeypatch):
    codes = []
    monkeypatch.setattr(map_request, "compute_maps", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(slicer.util, "exit", codes.append)
    with pytest.raises(ZeroDivisionError):
        batch("--input", series_file, "--output", tmp_path / "maps")
    assert codes == [1]


def test_missing_packages_are_named_and_installed_only_when_asked_for(
    batch, series_file, tmp_path, monkeypatch, capsys
):
    installed = []
    monkeypatch.setattr(slicer.util, "pip_install", installed.extend)
    monkeypatch.setattr(dependencies, "_is_installed", lambda line: not line.startswith("tqdm"))
    arguments = ("--input", series_file, "--output", tmp_path / "maps", "--method", "integral")
    assert batch(*arguments) == 1
    assert "tqdm>=4.66); add --install-packages" in capsys.readouterr().err
    assert installed == []
    assert batch(*arguments, "--install-packages") == 0
    assert installed == ["tqdm>=4.66"]


def test_a_folder_named_like_an_option_word_is_taken_as_input(batch):
    command = runpy.run_path(str(SCRIPT))["command"]
    assert command(["--output", "o", "--input", "map", "--method", "bsw"]) == [
        "map",
        "map",
        "--output",
        "o",
        "--method",
        "bsw",
    ]
