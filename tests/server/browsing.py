"""What the tests of the page share: Chromium, and the page as they see it. A module of tests says what `address` is."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect, sync_playwright

SIZES = {"1280": (1280, 800), "360": (360, 740)}

expect.set_options(timeout=30_000)  # a busy machine takes its time; what never comes true fails all the same

LABELS = """async (name) => {
  const { project } = await import("/static/project.js");
  const { width, height, data } = project.photos.find((photo) => photo.name === name).labels;
  let text = "";
  for (const value of data) text += String.fromCharCode(value);
  return [width, height, btoa(text)];
}"""


def chromium() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        reason = "Expected Chromium for the test of the page, but found none. Install it: apt-get install chromium."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Any]:
    """Opens the page in a browser profile of its own; fails on requests to other hosts and on errors of the page."""
    foreign: list[str] = []
    errors: list[str] = []
    contexts = []

    def look(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and f"{parts.scheme}://{parts.netloc}" != address:
            foreign.append(url)

    def opened(size: str = "1280", **options: Any) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda request: look(request.url))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: (errors.append(f"a native dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(address)
        ready(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


def ready(page: Page) -> None:
    page.wait_for_selector("html[data-ready]")


def choose_brush(page: Page) -> None:
    page.get_by_role("button", name="Brush", exact=True).click()


def labels_of(page: Page, name: str) -> NDArray[np.uint8]:
    width, height, text = page.evaluate(LABELS, name)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width)


WATCH = """() => {
    const button = document.querySelector("#cancel");
    button.removeAttribute("data-shown");
    new MutationObserver(() => button.setAttribute("data-shown", "")).observe(button, { attributeFilter: ["hidden"] });
}"""


def segment(page: Page) -> None:
    page.evaluate(WATCH)  # a run may be over before anybody looks for its button
    page.click("#segment")
    page.wait_for_selector("#cancel[data-shown][hidden]", state="attached")


def watch_forms(page: Page) -> None:
    """From now on keeps the forms that the page sends; the browser does not show others what their files are."""
    page.evaluate("""() => {
      const { fetch } = window;
      window.forms = [];
      window.fetch = (path, options) => {
        if (options?.body instanceof FormData) {
          const told = [...options.body].map(([name, value]) => [name, value instanceof Blob ? value.name : value]);
          window.forms.push([path, Object.fromEntries(told)]);
        }
        return fetch(path, options);
      };
    }""")


def forms_of(page: Page, path: str) -> list[dict[str, str]]:
    """Fields of the forms sent to a route; a file is its name."""
    forms: list[list[Any]] = page.evaluate("window.forms")
    return [fields for place, fields in forms if place == path]
