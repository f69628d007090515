"""What the library must never do with what it is given: run it, unpickle it, leave it behind, or show it as markup."""

import ast
import csv
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import PerfusionCBVLib
from dicom_fixtures import make_phantom, write_classic
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps, load_series
from PerfusionCBVLib.alignment.comparison_output import write_measurements
from PerfusionCBVLib.csv_cells import harmless
from PerfusionCBVLib.durable import write_whole
from PerfusionCBVLib.errors import ModelError
from PerfusionCBVLib.measures.measure import MeasureSettings, measure_regions
from PerfusionCBVLib.measures.output import write_measures
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.networks.cards import WEIGHTS_FOLDER, load_network
from PerfusionCBVLib.one_page import Reading, page_html
from PerfusionCBVLib.report import report_html

LIBRARY = Path(PerfusionCBVLib.__file__).parent
SHIPPED = sorted([*LIBRARY.rglob("*.py"), LIBRARY.parent / "PerfusionCBV.py", *LIBRARY.parent.glob("Resources/*.py")])

RUNS_CODE = {"eval", "exec", "compile", "__import__", "breakpoint"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
SENDS = {"urllib.request", "http.client", "ftplib", "smtplib", "telnetlib", "socket", "requests", "pynetdicom"}
SENDERS = {"dicom_out/send.py", "dicom_out/stow.py", "dicom_out/objects.py", "dicom_out/command.py", "web/gateway.py"}
"""What `dicom --send` and `--stow` need, which send to where the user says and nowhere else; and the server of `view`,
which answers, and asks its own sessions on loopback."""


def offences(source: str) -> list[str]:
    """What in a source text runs or unpickles data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in UNPICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLES:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            found += _offences_of_call(node)
    return found


def _offences_of_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
    last = name.rsplit(".", 1)[-1]
    if isinstance(node.func, ast.Name) and name in RUNS_CODE:
        return [name]
    if name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
        return [name]
    if keywords.get("shell", "False") != "False":
        return [f"{name}(shell={keywords['shell']})"]
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return ["torch.load without weights_only=True"]
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "torch.package.PackageImporter"):
        return [name]
    allows_pickles = last == "read_pickle" or keywords.get("allow_pickle", "False") != "False"
    return [f"{name} of pickles"] if name.startswith(("np.", "numpy.", "pd.")) and allows_pickles else []


def test_nothing_that_ships_runs_or_unpickles_data():
    """Training goes on from its own checkpoints by `torch.load(weights_only=True)`, which makes tensors and plain
    values only: optimiser states, which safetensors can't hold. Weights that ship are safetensors."""
    assert len(SHIPPED) > 100
    assert {path.name: found for path in SHIPPED if (found := offences(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "import pickle", "from joblib import load", "torch.load(path)",
        "torch.load(path, weights_only=False)", "yaml.load(text)", "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)", "os.system(text)", "__import__(name)",
    ],
)  # fmt: skip
def test_the_scan_sees(line):
    assert offences(f"def f(path, text, name):\n    {line}")


def test_only_what_sends_on_request_can_reach_a_network():
    reaching = set()
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name in SENDS or name.startswith(("pynetdicom.", "dicomweb_client")) for name in names):
                reaching.add(path.relative_to(LIBRARY).as_posix())
    assert {"dicom_out/send.py", "dicom_out/stow.py"} <= reaching <= SENDERS


# Weights


@pytest.fixture
def weights(tmp_path):
    for suffix in ("json", "safetensors"):
        shutil.copyfile(WEIGHTS_FOLDER / f"conv3d.{suffix}", tmp_path / f"conv3d.{suffix}")
    load_network("conv3d", tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_weights_with_one_flipped_bit_are_refused(weights, place):
    path = weights / "conv3d.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="altered or damaged"):
        load_network("conv3d", weights)


def test_a_link_to_other_weights_is_refused(weights):
    path = weights / "conv3d.safetensors"
    path.unlink()
    path.symlink_to(WEIGHTS_FOLDER / "convlstm2d.safetensors")
    with pytest.raises(ModelError, match="altered or damaged"):
        load_network("conv3d", weights)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (Bomb.path,))


def test_a_pickle_named_safetensors_is_refused_and_not_run_even_with_its_hash_on_the_card(weights, tmp_path):
    import hashlib
    import json

    Bomb.path = str(tmp_path / "run")
    content = pickle.dumps(Bomb())
    (weights / "conv3d.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="altered or damaged"):
        load_network("conv3d", weights)
    card = json.loads((weights / "conv3d.json").read_text("utf-8"))
    card["sha256"] = hashlib.sha256(content).hexdigest()
    (weights / "conv3d.json").write_text(json.dumps(card), "utf-8")
    with pytest.raises(ModelError, match="no safetensors"):
        load_network("conv3d", weights)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    Bomb.path = str(tmp_path / "run")
    torch.save({"step": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert not (tmp_path / "run").exists()


# Temporary files


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("archive")
    folder = write_classic(make_phantom(), root / "dicom")
    with zipfile.ZipFile(root / "dicom.zip", "w") as packed:
        for file in folder.iterdir():
            packed.write(file, file.name)
    return root / "dicom.zip"


@pytest.mark.parametrize("event", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_temporary_files_are_private_and_removed_when_reading_is_broken_off(archive, temporary, monkeypatch, event):
    seen = []

    def break_off(*_, **__):
        seen.extend((path, stat.S_IMODE(path.stat().st_mode)) for path in temporary.iterdir())
        assert any(temporary.rglob("*.dcm"))
        raise event

    monkeypatch.setattr("PerfusionCBVLib.dicom_convert._run", break_off)
    with pytest.raises(event):
        load_series(archive)
    assert [mode for _, mode in seen] == [0o700, 0o700]
    assert list(temporary.iterdir()) == []


def test_nothing_is_left_when_the_program_is_asked_to_end(archive, tmp_path):
    """SIGTERM, as a shutdown or a cluster's scheduler sends it: images of a patient must not stay in /tmp."""
    folder = tmp_path / "t"
    folder.mkdir()
    code = (
        "import sys, time; from PerfusionCBVLib import cli, dicom_convert\n"
        "dicom_convert._run = lambda *_: (print('ready', flush=True), time.sleep(60))\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "map", str(archive), "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder)}
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert list(folder.iterdir())
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (4, b"perfusion-cbv: cancelled; nothing was written\n")
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_half_a_file_does_not_stay_and_the_older_one_does(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_whole(path, b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"old"


# Markup and formulas

SCRIPT = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture(scope="module")
def result():
    head = graded_head(shape=(48, 56, 6), frames=36, leakage_per_s=0.02)
    return head, compute_maps(head.series, Settings(method="bsw"))


def test_names_from_the_input_do_not_become_markup(result):
    head, maps = result
    acquisition = replace(
        head.series.acquisition, manufacturer=SCRIPT, contrast_agent=SCRIPT, sources={"manufacturer": SCRIPT}
    )
    series = replace(
        head.series, name=SCRIPT, source=SCRIPT, notes=(SCRIPT,), acquisition=acquisition, input_sha256={SCRIPT: SCRIPT}
    )
    hostile = compute_maps(series, Settings(method="bsw"))
    hostile.provenance["identity"] = {SCRIPT: SCRIPT}
    measured = measure_regions([Region(SCRIPT, head.lesion)], hostile)
    reading = Reading(
        hostile, {SCRIPT: head.lesion}, [row for each in measured for row in each.measurements], {SCRIPT: SCRIPT}
    )
    clean = report_html(maps), page_html(Reading(maps))
    for html, without in zip((report_html(hostile), page_html(reading)), clean, strict=True):
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "&lt;script&gt;" in html
        assert html.count("<img ") == without.count("<img ")


FORMULAS = ['=HYPERLINK("http://192.0.2.1","x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", " =1", "\r=1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_segments_name_is_no_formula_in_a_table(result, tmp_path, name):
    head, maps = result
    measured = measure_regions([Region(name, head.lesion)], maps)
    write_measures(measured, tmp_path, settings=MeasureSettings(), affine=maps.affine, source={})
    write_measurements(tmp_path / "changes.csv", measured[0].measurements)
    for table in ("measures.csv", "changes.csv"):
        with (tmp_path / table).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["region"] for row in rows} == {f"'{name}"}
        assert any(float(row["value"] or 0) for row in rows)  # numbers, negative ones too, are as they were


@pytest.mark.parametrize("name", ["Tumour", "tumour =1", "1-2", "", "Ödem"])
def test_other_names_are_as_they_were(name):
    assert harmless(name) == name


def test_maps_carry_no_text_of_the_series_header(tmp_path, result):
    from PerfusionCBVLib import write_result

    write_result(result[1], tmp_path)
    for path in tmp_path.glob("*.nii.gz"):
        header = nib.load(path).header
        for field in ("descrip", "db_name", "aux_file", "intent_name"):
            assert not np.asarray(header[field]).item()
        assert not header.extensions
