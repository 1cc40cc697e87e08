"""Results on the page: side by side, one by one, accepted and corrected; in Chromium, over the colour engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .browsing import SIZES, labels_of, segment
from .conftest import encoded, scene
from .slow_page import address, let_go
from .test_page import CONTRAST, UNNAMED
from .test_page_work import at, open_photo, painted

__all__ = ["address", "let_go"]  # fixtures

SURENESS = {"q1": 0.95, "q2": 0.55, "q3": 0.02, "q4": 0.88}  # of the only class; q2 is in doubt, q3 does not show it
ANSWER = """([name, confidence, quality]) => import("/static/project.js").then(async ({ project, keep }) => {
  const photo = project.photos.find((each) => each.name === name), [one] = photo.result.found;
  const found = [{ ...one, confidence, quality, present: confidence > 0.5 }];
  photo.result = { ...photo.result, found, calibrated: true };
  if (confidence < 0.5) photo.labels = { ...photo.labels, data: new Uint8Array(photo.labels.data.length) };
  photo.version = Math.random();
  await keep(photo);
})"""


@pytest.fixture
def results(open_page: Any, tmp_path: Path) -> Page:
    page: Page = open_page()
    segmented(page, tmp_path)
    return page


def segmented(page: Page, folder: Path) -> None:
    """Four results, whose confidences are set: the colour engine is always sure."""
    paths = [folder / f"{name}.png" for name in ("shot", *SURENESS)]
    for path in paths:
        path.write_bytes(encoded(scene(400, 300)))
    painted(page, [str(path) for path in paths], queries=len(SURENESS))
    segment(page)
    expect(page.locator("#gallery")).to_be_visible()
    for name, confidence in SURENESS.items():
        page.evaluate(ANSWER, [f"{name}.png", confidence, None])
    page.get_by_label("Order of results").select_option("best")
    page.get_by_label("Order of results").select_option("worst")


def names(page: Page) -> list[str]:
    return [text.removesuffix(".png") for text in page.locator("#cards .name").all_inner_texts()]


def choose(page: Page, text: str) -> None:
    page.locator("#filters").get_by_role("button", name=text).click()


def test_results_are_sorted_and_sieved(results: Page) -> None:
    page = results
    assert names(page) == ["q2", "q4", "q1", "q3"]  # by how far from one half
    page.get_by_label("Order of results").select_option("best")
    assert names(page) == ["q3", "q1", "q4", "q2"]
    page.get_by_label("Order of results").select_option("added")
    assert names(page) == ["q1", "q2", "q3", "q4"]
    choose(page, "Doubtful")
    assert names(page) == ["q2"]
    choose(page, "Nothing found")
    assert names(page) == ["q3"]
    expect(page.locator("#cards .badge")).to_have_text("nothing found")
    choose(page, "All")
    expect(page.locator("#filters").get_by_role("button", name="Corrected")).to_be_disabled()
    page.evaluate(ANSWER, ["q1.png", 0.95, 0.2])  # sure that it is there, and not of its mask
    page.get_by_label("Order of results").select_option("worst")
    assert names(page) == ["q2", "q1", "q4", "q3"]
    expect(page.locator("#cards .card").nth(1)).to_contain_text("quality 20 %")
    choose(page, "Doubtful")
    assert names(page) == ["q2", "q1"]


def test_pictures_are_large(results: Page) -> None:
    box = results.locator("#cards canvas").first.bounding_box()
    assert box is not None
    assert box["width"] >= 260
    assert box["height"] >= 190
    results.wait_for_function("document.querySelector('#cards canvas').width > 500")


def test_nothing_of_a_card_is_covered(results: Page) -> None:
    results.set_viewport_size({"width": 1100, "height": 640})  # more rows than there is room for
    places = """() => [...document.querySelectorAll("#cards .card")].map((card) => {
      const of = (part) => card.querySelector(part).getBoundingClientRect();
      return [of("canvas").bottom - of(".about").top, of(".do button").bottom - card.getBoundingClientRect().bottom];
    })"""
    assert all(over <= 0.5 and out <= 0 for over, out in results.evaluate(places))


def test_one_by_one_by_keyboard_until_all_are_accepted(results: Page) -> None:
    page = results
    page.locator("#cards .open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    name = page.locator("#facts .name")
    expect(name).to_have_text("q2.png")
    expect(page.locator("#gallery")).to_be_hidden()
    page.keyboard.press("n")
    expect(name).to_have_text("q4.png")
    page.keyboard.press("Shift+N")
    expect(name).to_have_text("q2.png")
    expect(page.get_by_role("button", name="Previous result")).to_be_disabled()
    for following in ("q4.png", "q1.png", "q3.png"):
        page.keyboard.press("a")
        expect(name).to_have_text(following)
    expect(page.locator("#query-list .note").nth(1)).to_have_text("accepted")
    page.keyboard.press("a")
    expect(page.locator("#message")).to_contain_text("All 4 results are accepted")
    with page.expect_download():
        page.locator("#message").get_by_role("button", name="Download").click()
    page.keyboard.press("g")
    expect(page.locator("#tally")).to_have_text("All 4 accepted")
    page.keyboard.press("Control+z")
    expect(page.locator("#tally")).to_have_text("3 of 4 accepted")


def test_the_order_stays_while_somebody_corrects(results: Page) -> None:
    page = results
    page.locator("#cards .open").first.click()
    page.get_by_role("button", name="Brush", exact=True).click()
    page.mouse.click(*at(page, 200, 150))
    page.keyboard.press("g")
    assert names(page) == ["q2", "q4", "q1", "q3"]
    expect(page.locator("#cards .badge").first).to_have_text("corrected")
    choose(page, "Corrected")
    assert names(page) == ["q2"]


def test_accepted_results_are_left_alone(results: Page) -> None:
    page = results
    page.get_by_role("button", name="Accept q1.png").click()
    expect(page.get_by_role("button", name="Accept q1.png")).to_have_attribute("aria-pressed", "true")
    choose(page, "To look at")
    assert names(page) == ["q2", "q4", "q3"]
    before = labels_of(page, "q1.png")
    open_photo(page, "shot.png")
    page.get_by_role("button", name="Brush", exact=True).click()
    page.mouse.click(*at(page, 370, 150))  # the class gets another colour, too
    expect(page.locator("#segment")).to_have_text("Segment 3 photos")
    segment(page)
    np.testing.assert_array_equal(labels_of(page, "q1.png"), before)


def test_a_result_becomes_an_example_from_its_card(results: Page) -> None:
    page = results
    page.get_by_role("button", name="Use q4.png as an example").click()
    expect(page.locator("#example-list .thumb")).to_have_count(2)
    assert names(page) == ["q2", "q1", "q3"]
    page.locator("#message").get_by_role("button", name="Undo").click()
    expect(page.locator("#example-list .thumb")).to_have_count(1)
    assert names(page) == ["q2", "q4", "q1", "q3"]
    page.locator("#cards .open").nth(1).focus()
    page.keyboard.press("x")
    expect(page.locator("#example-list .thumb")).to_have_count(2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(open_page: Any, tmp_path: Path, size: str, scheme: str) -> None:
    page: Page = open_page(size, color_scheme=scheme)
    segmented(page, tmp_path)
    page.get_by_role("button", name="Accept q1.png").click()
    if folder := os.environ.get("RIFENET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{size}-{scheme}-gallery.png")
    for state in ("gallery", "result", "choices"):
        if state == "result":
            page.locator("#cards .open").first.click()
        if state == "choices":
            page.locator("#options summary").click()
            page.locator("#formats-button").click()
        assert page.evaluate(CONTRAST) == [], state
        assert page.evaluate(UNNAMED) == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        if folder and state != "gallery":
            page.screenshot(path=Path(folder) / f"{size}-{scheme}-{state}.png")
