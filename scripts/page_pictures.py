"""Takes pictures of the page of `rifenet serve`: strokes on an example, and results side by side.

    python scripts/page_pictures.py docs/images
    python scripts/page_pictures.py pictures --width 360 --height 740 --scheme dark

It needs Chromium and Playwright, as the tests of the page do. The photos are the program's own examples.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from rifenet.engines.torch import TorchEngine
from rifenet.server.app import create_app
from rifenet.server.run import uvicorn_config

EXAMPLE = Path(str(files("rifenet"))) / "examples" / "photos" / "000000542720.jpg"
STROKES = (
    ((0.37, 0.56), (0.30, 0.38), (0.20, 0.32), (0.12, 0.42), (0.14, 0.76)),
    ((0.25, 0.40), (0.30, 0.55), (0.29, 0.80)),
)  # over the bear, as shares of the photo's sides
QUALITY = 80


def main() -> None:
    """Starts a server and a browser, and takes the pictures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--width", type=int, default=1280)
    words.add_argument("--height", type=int, default=800)
    words.add_argument("--scheme", choices=("light", "dark"), default="light")
    options = words.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        size = {"width": options.width, "height": options.height}
        page = browser.new_page(viewport=size, color_scheme=options.scheme)
        page.set_default_timeout(300_000)
        expect.set_options(timeout=300_000)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        strokes(page, options.out / "page_strokes.webp")
        results(page, options.out / "page_results.webp")
        browser.close()


@contextmanager
def served() -> Iterator[str]:
    """Address of a server of the bundled model."""
    app = create_app(TorchEngine.load(device="cpu"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(app, app.state.service.limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


def strokes(page: Page, path: Path) -> None:
    """A stroke on an example and the mask that it became."""
    page.get_by_label("Name of class 1").fill("bear")
    page.set_input_files("#pick-examples", EXAMPLE)
    expect(page.locator("#facts .name")).to_have_text(EXAMPLE.name)
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    with Image.open(EXAMPLE) as photo:
        width, height = photo.size
    scale = min((box["width"] - 24) / width, (box["height"] - 24) / height, 4)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for stroke in STROKES:
        points = [(middle[0] + (x - 0.5) * width * scale, middle[1] + (y - 0.5) * height * scale) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=5)
        page.mouse.up()
        expect(page.locator(".working")).to_have_count(0)
    expect(page.locator("#example-list .note")).to_have_text("bear")
    take(page, path)


def results(page: Page, path: Path) -> None:
    """The sample's results side by side, their objects counted."""
    page.locator("#options summary").click()
    page.get_by_label("Count objects, touching ones apart").check()
    page.locator("#options summary").click()
    page.locator("#sample").click()
    page.click("#segment")
    expect(page.locator("#gallery")).to_be_visible()
    expect(page.locator("#cancel")).to_be_hidden()
    page.locator("#cards .open").first.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    take(page, path)


def take(page: Page, path: Path) -> None:
    """What the browser shows."""
    Image.open(BytesIO(page.screenshot())).convert("RGB").save(path, quality=QUALITY)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
