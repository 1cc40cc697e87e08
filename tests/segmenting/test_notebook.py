"""What a notebook shows: HTML that needs nothing beside it, read by a parser; and the package's public names."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image

import rifenet
from rifenet.drawing.notebook import LARGEST, SMALL
from rifenet.segmenting.segmenter import Segmenter

RED, GREY = (220, 30, 30), (128, 128, 128)


class Seen(HTMLParser):
    """Texts of table cells and pictures of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.pictures: list[Image.Image] = []
        self.open = 0
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            address = dict(attributes)["src"] or ""
            assert address.startswith("data:image/jpeg;base64,")
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
            return
        self.open += 1
        if tag in ("td", "th"):
            self._in_cell, self.cells = True, [*self.cells, ""]

    def handle_endtag(self, tag: str) -> None:
        self.open -= 1
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


@pytest.fixture
def segmenter() -> Segmenter:
    segmenter = Segmenter(ColourEngine())
    image = np.full((60, 80, 3), GREY, np.uint8)
    image[10:50, 10:60] = RED
    segmenter.learn("<red>", [image] * 2, [(image == RED).all(-1).astype(np.uint8)] * 2)
    return segmenter


def test_a_segmenter_shows_its_shots(segmenter: Segmenter, tmp_path: Path) -> None:
    assert repr(segmenter) == "<Segmenter of the model colour: <red> (2 shots)>"
    assert repr(Segmenter(ColourEngine())) == "<Segmenter of the model colour: no class yet>"
    seen = Seen(segmenter._repr_html_())
    assert seen.open == 0  # what is opened is closed
    assert seen.cells == ["class", "shots", "", "<red>", "2", ""]
    assert [max(picture.size) for picture in seen.pictures] == [64, 64]  # as the network sees it, without padding
    assert seen.pictures[0].size == (64, 48)
    assert max(seen.pictures[0].size) <= SMALL
    segmenter.save_classes(tmp_path / "c.safetensors")
    other = Segmenter(ColourEngine())
    other.load_classes(tmp_path / "c.safetensors")
    assert Seen(other._repr_html_()).cells[-1] == "from a file, which holds no photos"


def test_a_result_shows_its_overlay(segmenter: Segmenter) -> None:
    image = np.full((600, 1000, 3), GREY, np.uint8)
    image[:300] = RED
    result = segmenter.segment(image)
    assert repr(result).startswith("<Result of a picture in memory, 1000 x 600: <red> 0.")
    seen = Seen(result._repr_html_())
    assert seen.open == 0
    assert seen.cells[:3] == ["class", "confidence", "of the photo"]
    share = 100 * (result.mask == 1).mean()
    assert seen.cells[3:] == ["<red>", f"{result.confidence['<red>']:.2f}", f"{share:.1f} %"]
    assert seen.pictures[0].size == (LARGEST, LARGEST * 6 // 10)
    with Image.open(io.BytesIO(result._repr_png_())) as picture:
        assert picture.size == (LARGEST, LARGEST * 6 // 10)
        expected = result.overlay()
        expected.thumbnail((LARGEST, LARGEST))
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).max() <= 1
    empty = segmenter.segment(np.full((60, 80, 3), GREY, np.uint8))
    assert repr(empty).endswith(": no class>")
    assert Seen(empty._repr_html_()).cells[-1] == "absent"


def test_the_package_lists_its_public_names_only() -> None:
    assert dir(rifenet) == sorted(rifenet.__all__)
    assert all(hasattr(rifenet, name) for name in dir(rifenet))
