"""The browser face started as a user starts it, and the system's Chromium to look at it; for tests and measurements."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

TOKEN = "a-token-for-the-tests-only"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHIN_MS = 120_000
"""A shared machine can be ten times slower than it should."""

READY = """(name) => {
  const area = document.querySelector(`[data-view=${name}] .area`);
  const shown = area?.querySelector('img');
  const box = area?.getBoundingClientRect();
  return shown && Math.abs(shown.naturalWidth - box.width) < 2 && Math.abs(shown.naturalHeight - box.height) < 2;
}"""
TOLD_MS = 250
"""The page tells the server a view's size 100 ms after it was laid out."""

NOTE_PROGRESS = """() => {
  window.progressed = false;
  new MutationObserver((_, self) => {
    if (!document.querySelector('#progress')) return;
    window.progressed = true;
    self.disconnect();
  }).observe(document.body, { childList: true, subtree: true });
}"""
"""A run that is over between two looks at the page is noticed all the same."""

NOTE_KINDS = """
  window.kinds = new Map();
  const make = URL.createObjectURL;
  URL.createObjectURL = (blob) => {
    const url = make.call(URL, blob);
    window.kinds.set(url, blob.type);
    return url;
  };
"""
PIXELS = """(name) => {
  const shown = document.querySelector(`[data-view=${name}] .area img`);
  if (window.kinds.get(shown.src) !== 'image/png') return '';
  const canvas = document.createElement('canvas');
  canvas.width = shown.naturalWidth;
  canvas.height = shown.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(shown, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/png');
}"""


@contextlib.contextmanager
def serving(*options, token=TOKEN):
    """Start `perfusion-cbv view` on a free port; give its address without the token."""
    environment = {**os.environ, "PERFUSIONCBV_TOKEN": token, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "PerfusionCBVLib", "view", "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"Open (http://\S+?/)", line)
        if not found:
            process.kill()
            raise RuntimeError(f"the server did not start: {line}{process.stderr.read()}")
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


@contextlib.contextmanager
def browsing():
    """Give the system's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def enter(browser, address, size=(1280, 720)):
    """Open the page in a context of its own, as another person would; return it once its views are there."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    context.add_init_script(NOTE_KINDS)
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    page.goto(f"{address}?token={TOKEN}")
    page.wait_for_selector("[data-view=Red] .area")
    return page


def compute(page, method):
    """Make a map with a method and wait until it is there; return what the page says."""
    page.select_option("#method", method)
    page.evaluate(NOTE_PROGRESS)
    page.click("#compute")
    page.wait_for_function("window.progressed")
    page.wait_for_selector("#progress", state="detached")
    return page.locator("#done, #error-compute").first.text_content()


def pixels(page, name):
    """Return what a view shows, (height, width, 3) uint8, once it stands still and so was sent without loss, as PNG.

    A picture of another size than the view has on the page was drawn before the page was laid out anew.
    """
    last, since = None, time.monotonic()
    while time.monotonic() - since < WITHIN_MS / 1000:
        page.wait_for_function(READY, arg=name)
        sent = page.evaluate(PIXELS, name)
        now = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.split(",")[1]))).convert("RGB")) if sent else None
        if now is not None and last is not None and now.shape == last.shape and (now == last).all() and now.any():
            return now
        last = now
        page.wait_for_timeout(200)
    raise AssertionError(f"view {name} never stood still")


def pixels_once(page, name, condition):
    """Return what a view shows once that meets a condition: the server may still be drawing what was asked of it."""
    since = time.monotonic()
    while not condition(shown := pixels(page, name)):
        assert time.monotonic() - since < WITHIN_MS / 1000, f"view {name} never came to show what was expected"
    return shown


def click_view(page, name, x, y):
    """Click a place of a view, in its own pixels, once it is laid out; wait for what the page says of that place."""
    page.evaluate(f"new Promise(done => setTimeout(done, {TOLD_MS}))")
    page.wait_for_function(READY, arg=name)
    before = page.get_attribute("#readout", "data-reading")
    box = page.locator(f"[data-view={name}]").bounding_box()
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector(f"#readout:not([data-reading='{before}'])")


def read_at(page, name, x, y):
    """Click a place of a view; return the voxel and the values that the page then says."""
    click_view(page, name, x, y)
    told = page.locator("#readout")
    return json.loads(told.get_attribute("data-voxel")), json.loads(told.get_attribute("data-values"))


def zip_of(folder, path):
    """Pack a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(Path(folder).rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path
