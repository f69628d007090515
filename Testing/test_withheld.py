"""Names planted everywhere come out nowhere, unless they are asked for; and the main job needs no network."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_fixtures import edit_headers
from PerfusionCBVLib import cli
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.stored import read_result
from PerfusionCBVLib.withheld import WITHHELD_TEXT, unnamed_provenance, withhold, without_identifiers, without_names
from planted import NAME, SECRETS, make_planted, secrets_in, secrets_in_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return make_planted(tmp_path_factory.mktemp("planted"))


def without_network() -> list[str]:
    """What to put before a command for a network of its own with nothing in it; nothing where that is not allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        return command
    return []


@pytest.fixture(scope="module")
def job(planted, tmp_path_factory):
    """The main job on both kinds of input, in a process of its own with an empty folder for temporary files."""
    root = tmp_path_factory.mktemp("job")
    out, temporary = root / "out", root / "tmp"
    temporary.mkdir()
    p = planted
    archive = p.folder / f"{NAME}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in p.dicom.iterdir():
            packed.write(file, f"{NAME}/{file.name}")
    commands = [
        ["check", p.dicom, "--json"],
        ["map", archive, "--output", out / "network", "--method", "anchored-unet", "--aif", "auto"],
        ["measure", out / "network", "--regions", p.regions, "--output", out / "measures", "--mirror"],
        ["report", out / "network", "--regions", p.regions, "--output", out / "page.html"],
        ["report", out / "network", "--regions", p.regions, "--output", out / "page.pdf"],
        ["dicom", out / "network", "--source", p.dicom, "--output", root / "objects", "--converted-elsewhere"],
        ["map", p.nifti, "--output", out / "classical", "--method", "bsw", "--aif", p.aif, "--json"],
        ["overlay", out / "classical", "--anatomy", p.anatomy, "--output", out / "overlay"],
        ["compare", out / "classical", out / "classical", "--regions", p.regions, "--output", out / "compare"],
    ]
    commands = [[str(word) for word in command] for command in commands]
    (root / "commands.json").write_text(json.dumps(commands), "utf-8")
    script = [sys.executable, HERE / "watched_run.py", root / "commands.json", root / "watched.json"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [*without_network(), *script], capture_output=True, env=environment, check=False, cwd=root, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return root, out, json.loads((root / "watched.json").read_text("utf-8")), done


def test_the_main_job_succeeds_without_a_network_and_never_tries_to_reach_one(job):
    _, _, watched, done = job
    assert watched["codes"] == [0] * 9, done.stderr.decode()
    assert watched["attempts"] == []


def test_the_watch_sees_an_attempt(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import watched_run as w; sys.addaudithook(w.refuse)\n"
        "import socket, urllib.request\n"
        "for reach in (lambda: socket.create_connection(('192.0.2.1', 80)),\n"
        "              lambda: socket.gethostbyname('a.example'),\n"
        "              lambda: urllib.request.urlopen('http://192.0.2.1/')):\n"
        "    try: reach()\n"
        "    except OSError: pass\n"
        "print(len(w.attempts))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 3


def test_planted_names_stand_in_no_file_and_no_message(job):
    _, out, _, done = job
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".gz", ".json", ".html", ".pdf", ".png", ".csv"}
    assert {path.relative_to(out).as_posix(): found for path in files if (found := secrets_in_file(path))} == {}
    assert secrets_in(done.stdout) | secrets_in(done.stderr) == set()


def test_the_search_finds_names_where_they_are(planted, job, tmp_path):
    root = job[0]
    assert secrets_in_file(next(planted.dicom.iterdir())) >= {"name", "birth date", "private", "institution"}
    assert secrets_in_file(planted.nifti) == {"name"}
    assert "name" in secrets_in_file(next((root / "objects").glob("map_*.dcm")))  # for the archive: with the patient
    assert all(NAME.lower() not in path.name.lower() for path in (root / "objects").iterdir())


def test_temporary_files_are_private_while_work_goes_on_and_gone_afterwards(job):
    watched = job[2]
    assert len(watched["temporary"]) >= 2  # the unpacked .zip, and dcm2niix' folder
    assert {entry["mode"] for entry in watched["temporary"]} <= {0o700, 0o600}
    assert watched["left"] == []
    assert [path for path in job[1].rglob(".*")] == []


def test_hashes_and_uids_stay_so_that_the_input_can_be_found_again(job, planted):
    provenance = json.loads((job[1] / "network" / "provenance.json").read_text("utf-8"))
    archive, dicom = provenance["input"]["sha256"].items()
    assert archive[0] == "series.zip"
    assert re.fullmatch(r"dicom:[\d.]+", dicom[0])
    assert {len(archive[1]), len(dicom[1])} == {64}
    assert provenance["acquisition"]["contrast_agent"]["value"] == "Gadovist"
    classical = json.loads((job[1] / "classical" / "provenance.json").read_text("utf-8"))
    assert set(classical["input"]["sha256"]) == {"series.nii.gz", "series.json"}
    assert classical["acquisition"]["echo_time_s"]["source"] == "series.json: EchoTime"
    assert classical["arterial_input"]["source"] == "curve"


def test_html_pages_refer_to_nothing_outside_themselves(job):
    for page in (job[1] / "network" / "report.html", job[1] / "page.html"):
        html = page.read_text("utf-8")
        addresses = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'>\s]{1,40})""", html)
        assert addresses
        assert all(address.startswith("data:image/png;base64,") for address in addresses)
        assert not re.search(r"@import|url\((?!data:)|<script|<link|<iframe|<object|<embed|http-equiv", html)


@pytest.mark.parametrize("address", ["http://192.0.2.1/x.png", "file:///etc/hostname", "ftp://192.0.2.1/x"])
def test_a_pdf_fetches_nothing(job, monkeypatch, address, tmp_path):
    weasyprint = pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))
    from PerfusionCBVLib import one_page

    opened = []
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, *_, **__: opened.append(url.full_url))
    monkeypatch.setattr(
        one_page, "page_html", lambda *_: f'<img src="{address}"><link rel=stylesheet href="{address}">'
    )
    one_page.write_page(object(), tmp_path / "page.pdf")
    assert opened == []
    weasyprint.HTML(string=f'<img src="{address}">').render()  # without our fetcher it would
    assert opened == [address]


def test_with_identifiers_names_stand_where_they_were_asked_for(planted, tmp_path, capsys):
    maps = tmp_path / "maps"
    assert main(["map", str(planted.dicom), "--output", str(maps), "--method", "bsw", "--with-identifiers"]) == 0
    provenance = json.loads((maps / "provenance.json").read_text("utf-8"))
    assert provenance["identity"]["Patient"] == f"{NAME} {SECRETS['given name']}"
    assert provenance["identity"]["Born"] == "1948-02-29"
    report = (maps / "report.html").read_text("utf-8")
    assert f"rCBV of DSC perf {NAME} / ep2d_perf_{NAME}" in report
    assert SECRETS["accession number"] in report.split("<h2>")[0]
    pages = tmp_path / "with.html", tmp_path / "without.html"
    assert main(["report", str(maps), "--output", str(pages[0]), "--with-identifiers"]) == 0
    assert main(["report", str(maps), "--output", str(pages[1])]) == 0
    assert secrets_in_file(pages[0]) >= {"name", "given name", "patient's number", "birth date", "accession number"}
    assert secrets_in_file(pages[1]) == set()
    measure = ["measure", str(maps), "--regions", str(planted.regions), "--output"]
    assert main([*measure, str(tmp_path / "m"), "--with-identifiers"]) == 0
    assert f"{NAME}_tumour.nii.gz" in (tmp_path / "m" / "measures.json").read_text("utf-8")
    assert main([*measure, str(tmp_path / "n")]) == 0
    assert secrets_in_file(tmp_path / "n" / "measures.json") == set()
    del provenance["seal"]
    assert read_result(maps).provenance == unnamed_provenance(provenance)
    assert main(["map", str(planted.nifti), "--output", str(maps), "--method", "bsw"]) == 0  # and a rerun forgets it
    assert [path.name for path in maps.iterdir() if secrets_in_file(path)] == []
    capsys.readouterr()
    assert main(["report", str(maps), "--output", str(pages[0]), "--with-identifiers"]) == 2
    assert "--name-from" in capsys.readouterr().err


def broken(planted, folder, kind):
    """An input that is refused, named after the patient."""
    home = folder / NAME
    home.mkdir()
    if kind == "missing":
        return home / f"{NAME}.nii.gz"
    if kind == "truncated":
        (home / f"{NAME}.nii.gz").write_bytes(planted.nifti.read_bytes()[:5000])
        return home / f"{NAME}.nii.gz"
    if kind == "sidecar":
        shutil.copyfile(planted.nifti, home / f"{NAME}.nii.gz")
        (home / f"{NAME}.json").write_text("{", "utf-8")
        return home / f"{NAME}.nii.gz"
    if kind == "folder":
        (home / f"{NAME}.txt").touch()
        return home
    if kind == "zip":
        with zipfile.ZipFile(home / f"{NAME}.zip", "w") as archive:
            archive.writestr(f"../{NAME}.dcm", b"x")
        return home / f"{NAME}.zip"
    shutil.copytree(planted.dicom, home / "a")
    if kind == "two series":
        shutil.copytree(planted.dicom, home / "b")
        edit_headers(home / "b", lambda header: setattr(header, "SeriesInstanceUID", "1.2.3.4.5"))
        edit_headers(home / "b", lambda h: setattr(h, "SOPInstanceUID", f"1.2.3.{h.InstanceNumber}"))
    if kind == "cut DICOM":
        file = min((home / "a").iterdir())
        file.write_bytes(file.read_bytes()[:-900])
    return home


@pytest.mark.parametrize("kind", ["missing", "truncated", "sidecar", "folder", "zip", "two series", "cut DICOM"])
def test_a_refusal_names_nobody_unless_asked(planted, tmp_path, capsys, kind):
    path = broken(planted, tmp_path, kind)
    command = ["map", str(path), "--output", str(tmp_path / "out")]
    assert main(command) == 3
    error = capsys.readouterr().err
    assert secrets_in(error.encode()) == set()
    assert error.count("\n") == 1
    if kind != "two series":
        assert "Names are withheld" in error
        assert main([*command, "--with-identifiers"]) == 3
        assert NAME in capsys.readouterr().err


READERS = [
    "load*.py",
    "dicom_*.py",
    "archive.py",
    "alignment/volume.py",
    "dicom_out/source.py",
    "measures/region_files.py",
]


def test_no_reader_puts_a_description_or_a_patient_into_a_message():
    """The names of files can be withheld from a message afterwards, a header's text can't: nothing knows it then."""
    library = Path(cli.__file__).parent
    telling = {"description", "SeriesDescription", "ProtocolName", "StudyDescription", "PatientName", "PatientID"}
    files = sorted(path for pattern in READERS for path in library.glob(pattern))
    assert len(files) > 9
    found = [
        f"{path.name}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FormattedValue)
        and any(isinstance(inner, ast.Attribute) and inner.attr in telling for inner in ast.walk(node.value))
    ]
    assert found == []


def test_only_whole_names_are_withheld_and_numbers_of_a_message_stay(tmp_path):
    inputs = {"INPUT": tmp_path / "Ada" / "7"}
    assert withhold("It has 7 frames, Adaption of 17.", inputs) == "It has 7 frames, Adaption of 17."
    assert withhold(f"No {tmp_path / 'Ada' / '7'}.", inputs).startswith("No INPUT. (Names are withheld")
    maps = {"MAPS": Path("maps"), "--mask": Path("x/Ada.nii.gz")}
    assert withhold("Make the maps again.", maps) == "Make the maps again."
    assert withhold("Ada.nii.gz and Ada.json", maps).startswith("--mask and --mask.json (")


def test_withholding_twice_is_withholding_once(planted):
    from PerfusionCBVLib import Settings, compute_maps, load_series

    series = load_series(planted.nifti)
    agent = replace(series.acquisition, contrast_agent="for Ada")
    result = compute_maps(replace(series, acquisition=agent), Settings(method="integral"))
    once = without_identifiers(result)
    twice = without_identifiers(once)
    assert once.provenance == twice.provenance
    assert once.series.notes == twice.series.notes
    assert dict(once.series.input_sha256) == dict(twice.series.input_sha256)
    assert once.series.acquisition.contrast_agent == WITHHELD_TEXT
    assert once.series.signal is result.series.signal
    assert NAME in result.series.name  # the result itself is as it was
    assert sorted(once.series.input_sha256.values()) == sorted(series.input_sha256.values())
    np.testing.assert_array_equal(once.maps["rcbv"].values, result.maps["rcbv"].values)


def test_the_folders_that_hold_the_inputs_are_withheld_where_that_is_asked():
    inputs = {"INPUT": Path("/x/Ada/dsc.nii.gz"), "mask": Path("cohort/Bob/m.nii.gz"), "aif": Path("/a.csv")}
    said = "No /x/Ada/dsc.nii.gz, nothing else in /x/Ada, /x/Adam or cohort/Bob; a/b stays."
    wanted = "No INPUT, nothing else in INPUT's folder, /x/Adam or mask's folder; a/b stays."
    assert without_names(said, inputs, folders=True) == wanted
    assert without_names(said, inputs) == said.replace("/x/Ada/dsc.nii.gz", "INPUT")
