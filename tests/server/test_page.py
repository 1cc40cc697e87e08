"""The page in a real Chromium, with the bundled model and real photos: what a stranger does, and how it looks.

Screenshots go to the folder that RIFENET_SCREENSHOTS names, for people to look at.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from rifenet.engines.torch import TorchEngine
from rifenet.formats.pictures import load_mask
from rifenet.server.app import create_app

from .browsing import SIZES, choose_brush, labels_of, ready, segment
from .conftest import running

EXAMPLES = Path(str(files("rifenet"))) / "examples"
TABLE = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
BEAR = TABLE["classes"].index("bear") + 1
SHOTS = [each for each in TABLE["photos"] if each["classes"] == ["bear"] and each["support"]]
QUERIES = [each for each in TABLE["photos"] if each["classes"] == ["bear"] and not each["support"]]

CONTRAST = """() => {
  const lightness = (rgb) => {
    const [r, g, b] = rgb.map((level) => (level /= 255) <= 0.03928 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parsed = (colour) => {
    const parts = colour.match(/[0-9.]+/g).map(Number);
    return [parts.slice(0, 3), parts[3] ?? 1];
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [rgb, alpha] = parsed(getComputedStyle(each).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return parsed(getComputedStyle(document.body).backgroundColor)[0];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest(":disabled, noscript")) continue;
    const [a, b] = [lightness(parsed(getComputedStyle(element).color)[0]), lightness(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${walker.currentNode.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
UNNAMED = """() => [...document.querySelectorAll("button, input, canvas[tabindex], summary")]
  .filter((each) => each.checkVisibility())
  .filter((each) => !each.getAttribute("aria-label") && !each.textContent.trim())
  .filter((each) => !each.labels?.[0]?.textContent.trim())
  .map((each) => each.outerHTML)"""
DROP = """([target, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(target).dispatchEvent(event);
  }
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(TorchEngine.load(device="cpu"))) as there:
        yield there


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("RIFENET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=page.viewport_size["width"] < 500)  # type: ignore[index]


def iou(found: NDArray[np.bool_], truth: NDArray[np.uint8]) -> float:
    real, object_ = truth != 255, truth == BEAR
    return float((found & object_).sum() / ((found | object_) & real).sum())


def to_screen(page: Page, width: int, height: int) -> Any:
    """The function from a photo's pixels to the screen, for a photo that fits the stage."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    scale = min((box["width"] - 24) / width, (box["height"] - 24) / height, 4)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    return lambda x, y: (left + x * scale, top + y * scale)


def draw(page: Page, mask: NDArray[np.bool_], diameter: int = 24) -> None:
    """Paints a mask with the mouse, a stroke for each run of pixels in every few rows."""
    choose_brush(page)
    at = to_screen(page, mask.shape[1], mask.shape[0])
    page.locator("#size").fill(str(diameter))
    for row in range(0, mask.shape[0], diameter // 2):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[row].astype(int), [0]])))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start > diameter:
                page.mouse.move(*at(start + diameter / 2, row))
                page.mouse.down()
                page.mouse.move(*at(end - diameter / 2, row), steps=3)
                page.mouse.up()


def test_what_a_stranger_does(open_page: Any, address: str, tmp_path: Path) -> None:
    page: Page = open_page()
    name = page.get_by_placeholder("Name, e.g. dog")
    name.fill("bear")
    page.locator("input[type=color]").fill("#ff0080")
    page.set_input_files("#pick-examples", EXAMPLES / SHOTS[0]["image"])
    page.wait_for_selector("#example-list .thumb")
    expect(page.locator("#facts")).to_contain_text("Draw a line over the object")

    truth = load_mask(EXAMPLES / SHOTS[0]["mask"])
    shot = Path(SHOTS[0]["image"]).name
    draw(page, truth == BEAR)
    assert iou(labels_of(page, shot) == 1, truth) > 0.75

    queries = [Path(each["image"]).name for each in QUERIES[1:4]]
    dropped = [[each, base64.b64encode((EXAMPLES / "photos" / each).read_bytes()).decode()] for each in queries]
    page.evaluate(DROP, ["#queries", dropped])
    expect(page.locator("#query-list .thumb")).to_have_count(3)
    segment(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(3)
    expect(page.locator("#query-list .note").first).to_contain_text("bear")
    truths = [load_mask(EXAMPLES / each["mask"]) for each in QUERIES[1:4]]
    scores = [iou(labels_of(page, each) == 1, truth) for each, truth in zip(queries, truths, strict=True)]
    assert np.mean(scores) > 0.4, scores

    page.reload()
    ready(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(3)
    assert name.input_value() == "bear"
    assert [iou(labels_of(page, each) == 1, t) for each, t in zip(queries, truths, strict=True)] == scores
    expect(page.locator("#segment")).to_have_text("Up to date")

    before = labels_of(page, queries[0]).copy()
    page.locator("#query-list .thumb button").first.click()
    page.get_by_role("button", name="Eraser").click()
    found = before == 1
    at = to_screen(page, found.shape[1], found.shape[0])
    rows, columns = np.nonzero(found)
    page.mouse.move(*at(columns[0], rows[0]))
    page.mouse.down()
    page.mouse.move(*at(columns[0] + 30, rows[0] + 10), steps=4)
    page.mouse.up()
    corrected = labels_of(page, queries[0])
    assert (corrected == 0).sum() > (before == 0).sum()
    expect(page.locator("#query-list .note").first).to_have_text("corrected")
    page.keyboard.press("Control+z")
    np.testing.assert_array_equal(labels_of(page, queries[0]), before)
    page.keyboard.press("Control+Shift+z")
    np.testing.assert_array_equal(labels_of(page, queries[0]), corrected)
    page.click("#make-example")
    expect(page.locator("#example-list .thumb")).to_have_count(2)
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    segment(page)
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}  # type: ignore[typeddict-item]
    learned = requests.get(f"{address}/api/classes", cookies=cookies, timeout=10).json()["classes"]
    assert [(each["name"], each["shots"]) for each in learned] == [("bear", 2)]

    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "all.zip")
    check_zip(
        tmp_path / "all.zip", {queries[0]: corrected, **{each: labels_of(page, each) for each in queries[1:]}}, shot
    )


def check_zip(path: Path, masks: dict[str, NDArray[np.uint8]], shot: str) -> None:
    """Photos here are smaller than the page's working size, so the zip's masks are the labels themselves."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        facts = json.loads(archive.read("results.json"))
        assert facts["classes"] == [{"id": 1, "name": "bear", "colour": "#ff0080"}]
        photos = {each["name"]: each for each in facts["photos"]}
        assert set(photos) == {shot, *masks}
        assert set(archive.namelist()) == {"results.json"} | {
            each[kind] for each in photos.values() for kind in ("mask", "overlay")
        }
        for name, mask in masks.items():
            entry = photos[name]
            with Image.open(io.BytesIO(archive.read(entry["mask"]))) as picture:
                assert picture.mode == "P"
                assert picture.getpalette()[3:6] == [255, 0, 128]  # type: ignore[index]
                np.testing.assert_array_equal(np.asarray(picture), mask)
            with (
                Image.open(io.BytesIO(archive.read(entry["overlay"]))) as picture,
                Image.open(EXAMPLES / "photos" / name) as own,
            ):
                assert picture.size == own.size == (entry["width"], entry["height"])
                change = np.abs(np.asarray(picture).astype(int) - np.asarray(own.convert("RGB"))).mean(2)
            assert change[mask == 1].mean() > 4 * change[mask == 0].mean()
            assert entry["classes"][0]["pixels"] == (mask == 1).sum()
        assert {each["role"] for each in photos.values()} == {"example", "query"}
        later = [each for each in photos.values() if each["role"] == "query"]
        assert all(0 <= each["classes"][0]["confidence"] <= 1 and not each["corrected"] for each in later)


@pytest.mark.parametrize("size", SIZES)
def test_five_states(open_page: Any, address: str, size: str) -> None:
    """Empty, painting, busy, results, error: readable, labelled, nothing beyond the edge; dark, too."""
    page: Page = open_page(size, color_scheme="dark" if size == "360" else "light")

    def state(name: str) -> None:
        shoot(page, f"{size}-{name}")
        assert page.evaluate(CONTRAST) == [], name
        assert page.evaluate(UNNAMED) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    state("empty")
    page.click("#sample-here")
    page.wait_for_selector("#query-list .thumb >> nth=5")
    page.click("#dismiss")
    state("painting")
    page.click("#segment")
    page.wait_for_selector("#query-list .thumb.done")
    state("busy")
    page.click("#cancel")
    expect(page.locator("#message")).to_contain_text("Cancelled")
    done = page.locator("#query-list .thumb.done").count()
    assert 1 <= done < 6
    expect(page.locator("#segment")).to_have_text(f"Segment {6 - done} photos".replace("1 photos", "1 photo"))
    page.locator("#query-list .thumb.done button").first.click()
    expect(page.locator("#facts .chip").first).to_contain_text("%")
    state("results")
    page.route("**/api/**", lambda route: route.abort())
    page.click("#segment")
    expect(page.locator("#message")).to_contain_text("The server does not answer")
    state("error")
    page.unroute("**/api/**")
    page.click("#dismiss")
    page.get_by_role("button", name="Delete pizza").scroll_into_view_if_needed()
    page.get_by_label("Name of class 2").fill("bear")
    page.click("#segment")
    expect(page.locator("#message")).to_contain_text("Two classes are called bear")
    expect(page.get_by_label("Name of class 2")).to_be_focused()
    page.click("#reset")
    expect(page.locator(".thumb")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_keyboard_alone(open_page: Any) -> None:
    page: Page = open_page()
    page.set_input_files("#pick-examples", EXAMPLES / SHOTS[0]["image"])
    page.wait_for_selector("#example-list .thumb")
    name = Path(SHOTS[0]["image"]).name
    page.locator("body").click(position={"x": 2, "y": 400})
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        if seen[-1] == "canvas":
            break
    assert {"add-class", "pick-examples", "undo", "opacity", "canvas"} <= set(seen)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in ("b", " ", "ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    painted = labels_of(page, name) == 1
    assert painted.sum() > np.pi * 14**2  # more than one disc of the brush
    height, width = painted.shape
    assert painted[height // 2, width // 2]
    page.keyboard.press("p")
    for key in ("Space", *["ArrowDown"] * 9, "Space", *["ArrowRight"] * 9, "Space", "Enter"):
        page.keyboard.press(key)
    more = (labels_of(page, name) == 1).sum() - painted.sum()
    assert 54 * 54 / 2 * 0.6 < more < 54 * 54 / 2 * 1.1  # a triangle, less what the strokes covered
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    np.testing.assert_array_equal(labels_of(page, name) == 1, painted)


def test_touch_paints_and_two_fingers_zoom(open_page: Any) -> None:
    page: Page = open_page("360", has_touch=True)
    page.set_input_files("#pick-examples", EXAMPLES / SHOTS[0]["image"])
    page.wait_for_selector("#example-list .thumb")
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    name = Path(SHOTS[0]["image"]).name
    choose_brush(page)
    page.touchscreen.tap(x, y)
    painted = (labels_of(page, name) == 1).sum()
    assert painted > 300
    devices = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (x - 20, y))
    touch("touchStart", (x - 20, y), (x + 20, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    touch("touchEnd")
    assert (labels_of(page, name) == 1).sum() == painted  # a pinch leaves no paint
    page.touchscreen.tap(x, y + 60)
    small = (labels_of(page, name) == 1).sum() - painted
    assert small > 0
    shoot(page, "360-touch")


def test_two_browsers_keep_apart_and_the_page_survives_a_forgetful_server(open_page: Any, address: str) -> None:
    one: Page = open_page()
    other: Page = open_page()
    one.get_by_placeholder("Name, e.g. dog").fill("bear")
    one.set_input_files("#pick-examples", EXAMPLES / SHOTS[0]["image"])
    one.wait_for_selector("#example-list .thumb")
    choose_brush(one)
    one.locator("#canvas").press("Space")
    one.set_input_files("#pick-queries", EXAMPLES / QUERIES[2]["image"])
    expect(one.locator("#segment")).to_have_text("Segment 1 photo")
    expect(other.locator(".thumb")).to_have_count(0)
    segment(one)
    assert other.evaluate("fetch('/api/classes').then((answer) => answer.json())") == {"project": None, "classes": []}
    one.context.clear_cookies()  # the server knows this browser no more
    one.set_input_files("#pick-queries", EXAMPLES / QUERIES[3]["image"])
    expect(one.locator("#segment")).to_have_text("Segment 1 photo")
    segment(one)
    expect(one.locator("#query-list .thumb.done")).to_have_count(2)
    one.set_input_files("#pick-queries", EXAMPLES / SHOTS[1]["image"])
    one.locator("#query-list .thumb button").nth(4).click()
    expect(one.locator("#facts .name")).to_have_text(Path(SHOTS[1]["image"]).name)
    one.locator("#canvas").press("Space")
    expect(one.locator("#query-list .note").last).to_have_text("painted")
    expect(one.locator("#segment")).to_have_text("Up to date")  # what was painted by hand is not painted over


def test_what_is_no_picture_is_named(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    (tmp_path / "notes.jpg").write_text("no picture")
    page.set_input_files("#pick-queries", tmp_path / "notes.jpg")
    expect(page.locator("#message")).to_contain_text("notes.jpg is not a picture")
    expect(page.locator(".thumb")).to_have_count(0)
