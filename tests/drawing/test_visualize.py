"""Pictures for people: the right pixels in the right colours, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from rifenet.drawing import visualize
from rifenet.drawing.visualize import Figure, Report, Section


def test_colours_are_distinct_for_dozens_of_classes_and_never_black_or_white() -> None:
    colours = [visualize.class_colour(class_id) for class_id in range(1, 36)]
    assert colours[:7] == list(visualize.OKABE_ITO)
    assert len(set(colours)) == 35
    assert {(0, 0, 0), (255, 255, 255)}.isdisjoint(colours)
    assert all(0 <= level <= 255 for class_id in range(1, 255) for level in visualize.class_colour(class_id))


def test_neighbouring_colours_differ_for_colour_blind_eyes() -> None:
    # Deuteranopes see roughly luminance and the blue-yellow axis; the first seven classes must differ in one of them.
    rgb = np.array([visualize.class_colour(i) for i in range(1, 8)], float)
    axes = np.stack([rgb @ [0.299, 0.587, 0.114], rgb @ [0.5, 0.5, -1.0]], 1)
    distances = np.linalg.norm(axes[:, None] - axes[None], axis=-1)[np.triu_indices(7, 1)]
    assert distances.min() > 15


def test_mask_image_keeps_the_numbers() -> None:
    mask = np.array([[0, 1, 2], [7, 254, 255]], np.uint8)
    picture = visualize.mask_image(mask)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    loaded = Image.open(buffer)
    assert loaded.mode == "P"
    np.testing.assert_array_equal(np.asarray(loaded), mask)
    assert loaded.convert("RGB").getpixel((1, 0)) == visualize.class_colour(1)


def test_overlay_tints_classes_and_leaves_the_rest() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:30], mask[32:36, 40:44] = 3, 255
    before = image.copy()
    painted = np.asarray(visualize.overlay(image, mask, opacity=0.25)).astype(int)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(painted[mask == 0], image[mask == 0])
    inside = (slice(14, 26), slice(14, 26))
    expected = 0.75 * image[inside] + 0.25 * np.array(visualize.class_colour(3))
    assert np.abs(painted[inside] - expected).max() <= 1
    assert tuple(painted[10, 10]) == visualize.class_colour(3)  # the outline
    assert (painted[mask == 255] != image[mask == 255]).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (300, 2)])
def test_overlay_of_any_shape(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert visualize.overlay(image, np.ones(shape, np.uint8)).size == shape[::-1]


def test_strip_and_contact_sheet_hold_every_panel() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    panels = [
        Image.new("RGB", size, colour) for size, colour in zip([(80, 40), (10, 90), (50, 50)], colours, strict=True)
    ]
    strip = visualize.strip(panels, ["support", "query", "a rather long caption"], height=60)
    assert set(colours) <= {colour for _, colour in strip.getcolors(10_000)}  # type: ignore[misc, union-attr]
    sheet = visualize.contact_sheet([strip, strip, strip], columns=2)
    assert sheet.width > 2 * strip.width
    assert sheet.height > 2 * strip.height
    pure = (np.asarray(sheet) == (255, 0, 0)).all(-1).sum()
    assert pure == 3 * (np.asarray(strip) == (255, 0, 0)).all(-1).sum()


def test_sheets_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="a caption for each panel"):
        visualize.strip([Image.new("RGB", (4, 4))], [])
    with pytest.raises(ValueError, match="at least one picture"):
        visualize.contact_sheet([])


class Page(HTMLParser):
    """Tags must close in order, and everything they point to is collected."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_report_is_one_file_that_escapes_what_it_shows() -> None:
    nasty = "<script>alert('1') & \"2\"</script>"
    figure = Figure(Image.new("RGBA", (900, 300), (230, 159, 0, 128)), nasty)
    section = Section(nasty, ("support", "query", "truth"), [figure], [[figure, figure], [figure, figure]], nasty, 2)
    page = visualize.render(
        Report(nasty, nasty, [nasty], [[nasty]], legend=[nasty], notes=[nasty], sections=[section], footer=nasty),
        width=90,
    )
    parsed = Page(page)
    assert "<script" not in page
    assert sum(text == nasty for text in parsed.texts) >= 9
    assert len(parsed.links) == 5
    assert all(link.startswith("data:image/jpeg;base64,") for link in parsed.links)
    with Image.open(io.BytesIO(base64.b64decode(parsed.links[0].split(",")[1]))) as picture:
        assert picture.size == (90, 30)
    assert not re.search(r"https?://|url\(", page)


@pytest.mark.parametrize("strip", [1, 3 * 900, 10**9])
def test_an_overlay_in_strips_is_what_one_of_the_whole_photo_is(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 900, 3), np.uint8)  # lines of two pixels
    mask = np.kron(rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 90)), np.ones((10, 10), np.uint8))
    monkeypatch.setattr(visualize, "_STRIP", strip)
    painted = np.asarray(visualize.overlay(photo, mask))
    padded = np.pad(mask.astype(int), 2, mode="edge")
    shifts = [
        padded[2 + down : 62 + down, 2 + right : 902 + right]
        for down, right in ((1, 0), (2, 0), (-1, 0), (-2, 0), (0, 1), (0, 2), (0, -1), (0, -2))
    ]
    outline = np.any([each != mask for each in shifts], 0) & (mask != 0) & (mask != 255)
    colours = {1: visualize.class_colour(1), 2: visualize.class_colour(2), 255: (160, 160, 160)}
    expected = photo.astype(int)
    for label, colour in colours.items():
        expected[mask == label] = (expected[mask == label] + colour) // 2
        expected[outline & (mask == label)] = colour
    np.testing.assert_array_equal(painted, expected)
