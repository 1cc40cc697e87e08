"""Files on the page: existing masks become examples, drops land where they belong, the zip has every format."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from rifenet.cli.segment import FORMATS
from rifenet.formats.brush_rle import encode_brush
from rifenet.formats.label_files import load_labels

from .browsing import forms_of, labels_of, segment, watch_forms
from .conftest import encoded, quarter, scene
from .slow_page import address, let_go
from .test_page_work import painted

__all__ = ["address", "let_go"]  # fixtures

SIZE = {"width": 400, "height": 300}
PHOTO = encoded(scene(**SIZE), "JPEG")
LEFT, RIGHT = quarter("left", **SIZE), quarter("right", **SIZE)
BOTH = LEFT + 2 * RIGHT

DROP = """async ([target, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
  }
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(target).dispatchEvent(event);
    if (kind === "dragover") window.zones = !document.querySelector("#zones").hidden;
  }
}"""


def drop(page: Page, target: str, **files: bytes) -> None:
    """Drops files on an element; `a_png` is called a.png."""
    named = [
        [name[::-1].replace("_", ".", 1)[::-1], base64.b64encode(content).decode()] for name, content in files.items()
    ]
    page.evaluate(DROP, [target, named])
    expect(page.locator("#work")).to_be_hidden()


def rectangle(side: str) -> list[float]:
    left, right = (0, 100) if side == "left" else (300, 400)
    return [left, 0, right, 0, right, 300, left, 300]


def coco() -> dict[str, Any]:
    shapes = [(1, 1, "left"), (1, 2, "right"), (2, 1, "left")]
    return {
        "images": [{"id": number, "file_name": f"{name}.jpg", **SIZE} for number, name in ((1, "a"), (2, "b"))],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "segmentation": [rectangle(side)]}
            for number, (image, category, side) in enumerate(shapes, 1)
        ],
    }


def labelme() -> dict[str, Any]:
    points = np.reshape(rectangle("left"), (4, 2)).tolist()
    shape = {"label": "red", "points": points, "shape_type": "polygon"}
    return {"shapes": [shape], "imagePath": "a.jpg", "imageWidth": 400, "imageHeight": 300}


def label_studio() -> list[dict[str, Any]]:
    value = {"format": "rle", "rle": encode_brush(LEFT), "brushlabels": ["red"]}
    region = {"value": value, "type": "brushlabels", "original_width": 400, "original_height": 300}
    return [{"data": {"image": "/data/upload/1/0123abcd-a.jpg"}, "annotations": [{"result": [region]}]}]


FILES = {
    "png": {"a_png": encoded(LEFT)},
    "black and white": {"a_mask_png": encoded(255 * LEFT)},
    "cut-out": {"a_png": encoded(np.dstack([scene(**SIZE), 255 * LEFT]))},
    "coco": {"annotations_json": json.dumps(coco()).encode()},
    "labelme": {"a_json": json.dumps(labelme()).encode()},
    "label studio": {"export_json": json.dumps(label_studio()).encode()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_mask_beside_its_photo_makes_an_example(open_page: Any, kind: str) -> None:
    page: Page = open_page()
    page.get_by_label("Name of class 1").fill("red")
    page.get_by_label("Name of class 1").blur()
    drop(page, "#canvas", a_jpg=PHOTO, z_jpg=PHOTO, **FILES[kind])
    expect(page.locator("#example-list .note")).to_have_text(["red, blue" if kind == "coco" else "red"])
    expect(page.locator("#query-list .thumb")).to_have_count(1)  # the photo without a mask
    assert ((labels_of(page, "a.jpg") == 1) == (LEFT == 1)).mean() > 0.995
    assert page.evaluate("window.zones")
    expect(page.locator("#zones")).to_be_hidden()
    segment(page)
    assert (labels_of(page, "z.jpg")[:, :90] == 1).mean() > 0.95
    page.keyboard.press("Control+z")
    expect(page.locator(".thumb")).to_have_count(0)  # the drop was one step


def test_a_coco_file_fits_several_photos_and_makes_their_classes(open_page: Any) -> None:
    page: Page = open_page()
    drop(page, "#examples", a_jpg=PHOTO, b_jpg=PHOTO, instances_json=json.dumps(coco()).encode())
    expect(page.locator("#example-list .note")).to_have_text(["red, blue", "red"])
    names = page.locator("#class-list input[type=text]")
    assert [names.nth(i).input_value() for i in range(names.count())] == ["red", "blue"]
    np.testing.assert_array_equal(labels_of(page, "a.jpg"), BOTH)


def test_numbers_and_colours_of_a_mask_become_classes(open_page: Any) -> None:
    page: Page = open_page()
    page.get_by_label("Name of class 1").fill("red")
    drop(page, "#examples", a_jpg=PHOTO, a_png=encoded(BOTH))
    names = page.locator("#class-list input[type=text]")
    assert [names.nth(i).input_value() for i in range(names.count())] == ["red", "class 2"]
    np.testing.assert_array_equal(labels_of(page, "a.jpg"), BOTH)
    colours = np.zeros((300, 400, 3), np.uint8)
    colours[LEFT == 1], colours[RIGHT == 1] = (255, 128, 0), (0, 128, 255)
    drop(page, "#examples", b_jpg=PHOTO, b_png=encoded(colours))
    assert [names.nth(i).input_value() for i in range(names.count())] == ["red", "class 2", "#0080ff", "#ff8000"]
    found = labels_of(page, "b.jpg")
    np.testing.assert_array_equal(found, np.where(RIGHT == 1, 3, np.where(LEFT == 1, 4, 0)))


def test_a_mask_that_comes_later_finds_its_photo(open_page: Any) -> None:
    page: Page = open_page()
    page.get_by_label("Name of class 1").fill("red")
    drop(page, "#queries", a_jpg=PHOTO)
    expect(page.locator("#query-list .thumb")).to_have_count(1)
    drop(page, "body", a_png=encoded(LEFT))
    expect(page.locator("#query-list .thumb")).to_have_count(0)
    expect(page.locator("#example-list .note")).to_have_text("red")
    np.testing.assert_array_equal(labels_of(page, "a.jpg"), LEFT)


def test_what_cannot_be_used_is_named_and_the_rest_is_taken(open_page: Any) -> None:
    page: Page = open_page()
    small = encoded(LEFT[:100])
    drop(page, "#canvas", a_jpg=PHOTO, a_png=small, b_mask_png=encoded(LEFT), notes_json=b'{"a": 1}')
    message = page.locator("#message")
    expect(message).to_contain_text("as large as a.jpg, but it has 400 x 100")
    expect(message).to_contain_text("b_mask.png belongs to no photo here")
    expect(message).to_contain_text("notes.json: Expected annotations")
    expect(page.locator("#example-list .note")).to_have_text("not marked")


@pytest.mark.parametrize(
    ("target", "photos", "landed"),
    [("#examples", 7, (7, 0)), ("#queries", 1, (0, 1)), ("#canvas", 5, (5, 0)), ("#canvas", 6, (0, 6))],
)
def test_photos_land_where_they_belong(open_page: Any, target: str, photos: int, landed: tuple[int, int]) -> None:
    page: Page = open_page()
    drop(page, target, **{f"p{number}_jpg": PHOTO for number in range(photos)})
    for role, number in zip(("example", "query"), landed, strict=True):
        expect(page.locator(f"#{role}-list .thumb")).to_have_count(number)


def test_a_photo_is_pasted(open_page: Any) -> None:
    page: Page = open_page()
    page.evaluate(
        """(text) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], "pasted.jpg"));
      window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    }""",
        base64.b64encode(PHOTO).decode(),
    )
    expect(page.locator("#example-list .thumb")).to_have_count(1)


def test_the_zip_has_every_format_of_the_command_line(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    for name in ("shot", "q1", "q2"):
        (tmp_path / f"{name}.png").write_bytes(encoded(scene(**SIZE)))
    painted(page, [str(tmp_path / f"{name}.png") for name in ("shot", "q1", "q2")])
    segment(page)
    page.click("#formats-button")
    boxes = page.locator("#formats input[type=checkbox]")
    offered = [boxes.nth(i).input_value() for i in range(boxes.count())]
    assert set(offered) == set(FORMATS) - {"html", "cvat_masks", "gpkg"}  # the page is the contact sheet; sets, scenes
    for value in offered:
        page.locator(f"#formats input[value={value}]").check()
    with page.expect_download() as download:
        page.click("#formats-download")
    expect(page.locator("#formats")).to_be_hidden()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        held = archive.namelist()
        facts = json.loads(archive.read("results.json"))
        together = json.loads(archive.read("coco.json"))
        query = next(each for each in facts["photos"] if each["name"] == "q1.png")
        mask = np.asarray(Image.open(io.BytesIO(archive.read(query["mask"]))))
        for path in [
            value for each in facts["photos"] for value in each.values() if isinstance(value, str) and "/" in value
        ]:
            assert path in held
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(archive.read(query["binary:red"])))), mask == 1)
        assert (np.asarray(Image.open(io.BytesIO(archive.read(query["cutout"]))))[..., 3] == 255 * (mask == 1)).all()
        read = load_labels(archive.read(query["labelme"]), "red")
        assert (read == (mask == 1)).mean() > 0.99
    assert {each["file_name"] for each in together["images"]} == {"shot.png", "q1.png", "q2.png"}
    assert sorted({each["image_id"] for each in together["annotations"]}) == [1, 2, 3]
    np.testing.assert_array_equal(load_labels(json.dumps(together).encode(), "red", photo="q1.png"), mask == 1)
    page.reload()
    page.click("#formats-button")
    expect(page.locator("#formats input[value=coco]")).to_be_checked()  # the choice is kept


def test_scale_and_edges_are_sent_and_make_results_out_of_date(open_page: Any, tmp_path: Path) -> None:
    page: Page = open_page()
    for name in ("shot", "q1", "q2"):
        (tmp_path / f"{name}.png").write_bytes(encoded(scene(**SIZE)))
    painted(page, [str(tmp_path / f"{name}.png") for name in ("shot", "q1", "q2")])
    watch_forms(page)
    segment(page)
    expect(page.locator("#segment")).to_have_text("Up to date")
    assert {(form["tiles"], form["refine"]) for form in forms_of(page, "/api/segment")} == {("auto", "auto")}
    page.locator("#options summary").click()
    page.get_by_label("Scale").select_option("yes")
    page.get_by_label("Edges").select_option("yes")
    expect(page.locator("#options summary")).to_contain_text("2 changed")
    expect(page.locator("#segment")).to_have_text("Segment 2 photos")
    segment(page)
    assert [(form["tiles"], form["refine"]) for form in forms_of(page, "/api/segment")[2:]] == [("yes", "yes")] * 2
