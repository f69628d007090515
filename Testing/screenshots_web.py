"""Make the README's pictures of the browser face: the simulated patient in Chromium.

python Testing/screenshots_web.py [FOLDER]
"""

import io
import sys
from pathlib import Path

from PIL import Image

from web_server import browsing, compute, enter, read_at, serving

RESOURCES = Path(__file__).resolve().parent.parent / "Resources"
SIZE = (1280, 720)


def save(page, path):
    """Write the page as it is, once its views stand still; fewer colours would change those of the map."""
    page.wait_for_timeout(4000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "kB")


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESOURCES
    with serving() as address, browsing() as browser:
        page = enter(browser, address, SIZE)
        page.click("#simulated")
        page.wait_for_selector("#findings")
        print(compute(page, "anchored-unet"))
        page.wait_for_timeout(3000)
        read_at(page, "Red", 250, 90)
        save(page, folder / "browser-map.png")
        page.select_option("#view", "compare")
        page.wait_for_selector("[data-view=PerfusionCBVNetwork] .mark")
        save(page, folder / "browser-compare.png")


if __name__ == "__main__":
    main()
