"""*Learn from these photos, too* on the page, in Chromium, over the colour engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .browsing import SIZES, labels_of, ready, segment
from .conftest import RED, encoded, scene
from .slow_page import ENGINE, address, hold, let_go
from .test_page import CONTRAST, UNNAMED
from .test_page_advice import PAINT

__all__ = ["address", "let_go"]  # fixtures

SENT = """async () => {
  const sent = [], real = window.fetch;
  window.fetch = async (path, { body }) => {
    sent.push(...body.getAll("images").map((file) => file.name));
    return new Response("{}");
  };
  await (await import("/static/jobs.js")).adapt(null);
  window.fetch = real;
  return sent;
}"""
SHADES = {"reddish": (185, 75, 30), "brown": (110, 125, 30)}


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


def test_at_most_twelve_photos_of_the_whole_list_are_sent(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    prepare(page, tmp_path)
    more = [tmp_path / f"more{number:02}.png" for number in range(28)]
    for path in more:
        path.write_bytes(encoded(scene(40, 30)))
    page.set_input_files("#pick-queries", more)
    expect(page.locator("#query-list .thumb")).to_have_count(30)
    page.get_by_label("Learn from these photos, too").check()
    sent = page.evaluate(SENT)
    assert sent == ["reddish.png", *(f"more{number:02}.png" for number in (1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26))]
