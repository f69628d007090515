"""What a batch finds, and what becomes of one case of it."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort_files import write_region, write_series
from dsc_phantom import graded_head
from PerfusionCBVLib import Settings
from PerfusionCBVLib.batch import case as case_module
from PerfusionCBVLib.batch.case import Plan, read_record, run_case
from PerfusionCBVLib.batch.cohort import Case, find_cohort
from PerfusionCBVLib.batch.fingerprint import case_key, input_hashes
from PerfusionCBVLib.batch.folder import BatchFolder
from PerfusionCBVLib.batch.index_page import index_html
from PerfusionCBVLib.batch.names import is_safe_name, name_of
from PerfusionCBVLib.batch.outcome import Outcome
from PerfusionCBVLib.batch.summary import summary_csv
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import Cancelled, UnreadableInputError, UsageError
from PerfusionCBVLib.map_request import MapRequest

NOTHING = MapRequest(series=Path())
BSW = Settings(method="bsw")


@pytest.fixture(scope="module")
def head():
    return graded_head(leakage_per_s=0.03, frames=40)


@pytest.fixture
def one(head, tmp_path):
    return Case("p1", MapRequest(write_series(tmp_path / "Petrenko_Olena" / "dsc.nii.gz", head)), "row 2", private=True)


@pytest.fixture
def plan(tmp_path):
    folder = BatchFolder(tmp_path / "out")
    with folder.run() as token:
        yield Plan(folder, BSW, token)


def next_run(plan):
    """The plan of another batch in the same folder."""
    token = plan.token + "-next"
    (plan.folder.inner / "running").write_text(token, "utf-8")
    return replace(plan, token=token)


def left_behind(plan):
    return [path.name for path in plan.folder.work.iterdir()]


# What is found


def test_a_name_is_safe_and_depends_on_the_path_only():
    assert name_of(Path("sub-01/ses-2/dsc.nii.gz")) == "sub-01__ses-2__dsc"
    paths = ["a b/dsc.nii", "a-b/dsc.nii", "a__b/dsc.nii", "a/b/dsc.nii", "CON", "x" * 300, "..hidden.zip", "Ягода/п 1"]
    names = [name_of(Path(path)) for path in paths]
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(is_safe_name(name) for name in names), names
    assert not any(is_safe_name(name) for name in ("", "..", "a/b", "nul", "com1.txt", "a.", "-x", "a b", "x" * 81))


def test_a_tree_gives_every_series_and_says_why_the_rest_is_passed_over(head, tmp_path):
    tree = tmp_path / "study"
    write_series(tree / "p1" / "dsc.nii.gz", head)
    write_series(tree / "p2" / "short.nii.gz", head, signal=head.series.signal[::2, ::2, :, :7])
    write_region(tree / "p1" / "mask.nii.gz", head)
    (tree / "p3").mkdir()
    (tree / "p3" / "dsc.nii.gz").write_bytes(b"damaged")
    (tree / "p3" / "drawn.seg.nrrd").write_bytes(b"NRRD0004\n")
    (tree / "notes.txt").write_text("x", "utf-8")
    (tree / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    with BatchFolder(tree / "out").run():
        cohort = find_cohort([str(tree)], NOTHING)
    assert [case.id for case in cohort.cases] == ["p1__dsc", "p3__dsc"]  # a damaged patient is not lost in silence
    reasons = {each.source: each.reason for each in cohort.passed_over}
    assert set(reasons) == {"p1/mask.nii.gz", "p2/short.nii.gz", "p3/drawn.seg.nrrd", "notes.txt", "elsewhere", "out"}
    assert "28 × 32 × 8" in reasons["p1/mask.nii.gz"]
    assert "7 volumes" in reasons["p2/short.nii.gz"]
    by_pattern = find_cohort([str(tree / "*" / "dsc.nii.gz")], NOTHING)
    assert [case.id for case in by_pattern.cases] == ["p1__dsc", "p3__dsc"]


def test_a_folder_that_may_not_be_read_is_a_case_with_its_reason(head, tmp_path, monkeypatch):
    write_series(tmp_path / "study" / "p1" / "dsc.nii.gz", head)
    (tmp_path / "study" / "p2").mkdir()
    scandir = os.scandir

    def guarded(path):  # the tests may run as root, whom no permission stops
        if Path(path).name == "p2":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    cohort = find_cohort([str(tmp_path / "study")], NOTHING)
    assert [(case.id, case.trouble is None) for case in cohort.cases] == [("p1__dsc", True), ("p2", False)]
    assert "Permission denied" in cohort.cases[1].trouble


def dicom(path, series, instance, *, place_mm, second):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{series}.{instance}"
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SeriesInstanceUID, image.Modality = f"1.2.3.{series}", "MR"
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, place_mm], [1, 0, 0, 0, 1, 0]
    image.AcquisitionDate, image.AcquisitionTime = "20260101", f"1200{second:02d}"
    image.Rows = image.Columns = 2
    image.SamplesPerPixel, image.BitsAllocated = 1, 16
    image.PixelData = bytes(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def test_a_dicom_series_is_a_folders_and_one_that_is_torn_apart_is_refused(tmp_path):
    for k in range(20):
        dicom(tmp_path / "whole" / f"{k}", 1, k, place_mm=0, second=k)
        dicom(tmp_path / "anatomy" / f"{k}", 2, k, place_mm=k, second=0)
        dicom(tmp_path / ("part1" if k < 16 else "part2") / f"{k}", 3, k, place_mm=0, second=k)
    cohort = find_cohort([str(tmp_path)], NOTHING)
    assert [case.id for case in cohort.cases] == ["part1", "whole"]
    torn, whole = cohort.cases
    assert (whole.trouble, whole.request.series_uid) == (None, "1.2.3.1")
    assert "2 folders (part1, part2)" in torn.trouble
    assert [each.source for each in cohort.passed_over] == ["anatomy"]


@pytest.mark.parametrize(
    "text",
    [
        "id,series,mask,echo_time\np1,a.nii,m.nii,0.03\np2,/abs/b.nii,,\n",
        "\ufeffid;series;mask;echo_time\r\np1;a.nii;m.nii;0.03\r\n;;;\r\np2;/abs/b.nii;;\r\n",
        'ID\tSeries\tMask\tEcho_Time\n"p1"\ta.nii\tm.nii\t3e-2\n\np2\t/abs/b.nii\t\t\n',
    ],
    ids=["comma", "semicolon and mark of a spreadsheet", "tabulator"],
)
def test_a_manifest_is_read_as_spreadsheets_write_it(tmp_path, text):
    (tmp_path / "cohort.csv").write_text(text, "utf-8", newline="")
    shared = MapRequest(Path(), echo_time_s=0.04, repetition_time_s=1.5)
    first, second = find_cohort([str(tmp_path / "cohort.csv")], shared).cases
    assert (first.id, second.id) == ("p1", "p2")
    assert first.request == MapRequest(
        tmp_path / "a.nii", mask=tmp_path / "m.nii", echo_time_s=0.03, repetition_time_s=1.5
    )
    assert second.request == MapRequest(Path("/abs/b.nii"), echo_time_s=0.04, repetition_time_s=1.5)
    assert first.private


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,mask\np1,a\n", ["'series'"]),
        (b"series,tumour\na,b\n", ["'tumour'", "repetition_time"]),
        (b"series,series\na,b\n", ["twice"]),
        (b"series,mask\na\n", ["Row 2", "1 cells"]),
        (b"id,series\n../x,a\n", ["Row 2", "'../x'"]),
        (b"id,series\nA,a\na,b\n", ["capitals"]),
        (b"id,series\np,a\np,b\n", ["'p'"]),
        (b"id,series\np,\n", ["Row 2", "series"]),
        (b"series;echo_time\na;0,03\n", ["'0,03'", "0.03"]),
        (b"series,echo_time\na,nan\n", ["'nan'"]),
        ("id,series\np,a\n".encode("utf-16"), ["UTF-16", "CSV UTF-8"]),
        ("series\nпацієнт\n".encode("cp1251"), ["UTF-8"]),
        (b"series\n\0\n", ["no text"]),
        (b"", ["empty"]),
        (b"series\n", ["No dynamic series"]),
    ],
)
def test_a_manifest_that_could_be_misread_is_refused(tmp_path, content, words):
    (tmp_path / "cohort.csv").write_bytes(content)
    with pytest.raises(UnreadableInputError) as refused:
        find_cohort([str(tmp_path / "cohort.csv")], NOTHING)
    assert all(word in str(refused.value) for word in words), refused.value


# One case


def test_a_case_holds_what_map_writes_and_the_measures_of_its_regions(head, one, plan, tmp_path):
    case = replace(one, regions=write_region(tmp_path / "r.nii.gz", head))
    outcome = run_case(case, plan)
    assert (outcome.state, outcome.reason, left_behind(plan)) == ("done", "", [])
    folder = plan.folder.cases / "p1"
    assert main(["map", str(case.request.series), "--output", str(tmp_path / "map"), "--method", "bsw"]) == 0
    for path in (tmp_path / "map").glob("*.nii.gz"):
        np.testing.assert_array_equal(nib.load(folder / path.name).get_fdata(), nib.load(path).get_fdata())
    rcbv = nib.load(folder / "rcbv.nii.gz").get_fdata()
    assert outcome.measures["rcbv_mean [label 1]"] == pytest.approx(rcbv[head.lesion[::2, ::2]].mean(), rel=1e-5)
    assert outcome.measures["rcbv_median"] == pytest.approx(np.nanmedian(rcbv), rel=1e-5)
    assert (folder / "measures" / "measures.csv").is_file()


def test_a_second_run_changes_no_file_and_a_changed_byte_is_noticed_behind_equal_size_and_time(one, plan):
    run_case(one, plan)
    plan = next_run(plan)
    folder = plan.folder.cases / "p1"
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    again = run_case(one, plan)
    assert again.skipped
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before
    sidecar = one.request.series.with_name("dsc.json")
    times = sidecar.stat()
    sidecar.write_text(sidecar.read_text("utf-8").replace("0.03", "0.04"), "utf-8")
    os.utime(sidecar, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sidecar.stat().st_size == times.st_size
    assert not run_case(one, plan).skipped
    echo_time = json.loads((folder / "provenance.json").read_text("utf-8"))["acquisition"]["echo_time_s"]["value"]
    assert echo_time == 0.04


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_result_of_which_a_byte_is_not_as_it_was_is_made_again(head, one, plan, tmp_path):
    case = replace(one, regions=write_region(tmp_path / "r.nii.gz", head))
    run_case(case, plan)
    for harm in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3]), flip_a_byte):
        for name in ("rcbv.nii.gz", "measures/measures.csv", "case.json"):
            plan = next_run(plan)
            harm(plan.folder.cases / "p1" / name)
            assert not run_case(case, plan).skipped, name
    assert run_case(case, next_run(plan)).skipped


def test_the_key_is_another_for_anything_that_decides_the_result(head, one, tmp_path, monkeypatch):
    region = write_region(tmp_path / "r.nii.gz", head)
    hashes = input_hashes(one)

    def key(case=one, settings=BSW, weights=None):
        return case_key(case, settings, weights, input_hashes(case))

    def asked(**given):
        return replace(one, request=replace(one.request, **given))

    keys = [
        case_key(one, BSW, None, hashes),
        key(settings=Settings(method="integral")),
        key(settings=Settings(method="bsw", normalize="brain")),
        key(weights="ab"),
        key(replace(one, regions=region)),
        key(asked(mask=region)),
        key(asked(reference=region)),
        key(asked(aif=str(region))),
        key(asked(aif="auto")),
        key(asked(echo_time_s=0.03)),
        key(asked(repetition_time_s=1.5)),
        key(asked(series_uid="1.2")),
    ]
    monkeypatch.setattr("PerfusionCBVLib.batch.fingerprint.__version__", "9.9")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    elsewhere = tmp_path / "moved"
    one.request.series.parent.rename(elsewhere)  # the same bytes elsewhere are the same input
    assert input_hashes(asked(series=elsewhere / "dsc.nii.gz")) == hashes


def test_other_settings_set_the_earlier_result_aside_and_the_first_ones_bring_it_back(one, plan):
    run_case(one, plan)
    made = (plan.folder.cases / "p1" / "rcbv.nii.gz").stat().st_ino
    one.request.series.with_name("dsc.json").rename(one.request.series.with_name("away"))
    refused = run_case(one, plan)  # without its echo time
    assert (refused.state, refused.earlier) == ("refused", True)
    assert not (plan.folder.cases / "p1").exists()
    assert (plan.folder.earlier / "p1" / "rcbv.nii.gz").stat().st_ino == made
    one.request.series.with_name("away").rename(one.request.series.with_name("dsc.json"))
    plan = next_run(plan)
    assert run_case(one, plan).skipped
    assert (plan.folder.cases / "p1" / "rcbv.nii.gz").stat().st_ino == made
    done = run_case(one, replace(plan, settings=Settings(method="integral")))
    assert (done.state, done.earlier) == ("done", False)
    assert list(plan.folder.earlier.iterdir()) == []
    assert read_record(plan.folder.cases / "p1").outcome.method == "integral"


def test_a_full_disk_leaves_no_part_of_a_case(one, plan, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("write_result", "write_sealed_record"):
        with monkeypatch.context() as patched:
            patched.setattr(case_module, name, full)
            outcome = run_case(one, plan)
        assert (outcome.state, "No space left" in outcome.reason) == ("failed", True)
        assert (list(plan.folder.cases.iterdir()), left_behind(plan)) == ([], [])
    monkeypatch.setattr("PerfusionCBVLib.batch.folder.sync_files", full)  # some systems say so only at the end
    assert run_case(one, plan).state == "failed"
    assert (list(plan.folder.cases.iterdir()), left_behind(plan)) == ([], [])


def test_a_disk_that_really_is_full_is_named_and_the_case_made_when_there_is_room(one, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here; the injected error above stands for it")
    try:
        folder = BatchFolder(disk / "out")
        with folder.run() as token:
            outcome = run_case(one, Plan(folder, BSW, token))
            assert (outcome.state, "No space left" in outcome.reason) == ("failed", True)
            assert (list(folder.cases.iterdir()), list(folder.work.iterdir())) == ([], [])
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            assert run_case(one, Plan(folder, BSW, token)).state == "done"
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("change", ["vanishes", "changes"])
def test_an_input_that_goes_or_changes_while_its_map_is_made_gives_no_result(one, plan, monkeypatch, change):
    compute = case_module.make_maps

    def meanwhile(*given):
        result = compute(*given)
        if change == "vanishes":
            one.request.series.unlink()
        else:
            one.request.series.with_name("dsc.json").write_text("{}", "utf-8")
        return result

    monkeypatch.setattr(case_module, "make_maps", meanwhile)
    outcome = run_case(one, plan)
    assert outcome.state == "refused"
    assert ("no file" if change == "vanishes" else "changed while") in outcome.reason
    assert (list(plan.folder.cases.iterdir()), left_behind(plan)) == ([], [])


def test_a_fault_of_ours_goes_to_the_log_without_the_patients_name(one, plan, monkeypatch, capfd):
    def broken(request, *_):
        os.write(1, f"a remark of a library about {request.series}\nand about {request.series.parent}\n".encode())
        raise ZeroDivisionError(f"in {request.series}")

    monkeypatch.setattr(case_module, "make_maps", broken)
    outcome = run_case(one, replace(plan, quiet=True))
    assert (outcome.state, outcome.has_log) == ("failed", True)
    assert "ZeroDivisionError" in outcome.reason
    log = plan.folder.log("p1").read_text("utf-8")
    assert "Traceback" in log
    assert "a remark of a library about INPUT\nand about INPUT's folder" in log
    assert "Petrenko" not in log + outcome.reason
    assert capfd.readouterr() == ("", "")
    monkeypatch.undo()
    assert run_case(one, plan).state == "done"
    assert not plan.folder.log("p1").exists()


def test_a_case_of_a_batch_that_has_ended_is_not_published(one, plan, monkeypatch):
    compute = case_module.make_maps

    def ended_meanwhile(*given):
        result = compute(*given)
        (plan.folder.inner / "running").write_text("another run", "utf-8")
        return result

    monkeypatch.setattr(case_module, "make_maps", ended_meanwhile)
    with pytest.raises(Cancelled):
        run_case(one, plan)
    assert (list(plan.folder.cases.iterdir()), left_behind(plan)) == ([], [])


def test_another_version_or_other_weights_on_a_worker_make_no_map(one, plan):
    assert "version" in run_case(one, replace(plan, version="0.0.9")).reason
    assert "weights" in run_case(one, replace(plan, weights_sha256="ab")).reason


# The folder


def test_two_batches_in_one_folder_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    folder = BatchFolder(tmp_path / "out")
    code = (
        "import sys, time; from pathlib import Path; from PerfusionCBVLib.batch.folder import BatchFolder\n"
        "with BatchFolder(Path(sys.argv[1])).run() as token:\n"
        "    print(token, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline().strip()
        for refused in (folder.require_free, folder.run().__enter__):
            with pytest.raises(UsageError, match="Another batch is running"):
                refused()
        (folder.work / "p1-half").mkdir()
        other.kill()
        other.wait()
    with folder.run() as token:
        assert token
        assert list(folder.work.iterdir()) == []


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="not empty"), BatchFolder(tmp_path).run():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# What is shown


def test_summary_and_index_are_safe_to_open(plan):
    finding = {"code": "motion", "severity": "warning", "message": "<b>2 mm</b>", "advice": ""}
    outcomes = [
        Outcome("p1", "=cmd()", "done", "bsw", findings=(finding,), measures={"rcbv_median": 1.23456}, seconds=2.0),
        Outcome("p2", "b", "refused", "bsw", "<script>alert(1)</script>", earlier=True),
        Outcome("p3", "c", "failed", "bsw", "-1 is no echo time", has_log=True),
    ]
    rows = list(csv.DictReader(summary_csv(outcomes).splitlines()))
    assert [row["state"] for row in rows] == ["done", "refused", "failed"]
    assert (rows[0]["source"], rows[0]["findings"], rows[0]["rcbv_median"]) == ("'=cmd()", "warning:motion", "1.23456")
    assert rows[2]["error"] == "'-1 is no echo time"
    page = index_html(outcomes, plan, "finished", 3, ["old"])
    assert "<script>alert" not in page
    assert "<b>2 mm" not in page
    assert "http-equiv" not in page
    for link in ("cases/p1/report.html", "logs/p3.log", "earlier/p2", "passed_over.csv"):
        assert f'href="{link}' in page
    assert 'http-equiv="refresh"' in index_html(outcomes, plan, "running")
