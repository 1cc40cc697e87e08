"""*Learn from these photos, too* on the page, in Chromium, over the colour engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .browsing import SIZES, labels_of, ready, segment
from .conftest import RED, encoded, scene
from .slow_page import ENGINE, address, hold, let_go
from .test_page import CONTRAST, UNNAMED
from .test_page_advice import PAINT

__all__ = ["address", "let_go"]  # fixtures

TEACHERS = """async () => {
  const { lesson, teachers } = await import("/static/jobs.js");
  return (await teachers(lesson(), null)).map(({ name }) => name);
}"""
SHADES = {"reddish": (185, 75, 30), "brown": (110, 125, 30)}
BROWN = scene(400, 300)
BROWN[(BROWN == RED).all(-1)] = SHADES["brown"]


def prepare(page: Page, folder: Path) -> None:
    """Red painted on one example; a query whose red is another, and one whose red is farther still."""
    (folder / "shot.png").write_bytes(encoded(scene(400, 300)))
    for name, colour in SHADES.items():
        picture = scene(400, 300)
        picture[(picture == RED).all(-1)] = colour
        (folder / f"{name}.png").write_bytes(encoded(picture))
    page.get_by_label("Name of class 1").fill("red")
    page.set_input_files("#pick-examples", folder / "shot.png")
    page.wait_for_selector("#example-list .thumb")
    page.evaluate(PAINT, ["shot.png", 0, 100])
    page.set_input_files("#pick-queries", [folder / f"{name}.png" for name in SHADES])
    expect(page.locator("#query-list .thumb")).to_have_count(2)
    page.get_by_role("button", name="shot.png:").click()  # draws what was painted
    expect(page.locator("#facts .name")).to_have_text("shot.png")


def found(page: Page, name: str) -> float:
    """Share of the object that is found in a query."""
    labels = labels_of(page, f"{name}.png")
    return float(np.mean(labels[10:290, 5:95] == 1))


@pytest.mark.parametrize("size", SIZES)
def test_photos_teach_while_the_box_is_ticked(open_page: Any, tmp_path: Path, size: str) -> None:
    page: Page = open_page(size, color_scheme="dark" if size == "360" else "light")
    prepare(page, tmp_path)
    segment(page)
    assert (found(page, "reddish"), found(page, "brown")) == (pytest.approx(1, abs=0.02), 0)
    expect(page.locator("#segment")).to_have_text("Up to date")
    box = page.get_by_label("Learn from these photos, too")
    box.focus()
    page.keyboard.press("Space")
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    segment(page)
    assert found(page, "brown") > 0.9
    assert found(page, "reddish") > 0.9
    if folder := os.environ.get("RIFENET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{size}-adapt.png", full_page=True)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.reload()
    ready(page)
    expect(box).to_be_checked()
    expect(page.locator("#segment")).to_have_text("Up to date")
    box.uncheck()
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    segment(page)
    assert found(page, "brown") == 0  # what was adopted is forgotten


def test_it_can_be_cancelled_while_the_server_looks_at_the_photos(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    prepare(page, tmp_path)
    page.get_by_label("Learn from these photos, too").check()
    hold()
    page.click("#segment")
    assert ENGINE.entered.wait(20)
    expect(page.get_by_label("Learn from these photos, too")).to_be_disabled()
    page.click("#cancel")
    expect(page.locator("#message")).to_contain_text("Cancelled")
    ENGINE.go.set()
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    assert found(page, "reddish") == 0
    segment(page)
    assert found(page, "brown") > 0.9


def test_who_teaches_is_settled_once_for_the_examples(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    prepare(page, tmp_path)
    page.get_by_label("Learn from these photos, too").check()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {urlsplit(request.url).path}"))
    segment(page)
    assert asked.count("POST /api/adapt") == asked.count("POST /api/classes") == 1
    assert found(page, "brown") > 0.9
    page.set_input_files("#pick-queries", [{"name": "late.png", "mimeType": "image/png", "buffer": encoded(BROWN)}])
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")
    asked.clear()
    segment(page)
    assert "POST /api/adapt" not in asked
    assert "POST /api/classes" not in asked
    assert found(page, "late") > 0.9
    page.evaluate(PAINT, ["shot.png", 0, 90])  # the examples have changed, so everything is to be done again
    page.get_by_role("button", name="brown.png:").click()
    expect(page.locator("#segment")).to_have_text("Segment 3 photos")
    segment(page)
    assert asked.count("POST /api/adapt") == asked.count("POST /api/classes") == 1


def test_where_photos_may_not_teach_the_examples_do(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    prepare(page, tmp_path)
    page.get_by_label("Learn from these photos, too").check()
    refusal = {"status": 503, "headers": {"Retry-After": "1"}, "json": {"detail": "It takes too long."}}
    tries: list[str] = []
    page.route("**/api/adapt", lambda route: (tries.append(route.request.url), route.fulfill(**refusal))[1])
    segment(page)
    assert len(tries) == 2
    expect(page.locator("#message")).to_contain_text("It takes too long. They are segmented by the examples alone.")
    expect(page.get_by_label("Learn from these photos, too")).not_to_be_checked()
    expect(page.locator("#segment")).to_have_text("Up to date")
    assert (found(page, "reddish"), found(page, "brown")) == (pytest.approx(1, abs=0.02), 0)


def test_at_most_twelve_photos_of_the_whole_list_teach_and_no_example(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    prepare(page, tmp_path)
    more = [tmp_path / f"more{number:02}.png" for number in range(28)]
    for path in more:
        path.write_bytes(encoded(scene(40, 30)))
    page.set_input_files("#pick-queries", more)
    page.set_input_files("#pick-queries", tmp_path / "shot.png")
    expect(page.locator("#query-list .thumb")).to_have_count(31)
    spread = [f"more{number:02}.png" for number in (1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26)]
    assert page.evaluate(TEACHERS) == ["reddish.png", *spread]
    health = {"limits": {"files": 3}}
    page.route("**/api/health", lambda route: route.fulfill(json=health))
    assert page.evaluate(TEACHERS) == ["reddish.png", "more08.png", "more18.png"]
