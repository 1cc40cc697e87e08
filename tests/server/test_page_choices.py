"""Choices on the page: objects counted, clean masks, photos that show none; in Chromium, over the colour engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from .browsing import choose_brush, forms_of, labels_of, segment, watch_forms
from .conftest import RED, encoded
from .slow_page import address, let_go
from .test_page_work import dab, open_photo

__all__ = ["address", "let_go"]  # fixtures

RADIUS = 50
SPECK, HOLE = np.s_[20:34, 360:374], np.s_[88:102, 98:112]


def discs(*places: tuple[int, int]) -> NDArray[np.uint8]:
    """A grey photo of 400 x 300 with red discs."""
    rows, columns = np.mgrid[:300, :400] + 0.5
    photo = np.full((300, 400, 3), 128, np.uint8)
    for x, y in places:
        photo[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = RED
    return photo


def taught(page: Page, folder: Path, **photos: NDArray[np.uint8]) -> None:
    """A project of red discs: `shot` is the example, whose one disc is marked, the others are queries."""
    for name, photo in photos.items():
        (folder / f"{name}.png").write_bytes(encoded(photo))
    page.get_by_label("Name of class 1").fill("disc")
    page.set_input_files("#pick-examples", folder / "shot.png")
    expect(page.locator("#facts .name")).to_have_text("shot.png")
    choose_brush(page)
    page.locator("#size").fill(str(2 * RADIUS))
    dab(page, 200, 150)
    page.set_input_files("#pick-queries", [folder / f"{name}.png" for name in photos if name != "shot"])
    expect(page.locator("#query-list .thumb")).to_have_count(len(photos) - 1)


@pytest.fixture
def page(open_page: Any) -> Page:
    made: Page = open_page()
    made.locator("#options summary").click()
    return made


def test_objects_are_counted_touching_ones_apart(page: Page, tmp_path: Path) -> None:
    touching = discs((80, 80), (172, 80), (300, 220))
    taught(page, tmp_path, shot=discs((200, 150)), many=touching, one=discs((100, 200)), none=discs())
    page.get_by_label("Count objects, touching ones apart").check()
    segment(page)
    cards = {name: page.locator("#cards .card").filter(has_text=f"{name}.png") for name in ("many", "one", "none")}
    expect(cards["many"].locator(".chip")).to_contain_text("disc × 3")
    expect(cards["one"].locator(".chip")).to_contain_text("disc × 1")
    expect(cards["none"]).not_to_contain_text("×")
    open_photo(page, "many.png")
    chip = page.locator("#facts .chip")
    expect(chip).to_contain_text("disc × 3")
    page.get_by_label("Count objects, touching ones apart").uncheck()
    expect(chip).to_contain_text("disc")
    expect(chip).not_to_contain_text("×")
    page.get_by_label("Count objects, touching ones apart").check()
    expect(chip).to_contain_text("disc × 3")  # without another run
    choose_brush(page)
    dab(page, 80, 250)  # nobody knows what a corrected mask counts
    expect(chip).not_to_contain_text("×")


def test_clean_masks_have_no_holes_and_no_specks(page: Page, tmp_path: Path) -> None:
    faulty = discs((105, 95))
    faulty[SPECK], faulty[HOLE] = RED, 128
    taught(page, tmp_path, shot=discs((200, 150)), faulty=faulty)
    segment(page)
    before = labels_of(page, "faulty.png")
    assert before[27, 367] == 1
    assert before[95, 105] == 0
    page.get_by_label("Fill small holes, remove specks").check()
    expect(page.locator("#options summary")).to_contain_text("1 changed")
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")  # the result is of other choices
    segment(page)
    after = labels_of(page, "faulty.png")
    assert not after[SPECK].any()
    assert after[HOLE].all()
    elsewhere = np.ones_like(after, bool)
    elsewhere[10:44, 350:384] = elsewhere[78:112, 88:122] = False
    np.testing.assert_array_equal(after[elsewhere], before[elsewhere])


def test_a_photo_that_shows_none_teaches_that(page: Page, tmp_path: Path) -> None:
    taught(page, tmp_path, shot=discs((200, 150)), query=discs((100, 200)))
    (tmp_path / "other.png").write_bytes(encoded(np.full((300, 400, 3), (40, 160, 40), np.uint8)))
    page.set_input_files("#pick-examples", tmp_path / "other.png")
    open_photo(page, "other.png")
    notes = page.locator("#example-list .note")
    expect(notes).to_have_text(["disc", "not marked"])
    watch_forms(page)
    segment(page)
    (plain,) = forms_of(page, "/api/classes")
    assert "background" not in plain  # an example that nobody has marked teaches nothing
    open_photo(page, "other.png")
    page.get_by_role("button", name="Shows none of the classes").click()
    expect(notes).to_have_text(["disc", "shows none"])
    expect(page.locator("#facts")).to_contain_text("Shows none of the classes, and teaches that.")
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")
    segment(page)
    form = forms_of(page, "/api/classes")[1]
    assert (form["name"], form["images"], form["background"]) == ("disc", "shot.png", "other.png")
    page.get_by_role("button", name="Mark it after all").click()
    expect(notes).to_have_text(["disc", "not marked"])
    page.keyboard.press("Control+z")
    expect(notes).to_have_text(["disc", "shows none"])
    open_photo(page, "other.png")
    choose_brush(page)
    dab(page, 200, 150)  # marking it says that it shows the class
    expect(notes).to_have_text(["disc", "disc"])
    segment(page)
    assert "background" not in forms_of(page, "/api/classes")[2]
