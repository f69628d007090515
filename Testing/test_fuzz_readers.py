"""Damaged input, drawn at random: each reader reads it or refuses it in one sentence, in bounded time and memory.

300 inputs a reader; PERFUSIONCBV_FUZZ=10000 for as many in the nightly run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

fuzz_readers = pytest.importorskip("fuzz_readers", reason="the limits of time and memory need a POSIX system")

INPUTS = int(os.environ.get("PERFUSIONCBV_FUZZ", "300"))


@pytest.mark.parametrize("readers", [("dicom",), tuple(name for name in fuzz_readers.READERS if name != "dicom")])
def test_damaged_input_is_read_or_refused_in_one_sentence(readers):
    # In a process of its own: it limits its memory, and ends itself where a library hangs.
    command = [sys.executable, str(Path(fuzz_readers.__file__)), *readers, "--inputs", str(INPUTS)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout, done.stderr[-3000:]
    for found in json.loads(done.stdout):
        assert not found["failures"], found["failures"][:3]
        assert sum(found["outcomes"].values()) == INPUTS
        # Damage so heavy that nothing is ever read would prove little.
        assert found["outcomes"]["read"] >= INPUTS / 20, found["outcomes"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: __import__("warnings").warn("odd", stacklevel=2), "UserWarning: odd"),
        (lambda: __import__("time").sleep(5), "no end within"),
    ],
)
def test_the_fuzzer_sees_tracebacks_warnings_and_hangs(monkeypatch, fault, words):
    monkeypatch.setattr(fuzz_readers, "TIME_LIMIT_S", 0.3)
    with pytest.raises(fuzz_readers.FailureError, match=words):
        fuzz_readers.outcome(fuzz_readers.Case(fault))


def test_the_fuzzer_sees_frames_in_another_order_than_planted():
    with pytest.raises(fuzz_readers.FailureError, match="not what was planted"):
        fuzz_readers.outcome(fuzz_readers.Case(lambda: 1, lambda result: False))
