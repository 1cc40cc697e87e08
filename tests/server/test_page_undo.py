"""Everything on the page can be undone, nothing asks first, nothing covers a button."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .browsing import SIZES, choose_brush, labels_of, ready, segment
from .conftest import wait_for
from .slow_page import address, let_go
from .test_page_work import KEPT, at, dab, open_photo, painted, photos, remove, two_classes

__all__ = ["address", "let_go", "photos"]  # fixtures


def undo(page: Page) -> None:
    page.locator("#message").get_by_role("button", name="Undo").click()


def test_a_removed_example_comes_back_with_its_strokes(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    before = labels_of(page, "shot.png")
    remove(page, "shot.png")
    expect(page.locator("#example-list .thumb")).to_have_count(0)
    undo(page)
    expect(page.locator("#example-list .thumb")).to_have_count(1)
    expect(page.locator("#facts .name")).to_have_text("shot.png")
    np.testing.assert_array_equal(labels_of(page, "shot.png"), before)
    assert sorted(page.evaluate(KEPT)) == ["q1.png", "q2.png", "shot.png"]
    page.keyboard.press("Control+z")  # adding the queries
    expect(page.locator("#query-list .thumb")).to_have_count(0)
    page.keyboard.press("Control+z")  # the stroke
    assert not labels_of(page, "shot.png").any()
    page.keyboard.press("Control+y")
    page.keyboard.press("Control+y")
    np.testing.assert_array_equal(labels_of(page, "shot.png"), before)
    wait_for(lambda: sorted(page.evaluate(KEPT)) == ["q1.png", "q2.png", "shot.png"])  # the browser writes meanwhile
    page.reload()
    ready(page)
    expect(page.locator(".thumb")).to_have_count(3)


def test_a_deleted_class_comes_back_with_its_pixels_and_results(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    two_classes(page, photos)
    before = {name: labels_of(page, name) for name in ("shot.png", "q1.png", "q2.png")}
    page.get_by_role("button", name="Delete red").click()
    assert not (labels_of(page, "q1.png") == 1).any()
    undo(page)
    for name, labels in before.items():
        np.testing.assert_array_equal(labels_of(page, name), labels)
    assert page.get_by_label("Name of class 1").input_value() == "red"
    expect(page.locator("#segment")).to_have_text("Up to date")
    page.keyboard.press("Control+y")
    assert not (labels_of(page, "shot.png") == 1).any()


def test_starting_over_can_be_undone(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    segment(page)
    before = labels_of(page, "q2.png")
    page.click("#reset")
    expect(page.locator(".thumb")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    assert page.evaluate(KEPT) == []
    undo(page)
    expect(page.locator(".thumb")).to_have_count(3)
    np.testing.assert_array_equal(labels_of(page, "q2.png"), before)
    wait_for(lambda: len(page.evaluate(KEPT)) == 3)
    page.reload()
    ready(page)
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator("#segment")).to_have_text("Up to date")


def test_names_and_colours_and_clearing(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    name = page.get_by_label("Name of class 1")
    name.fill("crimson")
    name.blur()
    page.locator("#canvas").focus()
    page.keyboard.press("Control+z")
    expect(name).to_have_value("red")
    page.keyboard.press("Control+y")
    expect(name).to_have_value("crimson")
    before = labels_of(page, "shot.png")
    open_photo(page, "shot.png")
    page.locator("#clear").click()
    assert not labels_of(page, "shot.png").any()
    undo(page)
    np.testing.assert_array_equal(labels_of(page, "shot.png"), before)


def test_segment_again_gives_back_what_was_painted(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    segment(page)
    open_photo(page, "q1.png")
    choose_brush(page)
    dab(page, 200, 150)
    corrected = labels_of(page, "q1.png")
    page.click("#segment-again")
    segment(page)
    assert not labels_of(page, "q1.png")[100:200, 150:250].any()
    page.keyboard.press("Control+z")
    np.testing.assert_array_equal(labels_of(page, "q1.png"), corrected)


@pytest.mark.parametrize("size", SIZES)
def test_messages_cover_nothing(open_page: Any, photos: list[str], size: str) -> None:
    page: Page = open_page(size)
    painted(page, photos)
    page.evaluate("import('/static/dom.js').then(({ say }) => say('Something is wrong. '.repeat(12), true))")
    expect(page.locator("#message")).to_be_visible()
    covered = page.evaluate("""() => {
      const line = document.querySelector(".status").getBoundingClientRect(), main = document.querySelector("main");
      const apart = main.getBoundingClientRect().bottom <= line.top + 1 && line.bottom <= innerHeight + 1;
      const under = [...document.querySelectorAll("button, input, label")].filter((each) => {
        if (!each.checkVisibility() || each.closest(".status, dialog")) return false;
        each.scrollIntoView({ block: "nearest" });
        const box = each.getBoundingClientRect();
        return box.bottom > line.top + 1 && box.top < line.bottom - 1 && box.height > 0;
      });
      return [apart, under.map((each) => each.outerHTML)];
    }""")
    assert covered == [True, []]


def test_how_to_close_a_polygon_is_shown(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    page.get_by_role("button", name="Polygon").click()
    hint = page.locator("#hint")
    expect(hint).to_contain_text("corners")
    corners = [(150, 100), (250, 100), (250, 200), (150, 200)]
    for number, corner in enumerate(corners, 1):
        dab(page, *corner)
        expect(hint).to_contain_text("at least 3" if number < 3 else "press Enter")
    page.keyboard.press("Backspace")
    page.keyboard.press("Control+z")
    expect(page.get_by_role("button", name="Close it")).to_be_hidden()
    for corner in corners[2:]:
        dab(page, *corner)
    page.get_by_role("button", name="Close it").click()
    inside = labels_of(page, "shot.png")[110:190, 160:240]
    assert (inside == 1).all()
    page.keyboard.press("Control+z")
    for corner in corners[:3]:
        dab(page, *corner)
    page.mouse.dblclick(*at(page, *corners[3]))
    assert (labels_of(page, "shot.png")[110:190, 160:240] == 1).all()


def test_the_check_is_offered_when_there_is_something_to_check(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    expect(page.locator("#advise")).to_be_hidden()
    page.set_input_files("#pick-examples", photos[0])
    expect(page.locator("#example-list .thumb")).to_have_count(1)
    expect(page.locator("#advise")).to_be_hidden()
    page.get_by_label("Name of class 1").fill("red")
    choose_brush(page)
    dab(page, 30, 150)
    expect(page.locator("#advise")).to_be_visible()
