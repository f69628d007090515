"""One person's sitting: opens cases, makes their maps, measures them; what the page's buttons start."""

from __future__ import annotations

import secrets
from html import escape
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import slicer

from PerfusionCBVLib.dicom_headers import is_dicom_file
from PerfusionCBVLib.errors import PerfusionError
from PerfusionCBVLib.gui import logic
from PerfusionCBVLib.gui.choices import Colours, View, WindowPreset
from PerfusionCBVLib.gui.input_nodes import NodeSeries, describe
from PerfusionCBVLib.gui.measures import measures_html
from PerfusionCBVLib.gui.output_nodes import MAP, METHOD, TITLES, outputs
from PerfusionCBVLib.gui.panel_text import checked_text, done_text, facts_text, known_text, method_note, why_not
from PerfusionCBVLib.gui.words import in_the_panel
from PerfusionCBVLib.measures.measure import MeasureSettings
from PerfusionCBVLib.settings import METHOD_TITLES, Normalisation, Settings
from PerfusionCBVLib.web import regions
from PerfusionCBVLib.web.background import one_step
from PerfusionCBVLib.web.cases import Case
from PerfusionCBVLib.web.exports import Exports
from PerfusionCBVLib.web.figures import EMPTY, histogram_figure
from PerfusionCBVLib.web.looking import Looking
from PerfusionCBVLib.web.opening import UPLOADS, batch_name, inside_root, listing
from PerfusionCBVLib.web.state import CASE, Desk, number, said
from PerfusionCBVLib.web.views import SliceView

SEVERITIES = ("error", "warning", "info")


class Times(TypedDict):
    """What `gui.logic` takes of typed times, s."""

    echo_time_s: float | None
    repetition_time_s: float | None


class Session:
    """What one person has open.

    Parameters
    ----------
    server : trame_server.Server
    folder : Path
        Private to this session; uploads and downloads lie there.
    root : Path or None
        What may be opened by path.
    """

    def __init__(self, server: Any, folder: Path, root: Path | None) -> None:
        self.folder, self.root = folder, root
        self.desk = Desk(server)
        self.state = self.desk.state
        self.looking = Looking(self.desk)
        self.exports = Exports(self.desk, folder)
        self.looking.drawn = lambda: self._tell_segments(self.case) if self.case is not None else None
        self.cases: dict[str, Case] = {}
        self.state.root_known = root is not None
        self.state.method_note = method_note(self.state.method)
        if root is not None:
            self._list("")
        self._answer(server.controller)
        self._follow()

    # --- connecting the page

    def _answer(self, controller: Any) -> None:
        """Name what the page's buttons may start."""
        desk = self.desk
        for name, coroutine in (
            ("open_path", self.open_path),
            ("open_upload", self.open_upload),
            ("open_simulated", self.open_simulated),
            ("check", self.check),
            ("compute", self.compute),
            ("align", self.align),
            ("measure", self.measure),
            ("take", self.take),
        ):
            controller.trigger(name)(lambda *given, coroutine=coroutine: desk.start(coroutine(*given)))
        for name, slot in (
            ("cancel", desk.cancel),
            ("select", self.select),
            ("close_case", self.close_case),
            ("list", self._list),
            ("slice", self.go_to),
            ("step", self.step),
            ("fit", self.looking.fit),
            ("remove_segments", self.remove_segments),
        ):
            controller.trigger(name)(slot)

    def _follow(self) -> None:
        """Bring views and texts in line with what the user changes on the page."""
        change = self.state.change
        change("view", "colours", "window_preset", "window_low", "window_high", "opacity", "threshold", "legend")(
            self._choose
        )
        change("map_shown")(self._choose)
        change("mouse")(self._mouse)
        change("quantity")(lambda **_: self.looking.draw_curve())
        change("method")(self._method)
        change("echo_ms", "interval_ms")(self._times_typed)

    @property
    def case(self) -> Case | None:
        """The case on screen."""
        return self.cases.get(self.state.case_key)

    # --- opening

    async def open_given(self, path: Path) -> None:
        """Open what the server was started with."""
        await self._open(path)

    async def open_path(self, wanted: str) -> None:
        """Open a series below the root."""
        path = self._inside("open", wanted)
        if path is not None:
            await self._open(path)

    async def open_upload(self, batch: str, kind: str) -> None:
        """Open what was uploaded as one batch: a series, an anatomical volume or a segmentation."""
        folder = self.folder / UPLOADS / batch_name(batch)
        files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() != ".json"]
        if len(files) != 1:
            text = f"{len(files)} files arrived; choose one series, and its .json beside a NIfTI where there is one."
            self.desk.tell("open" if kind == "series" else kind, text)
            return
        if kind == "series":
            await self._open(files[0])
        elif kind == "anatomy":
            await self.open_anatomy(files[0])
        else:
            await self.open_segmentation(files[0])

    async def open_simulated(self) -> None:
        """Open the simulated patient."""
        self._opened(await self.desk.work("open", logic.simulate_node.steps()), None)
        await self.check()

    async def open_anatomy(self, path: Path) -> None:
        """Open an anatomical volume for the case on screen."""
        from PerfusionCBVLib.alignment.volume import read_volume

        case = self.case
        volume = await self.desk.work("anatomy", one_step(lambda progress: read_volume(path)))
        if volume is None or case is None:
            return
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", volume.name)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine))
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.values.T))
        node.CreateDefaultDisplayNodes()
        case.anatomy = node
        self.state.anatomy = node.GetName()
        self.state.view = View.ANATOMY.value
        self._show()

    async def open_segmentation(self, path: Path) -> None:
        """Add the segments of a file to those of the case."""
        case = self.case
        if case is None:
            return
        try:
            self._need_segmentation(case)
            regions.add_regions_of_file(path, case.segmentation, case.node)
            self.desk.tell("regions", "")
        except PerfusionError as error:
            self.desk.tell("regions", said(error))
        self._tell_segments(case)

    async def _open(self, path: Path) -> None:
        node = await self.desk.work("open", logic.load_node.steps(path))
        if self._opened(node, path):
            await self.check()

    def _opened(self, node: Any, path: Path | None) -> bool:
        if node is None:
            return False
        slicer.modules.sequences.logic().UpdateAllProxyNodes()
        case = Case(secrets.token_hex(4), node, path)
        self.cases[case.key] = case
        with self.state as state:
            state.cases = [{"key": each.key, "name": each.name} for each in self.cases.values()]
            self.select(case.key)
        return True

    def select(self, key: str) -> None:
        """Bring another case on screen."""
        case = self.cases.get(key)
        if case is None:
            return
        state = self.state
        state.update({**CASE, "case_key": key, "errors": {}, "echo_ms": case.echo_ms, "interval_ms": case.interval_ms})
        self._tell_case(case)
        self._show(again=True)

    def close_case(self) -> None:
        """Forget the case on screen with everything that was made of it."""
        case = self.case
        if case is None or self.state.busy:
            return
        del self.cases[case.key]
        made = outputs(case.node)
        for each in (*made.values(), case.segmentation, case.anatomy, case.node):
            if each is not None and slicer.mrmlScene.IsNodePresent(each):
                slicer.mrmlScene.RemoveNode(each)
        self.state.cases = [{"key": each.key, "name": each.name} for each in self.cases.values()]
        rest = next(iter(self.cases), "")
        if rest:
            self.select(rest)
        else:
            self.state.update({**CASE, "case_key": "", "errors": {}})
            self.looking.show(None)

    # --- checking and computing

    async def check(self) -> None:
        """Look at the series on screen without making a map."""
        case = self.case
        if case is None or case.result is not None:
            return
        facts = self._facts(case)
        if facts is None or facts.problem:
            self._tell_case(case)
            return
        findings = await self.desk.work("open", logic.check_node.steps(case.node, **self._times(case), mask=None))
        if findings is not None:
            case.findings, case.done = findings, checked_text(findings)
        self._tell_case(case)

    async def compute(self, method: str, reference: str, motion: bool, device: str) -> None:
        """Make the map of the case on screen.

        What was chosen comes with the order, not from the state, which may still be on its way from the page.

        Parameters
        ----------
        method, device : str
            See `Settings`.
        reference : str
            ``automatic``, ``brain``, or the ID of a segment of the case.
        motion : bool
            Whether motion is corrected first.
        """
        case, state = self.case, self.state
        if case is None:
            return
        region = None if reference in ("automatic", "brain") else (case.segmentation, reference)
        if region is not None and region[0] is None:
            self.desk.tell("compute", "The segment that is the reference region was removed. Choose another reference.")
            return
        normalize: Normalisation = "brain" if reference == "brain" else "nawm"
        settings = Settings(method=method, normalize=normalize, motion_correction=bool(motion), device=device)
        try:
            times = self._times(case)
        except PerfusionError as error:
            self.desk.tell("compute", said(error))
            return
        steps = logic.process_node.steps(case.node, settings, **times, mask=None, reference=region, aif=None)
        made = await self.desk.work("compute", steps)
        if made is None:
            return
        case.result, nodes = made
        case.findings, case.done = case.result.findings, done_text(case.result.provenance)
        case.map_shown = "rcbv" if "rcbv" in nodes else case.map_shown
        with state:
            if self.case is case:
                self._tell_case(case)
                self._show(again=True)

    async def align(self) -> None:
        """Register the series on screen to its anatomical volume."""
        case = self.case
        if case is None:
            return
        found = await self.desk.work("anatomy", logic.align_nodes.steps(case.node, case.anatomy))
        if found is None:
            return
        registration = found[0]
        words = f"Aligned: the brain was moved by {registration.displacement_mm:.1f} mm."
        if registration.doubtful:
            self.desk.tell("anatomy", " ".join(f"{each.message} {each.advice}" for each in registration.findings))
        case.done = words
        if case.segmentation is not None:
            baseline = outputs(case.node)["baseline"]
            case.segmentation.SetAndObserveTransformNodeID(baseline.GetTransformNodeID())
        self._tell_case(case)
        self._show(again=True)

    # --- regions

    async def measure(self, hot_spot_mm2: Any, low_cut_off: Any, high_cut_off: Any) -> None:
        """Measure the segments of the case on screen; mm², and cut-offs of fractional burden."""
        case, state = self.case, self.state
        if case is None:
            return
        try:
            settings = MeasureSettings(float(hot_spot_mm2), (float(low_cut_off), float(high_cut_off)))
        except (PerfusionError, ValueError, TypeError) as error:
            self.desk.tell("regions", said(error) if isinstance(error, PerfusionError) else "Enter numbers.")
            return
        self.looking.forget_drawing()
        steps = logic.measure_node.steps(case.node, case.segmentation, settings, mirrors=False)
        if await self.desk.work("regions", steps) is not None:
            case.histogram = histogram_figure(regions.histograms(case.segmentation, case.node), settings.cut_offs)
            with state:
                state.measures, state.histogram = measures_html(case.node), case.histogram

    def remove_segments(self) -> None:
        """Remove all segments of the case on screen, and their measures from the page."""
        case = self.case
        if case is not None and case.segmentation is not None and not self.state.busy:
            slicer.mrmlScene.RemoveNode(case.segmentation)
            case.segmentation, case.histogram = None, EMPTY
            self.looking.forget_drawing()
            self.state.update({"measures": "", "histogram": EMPTY, "reference": "automatic"})
            if self.state.mouse in ("draw", "erase"):
                self._need_segmentation(case)
            self._tell_segments(case)

    def _need_segmentation(self, case: Case) -> None:
        if case.segmentation is None:
            case.segmentation = regions.new_segmentation(case.node)

    def _tell_segments(self, case: Case) -> None:
        told = []
        if case.segmentation is not None:
            content = case.segmentation.GetSegmentation()
            ids = [content.GetNthSegmentID(number) for number in range(content.GetNumberOfSegments())]
            told = [{"id": each, "name": content.GetSegment(each).GetName()} for each in ids]
        if told != self.state.segments:
            with self.state as state:
                state.segments = told

    # --- taking results away

    async def take(self, what: str) -> None:
        """Make a file of the case's results; the page fetches it when it is ready."""
        case = self.case
        if case is not None and case.result is not None:
            self.looking.forget_drawing()
            await self.exports.make(what, case)

    # --- views

    def go_to(self, name: str, offset_mm: float) -> None:
        """Show another slice of a view."""
        view = self.looking.views.get(name)
        if isinstance(view, SliceView):
            view.go_to(float(offset_mm))

    def step(self, name: str, count: int) -> None:
        """Go some slices on in a view."""
        view = self.looking.views.get(name)
        if isinstance(view, SliceView):
            view.step(int(count))

    def _choose(self, **_: Any) -> None:
        """Take the page's choices about the display."""
        state, choices, case = self.state, self.looking.choices, self.case
        choices.view = View(state.view)
        choices.colours = Colours(state.colours)
        choices.windowPreset = WindowPreset(state.window_preset)
        choices.opacity, choices.threshold = float(state.opacity), float(state.threshold)
        choices.legend = bool(state.legend)
        if choices.windowPreset is WindowPreset.MANUAL and not self._take_window(state.window_low, state.window_high):
            return
        if case is not None:
            case.map_shown = state.map_shown or case.map_shown
            self._show()

    def _take_window(self, low: Any, high: Any) -> bool:
        """Take the ends of the colours that were typed; tell what is wrong with them, if anything is."""
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        right = numbers and low < high
        self.desk.tell("window", "" if right else "Enter two numbers; the window's end must lie above its start.")
        if right:
            self.looking.choices.window.minimum, self.looking.choices.window.maximum = float(low), float(high)
        return right

    def _show(self, *, again: bool = False) -> None:
        self.looking.show(self.case, again=again)

    def _mouse(self, mouse: str, **_: Any) -> None:
        if mouse in ("draw", "erase") and self.case is not None:
            try:
                self._need_segmentation(self.case)
                self.desk.tell("regions", "")
            except PerfusionError as error:
                self.desk.tell("regions", said(error))
                self.state.mouse = mouse = "look"
        if self.case is not None:
            self._tell_segments(self.case)
        self.looking.mouse(mouse)

    # --- texts

    def _tell_case(self, case: Case) -> None:
        """Tell the page all about a case."""
        facts = self._facts(case)
        made = outputs(case.node)
        titles = {"rcbv_classical": "rCBV, classical beside the network"}
        if "rcbv" in made:  # by whom, for another method may be chosen already for the next map
            titles["rcbv"] = f"rCBV, {METHOD_TITLES[made['rcbv'].GetAttribute(METHOD)]}"
        maps = [
            {"role": role, "title": titles.get(role, TITLES.get(role, role))}
            for role, each in made.items()
            if each.GetAttribute(MAP)
        ]
        findings = case.findings
        told = None
        if findings is not None:
            ordered = sorted(findings, key=lambda each: SEVERITIES.index(each.severity))
            told = [
                {"severity": f.severity, "message": in_the_panel(f.message), "advice": in_the_panel(f.advice)}
                for f in ordered
            ]
        own = describe(case.node)
        with self.state as state:
            state.update(
                {
                    "facts": facts_text(facts) if facts is not None else escape(case.name),
                    "findings": told,
                    "echo_known": known_text(own, "echo_time_s")[0],
                    "interval_known": known_text(own, "repetition_time_s")[0] if own.times_s is not None else "",
                    "why_not": why_not(facts, dynamic=True, findings=findings) if facts is not None else "",
                    "done": case.done,
                    "maps": maps,
                    "map_shown": case.map_shown if made else "",
                    "dicom_possible": _is_dicom(case.path),
                    "measures": measures_html(case.node) if made else "",
                    "histogram": case.histogram,
                    "has_map": bool(made) and case.result is not None,
                    "anatomy": case.anatomy.GetName() if case.anatomy is not None else "",
                }
            )
        self._tell_segments(case)

    def _facts(self, case: Case) -> NodeSeries | None:
        try:
            return describe(case.node, **self._times(case))
        except PerfusionError as error:
            self.state.why_not = said(error)
            return None

    def _times(self, case: Case) -> Times:
        """Return what was typed, s."""
        echo_ms = number(case.echo_ms, "The echo time (TE)", 1, 300)
        interval_ms = number(case.interval_ms, "The repetition time (TR)", 5, 20000)
        return {
            "echo_time_s": None if echo_ms is None else echo_ms / 1000,
            "repetition_time_s": None if interval_ms is None else interval_ms / 1000,
        }

    def _times_typed(self, echo_ms: Any, interval_ms: Any, **_: Any) -> None:
        case = self.case
        if case is None or (str(echo_ms), str(interval_ms)) == (case.echo_ms, case.interval_ms):
            return
        case.echo_ms, case.interval_ms, case.findings = str(echo_ms), str(interval_ms), None
        self._tell_case(case)

    def _method(self, method: str, **_: Any) -> None:
        self.state.method_note = method_note(method)

    # --- paths

    def _list(self, below: str) -> None:
        try:
            self.state.entries = listing(self.root, below)
            self.state.folder = below
            self.desk.tell("open", "")
        except PerfusionError as error:
            self.desk.tell("open", said(error))

    def _inside(self, where: str, wanted: str) -> Path | None:
        try:
            return inside_root(self.root, wanted)
        except PerfusionError as error:
            self.desk.tell(where, said(error))
            return None


def _is_dicom(path: Path | None) -> bool:
    """Return whether a series may have come from DICOM files, which its objects are made after."""
    if path is None:
        return False
    return path.is_dir() or path.suffix.lower() == ".zip" or (path.is_file() and is_dicom_file(path))
