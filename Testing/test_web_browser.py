"""One sitting in a real browser: the system's Chromium, driven by Playwright, against the command `view`."""

import importlib.util
import json
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from web_server import (
    CHROMIUM,
    TOKEN,
    browsing,
    compute,
    enter,
    pixels,
    pixels_once,
    read_at,
    serving,
    zip_of,
)

_PACKAGES = ("slicer", "trame", "trame_rca", "trame_plotly", "playwright")
_MISSING = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
pytestmark = [pytest.mark.web, pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}")]

UPLOAD_LIMIT_MB = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the server may open: a DICOM zip, a series without a bolus; and beside it what it may not."""
    from dsc_phantom import graded_head
    from PerfusionCBVLib.simulate.dicom import write_dicom_series

    outside = tmp_path_factory.mktemp("server")
    folder = outside / "root"
    folder.mkdir()
    shared = Path(os.environ.get("PERFUSIONCBV_SHARED", ""), "dro_a", "dicom.zip")
    head = graded_head()
    if shared.is_file():
        shutil.copy(shared, folder / "case.zip")
    else:
        scan = {"echo_time_s": 0.03, "repetition_time_s": 1.5, "flip_angle_deg": 60.0, "field_strength_t": 3.0}
        series = head.series
        write_dicom_series(series.signal, series.affine, series.times_s, outside / "dicom", **scan)
        zip_of(outside / "dicom", folder / "case.zip")
    still = head.series.signal[..., :1] + np.random.default_rng(1).normal(0, 4, head.series.signal.shape)
    for name, signal in (("quiet", np.clip(still, 1, None).astype(np.float32)), ("head", head.series.signal)):
        image = nibabel.Nifti1Image(signal, head.series.affine)
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = 1.5
        nibabel.save(image, folder / f"{name}.nii.gz")
        (folder / f"{name}.json").write_text(json.dumps({"EchoTime": 0.03, "FlipAngle": 60}))
    shutil.copy(folder / "head.nii.gz", outside / "secret.nii.gz")
    return folder


@pytest.fixture(scope="module")
def expected(root):
    """What the library makes of the case, by method."""
    from PerfusionCBVLib import Settings, compute_maps, load_series

    series = load_series(root / "case.zip")
    return {method: compute_maps(series, Settings(method=method)) for method in ("bsw", "unet-gru")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the server's sessions keep their files."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(root, kept):
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(kept)
    try:
        options = ("--root", root, "--upload-limit", UPLOAD_LIMIT_MB, "--sessions", 3)
        with serving(*options) as found:
            yield found
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.__setitem__("TMPDIR", before)
    assert list(kept.iterdir()) == [], "files of sessions were left behind"


@pytest.fixture(scope="module")
def browser(address):
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def page(browser, address):
    """The page of the person whose sitting this file tells, from test to test."""
    return enter(browser, address)


def answer(address, path="", *, data=None, headers=None):
    """Return status and text of a request of who has no cookie."""
    request = urllib.request.Request(address + path, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "index.html", "ws", "?token=wrong", "upload/0123456789abcdef/a.zip", "end"])
def test_without_the_token_there_is_no_entry(address, path):
    status, text = answer(address, path, data=b"x" if path.startswith(("upload", "end")) else None)
    assert status == 401
    assert "remote-controlled" not in text
    assert TOKEN not in text


def test_the_token_leaves_the_address_and_nothing_is_asked_of_other_servers(page, address):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("[data-view=Red] .area")
    assert "token" not in page.url
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_dicom_zip_below_the_root_is_opened_and_checked(page, expected):
    page.click("#server-files summary")
    page.click("#server-files button:text-is('case.zip')")
    page.wait_for_selector("#findings")
    series = expected["bsw"].series
    assert " × ".join(map(str, series.signal.shape[:3])) in page.inner_text(".facts")
    assert f"{series.frames} frames" in page.inner_text(".facts")
    from PerfusionCBVLib import check

    shown = page.inner_text("#findings")
    assert all(finding.message[:40] in shown for finding in check(series))


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/hostname", "head.nii.gz/../../secret.nii.gz", "no.nii.gz"])
def test_no_path_outside_the_root_is_opened(page, path):
    cases = page.locator("#case option").count()
    page.evaluate("(path) => window.trame.trigger('open_path', [path])", path)
    page.wait_for_selector("#error-open")
    assert any(word in page.inner_text("#error-open") for word in ("outside", "no file"))
    assert page.locator("#case option").count() == cases
    page.evaluate("window.trame.trigger('list', [''])")
    page.wait_for_selector("#error-open", state="detached")


# --- the map ----------------------------------------------------------------------------------------------------------


def test_a_classical_map_lies_over_the_series_and_a_click_reads_its_value(page, expected):
    before = pixels(page, "Red")
    assert "Done" in compute(page, "bsw")
    page.wait_for_selector("#map option", state="attached")
    result = expected["bsw"]
    (i, j, k), values = read_at(page, "Red", 190, 110)
    assert values["rcbv"] == pytest.approx(float(result.maps["rcbv"].values[i, j, k]), rel=1e-6, nan_ok=True)
    assert values["k2"] == pytest.approx(float(result.maps["k2"].values[i, j, k]), rel=1e-6, nan_ok=True)
    after = pixels_once(page, "Red", lambda shown: shown.std(axis=-1).max() > 20)
    assert before.std(axis=-1).max() == 0, "the series is grey before there is a map"
    assert (after.std(axis=-1) > 20).mean() > 0.03, "colours over the brain"


def test_the_colour_on_screen_is_the_maps_value_in_the_librarys_colour_table(page, expected):
    from PerfusionCBVLib.colours import apply, colour_table

    page.locator("#opacity").fill("1")
    page.locator("#legend").uncheck()
    rcbv = expected["bsw"].maps["rcbv"].values
    page.select_option("#window", "0 5")
    checked = 0
    for x, y in ((190, 110), (230, 90), (210, 150), (260, 120)):
        (i, j, k), values = read_at(page, "Red", x, y)
        near = rcbv[i - 1 : i + 2, j - 1 : j + 2, k]
        if values["rcbv"] is None or not np.isfinite(near).all():
            continue
        assert read_at(page, "Red", 30, 40) == ([], {})  # outside the series; the crosshair leaves
        allowed = apply(np.linspace(near.min(), near.max(), 100), colour_table("perfusion"), 0.0, 5.0)[:, :3]
        colours = allowed.astype(int)
        pixels_once(page, "Red", lambda shown, x=x, y=y, c=colours: np.abs(c - shown[y, x]).max(axis=1).min() <= 6)
        checked += 1
    assert checked >= 2


def test_the_opacity_slider_changes_pixels_where_the_map_is_and_nowhere_else(page):
    full = pixels(page, "Red").astype(int)
    page.locator("#opacity").fill("0.3")
    page.wait_for_function("document.querySelector('#part-display').textContent.includes('30 %')")
    faint = pixels_once(page, "Red", lambda shown: (shown != full).any()).astype(int)
    page.locator("#opacity").fill("0")
    none = pixels_once(page, "Red", lambda shown: (shown != faint).any()).astype(int)
    coloured = full.std(axis=-1) > 20
    assert coloured.mean() > 0.03
    assert (none.std(axis=-1) > 20).sum() < 0.1 * coloured.sum(), "grey, but for crosshair and reference outline"
    blended = 0.3 * full[coloured] + 0.7 * none[coloured]
    assert np.abs(faint[coloured] - blended).mean() < 2.0
    outside = (full == none).all(axis=-1)
    assert (faint[outside] == full[outside]).all()
    page.locator("#opacity").fill("0.7")


def test_a_click_shows_the_curve_that_the_library_reads(page, expected):
    from PerfusionCBVLib.concentration import delta_r2s

    (i, j, k), _values = read_at(page, "Red", 205, 118)
    page.wait_for_selector("#curve .js-plotly-plot")
    page.wait_for_function("document.querySelector('#curve .js-plotly-plot').data?.length === 3")
    lines = {
        line["name"]: (line["x"], line["y"])
        for line in page.evaluate("document.querySelector('#curve .js-plotly-plot').data.map(d => ({...d}))")
    }
    result = expected["bsw"]
    first = result.timing.first_steady
    echo_time_s = result.series.acquisition.echo_time_s
    own = delta_r2s(result.series.signal[i, j, k][None], echo_time_s=echo_time_s, baseline=result.timing.baseline)[0]
    np.testing.assert_allclose(lines["Voxel"][1], own[first:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(lines["Voxel"][0], result.series.times_s[first:], rtol=1e-6)
    peak = np.nanargmax(np.array(lines["Reference tissue"][1], float)) + first
    assert result.timing.first_pass.start <= peak < result.timing.first_pass.stop
    shapes = page.evaluate("document.querySelector('#curve .js-plotly-plot').layout.shapes.map(s => [s.x0, s.x1])")
    window = result.series.times_s[result.timing.first_pass]
    assert [window[0], window[-1]] in [pytest.approx(shape) for shape in shapes]


def test_the_wheel_and_keys_change_slices_and_the_left_button_sets_the_window(page):
    number = page.locator("[data-view=Red] .count")
    before = number.inner_text()
    box = page.locator("[data-view=Red]").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 100)
    page.mouse.wheel(0, -100)
    page.wait_for_function("(text) => document.querySelector('[data-view=Red] .count').textContent != text", arg=before)
    now = number.inner_text()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("(text) => document.querySelector('[data-view=Red] .count').textContent != text", arg=now)
    page.keyboard.press("w")
    page.wait_for_selector("input[name=mouse][value=window]:checked")
    page.wait_for_timeout(500)  # what the button does is the server's matter
    page.mouse.move(box["x"] + 200, box["y"] + 110)
    page.mouse.down()
    page.mouse.move(box["x"] + 240, box["y"] + 150, steps=6)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#window').value === 'manual'")
    page.keyboard.press("r")
    page.select_option("#window", "automatic")


# --- a network, compared ----------------------------------------------------------------------------------------------


def test_a_network_is_compared_with_the_classical_map_in_linked_views(page, expected):
    assert "Done" in compute(page, "unet-gru")
    page.select_option("#view", "compare")
    page.wait_for_selector("[data-view=PerfusionCBVNetwork] .mark")
    titles = page.locator(".cell .name").all_inner_texts()
    assert titles == ["UNet-GRU", "Classical", "Difference", "Uncertainty"]
    assert page.locator("[data-view=PerfusionCBVUncertainty] .none").inner_text() == "This method has none."
    page.locator("#legend").check()
    for name in ("PerfusionCBVNetwork", "PerfusionCBVClassical", "PerfusionCBVDifference"):
        pixels_once(page, name, lambda shown: (shown[:, -24:].astype(int).std(axis=-1) > 20).sum() > 100)  # the legend
    maps = expected["unet-gru"].maps
    (i, j, k), values = read_at(page, "PerfusionCBVNetwork", 195, 112)
    for role in ("rcbv", "rcbv_classical", "disagreement"):
        assert values[role] == pytest.approx(float(maps[role].values[i, j, k]), rel=1e-4, abs=1e-5, nan_ok=True), role
    page.locator("[data-view=PerfusionCBVClassical]").hover()
    page.keyboard.press("PageUp")
    page.wait_for_function(
        "new Set([...document.querySelectorAll('.cell .count')].map(each => each.textContent)).size === 1"
    )
    page.select_option("#view", "series")
    page.wait_for_selector("[data-view=Red] .mark")


def test_a_view_alone_does_not_hide_the_comparison(page):
    page.locator("[data-view=Solid]").dblclick()  # its clicks read no voxel that the next test could take for its own
    page.wait_for_function("document.querySelectorAll('.cell').length === 1")
    page.keyboard.press("c")
    page.wait_for_selector("[data-view=PerfusionCBVUncertainty] .mark")
    assert page.locator(".cell").count() == 4
    page.keyboard.press("c")
    page.wait_for_selector("[data-view=Red] .mark")
    assert page.locator(".cell").count() == 4


def test_views_are_in_radiological_convention(page):
    marks = {name: page.locator(f"[data-view={name}] .mark").all_inner_texts() for name in ("Red", "Yellow", "Green")}
    assert marks == {"Red": ["R", "L", "A", "P"], "Yellow": ["A", "P", "S", "I"], "Green": ["R", "L", "S", "I"]}


def test_a_cancelled_run_leaves_the_earlier_map(page):
    (before, values) = read_at(page, "Red", 200, 100)
    page.get_by_label("Correct motion").check()  # so that the run lasts
    page.click("#compute")
    page.click("#cancel")
    page.wait_for_selector("#error-compute")
    assert "Cancelled" in page.inner_text("#error-compute")
    page.get_by_label("Correct motion").uncheck()
    assert read_at(page, "Red", 230, 100) != (before, values)
    assert read_at(page, "Red", 200, 100) == (before, values)
    assert page.input_value("#method") == "unet-gru"


# --- regions and files ------------------------------------------------------------------------------------------------


def test_loaded_and_drawn_segments_are_measured(page, expected, tmp_path):
    result = expected["unet-gru"]
    rcbv = result.maps["rcbv"].values
    middle = np.array(np.nonzero(np.isfinite(rcbv))).mean(axis=1).astype(int)
    label = np.zeros(rcbv.shape, np.uint8)
    label[tuple(slice(n - 3, n + 4) for n in middle[:2])] = 1
    label[~np.isfinite(rcbv)] = 0
    nibabel.save(nibabel.Nifti1Image(label, result.affine), tmp_path / "square.nii.gz")
    page.set_input_files("#upload-regions", tmp_path / "square.nii.gz")
    page.wait_for_selector("#segments")
    page.click("input[name=mouse][value=draw]")
    page.wait_for_timeout(500)  # what the button does is the server's matter
    box = page.locator("[data-view=Red]").bounding_box()
    page.mouse.move(box["x"] + 190, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 215, box["y"] + 110, steps=3)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#segments').textContent.includes('Drawn')")
    page.click("input[name=mouse][value=look]")
    page.click("#measure")
    page.wait_for_selector("#measures table")
    head, *rows = [row.split("\t") for row in page.inner_text("#measures table").splitlines() if row.strip()]
    assert head[-2:] == ["label 1", "Drawn"]
    mean = next(row for row in rows if "mean" in row[0].lower())
    assert float(mean[1].split(" ")[0]) == pytest.approx(float(rcbv[label > 0].mean()), rel=6e-3)
    page.wait_for_selector("#histogram .js-plotly-plot")
    shares = page.evaluate("document.querySelector('#histogram .js-plotly-plot').data.map(d => [...d.y])")
    assert len(shares) == 2
    inside = rcbv[label > 0]
    assert sum(shares[0]) == pytest.approx(100 * np.mean((inside >= 0) & (inside < 6)), abs=0.1)


def test_report_maps_and_dicom_objects_are_downloaded(page, expected, tmp_path):
    files = {}
    for what in ("report", "maps", "dicom"):
        with page.expect_download() as download:
            page.click(f"#take-{what}")
        files[what] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[what])
    assert "rCBV" in files["report"].read_text(encoding="utf-8")
    with zipfile.ZipFile(files["maps"]) as archive:
        archive.extractall(tmp_path / "maps")
    rcbv = nibabel.load(tmp_path / "maps" / "rcbv.nii.gz").get_fdata()
    np.testing.assert_allclose(rcbv, expected["unet-gru"].maps["rcbv"].values, rtol=1e-4, atol=1e-5)
    with zipfile.ZipFile(files["dicom"]) as archive:
        archive.extractall(tmp_path / "dicom")
    written = [pydicom.dcmread(path) for path in (tmp_path / "dicom").rglob("*.dcm")]
    assert any(each.Modality == "SR" for each in written)
    assert len({each.StudyInstanceUID for each in written}) == 1


def test_the_session_survives_a_reload(page):
    (voxel, values) = read_at(page, "Red", 200, 100)
    page.reload()
    page.wait_for_selector("#done")
    assert json.loads(page.get_attribute("#readout", "data-voxel")) == voxel
    assert read_at(page, "Red", 235, 105) != (voxel, values)
    assert read_at(page, "Red", 200, 100) == (voxel, values)
    assert page.input_value("#method") == "unet-gru"


# --- errors, uploads, other people ------------------------------------------------------------------------------------


def test_a_series_without_a_bolus_is_refused_where_the_user_looks(page):
    page.evaluate("window.trame.trigger('open_path', ['quiet.nii.gz'])")
    page.wait_for_selector("#findings .error")
    page.wait_for_selector("#why-not")
    assert not page.locator("#compute").is_enabled()
    assert "bolus" in page.inner_text("#why-not").lower()
    page.select_option("#case", index=0)
    page.wait_for_function("document.querySelector('#done')?.textContent.includes('Done')")


def test_an_uploaded_series_is_opened_and_other_kinds_and_sizes_are_refused(page, root, kept, tmp_path):
    (tmp_path / "program.exe").write_bytes(b"MZ")
    (tmp_path / "large.zip").write_bytes(bytes(1024**2 * (UPLOAD_LIMIT_MB + 1)))
    page.locator("#part-open").evaluate("each => each.open = true")
    for name, word in (("program.exe", "can't be read"), ("large.zip", f"{UPLOAD_LIMIT_MB} MB")):
        page.set_input_files("#upload-series", tmp_path / name)
        page.wait_for_selector(f'#error-open:has-text("{word}")')
    # What the page's own script refuses, the server refuses too.
    send = """async (size) => {
      const body = new Uint8Array(size);
      return (await fetch('upload/0123456789abcdef/a.zip', {method: 'POST', body})).status;
    }"""
    assert page.evaluate(send, 1024**2 * (UPLOAD_LIMIT_MB + 1)) == 413
    climb = "async () => (await fetch('upload/0123456789abcdef/..%2F..%2Fa.zip', {method: 'POST', body: 'x'})).status"
    assert page.evaluate(climb) in (400, 404)
    assert not list(kept.rglob("a.zip"))
    assert not list(kept.rglob("program.exe"))
    page.set_input_files("#upload-series", [root / "head.nii.gz", root / "head.json"])
    page.wait_for_selector("#findings")
    page.wait_for_function("document.querySelectorAll('#case option').length === 3")
    assert "TE 30 ms" in page.inner_text("#part-open")
    assert page.locator("#take-dicom").is_disabled()
    assert len(list(kept.rglob("head.nii.gz"))) == 1


def test_two_people_do_not_see_each_others_cases_and_an_ended_session_leaves_nothing(page, browser, address, kept):
    mine = page.locator("#case option").all_inner_texts()
    folders = set(kept.glob("*/session-*"))
    other = enter(browser, address)
    assert other.locator("#case").count() == 0
    other.evaluate("window.trame.trigger('open_path', ['head.nii.gz'])")
    other.wait_for_selector("#findings")
    assert other.locator("#case option").count() == 1
    assert page.locator("#case option").all_inner_texts() == mine
    taken = page.evaluate("window.trame.state.get('ready')")
    status = "(path) => fetch(path).then(answer => answer.status)"
    assert page.evaluate(status, taken) == 200
    assert other.evaluate(status, taken) == 404
    other.on("dialog", lambda dialog: dialog.accept())
    other.click("#end")
    other.wait_for_selector("h1:has-text('ended')")
    assert set(kept.glob("*/session-*")) & folders, "the first person's session goes on"
    again = other.evaluate("() => fetch('index.html').then(answer => answer.status)")
    assert again == 401
    other.context.close()
    assert page.evaluate(status, taken) == 200
