"""The command line as a user meets it: exit codes, one line on standard error, files in the folder."""

import hashlib
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from dsc_phantom import graded_head, no_bolus
from PerfusionCBVLib import Cancelled
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.networks.cards import WEIGHTS_FOLDER
from PerfusionCBVLib.simulate import draw_subject

FILES = {
    "rcbv.nii.gz",
    "k1.nii.gz",
    "k2.nii.gz",
    "mask.nii.gz",
    "status.nii.gz",
    "reference.nii.gz",
    "provenance.json",
    "report.html",
}


@pytest.fixture(scope="module")
def head():
    return graded_head(leakage_per_s=0.03)


def save(path, signal, affine, interval_s, sidecar):
    image = nib.Nifti1Image(signal, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = interval_s
    nib.save(image, path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar), "utf-8")
    return path


@pytest.fixture(scope="module")
def nifti(head, tmp_path_factory):
    return save(
        tmp_path_factory.mktemp("input") / "dsc.nii.gz",
        head.series.signal,
        head.series.affine,
        1.5,
        {"EchoTime": 0.03, "RepetitionTime": 1.5, "FlipAngle": 60, "MagneticFieldStrength": 3},
    )


@pytest.fixture(scope="module")
def written(nifti, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    assert main(["map", str(nifti), "--output", str(folder), "--method", "bsw"]) == 0
    return folder


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_map_writes_the_promised_files(written, head):
    names = {path.name for path in written.iterdir()}
    assert names >= FILES
    assert not [name for name in names if name.startswith(".")]
    provenance = json.loads((written / "provenance.json").read_text("utf-8"))
    assert set(provenance["files"]) == names
    for path in written.glob("*.nii.gz"):
        image = nib.load(path)
        assert image.shape == head.white.shape
        np.testing.assert_allclose(image.affine, head.series.affine, atol=1e-6)
    rcbv = np.asarray(nib.load(written / "rcbv.nii.gz").dataobj)
    assert np.nanmean(rcbv[head.lesion]) == pytest.approx(3.0, rel=0.06)


def test_json_summary_is_json_and_nothing_else(capsys, nifti, tmp_path):
    code, out, err = run(capsys, "map", nifti, "--output", tmp_path, "--method", "integral", "--json")
    summary = json.loads(out)
    assert (code, err, summary["method"]) == (0, "", "integral")
    assert summary["summary"]["brain_voxels"] > 1000


def test_a_given_mask_and_reference_are_used(capsys, nifti, head, tmp_path):
    for name, region in (("mask", head.volume > 0), ("reference", head.white)):
        nib.save(nib.Nifti1Image(region.astype(np.uint8), head.series.affine), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    code, *_ = run(
        capsys, "map", nifti, "--output", out, "--method", "bsw",
        "--mask", tmp_path / "mask.nii.gz", "--reference", tmp_path / "reference.nii.gz",
    )  # fmt: skip
    assert code == 0
    for name, region in (("mask", head.volume > 0), ("reference", head.white)):
        np.testing.assert_array_equal(np.asarray(nib.load(out / f"{name}.nii.gz").dataobj) > 0, region)


def test_a_second_run_replaces_the_first_and_keeps_foreign_files(capsys, nifti, tmp_path):
    run(capsys, "map", nifti, "--output", tmp_path, "--method", "bidirectional")
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    assert (tmp_path / "kep.nii.gz").exists()
    run(capsys, "map", nifti, "--output", tmp_path, "--method", "integral")
    assert not (tmp_path / "kep.nii.gz").exists()
    assert not (tmp_path / "k2.nii.gz").exists()
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


def test_check_passes_a_good_series_and_makes_no_map(capsys, nifti):
    before = sorted(nifti.parent.iterdir())
    code, out, err = run(capsys, "check", nifti, "--json")
    findings = json.loads(out)
    assert (code, err) == (0, "")
    assert {"code", "severity", "message", "advice", "value"} <= set(findings[0])
    assert sorted(nifti.parent.iterdir()) == before


def refused(code, err, *words):
    assert code == 3
    assert err.startswith("perfusion-cbv: ")
    assert err.count("\n") == 1, "one line"
    assert all(word in err for word in words), err


def test_no_echo_time_is_refused_and_can_be_given(capsys, head, tmp_path):
    path = save(tmp_path / "a.nii.gz", head.series.signal, head.series.affine, 1.5, {"RepetitionTime": 1.5})
    code, _, err = run(capsys, "map", path, "--output", tmp_path / "out", "--method", "bsw")
    refused(code, err, "echo time", "--echo-time")
    assert not (tmp_path / "out" / "rcbv.nii.gz").exists()
    arguments = ("map", path, "--output", tmp_path / "out", "--method", "bsw", "--echo-time", 0.03)
    assert run(capsys, *arguments)[0] == 0


def test_a_resting_state_series_is_refused_by_map_and_check(capsys, head, tmp_path):
    times_s, curve = no_bolus("resting-state", 4)
    still = head.series.signal[..., :5].mean(axis=-1, keepdims=True)
    noise = np.random.default_rng(0).standard_normal((*still.shape[:3], curve.size)) * 4
    signal = np.abs(still * (curve / curve.mean()) + noise).astype(np.float32)
    interval_s = float(times_s[1] - times_s[0])
    path = save(
        tmp_path / "rest.nii.gz", signal, head.series.affine, interval_s,
        {"EchoTime": 0.03, "RepetitionTime": interval_s},
    )  # fmt: skip
    code, _, err = run(capsys, "map", path, "--output", tmp_path / "out", "--method", "bsw")
    refused(code, err, "bolus")
    code, out, err = run(capsys, "check", path)
    refused(code, err, "bolus")
    assert "ERROR" in out


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.nii.gz", ["no file or folder INPUT."]),
        (
            lambda folder: (folder / "text.nii.gz").write_text("no image", "utf-8") and folder / "text.nii.gz",
            ["INPUT is truncated"],
        ),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", ["The folder", "is empty"]),
    ],
    ids=["missing", "not an image", "empty folder"],
)
def test_unreadable_input_is_refused_in_one_line(capsys, tmp_path, make, words):
    refused(*run(capsys, "check", make(tmp_path))[::2], *words)


def test_a_three_dimensional_image_is_refused(capsys, head, tmp_path):
    path = save(tmp_path / "t1.nii.gz", head.series.signal[..., 0], head.series.affine, 1.0, {"EchoTime": 0.03})
    refused(*run(capsys, "map", path, "--output", tmp_path / "out")[::2], "3")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["map"],
        ["map", "x.nii.gz"],
        ["map", "x.nii.gz", "--output", "out", "--method", "magic"],
        ["fly"],
        ["map", "x.nii.gz", "--output", "out", "--normalize", "liver"],
    ],
)
def test_wrong_usage_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("perfusion-cbv")
    assert "--help" in said
    assert said.count("\n") == 1


def test_reference_with_another_normalisation_is_wrong_usage(capsys, nifti, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((56, 64, 8), np.uint8), nib.load(nifti).affine), tmp_path / "r.nii.gz")
    code, _, err = run(
        capsys, "map", nifti, "--output", tmp_path / "out", "--reference", tmp_path / "r.nii.gz", "--normalize", "brain"
    )
    assert code == 2
    assert "reference" in err


def test_a_mask_on_another_grid_is_refused(capsys, nifti, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((10, 10, 8), np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
    code, _, err = run(capsys, "map", nifti, "--output", tmp_path / "out", "--mask", tmp_path / "m.nii.gz")
    refused(code, err, "10", "56")


@pytest.mark.parametrize("event", [KeyboardInterrupt(), Cancelled("cancelled")])
def test_cancelling_exits_with_4_and_leaves_nothing(capsys, monkeypatch, nifti, tmp_path, event):
    def interrupted(*_, **__):
        raise event

    monkeypatch.setattr("PerfusionCBVLib.map_request.compute_maps", interrupted)
    out = tmp_path / "out"
    code, _, err = run(capsys, "map", nifti, "--output", out)
    assert code == 4
    assert "cancelled" in err
    assert not out.exists() or not list(out.iterdir())


def test_a_full_disk_leaves_the_earlier_result_whole(capsys, monkeypatch, nifti, tmp_path):
    run(capsys, "map", nifti, "--output", tmp_path, "--method", "integral")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PerfusionCBVLib.output.write_report", full)
    code, _, err = run(capsys, "map", nifti, "--output", tmp_path, "--method", "bsw")
    assert code == 1
    assert "No space left" in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_simulate_writes_a_series_that_map_reads(capsys, tmp_path):
    scan = {"matrix": (48, 56, 10), "voxel_size_mm": (4.0, 4.0, 6.0), "frames": 40, "repetition_time_s": 1.5}
    drawn = draw_subject(np.random.default_rng(5), scan=scan)
    (tmp_path / "drawn.json").write_text(drawn.to_json(), "utf-8")
    code, out, _ = run(capsys, "simulate", "--output", tmp_path / "sim", "--parameters", tmp_path / "drawn.json")
    assert code == 0
    assert str(tmp_path / "sim" / "dsc.nii.gz") in out
    again = tmp_path / "again"
    parameters = tmp_path / "sim" / "parameters.json"
    run(capsys, "simulate", "--output", again, "--parameters", parameters)
    both = ("simulate", "--output", again, "--parameters", parameters, "--frames", 60)
    assert run(capsys, *both)[0] == 2, "one of the two would be left out in silence"
    one, two = (np.asarray(nib.load(f / "dsc.nii.gz").dataobj) for f in (tmp_path / "sim", again))
    assert one.shape == (48, 56, 10, 40)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    maps = ("--output", tmp_path / "maps", "--method", "bsw", "--normalize", "brain")
    assert run(capsys, "map", again / "dsc.nii.gz", *maps)[0] == 0


@pytest.mark.parametrize(("option", "field", "value"), [
    ("--frames", "frames", 41),
    ("--repetition-time", "repetition_time_s", 1.7),
    ("--echo-time", "echo_time_s", 0.041),
    ("--flip-angle", "flip_angle_deg", 33.0),
])  # fmt: skip
def test_simulate_takes_the_protocol_and_the_seed_from_its_options(capsys, tmp_path, monkeypatch, option, field, value):
    taken = []

    def keep(parameters, device):
        taken.append(parameters)
        raise Cancelled("enough")

    monkeypatch.setattr("PerfusionCBVLib.simulate.simulate", keep)
    for seed in (5, 5, 6):
        run(capsys, "simulate", "--output", tmp_path / "sim", "--seed", seed, option, value)
    assert [getattr(each.scan, field) for each in taken] == [value] * 3
    assert taken[0] == taken[1]
    assert taken[0] != taken[2]


def test_as_a_process(nifti, tmp_path):
    """The module runs by itself, without a terminal there is no bar, and the exit code reaches the shell."""
    command = [sys.executable, "-m", "PerfusionCBVLib", "check"]
    good = subprocess.run([*command, str(nifti)], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    refused(bad.returncode, bad.stderr, "The folder INPUT is empty", "--with-identifiers")


def test_demo_maps_with_the_network_and_writes_the_classical_map_beside_it(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--output", tmp_path)
    assert code == 0
    assert "report.html" in out
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= FILES | {"rcbv_classical.nii.gz"}
    provenance = json.loads((tmp_path / "provenance.json").read_text("utf-8"))
    assert provenance["settings"]["method"] == "anchored-unet"
    assert len(provenance["network"]["weights_sha256"]) == 64


# --- measure ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "segments.nii.gz"
    values = np.where(head.lesion, 1, 2 * head.white).astype(np.uint8)
    nib.save(nib.Nifti1Image(values, head.series.affine), path)
    return path


def test_measure_writes_the_lesions_numbers(capsys, written, labels, tmp_path):
    code, out, err = run(capsys, "measure", written, "--regions", labels, "--output", tmp_path, "--mirror")
    assert code == 0
    assert {"measures.csv", "measures.json", "histogram.png"} <= {path.name for path in tmp_path.iterdir()}
    content = json.loads((tmp_path / "measures.json").read_text("utf-8"))
    found = {row["name"]: row["value"] for row in content["regions"][0]["measurements"]}
    assert found["rcbv_mean"] == pytest.approx(3.0, rel=0.06)
    assert found["ftb_high"] == pytest.approx(100.0, abs=0.5)
    assert content["source"]["provenance"]["settings"]["method"] == "bsw"
    assert "label 1" in out
    assert "Mean rCBV " in out
    assert "label 2: label 2 reaches across the midline" in err  # and is measured without a mirror image


def test_measure_follows_its_options_and_prints_json(capsys, written, labels, tmp_path):
    code, out, _ = run(
        capsys, "measure", written, "--regions", labels, "--output", tmp_path, "--json",
        "--hot-spot-area", 25, "--cut-offs", "2.9,3.5",
    )  # fmt: skip
    content = json.loads(out)
    assert code == 0
    assert content["settings"] == {"hot_spot_area_mm2": 25.0, "cut_offs": [2.9, 3.5]}
    found = {row["name"]: row["value"] for row in content["regions"][0]["measurements"]}
    assert found["ftb_high"] < 60
    assert found["rcbv_hot_spot"] > found["rcbv_mean"]


def test_measure_refuses_what_it_cannot_measure_in_one_line(capsys, written, labels, head, tmp_path):
    out = tmp_path / "out"
    refused(*run(capsys, "measure", tmp_path, "--regions", labels, "--output", out)[::2], "provenance.json", "map")
    refused(
        *run(capsys, "measure", written, "--regions", written / "none.nii.gz", "--output", out)[::2],
        "--regions can't be opened",
    )
    other = tmp_path / "t1.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((40, 40, 40), np.uint8), np.eye(4)), other)
    refused(*run(capsys, "measure", written, "--regions", other, "--output", out)[::2], "grid", "--anatomy")
    assert not out.exists()
    for options in (("--cut-offs", "2"), ("--cut-offs", "2,1"), ("--cut-offs", "a,b"), ("--hot-spot-area", "-3")):
        code, _, err = run(capsys, "measure", written, "--regions", labels, "--output", out, *options)
        assert (code, err.count("\n")) == (2, 1)
    assert not out.exists()


def test_models_tells_each_network_and_its_errors(capsys, monkeypatch):
    code, out, _ = run(capsys, "models")
    cards = json.loads(run(capsys, "models", "--json")[1])
    lines = out.splitlines()
    assert code == 0
    assert (
        [line.split(":")[0] for line in lines]
        == [card["name"] for card in cards]
        == ["anchored-unet", "conv3d", "convlstm2d", "unet-gru"]
    )
    for line, card in zip(lines, cards, strict=True):
        weights = (WEIGHTS_FOLDER / f"{card['name']}.safetensors").read_bytes()
        assert f"sha256 {hashlib.sha256(weights).hexdigest()[:12]}…" in line
        test, heads = card["measured"]["test"], card["measured"]["other_simulator"]
        for score in (test["nrmse"], test["nrmse_classical"]):
            assert f"{score:.3f}" in line
        assert f"{heads['to_classical']:.2f} × bsw" in line

    unmeasured = {card["name"]: {**card, "measured": {"validation": {"nrmse": 0.1}}} for card in cards}
    monkeypatch.setattr("PerfusionCBVLib.cli.read_card", unmeasured.get)
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert out.count("no measured error on its card") == len(cards)
    assert "NRMSE" not in out
