"""The page keeps what people do by hand, whatever the server does meanwhile; in Chromium, over the colour engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from rifenet.server.app import create_app

from .browsing import labels_of, segment
from .conftest import SlowEngine, encoded, running, scene

ENGINE = SlowEngine()
STATE = """async (name) => {
  const { project } = await import("/static/project.js");
  const { role, status, result, history, version } = project.photos.find((photo) => photo.name === name);
  return { role, status, version, corrected: result?.corrected ?? null, undo: history?.undo.length ?? null };
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(ENGINE)) as there:
        yield there
        ENGINE.go.set()


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Each test begins with a server that answers at once, and leaves none waiting."""
    ENGINE.go.set()
    yield
    ENGINE.go.set()


def hold() -> None:
    """From now on the server takes a photo and does not answer before `ENGINE.go.set()`."""
    ENGINE.entered.clear()
    ENGINE.go.clear()


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("shot", "q1", "q2")]
    for path in paths:
        path.write_bytes(encoded(scene(400, 300)))
    return [str(path) for path in paths]


def painted(page: Page, photos: list[str], name: str = "red") -> None:
    """A project with one class, painted on the left edge of one photo, and two queries."""
    page.get_by_label("Name of class 1").fill(name)
    page.set_input_files("#pick-examples", photos[0])
    page.wait_for_selector("#example-list .thumb")
    page.locator("#size").fill("20")
    dab(page, 30, 150)
    page.set_input_files("#pick-queries", photos[1:])
    expect(page.locator("#query-list .thumb")).to_have_count(2)


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the photo is on the screen."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    scale = min((box["width"] - 24) / 400, (box["height"] - 24) / 300, 4)
    return box["x"] + box["width"] / 2 + (x - 200) * scale, box["y"] + box["height"] / 2 + (y - 150) * scale


def dab(page: Page, x: float, y: float) -> None:
    page.mouse.click(*at(page, x, y))


def open_photo(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"{name}:").click()
    expect(page.locator("#facts .name")).to_have_text(name)


def start(page: Page) -> None:
    """Presses Segment and comes back when the server works on the first photo."""
    hold()
    page.click("#segment")
    assert ENGINE.entered.wait(20)


def finish(page: Page) -> None:
    ENGINE.go.set()
    page.wait_for_selector("#cancel", state="hidden")


def test_a_run_leaves_what_is_painted_meanwhile(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    start(page)
    open_photo(page, "q1.png")  # the one that the server has
    dab(page, 200, 150)
    open_photo(page, "q2.png")  # the one that comes next
    dab(page, 200, 100)
    own = {name: labels_of(page, name) for name in ("q1.png", "q2.png")}
    finish(page)
    for name, labels in own.items():
        assert labels.any()
        np.testing.assert_array_equal(labels_of(page, name), labels)
        assert page.evaluate(STATE, name)["corrected"] is None
    page.keyboard.press("Control+z")
    assert not labels_of(page, "q2.png").any()
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")


def test_a_stroke_that_is_on_its_way_when_the_answer_comes(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    start(page)
    open_photo(page, "q1.png")
    page.mouse.move(*at(page, 200, 150))
    page.mouse.down()
    page.mouse.move(*at(page, 220, 150))
    finish(page)
    page.mouse.move(*at(page, 240, 150))
    page.mouse.up()
    labels = labels_of(page, "q1.png")
    assert labels[150, 200] == labels[150, 240] == 1
    assert not labels[:, :90].any()
    assert page.evaluate(STATE, "q1.png")["undo"] == 1
    assert (labels_of(page, "q2.png")[:, :100] == 1).all()
    page.keyboard.press("Control+z")
    assert not labels_of(page, "q1.png").any()


def test_a_photo_that_becomes_an_example_meanwhile_stays_one(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    segment(page)
    page.get_by_label("Name of class 1").fill("rot")  # another name: both are to be segmented again
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    start(page)
    open_photo(page, "q1.png")
    page.click("#make-example")
    expect(page.locator("#example-list .thumb")).to_have_count(2)
    finish(page)
    assert page.evaluate(STATE, "q1.png")["role"] == "example"
    assert page.evaluate(STATE, "q1.png")["corrected"] is None


def test_a_class_renamed_meanwhile_keeps_its_masks_and_is_learned_again(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    start(page)
    page.get_by_label("Name of class 1").fill("rot")
    finish(page)
    for name in ("q1.png", "q2.png"):
        labels = labels_of(page, name)
        assert (labels[:, :90] == 1).all()
        assert not labels[:, 110:].any()
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")  # the server still knows the old name
    segment(page)
    expect(page.locator("#segment")).to_have_text("Up to date")
    expect(page.locator("#query-list .note").first).to_contain_text("rot")


def test_an_example_painted_meanwhile_makes_results_out_of_date(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    start(page)
    open_photo(page, "shot.png")
    dab(page, 60, 100)
    finish(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(2)
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
