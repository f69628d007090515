"""No worker outlives the process that started it, even one that waits to hand over a result when that is killed."""

import subprocess
import sys
import time

import psutil
import pytest

WORK = """
import os
from pathlib import Path
from types import SimpleNamespace
import numpy as np

def alive(seed):
    Path({folder!r}, str(os.getpid())).touch()

def draw(seed):
    alive(seed)
    # As a training sample: more than a pipe holds, and no bare array, which would go through shared memory.
    return SimpleNamespace(values=np.zeros(5_000_000))

def work(seed):
    alive(seed)
    return [{{"seed": seed}}], {{"large": np.zeros(5_000_000)}}
"""

START = {
    "train": """
import time
from torch.utils.data import DataLoader
from PerfusionCBVLib.train.samples import SimulatedPatients
from work import draw
if __name__ == "__main__":
    patients = SimulatedPatients(0, draw)
    arriving = iter(DataLoader(patients, batch_size=None, num_workers=2, multiprocessing_context="spawn"))
    time.sleep(1000)
""",
    "evaluate": """
import time
from PerfusionCBVLib.evaluate.runs import collect
from work import work
if __name__ == "__main__":
    collect(work, range(100_000), rows_each=1, workers=2, progress=lambda done, text: time.sleep(0.5))
""",
}


@pytest.mark.parametrize("command", START)
def test_workers_end_with_a_killed_parent(command, tmp_path):
    workers = tmp_path / "workers"
    workers.mkdir()
    (tmp_path / "work.py").write_text(WORK.format(folder=str(workers)))
    (tmp_path / "start.py").write_text(START[command])
    said = tmp_path / "stderr.txt"
    with said.open("wb") as stderr:
        parent = subprocess.Popen([sys.executable, "start.py"], cwd=tmp_path, stderr=stderr)
    try:
        wait_until(lambda: len(list(workers.iterdir())) == 2 or parent.poll() is not None, 120)
        assert parent.poll() is None, said.read_text()
        time.sleep(1)  # until each of them waits
        processes = [psutil.Process(int(path.name)) for path in workers.iterdir()]
        assert all(map(running, processes))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(running, processes)), 20)
    left = [process for process in processes if running(process)]
    for process in left:
        process.kill()
    assert left == []


def running(process):
    """Whether a process is there, and no zombie that nobody buries."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds):
    """Wait for a condition, but not for ever."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
