"""How fast the browser face is: start-up, time to the first picture, frames per second while scrolling.

    python benchmarks/browser.py [--repeats 3] [--seconds 5]

Chromium and server share this machine, so that both pay for drawing and encoding. The series is 128 × 128 × 24 × 60;
each view of the 1280 × 720 page has about 470 × 300 pixels. The machine's load stands beside the figures.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import nibabel

from dsc_phantom import graded_head
from web_server import browsing, compute, enter, serving

FIRST_PICTURE = """() => {
  const shown = document.querySelector('[data-view=Red] .area')?.querySelector('canvas, img');
  const width = shown?.naturalWidth || shown?.width;
  if (!width) return false;
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 60;
  const context = canvas.getContext('2d');
  context.drawImage(shown, 0, 0, 60, 60);
  return context.getImageData(0, 0, 60, 60).data.some((value, n) => n % 4 !== 3 && value > 40);
}"""
SMALLEST_PICTURE_BYTES = 1500


def series_file(folder):
    """Write the series; return its path."""
    series = graded_head(shape=(128, 128, 24), frames=60).series
    image = nibabel.Nifti1Image(series.signal, series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nibabel.save(image, folder / "dsc.nii")
    (folder / "dsc.json").write_text(json.dumps({"EchoTime": 0.03, "FlipAngle": 60}))
    return folder / "dsc.nii"


def frames_per_s(page, seconds, *, map_shown):
    """Return pictures that reach the page a second while the wheel turns 30 times a second."""
    page.wait_for_timeout(1500)
    box = page.locator("[data-view=Red]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.pictures.clear()
    started, turned = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        page.mouse.wheel(0, -100 if (turned // 20) % 2 else 100)
        turned += 1
        page.wait_for_timeout(max(0.0, 1000 * (started + turned / 30 - time.monotonic())))
    spent_s = time.monotonic() - started
    sizes = list(page.pictures)
    return {
        "map": map_shown,
        "frames_per_s": round(len(sizes) / spent_s, 1),
        "wheel_per_s": round(turned / spent_s, 1),
        "kilobytes_a_frame": round(statistics.median(sizes) / 1000, 1) if sizes else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    found = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        arguments = (series_file(Path(folder)), "--sessions", options.repeats + 1)
        made_s = time.monotonic() - started
        with serving(*arguments) as address, browsing() as browser:
            found["start_up_s"] = round(time.monotonic() - started - made_s, 1)
            first = []
            for _ in range(options.repeats):
                time.sleep(15.0)  # until the next session's process, started in advance, has opened its series
                began = time.monotonic()
                page = enter(browser, address)
                page.wait_for_function(FIRST_PICTURE)
                first.append(round(time.monotonic() - began, 2))
            found["first_picture_s"] = first
            page.pictures = []
            page.on(
                "websocket",
                lambda socket: socket.on(
                    "framereceived",
                    lambda payload: (
                        page.pictures.append(len(payload)) if len(payload) > SMALLEST_PICTURE_BYTES else None
                    ),
                ),
            )
            page.reload()  # the listener hears sockets that are opened from now on
            page.wait_for_function(FIRST_PICTURE)
            found["scrolling"] = [frames_per_s(page, options.seconds, map_shown=False)]
            compute(page, "bsw")
            found["scrolling"].append(frames_per_s(page, options.seconds, map_shown=True))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
