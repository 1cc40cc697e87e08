"""The page keeps what people do by hand, whatever the server does meanwhile; in Chromium, over the colour engine."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from rifenet.drawing.visualize import class_colour
from rifenet.server.app import create_app

from .browsing import choose_brush, labels_of, ready, segment
from .conftest import encoded, running, scene
from .slow_page import ENGINE, address, hold, let_go

__all__ = ["address", "let_go"]  # fixtures

STATE = """async (name) => {
  const { project } = await import("/static/project.js"), { strokesOn } = await import("/static/history.js");
  const photo = project.photos.find((each) => each.name === name), { role, status, result, version } = photo;
  return { role, status, version, corrected: result?.corrected ?? null, undo: strokesOn(photo) };
}"""


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("shot", "q1", "q2")]
    for path in paths:
        path.write_bytes(encoded(scene(400, 300)))
    return [str(path) for path in paths]


def painted(page: Page, photos: list[str], name: str = "red", queries: int = 2) -> None:
    """A project with one class, painted on the left edge of one photo, and the other photos as queries."""
    page.get_by_label("Name of class 1").fill(name)
    page.set_input_files("#pick-examples", photos[0])
    page.wait_for_selector("#example-list .thumb")
    choose_brush(page)
    page.locator("#size").fill("20")
    dab(page, 30, 150)
    page.set_input_files("#pick-queries", photos[1:])
    expect(page.locator("#query-list .thumb")).to_have_count(queries)


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


def test_what_the_server_warns_of_is_shown(open_page: Any, photos: list[str]) -> None:
    clear = np.dstack([scene(400, 300), np.zeros((300, 400), np.uint8)])
    Path(photos[1]).write_bytes(encoded(clear))
    page: Page = open_page()
    painted(page, photos)
    start(page)
    finish(page)
    expect(page.locator("#message")).to_contain_text("photo q1.png: It is transparent everywhere")
    expect(page.locator("#message")).not_to_contain_text("q2.png")


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


def two_classes(page: Page, photos: list[str]) -> None:
    """Segments by two classes, both marked on one example."""
    painted(page, photos)
    page.click("#add-class")
    page.get_by_label("Name of class 2").fill("blue")
    open_photo(page, "shot.png")
    page.locator("#class-list input[type=radio]").nth(1).check()
    dab(page, 370, 150)
    segment(page)


def test_a_deleted_class_leaves_results_that_can_be_segmented_again(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    two_classes(page, photos)
    assert set(np.unique(labels_of(page, "q1.png"))) == {0, 1, 2}
    page.get_by_role("button", name="Delete red").click()
    assert set(np.unique(labels_of(page, "q1.png"))) == {0, 2}
    expect(page.locator("#query-list .note").first).to_contain_text("blue")
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    page.click("#add-class")  # it gets the number that is free now, and none of the old pixels
    assert page.evaluate("import('/static/project.js').then(({ project }) => project.chosen)") == 1
    page.get_by_label("Name of class 2").fill("new")
    open_photo(page, "q2.png")
    mask = results_of(page)["q2.png"]
    assert [(each["name"], each["pixels"] > 0) for each in mask["classes"]] == [("blue", True), ("new", False)]


def results_of(page: Page) -> dict[str, Any]:
    """Photos in the zip's results.json, by name."""
    with page.expect_download() as download:
        page.click("#download")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        return {each["name"]: each for each in json.loads(archive.read("results.json"))["photos"]}


def test_a_corrected_photo_can_be_segmented_again_and_counts_as_painted(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    segment(page)
    found = labels_of(page, "q1.png")
    open_photo(page, "q1.png")
    expect(page.locator("#segment-again")).to_have_count(0)
    page.locator("#size").fill("120")
    page.get_by_role("button", name="Eraser").click()
    for y in range(0, 300, 30):
        page.mouse.move(*at(page, 0, y))
        page.mouse.down()
        page.mouse.move(*at(page, 100, y), steps=2)
        page.mouse.up()
    assert not labels_of(page, "q1.png").any()
    facts = results_of(page)["q1.png"]
    assert (facts["corrected"], facts["classes"][0]["present"], facts["classes"][0]["pixels"]) == (True, False, 0)
    choose_brush(page)
    dab(page, 200, 150)
    page.click("#segment-again")
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")
    segment(page)
    np.testing.assert_array_equal(labels_of(page, "q1.png"), found)


def test_the_sample_keeps_what_is_painted_and_not_named_yet(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    page.set_input_files("#pick-examples", photos[0])
    page.wait_for_selector("#example-list .thumb")
    choose_brush(page)
    dab(page, 30, 150)
    page.click("#sample")
    page.wait_for_selector("#query-list .thumb >> nth=5")
    classes = page.evaluate("import('/static/project.js').then(({ project }) => project.classes)")
    assert [(each["id"], each["name"]) for each in classes] == [(1, ""), (2, "bear"), (3, "pizza")]
    assert set(np.unique(labels_of(page, "shot.png"))) == {0, 1}


def test_names_are_compared_as_the_server_writes_them(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos, "e\u0301clair ")  # an e and an accent, which the server makes one letter
    segment(page)
    assert (labels_of(page, "q1.png")[:, :90] == 1).all()
    expect(page.locator("#segment")).to_have_text("Up to date")
    page.get_by_label("Name of class 1").fill("\u00e9clair")
    expect(page.locator("#segment")).to_have_text("Up to date")


def test_colours_are_distinct_and_those_of_the_server(open_page: Any) -> None:
    page: Page = open_page()
    for _ in range(19):
        page.click("#add-class")
    colours = page.evaluate("import('/static/project.js').then(({ project }) => project.classes.map((c) => c.colour))")
    assert colours == ["#{:02x}{:02x}{:02x}".format(*class_colour(id)) for id in range(1, 21)]
    assert len(set(colours)) == 20


def test_a_kept_photo_that_cannot_be_opened_is_named(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    page.evaluate("""async () => {
      const { project, keep } = await import("/static/project.js");
      const photo = project.photos.find((each) => each.name === "q2.png");
      photo.blob = new Blob(["no picture"]);
      await keep(photo);
    }""")
    page.reload()
    ready(page)
    expect(page.locator("#message")).to_contain_text("q2.png")
    expect(page.locator("#query-list .thumb")).to_have_count(1)


def test_the_form_takes_the_token(browser: Browser) -> None:
    with running(create_app(ColourEngine(), token="a-token-of-this-test", hosts=None)) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("Token").fill("something else")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        page.get_by_label("Token").fill("a-token-of-this-test")
        page.get_by_role("button", name="Open").click()
        ready(page)
        assert page.url == f"{address}/"
        page.close()


@pytest.mark.parametrize("locks", [True, False])
def test_a_second_tab_stays_out(open_page: Any, photos: list[str], locks: bool) -> None:
    """Locks are missing where the page is neither https nor this machine's own."""
    page: Page = open_page()
    if not locks:
        page.context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
        page.reload()
        ready(page)
    painted(page, photos)
    other = page.context.new_page()
    other.goto(page.url)
    ready(other)
    expect(other.locator("#message")).to_contain_text("open in another tab")
    expect(other.locator(".thumb")).to_have_count(0)
    assert other.evaluate("document.querySelector('main').inert")
    page.locator("#opacity").press("ArrowRight")  # the first goes on
    dab(page, 40, 100)
    page.reload()
    ready(page)
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator("#message")).to_be_hidden()
    page.close()
    other.reload()
    ready(other)
    expect(other.locator(".thumb")).to_have_count(3)


def test_a_slow_browser_is_no_second_tab(open_page: Any) -> None:
    """The first time that the page asks for the lock, the browser does not answer in time."""
    page: Page = open_page()
    page.context.add_init_script("""
      const request = navigator.locks.request.bind(navigator.locks), late = new DOMException("", "TimeoutError");
      let asked = 0;
      navigator.locks.request = (...all) => (asked++ ? request(...all) : Promise.reject(late));
    """)
    page.reload()
    ready(page)
    expect(page.locator("#message")).to_be_hidden()
    assert not page.evaluate("document.querySelector('main').inert")


def test_the_focus_survives_a_redraw(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    query = page.get_by_role("button", name="q1.png:")
    query.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#facts .name")).to_have_text("q1.png")
    expect(query).to_be_focused()
    start(page)
    query.focus()
    finish(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(2)
    expect(query).to_be_focused()
    page.get_by_role("button", name="Remove q1.png").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove q2.png")).to_be_focused()


KEPT = """async () => {
  const { load } = await import("/static/store.js");
  return (await load()).photos.map((photo) => photo.name).sort();
}"""


def remove(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Remove {name}").click()


def test_a_removed_photo_is_gone_for_good(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    open_photo(page, "q1.png")
    remove(page, "q1.png")
    expect(page.locator("#query-list .thumb")).to_have_count(1)
    expect(page.locator("#facts")).to_have_text("Choose a photo to see it here.")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")
    open_photo(page, "shot.png")
    remove(page, "q2.png")  # not the one on the stage, which stays there
    expect(page.locator("#facts .name")).to_have_text("shot.png")
    expect(page.locator("#segment")).to_be_disabled()
    assert page.evaluate(KEPT) == ["shot.png"]
    page.reload()
    ready(page)
    expect(page.locator(".thumb")).to_have_count(1)
    assert (labels_of(page, "shot.png") == 1).any()


def test_without_its_example_what_was_found_is_out_of_date(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    page.set_input_files(
        "#pick-examples", {"name": "more.png", "mimeType": "image/png", "buffer": encoded(scene(400, 300))}
    )
    expect(page.locator("#facts .name")).to_have_text("more.png")
    dab(page, 370, 150)  # the blue edge, so that the class is of two colours
    remove(page, "q2.png")
    segment(page)
    remove(page, "more.png")
    expect(page.locator("#segment")).to_have_text("Segment 1 photo")
    segment(page)
    found = labels_of(page, "q1.png")
    assert (found[:, :90] == 1).all()  # of the red shot alone
    assert not found[:, 110:].any()
    listed = page.evaluate("fetch('/api/classes').then((answer) => answer.json())")
    assert [(each["name"], each["shots"]) for each in listed["classes"]] == [("red", 1)]


def test_a_photo_removed_while_the_server_works_does_not_come_back(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    before = len(ENGINE.encoded_queries)
    start(page)
    remove(page, "q1.png")  # the one that the server has
    remove(page, "q2.png")  # the one that comes next
    finish(page)
    expect(page.locator("#query-list .thumb")).to_have_count(0)
    # Nothing is said but what the server says of the small shot.
    expect(page.locator("#message")).to_have_text(
        re.compile(r"^a shot of 'red' [^.]*\. It finds such objects [^.]*\.✕?$")
    )
    assert len(ENGINE.encoded_queries) - before == 7  # the first and its six tiles: nobody asked for the second
    assert page.evaluate(KEPT) == ["shot.png"]


def test_of_several_files_those_that_are_no_pictures_are_named_and_not_kept(
    open_page: Any, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes(encoded(scene(400, 300))[:60])
    page: Page = open_page()
    page.set_input_files("#pick-queries", [tmp_path / "notes.png", photos[1], tmp_path / "cut.png", photos[2]])
    message = page.locator("#message")
    expect(message).to_contain_text("notes.png is not a picture")
    expect(message).to_contain_text("cut.png is not a picture")
    expect(page.locator("#query-list .thumb")).to_have_count(2)
    assert page.evaluate(KEPT) == ["q1.png", "q2.png"]
    expect(page.locator("#facts .name")).to_have_text("q1.png")


def test_the_view_follows_the_keyboard(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page()
    painted(page, photos)
    for _ in range(8):
        page.click("#zoom-in")
    before = labels_of(page, "shot.png")
    page.locator("#canvas").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    page.keyboard.press("Space")
    changed = np.argwhere(labels_of(page, "shot.png") != before)
    assert len(changed)
    y, x = changed.mean(0)
    canvas = page.locator("#canvas")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 12, box["y"] + box["height"] / 2)  # where the cursor came to stand
    more = np.argwhere(labels_of(page, "shot.png") != before)
    assert abs(more - [y, x]).max() < 40  # the mouse painted at the same place


def test_a_pinch_leaves_no_corner(open_page: Any, photos: list[str]) -> None:
    page: Page = open_page("360", has_touch=True)
    page.set_input_files("#pick-examples", photos[0])
    page.wait_for_selector("#example-list .thumb")
    page.get_by_role("button", name="Polygon").click()
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    devices = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (x - 20, y + 40))
    touch("touchStart", (x - 20, y + 40), (x + 20, y + 40))
    touch("touchMove", (x - 22, y + 40), (x + 22, y + 40))
    touch("touchEnd")
    for dx, dy in ((-30, -30), (30, -30), (30, 0), (-30, 0)):
        page.touchscreen.tap(x + dx, y + dy)
    page.locator("#canvas").focus()
    page.keyboard.press("Enter")
    ys, xs = np.nonzero(labels_of(page, "shot.png"))
    full = (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
    assert len(ys) == full  # a rectangle of the four taps, without a fifth corner below


def test_a_large_photo_on_its_side(open_page: Any, tmp_path: Path) -> None:
    """A camera's 3000 px JPEG whose EXIF says that it lies on its side: page, masks and zip show it upright."""
    upright = scene(2000, 3000)  # red on its left
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "camera.jpg", exif=exif, quality=95)
    page: Page = open_page()
    page.get_by_label("Name of class 1").fill("red")
    page.set_input_files("#pick-examples", tmp_path / "camera.jpg")
    choose_brush(page)
    expect(page.locator("#empty")).to_be_hidden(timeout=60_000)  # a stroke before the photo is shown paints nothing
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    height = box["height"] - 24
    left, top = box["x"] + box["width"] / 2 - height * 853 / 1280 / 2, box["y"] + 12
    page.locator("#size").fill("60")
    page.mouse.move(left + height / 12, top + height / 4)
    page.mouse.down()
    page.mouse.move(left + height / 12, top + height * 3 / 4, steps=3)
    page.mouse.up()
    shown = page.evaluate("""async () => {
      const { project, bitmapOf } = await import("/static/project.js");
      const bitmap = await bitmapOf(project.photos[0]), canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      const pixel = (x) => [...canvas.getContext("2d").getImageData(x, 640, 1, 1).data.slice(0, 3)];
      return [bitmap.width, bitmap.height, pixel(100), pixel(426), pixel(750)];
    }""")
    assert shown[:2] == [853, 1280]
    for colour, expected in zip(shown[2:], [(200, 30, 30), (128, 128, 128), (30, 30, 200)], strict=True):
        assert np.abs(np.subtract(colour, expected)).max() < 12, shown
    page.set_input_files("#pick-queries", tmp_path / "camera.jpg")
    expect(page.locator("#query-list .thumb")).to_have_count(1)
    segment(page)
    expect(page.locator("#query-list .thumb.done")).to_have_count(1)
    with page.expect_download() as download:
        page.click("#download")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        (query,) = [each for each in json.loads(archive.read("results.json"))["photos"] if each["role"] == "query"]
        mask = np.array(Image.open(io.BytesIO(archive.read(query["mask"]))))
        overlay = Image.open(io.BytesIO(archive.read(query["overlay"])))
    assert mask.shape == (3000, 2000)
    assert overlay.size == (2000, 3000)
    assert (mask[:, :400] == 1).all()
    assert not mask[:, 650:].any()
