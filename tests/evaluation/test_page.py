"""The report as one HTML page: everything of the Markdown is in it, and nothing is fetched."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from rifenet.cli.main import main
from rifenet.evaluation.page import page

TEXT = """# Results & more

Written by `rifenet report`; **bold** <b>.
Second line.

- † [1]: a note
- another

## A table

| model | IoU |
|---|---|
| a \\| b | 12.3 ± 1.0 [1] |
| [file](x.json) | – |

![curves of x](pictures/curve%20one.svg)

![gallery](pictures/g.jpg)
"""


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = [value or "" for name, value in attributes if name in ("src", "href", "data", "srcset")]
        self.fetched += [value for value in found if not value.startswith("data:")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>drawn</text></svg>'
    (tmp_path / "pictures" / "curve one.svg").write_text(svg)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / "g.jpg")
    return tmp_path


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_part_is_there_and_nothing_is_fetched(folder: Path) -> None:
    made = page(TEXT, folder)
    reader = read(made)
    assert reader.fetched == []
    assert [reader.tags.count(tag) for tag in ("h1", "h2", "p", "li", "table", "td", "img", "svg")] == (
        [1, 1, 1, 2, 1, 4, 1, 1]
    )
    words = " ".join(" ".join(reader.words).split())
    for part in ("Results & more", "rifenet report", "<b>. Second line.", "a | b", "12.3 ± 1.0 [1]", "drawn", "file"):
        assert part in words
    assert "<strong>bold</strong>" in made
    assert "<title>Results &amp; more</title>" in made
    assert 'aria-label="curves of x"' in made


def test_pictures_that_are_not_there_or_unknown(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        page("![x](pictures/no.jpg)", folder)
    with pytest.raises(ValueError, match="Expected a picture as SVG, JPEG or PNG"):
        page("![x](pictures/x.gif)", folder)


def test_the_command_writes_a_page_without_markdown(tmp_path: Path) -> None:
    result = Path(__file__).parents[2] / "docs" / "results" / "bundled" / "result-1shot.json"
    out = tmp_path / "report.html"
    assert main(["report", str(result), "--html", str(out)]) == 0
    reader = read(out.read_text(encoding="utf-8"))
    assert reader.fetched == []
    # The training curves, from the log beside the result, and the reliability diagram.
    assert reader.tags.count("svg") == 2
    assert reader.tags.count("table") >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
