"""The contact sheet in a browser: order, enlarging by mouse and keys, links; and what it says of a photo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rifenet.formats.contact_page import write_page


def record(folder: Path, name: str, quality: float, pixels: int, objects: int) -> dict[str, Any]:
    Image.new("RGB", (800, 600), (40, 90, 160)).save(folder / f"{name}_overlay.jpg")
    found = {"id": 1, "name": "dog", "present": True, "confidence": 0.9, "quality": quality}
    absent = {"id": 2, "name": "cat", "present": False, "confidence": 0.1, "quality": 0.0, "pixels": 0, "objects": 0}
    return {
        "query": f"photos/{name}.jpg",
        "height": 100,
        "width": 100,
        "classes": [{**found, "pixels": pixels, "objects": objects}, absent],
        "files": {"overlay": f"{name}_overlay.jpg"},
    }


@pytest.fixture
def page(tmp_path: Path) -> Path:
    records = [record(tmp_path, *each) for each in (("b 10", 0.9, 100, 1), ("b 9", 0.2, 3, 7), ("a", 0.5, 4000, 2))]
    write_page(tmp_path / "index.html", records, title="3 photos <segmented>")
    return tmp_path / "index.html"


def test_what_it_says(page: Path) -> None:
    text = page.read_text()
    assert "3 photos &lt;segmented&gt;" in text
    assert "dog: quality 0.90, confidence 0.90, 1.0 %, 1 object<" in text
    assert "dog: quality 0.20, confidence 0.90, 3 px, 7 objects<" in text  # too small a share to write
    assert "cat:" not in text
    assert re.findall(r"lowest (\w+) first", text) == ["quality"]


def test_it_sorts_and_enlarges_in_a_browser(page: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(args=["--no-sandbox"])
        except playwright.Error:
            chromium = Path("/usr/bin/chromium")
            if not chromium.exists():
                pytest.skip("There is no Chromium.")
            browser = driver.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        view = browser.new_page()
        errors: list[str] = []
        view.on("pageerror", lambda error: errors.append(str(error)))
        (page.parent / "b 9_overlay.jpg").unlink()
        view.goto(page.as_uri())

        def names() -> list[str]:
            return view.eval_on_selector_all("figure", "all => all.map(each => each.dataset.name)")

        assert names() == ["b 10.jpg", "b 9.jpg", "a.jpg"]
        orders = {
            "name": ["a.jpg", "b 9.jpg", "b 10.jpg"],
            "sure": ["b 9.jpg", "a.jpg", "b 10.jpg"],
            "share": ["a.jpg", "b 10.jpg", "b 9.jpg"],
            "objects": ["b 9.jpg", "a.jpg", "b 10.jpg"],
            "given": ["b 10.jpg", "b 9.jpg", "a.jpg"],
        }
        for order, expected in orders.items():
            view.select_option("#order", order)
            assert names() == expected
        view.click("figure:nth-child(1) a.zoom")
        assert view.locator("#large").is_visible()
        assert view.locator("#large span").text_content() == "b 10.jpg"
        view.wait_for_function(
            "document.querySelector('#large img').naturalWidth === 800"
        )  # the file, not the thumbnail
        view.keyboard.press("ArrowRight")
        view.click("#after")
        view.keyboard.press("ArrowRight")  # there is no further one
        assert view.locator("#large span").text_content() == "a.jpg"
        view.keyboard.press("Escape")
        assert not view.locator("#large").is_visible()
        view.click("figure:nth-child(2) a.zoom")  # whose file is not there
        view.wait_for_function("document.querySelector('#large img').naturalWidth === 360")
        assert errors == []
        browser.close()


def test_what_it_says_without_quality_and_objects(tmp_path: Path) -> None:
    full = record(tmp_path, "a", 0.5, 4000, 2)
    for entry in full["classes"]:
        del entry["quality"], entry["objects"]
    nothing = record(tmp_path, "b", 0.5, 4000, 2)
    nothing["query"], nothing["classes"][0]["present"] = "", False
    write_page(tmp_path / "index.html", [{**full, "json": "a & b.json"}, nothing], title="x")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    tools = (
        "<p class=tools><label>Order <select id=order><option value=given>as given</option><option value=name>name"
        "</option><option value=sure>lowest confidence first</option><option value=share>largest share first</option>"
        "</select></label><span>Confidence is how likely the photo shows the class at all. Percentages are shares of"
        " the photo. Click a picture to enlarge it.</span></p>"
    )
    assert tools in text
    assert "dog: confidence 0.90, 40.0 %</li>" in text
    assert '<a href="a%20%26%20b.json">json</a>' in text
    assert "<b>a picture in memory</b><ul><li>none of the classes</li></ul>" in text
    assert 'data-given=0 data-sure=0.9 data-share=0.4 data-objects=0 data-name="a.jpg"' in text
    assert "data-given=1 data-sure=1 data-share=0 data-objects=0" in text
    assert re.findall(r'<img [^>]*alt="([^"]*)"', text)[:2] == ["a.jpg", "a picture in memory"]


def test_an_empty_sheet(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", [], title="none")
    assert "<h1>none</h1></div>" in (tmp_path / "index.html").read_text(encoding="utf-8")
