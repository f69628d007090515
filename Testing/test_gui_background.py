"""Steps of work, called and awaited."""

import asyncio
import threading

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (extra 'slicer')")
pytestmark = pytest.mark.slicer

import slicer_scene  # noqa: E402
from PerfusionCBVLib.errors import Cancelled, UsageError  # noqa: E402
from PerfusionCBVLib.gui.background import Background  # noqa: E402


@Background
def twice(start, log, progress=None):
    try:
        first = yield lambda report: (report(0.5, "half"), start + 1, threading.current_thread())[1:]
        second = yield lambda report: (first[0] * 10, threading.current_thread())
        log.append((first[1], second[1], threading.current_thread()))
        return second[0]
    finally:
        log.append("left")


@pytest.fixture(autouse=True)
def app(tmp_path):
    return slicer_scene.start(tmp_path)


def awaited(steps, progress=None):
    from PerfusionCBVLib.web.background import Progress, run_awaited

    return asyncio.run(run_awaited(steps, progress or Progress(), lambda: None))


@pytest.mark.parametrize("run", [lambda log: twice(4, log), lambda log: awaited(twice.steps(4, log))])
def test_steps_get_what_their_work_returned_and_work_elsewhere(run):
    log = []
    assert run(log) == 50
    (first, second, here), left = log
    assert here is threading.main_thread()
    assert here not in (first, second)
    assert left == "left"


@pytest.mark.parametrize("run", [lambda steps: Background(steps)(), lambda steps: awaited(steps())])
def test_an_error_of_the_work_passes_through_the_steps_in_the_panels_words(run):
    seen = []

    def steps():
        def work(report):
            raise UsageError("Pass --echo-time in seconds.")

        try:
            yield work
        except UsageError as error:
            seen.append(str(error))
            raise

    with pytest.raises(UsageError, match="echo time"):
        run(steps)
    assert "--" not in seen[0]


def test_awaited_work_stops_at_its_next_report():
    from PerfusionCBVLib.web.background import Progress

    progress, reports = Progress(), []

    def steps():
        def work(report):
            for step in range(100):
                reports.append(step)
                if step == 3:
                    progress.stop.set()
                report(step / 100, "working")

        yield work

    with pytest.raises(Cancelled):
        awaited(steps(), progress)
    assert reports == [0, 1, 2, 3]


def test_the_panels_progress_gets_the_reports_of_the_work():
    seen = []
    assert twice(1, [], progress=lambda fraction, message: seen.append((fraction, message))) == 20
    assert all(each in {(0.0, ""), (0.5, "half")} for each in seen)
