"""Whole batches in processes of their own, and what is left when something dies."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import psutil
import pytest

from cohort_files import write_series
from dsc_phantom import graded_head
from PerfusionCBVLib.batch.case import read_record
from PerfusionCBVLib.cli import main


@pytest.fixture(scope="module")
def head():
    return graded_head(leakage_per_s=0.03, frames=40)


def start(*arguments, **variables):
    command = [sys.executable, "-m", "PerfusionCBVLib", "batch", *map(str, arguments), "--method", "bsw"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **variables}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts():
    """A shell that runs the tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(process, code):
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, out + err
    return out, err


def wait_for(count, output, process):
    while len(complete(output)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def complete(output):
    """Names of the results that are whole, by their own account of their files."""
    folders = list((output / "cases").iterdir()) if (output / "cases").exists() else []
    assert all(read_record(folder) is not None for folder in folders), "a partial folder"
    return sorted(folder.name for folder in folders)


def workers_of(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def rows_of(output):
    with (output / "summary.csv").open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def stamps(output):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (output / "cases").rglob("*")}


def test_twenty_patients_three_broken_and_a_worker_killed_half_way(head, tmp_path):
    study, output = tmp_path / "study", tmp_path / "out"
    for k in range(20):
        signal = head.series.signal[::2, ::2] * (1 + k / 100)
        write_series(study / f"p{k:02d}" / "dsc.nii.gz", head, signal=signal)
    truncated, untimed, still = (study / f"p{k:02d}" / "dsc.nii.gz" for k in (3, 7, 11))
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    untimed.with_name("dsc.json").write_text(json.dumps({"RepetitionTime": 1.5}), "utf-8")
    noise = np.random.default_rng(0).normal(0, 4, (28, 32, 8, 40))
    write_series(still, head, signal=head.series.signal[::2, ::2, :, :1] + noise)

    batch = start(study, "--output", output, "--workers", 2)
    wait_for(6, output, batch)
    states = {row["state"] for row in rows_of(output).values()}
    assert "waiting" in states  # a look half-way shows what is true
    assert 'http-equiv="refresh"' in (output / "index.html").read_text("utf-8")
    workers_of(batch)[0].kill()
    out, err = ended(batch, 3)
    assert "17 of 20 done, 3 refused, 0 failed" in out, out
    assert err.count("\n") == 1, "Dask is not heard"

    assert len(complete(output)) == 17
    assert list((output / ".batch" / "work").iterdir()) == []
    rows = rows_of(output)
    reasons = {name: row["error"] for name, row in rows.items() if row["state"] == "refused"}
    assert set(reasons) == {"p03__dsc", "p07__dsc", "p11__dsc"}
    assert "truncated" in reasons["p03__dsc"]
    assert "echo time" in reasons["p07__dsc"]
    assert "bolus" in reasons["p11__dsc"]
    assert all(float(row["seconds"]) > 0 for row in rows.values())
    assert "http-equiv" not in (output / "index.html").read_text("utf-8")

    before = stamps(output)
    out, _ = ended(start(study, "--output", output, "--workers", 2), 3)
    assert "17 of 20 done (17 of them already), 3 refused" in out
    assert stamps(output) == before


def test_a_killed_batch_leaves_whole_results_and_the_next_one_does_the_rest(head, tmp_path):
    study, output = tmp_path / "study", tmp_path / "out"
    for k in range(8):  # more than are made between a look and a signal
        write_series(study / f"p{k}.nii.gz", head)
    batch = start(study, "--output", output, "--workers", 1)
    wait_for(1, output, batch)
    workers = workers_of(batch)
    batch.kill()
    batch.communicate()
    psutil.wait_procs(workers, timeout=60)
    made = stamps(output)
    assert 1 <= len(complete(output)) < 8
    batch = start(study, "--output", output, "--workers", 1)
    wait_for(len(complete(output)) + 1, output, batch)
    os.killpg(batch.pid, signal.SIGINT)  # as a terminal does
    _, err = ended(batch, 4)
    assert err == "perfusion-cbv: stopped; what is done is kept, and the same command goes on from there\n"
    assert "stopped" in (output / "index.html").read_text("utf-8")
    assert len(complete(output)) >= 2
    assert made.items() <= stamps(output).items()
    assert list((output / ".batch" / "work").iterdir()) == []


def test_a_case_that_takes_all_memory_is_given_up_and_the_others_are_done(head, tmp_path):
    study, output = tmp_path / "study", tmp_path / "out"
    write_series(study / "good.nii.gz", head)
    # 0.6 GB as float32: more than the worker may have.
    image = nib.Nifti1Image(np.zeros((128, 128, 80, 120), np.uint8), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nib.save(image, study / "huge.nii")
    out, _ = ended(start(study, "--output", output, "--workers", 1, "--memory", 0.6, "--echo-time", 0.03), 1)
    assert "1 of 2 done, 0 refused, 1 failed" in out
    assert complete(output) == ["good"]
    row = rows_of(output)["huge"]
    assert row["state"] == "failed"
    assert "3 times" in row["error"]
    assert "--memory" in row["error"]


HANGS = """
import re
import PerfusionCBVLib.map_request as module

real = module.make_maps


def make_maps(request, *rest):
    if "endless" in request.series.name:
        re.fullmatch("(a|a)*b", "a" * 200)  # never returns, and holds the interpreter's lock
    return real(request, *rest)


module.make_maps = make_maps
"""


def test_a_case_that_never_ends_is_given_up_and_the_others_are_done(head, tmp_path):
    study, output = tmp_path / "study", tmp_path / "out"
    for name in ("a", "endless", "z"):
        write_series(study / f"{name}.nii.gz", head)
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(HANGS, "utf-8")
    path = os.pathsep.join([str(tmp_path / "python"), *filter(None, sys.path)])
    options = ("--workers", 1, "--case-minutes", 0.1)
    out, _ = ended(start(study, "--output", output, *options, PYTHONPATH=path), 1)
    assert "2 of 3 done, 0 refused, 1 failed" in out
    assert complete(output) == ["a", "z"]
    assert list((output / ".batch" / "work").iterdir()) == []
    row = rows_of(output)["endless"]
    assert row["state"] == "failed"
    assert "longer than 0.1 minutes" in row["error"]
    assert "sitecustomize" in (output / "logs" / "endless.log").read_text("utf-8"), "the log says where it was"
    out, _ = ended(start(study, "--output", output, *options), 0)
    assert "3 of 3 done (2 of them already)" in out


def test_a_lost_scheduler_ends_the_batch_and_what_was_done_is_kept(head, tmp_path):
    study, output, place = tmp_path / "study", tmp_path / "out", tmp_path / "scheduler.json"
    for k in range(4):
        write_series(study / f"p{k}.nii.gz", head)
    module, quiet = [sys.executable, "-m"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*module, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
         "--scheduler-file", place], **quiet,
    )  # fmt: skip
    worker = subprocess.Popen(
        [*module, "distributed.cli.dask_worker", "--scheduler-file", place, "--nthreads", "1", "--no-nanny",
         "--no-dashboard", "--death-timeout", "60"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}, **quiet,
    )  # fmt: skip
    try:
        while not place.exists() or not place.read_text("utf-8").strip():
            assert scheduler.poll() is None
            time.sleep(0.05)
        address = json.loads(place.read_text("utf-8"))["address"]
        batch = start(study, "--output", output, "--scheduler", address)
        wait_for(1, output, batch)
        scheduler.kill()
        _, err = ended(batch, 1)
        assert err.startswith("perfusion-cbv: The connection to the Dask scheduler was lost."), err
        assert err.count("\n") == 1, err
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert 1 <= len(complete(output)) < 8
    states = [row["state"] for row in rows_of(output).values()]
    assert "running" not in states
    assert "waiting" in states


def test_slurm_jobs_do_the_work(head, tmp_path):
    """SLURM stands for what its commands do here: start the script of a job, and end it."""
    study, output, commands = tmp_path / "study", tmp_path / "out", tmp_path / "bin"
    write_series(study / "p0.nii.gz", head)
    commands.mkdir()
    (commands / "sbatch").write_text(
        f'#!/bin/sh\nif [ "$1" = --test-only ]; then cp "$2" {tmp_path}/job.sh; exit 0; fi\n'
        f"cp $1 {tmp_path}/submitted.sh\n"  # as SLURM does: Dask removes its own at once
        f"sh {tmp_path}/submitted.sh > {tmp_path}/job.log 2>&1 < /dev/null & echo $! > {tmp_path}/pid\n"
        'echo "Submitted batch job $!"\n'
    )
    (commands / "scancel").write_text('#!/bin/sh\nkill "$1"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    batch = start(
        study, "--output", output, "--slurm", "--workers", 1, "--memory", 2, "--slurm-option=--partition=short",
        PATH=f"{commands}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    out, _ = ended(batch, 0)
    assert "On 1 SLURM job" in out
    assert complete(output) == ["p0"]
    script = (tmp_path / "job.sh").read_text("utf-8")
    assert "#SBATCH --partition=short" in script
    assert "#SBATCH -t 24:00:00" in script
    assert "export OMP_NUM_THREADS=1" in script
    assert not list((output / ".batch" / "slurm").glob(".dask-jobqueue*")), "certificates are left behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheduler", "tcp://127.0.0.1:1", "--slurm"], "one of them"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "leave them out"),
        (["--slurm"], "--workers"),
        (["--slurm-option=--partition=x"], "--slurm"),
    ],
)
def test_contradicting_options_are_wrong_usage(capsys, tmp_path, arguments, words):
    assert main(["batch", str(tmp_path), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_refused_and_makes_no_folder(capsys, tmp_path):
    for cohort in (tmp_path, tmp_path / "gone", tmp_path / "*.nii"):
        assert main(["batch", str(cohort), "--output", str(tmp_path / "out"), "--method", "bsw"]) == 3
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
