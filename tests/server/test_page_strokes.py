"""Strokes on the page become masks and correct them, and the third example comes with a suggestion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .browsing import forms_of, labels_of, ready, segment, watch_forms
from .conftest import encoded, scene
from .slow_page import ENGINE, address, hold, let_go
from .test_page_work import at, open_photo

__all__ = ["address", "let_go"]  # fixtures

RED_PART, BLUE_PART = np.s_[:, :100], np.s_[:, 300:]


@pytest.fixture
def page(open_page: Any, tmp_path: Path) -> Page:
    """A project with one class and three examples, the first on the stage, nothing marked."""
    made: Page = open_page()
    fill(made, tmp_path)
    return made


def fill(page: Page, folder: Path) -> None:
    page.get_by_label("Name of class 1").fill("red")
    paths = [folder / f"{name}.png" for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(encoded(scene(400, 300)))
    page.set_input_files("#pick-examples", paths)
    expect(page.locator("#example-list .thumb")).to_have_count(3)
    expect(page.locator("#facts .name")).to_have_text("one.png")
    expect(page.locator("#empty")).to_be_hidden()


def stroke(page: Page, *points: tuple[float, float], button: Any = "left") -> None:
    """Draws a line over pixels of the photo, and waits for its mask."""
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down(button=button)
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=4)
    page.mouse.up(button=button)
    expect(page.locator(".working")).to_have_count(0)


def share(page: Page, name: str, part: Any, value: int = 1) -> float:
    """Share of a part of a photo that is labelled with the value."""
    return float((labels_of(page, name)[part] == value).mean())


def mark_red(page: Page, name: str = "one.png") -> None:
    stroke(page, (50, 60), (50, 240))
    assert share(page, name, RED_PART) > 0.9, name


def test_a_stroke_becomes_a_mask_and_is_one_step_to_undo(page: Page) -> None:
    mark_red(page)
    found = labels_of(page, "one.png")
    assert not found[:, 120:].any()
    expect(page.locator("#example-list .note").first).to_have_text("red")
    page.keyboard.press("Control+z")
    assert not labels_of(page, "one.png").any()
    expect(page.locator("#example-list .note").first).to_have_text("not marked")
    page.keyboard.press("Control+y")
    np.testing.assert_array_equal(labels_of(page, "one.png"), found)
    page.reload()  # strokes and mask survive
    ready(page)
    np.testing.assert_array_equal(labels_of(page, "one.png"), found)


@pytest.mark.parametrize("how", ["right button", "alt", "tool", "key"])
def test_a_stroke_beside_the_object_takes_pixels_away(page: Page, how: str) -> None:
    stroke(page, (50, 60), (50, 240))
    stroke(page, (350, 60), (350, 240))  # the blue part, too
    assert share(page, "one.png", BLUE_PART) > 0.5
    if how == "tool":
        page.get_by_role("button", name="Not it").click()
    if how == "key":
        page.keyboard.press("d")
    if how == "alt":
        page.keyboard.down("Alt")
    stroke(page, (350, 40), (350, 260), button="right" if how == "right button" else "left")
    if how == "alt":
        page.keyboard.up("Alt")
    on_the_stroke = np.s_[50:250, 349:352]
    assert share(page, "one.png", on_the_stroke) == 0
    assert share(page, "one.png", np.s_[70:230, 49:52]) == 1


def test_what_is_painted_by_hand_is_corrected_and_not_forgotten(page: Page) -> None:
    """A hand-painted patch of grey lies where no stroke is; a stroke on red keeps it or loses it, but it is sent."""
    page.get_by_role("button", name="Brush", exact=True).click()
    page.mouse.click(*at(page, 200, 150))
    painted = labels_of(page, "one.png")
    assert painted[150, 200] == 1
    watch_forms(page)
    page.keyboard.press("s")
    stroke(page, (50, 60), (50, 240))
    stroke(page, (60, 60), (60, 240))
    sent = forms_of(page, "/api/complete")
    assert len(sent) == 2
    assert all("start" in form for form in sent)
    assert len(json.loads(sent[1]["object"])) == 2  # all strokes since then
    assert labels_of(page, "one.png")[150, 200] == 1
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    np.testing.assert_array_equal(labels_of(page, "one.png"), painted)


def test_strokes_leave_other_classes_alone_but_not_where_they_cross_them(page: Page) -> None:
    mark_red(page)
    page.click("#add-class")
    page.get_by_label("Name of class 2").fill("other")
    stroke(page, (350, 60), (350, 240))
    assert share(page, "one.png", BLUE_PART, 2) > 0.9
    assert share(page, "one.png", RED_PART, 1) > 0.9
    before = labels_of(page, "one.png") == 1
    stroke(page, (350, 60), (350, 250))  # the other class again: red is as it was
    np.testing.assert_array_equal(labels_of(page, "one.png") == 1, before)
    stroke(page, (50, 100), (50, 200))  # says that what is red belongs to the other class
    assert share(page, "one.png", np.s_[110:190, 49:52], 2) == 1


def test_a_second_stroke_before_the_first_is_answered(page: Page) -> None:
    mark_red(page)
    page.keyboard.press("Control+z")
    page.route("**/api/complete", lambda route: (page.wait_for_timeout(400), route.continue_())[1])
    page.mouse.move(*at(page, 50, 60))
    page.mouse.down()
    page.mouse.move(*at(page, 50, 240), steps=3)
    page.mouse.up()
    expect(page.locator("#facts .working")).to_be_visible()
    stroke(page, (350, 60), (350, 240))
    strokes = page.evaluate(
        "import('/static/project.js').then((m) => m.selectedPhoto().strokes.map(({ kind }) => kind))"
    )
    assert strokes == ["object", "object"]
    assert share(page, "one.png", np.s_[70:230, 49:52]) == share(page, "one.png", np.s_[70:230, 349:352]) == 1


def test_the_third_photo_comes_with_what_was_learned(page: Page) -> None:
    mark_red(page)
    open_photo(page, "two.png")
    mark_red(page, "two.png")
    open_photo(page, "three.png")
    expect(page.locator("#confirm")).to_be_visible()
    assert share(page, "three.png", RED_PART) > 0.9
    expect(page.locator("#example-list .note").nth(2)).to_have_text("suggested")
    shots = "import('/static/project.js').then((m) => m.shotsOf(1).map(({ name }) => name))"
    assert page.evaluate(shots) == ["one.png", "two.png"]  # nobody has confirmed the third
    page.reload()
    ready(page)
    open_photo(page, "three.png")
    assert page.evaluate(shots) == ["one.png", "two.png"]
    page.keyboard.press("a")
    expect(page.locator("#example-list .note").nth(2)).to_have_text("red")
    assert page.evaluate(shots) == ["one.png", "two.png", "three.png"]
    page.keyboard.press("Control+z")
    assert page.evaluate(shots) == ["one.png", "two.png"]
    stroke(page, (20, 60), (20, 240))  # correcting it says as much
    assert page.evaluate(shots) == ["one.png", "two.png", "three.png"]


def test_a_suggestion_does_not_come_over_what_somebody_draws(page: Page) -> None:
    mark_red(page)
    open_photo(page, "two.png")
    mark_red(page, "two.png")
    hold()
    open_photo(page, "three.png")
    assert ENGINE.entered.wait(20)
    page.get_by_role("button", name="Brush", exact=True).click()
    page.mouse.click(*at(page, 200, 150))
    ENGINE.go.set()
    page.wait_for_timeout(500)
    found = labels_of(page, "three.png")
    assert found[150, 200] == 1
    assert not found[:, :90].any()


def test_strokes_correct_a_result(page: Page, tmp_path: Path) -> None:
    mark_red(page)
    page.set_input_files(
        "#pick-queries", [{"name": "q.png", "mimeType": "image/png", "buffer": encoded(scene(400, 300))}]
    )
    expect(page.locator("#query-list .thumb")).to_have_count(1)
    segment(page)
    assert share(page, "q.png", RED_PART) > 0.9
    found = labels_of(page, "q.png")
    open_photo(page, "q.png")
    stroke(page, (350, 60), (350, 240))
    assert share(page, "q.png", np.s_[70:230, 349:352]) == 1
    assert share(page, "q.png", np.s_[20:280, 10:90]) > 0.9  # what was found stays
    expect(page.locator("#query-list .note")).to_have_text("corrected")
    page.keyboard.press("Control+z")
    np.testing.assert_array_equal(labels_of(page, "q.png"), found)
    expect(page.locator("#query-list .note")).to_contain_text("red")
    expect(page.locator("#segment")).to_have_text("Up to date")


def test_touch_and_keyboard_draw_strokes(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page("360", has_touch=True)
    fill(page, tmp_path)
    page.locator("#canvas").scroll_into_view_if_needed()
    devices = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", [(50, 60)]), ("touchMove", [(50, 240)]), ("touchEnd", [])):
        places = [dict(zip("xy", at(page, *point), strict=True)) for point in points]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
    expect(page.locator("#example-list .note").first).to_have_text("red")
    assert share(page, "one.png", RED_PART) > 0.9
    page.keyboard.press("Control+z")
    page.locator("#canvas").focus()
    for _ in range(26):
        page.keyboard.press("ArrowLeft")  # from the middle, 6 px each
    for _ in range(15):
        page.keyboard.press("ArrowUp")
    page.keyboard.down("Shift")
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#example-list .note").first).to_have_text("not marked")
    page.keyboard.up("Shift")
    expect(page.locator("#example-list .note").first).to_have_text("red")
    assert share(page, "one.png", RED_PART) > 0.9


def test_a_refusal_is_said_and_the_photo_stays(page: Page) -> None:
    page.route("**/api/complete", lambda route: route.fulfill(status=422, json={"detail": "Draw a longer stroke."}))
    stroke(page, (50, 60), (50, 240))
    expect(page.locator("#message")).to_contain_text("Draw a longer stroke.")
    assert not labels_of(page, "one.png").any()
