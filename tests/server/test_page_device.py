"""What the page computes on this device, module by module, in Chromium: the numbers of Pillow, numpy and the server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from rifenet.data.transforms import enlarged, place, resize_and_pad
from rifenet.formats.pictures import load_image
from rifenet.segmenting.instances import ObjectShape, instances
from rifenet.segmenting.pixels import contrasts
from rifenet.segmenting.quality import expected_iou, models, signs_of
from rifenet.segmenting.refine import refined_margins
from rifenet.segmenting.tiles import cell_of, tiles_of
from rifenet.server.app import create_app

from .conftest import encoded, running

EXAMPLES = Path(str(files("rifenet"))) / "examples"
PHOTOS = [
    EXAMPLES / each["image"] for each in json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))["photos"]
]

HELPERS = """
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytesOf(text).buffer);
  const textOf = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  };
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(ColourEngine())) as there:
        yield there


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of the server with its headers and without the application: each test imports what it needs."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{address}/docs")
    yield opened
    context.close()


def text_of(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def array_of(text: str, kind: str, *shape: int) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind).reshape(shape)


def computed(page: Page, module: str, code: str, *given: Any) -> Any:
    """What `code` gives, in which `all` is a module of `static/device` and `given` the further arguments."""
    wrapped = f"""async (given) => {{ {HELPERS}
      const all = await import("/static/device/{module}.js");
      {code} }}"""
    return page.evaluate(wrapped, list(given))


def rgba(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


BYTES = """const [text, width, height, toWidth, toHeight] = given;
  const picture = { width, height, data: new Uint8ClampedArray(bytesOf(text)) };
  return textOf(all.resizedBytes(picture, toWidth, toHeight).data);"""
NUMBERS = """const [text, width, height, toWidth, toHeight] = given;
  return textOf(all.resizedMap({ width, height, data: floats(text) }, toWidth, toHeight).data);"""


@pytest.mark.parametrize(
    ("size", "to"), [((97, 61), (20, 13)), ((31, 45), (64, 45)), ((50, 333), (49, 17)), ((7, 3), (7, 1))]
)
def test_pictures_are_resized_as_pillow_does_it(page: Page, size: tuple[int, int], to: tuple[int, int]) -> None:
    image = noise(*size)
    found = array_of(computed(page, "resample", BYTES, text_of(rgba(image)), *size[::-1], *to[::-1]), "u1", *to, 4)
    expected = np.asarray(Image.fromarray(image).resize(to[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found[..., :3], expected)


@pytest.mark.parametrize(("size", "to"), [((12, 9), (30, 41)), ((40, 33), (11, 33)), ((5, 5), (5, 8))])
def test_maps_are_resized_as_pillow_does_it(page: Page, size: tuple[int, int], to: tuple[int, int]) -> None:
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    found = array_of(computed(page, "resample", NUMBERS, text_of(values), *size[::-1], *to[::-1]), "f4", *to)
    expected = np.asarray(Image.fromarray(values).resize(to[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found, expected, atol=1e-6)  # sums of a few float64 products, rounded to float32


def test_maps_are_enlarged_as_networks_do_it(page: Page) -> None:
    values = np.random.default_rng(2).normal(size=(7, 9)).astype(np.float32)
    code = "return textOf(all.enlarged({ width: 9, height: 7, data: floats(given[0]) }, 33, 25).data);"
    found = array_of(computed(page, "maps", code, text_of(values)), "f4", 25, 33)
    np.testing.assert_allclose(found, enlarged(values, (25, 33)), atol=1e-6)


def test_sizes_are_rounded_as_python_does_it(page: Page) -> None:
    sides = [(width, height) for width in (1, 2, 31, 640, 1333, 4000) for height in (1, 3, 427, 999, 3024)]
    code = """return given[0].map(([width, height]) => {
      const { scaledWidth, scaledHeight } = all.place(width, height, 449);
      return [scaledWidth, scaledHeight];
    });"""
    expected = [[own.scaled_width, own.scaled_height] for own in (place(h, w, 449) for w, h in sides)]
    assert computed(page, "photo", code, sides) == expected
    assert computed(page, "photo", "return [0.5, 1.5, 2.5, 2.4, 3.6].map(all.roundHalfEven);") == [0, 2, 2, 2, 4]


SQUARED = """const blob = new Blob([bytesOf(given[0])]), picture = await all.decoded(blob);
  const { images, valid, placement } = all.squared(picture, given[1]);
  return [textOf(images), textOf(valid), placement];"""


@pytest.mark.parametrize("photo", PHOTOS[::6], ids=lambda path: path.stem)
def test_real_photos_reach_the_network_as_on_the_server(page: Page, photo: Path) -> None:
    """The browser's JPEG decoder is not Pillow's: single values may differ by a few of 255, means hardly."""
    size = 129
    images, valid, placement = computed(page, "photo", SQUARED, base64.b64encode(photo.read_bytes()).decode(), size)
    expected, real, own = resize_and_pad(load_image(photo), size)
    assert (placement["scaledWidth"], placement["scaledHeight"]) == (own.scaled_width, own.scaled_height)
    np.testing.assert_array_equal(array_of(valid, "u1", size, size), real)
    difference = np.abs(array_of(images, "f4", 3, size, size) - expected) * 255
    assert difference.max() <= 3, difference.max()
    assert difference.mean() <= 0.1, difference.mean()


def test_lossless_photos_reach_the_network_to_the_bit_and_upright(page: Page, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(noise(40, 70)).save(path, exif=turned)
    images, _, placement = computed(page, "photo", SQUARED, base64.b64encode(path.read_bytes()).decode(), 33)
    expected, _, own = resize_and_pad(load_image(path), 33)
    assert (placement["width"], placement["height"]) == (own.width, own.height) == (40, 70)
    np.testing.assert_array_equal(array_of(images, "f4", 3, 33, 33), expected)


def test_photos_that_only_the_server_reads_are_refused(page: Page) -> None:
    clear = rgba(noise(9, 9))
    clear[2, 3, 3] = 100
    deep = bytearray(encoded(noise(9, 9)))
    deep[24] = 16
    code = """const said = (error) => `${error instanceof all.Unreadable} ${error.message}`;
      return all.decoded(new Blob([bytesOf(given[0])])).then(() => "", said);"""
    told = [
        computed(page, "photo", code, base64.b64encode(each).decode()) for each in (encoded(clear), bytes(deep), b"no")
    ]
    assert told == [
        "true a part of it is transparent",
        "true it has 16 bits a colour",
        "true this browser cannot open it",
    ]


def test_colours_and_contrasts_are_those_of_the_pixel_classifier(page: Page) -> None:
    pixels = np.random.default_rng(3).random((3, 65, 65), np.float32)
    found = array_of(
        computed(page, "margins", "return textOf(all.contrasts(floats(given[0]), 65, 17));", text_of(pixels)),
        "f4",
        16,
        17,
        17,
    )
    np.testing.assert_allclose(found, contrasts(pixels, 17), atol=1e-4)  # roots of differences of means of float32


EDGES = """const [photo, width, height, text, columns, rows] = given;
  const picture = { width, height, data: new Uint8ClampedArray(bytesOf(photo)) };
  const row = all.refinedRows(picture, { width: columns, height: rows, data: floats(text) });
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) out.set(row(y), y * width);
  return textOf(out);"""


@pytest.mark.parametrize("size", [(60, 90), (190, 260)])  # the second is first reduced by whole blocks
def test_masks_follow_edges_as_on_the_server(page: Page, size: tuple[int, int]) -> None:
    margins = np.random.default_rng(4).normal(size=(30, 41)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(noise(9, 13)).resize(size[::-1], Image.Resampling.BICUBIC))
    given = text_of(rgba(smooth)), *size[::-1], text_of(margins), 41, 30
    found = array_of(computed(page, "edges", EDGES, *given), "f4", *size)
    expected = np.concatenate([part for _, part in refined_margins(smooth, margins)])
    assert np.abs(np.tanh(found / 2) - np.tanh(expected / 2)).max() < 1e-3  # means of blocks are rounded to bytes


def test_tiles_lie_where_the_server_has_them(page: Page) -> None:
    for height, width in ((480, 640), (3000, 4000), (90, 700), (449, 449)):
        canvas = place(height, width, 2 * 449)
        code = "return all.tilesOf({ scaledWidth: given[0], scaledHeight: given[1] }, 449);"
        assert computed(page, "tiles", code, canvas.scaled_width, canvas.scaled_height) == [
            list(tile) for tile in tiles_of(canvas, 449)
        ]
        cells = """const tiles = all.tilesOf({ scaledWidth: given[0], scaledHeight: given[1] }, 449);
          return tiles.map((tile) => all.cellOf(tile, tiles, 449, given[0], given[1]));"""
        sides = canvas.scaled_height, canvas.scaled_width
        expected = []
        for tile in tiles_of(canvas, 449):
            cell = zip(cell_of(tile, tiles_of(canvas, 449), 449), sides, strict=True)
            (upper, lower, _), (first, last, _) = (part.indices(side) for part, side in cell)
            expected.append([first, upper, last, lower])
        assert computed(page, "tiles", cells, canvas.scaled_width, canvas.scaled_height) == expected


OBJECTS = """const [text, width, height, scores, shapes] = given, values = floats(scores);
  const row = (y) => values.subarray(y * width, (y + 1) * width);
  return all.objectsOf({ width, height, data: bytesOf(text) }, 1, shapes, row);"""


def discs(*places: tuple[int, int, int]) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:120, :160] + 0.5
    return np.any([(columns - x) ** 2 + (rows - y) ** 2 <= r * r for x, y, r in places], 0).astype(np.uint8)


@pytest.mark.parametrize("shapes", [[], [(0.02, 0.95)] * 3, [(0.02, 0.6)] * 3])
def test_objects_apart_are_counted_as_on_the_server(page: Page, shapes: list[tuple[float, float]]) -> None:
    mask = discs((30, 30, 12), (90, 40, 13), (60, 90, 11), (130, 100, 3))
    mask[30, 30] = 0  # a hole is no reason to cut
    scores = np.random.default_rng(5).random(mask.shape, np.float32)
    told = [{"area": area, "solidity": solidity} for area, solidity in shapes]
    found = computed(page, "parts", OBJECTS, text_of(mask), 160, 120, text_of(scores), told)
    expected = instances(mask > 0, scores, [ObjectShape(*each) for each in shapes])
    assert [(tuple(each["box"]), each["area"]) for each in found] == [(each.box, each.area) for each in expected]
    for own, other in zip(found, expected, strict=True):
        assert own["centroid"] == pytest.approx(other.centroid)
        assert own["score"] == pytest.approx(other.score, abs=1e-5)


def test_touching_objects_are_left_to_the_server(page: Page) -> None:
    mask = discs((50, 60, 20), (84, 60, 20))
    told = [{"area": 0.05, "solidity": 0.95}] * 3
    scores = text_of(np.ones(mask.shape, np.float32))
    assert len(instances(mask > 0, np.ones(mask.shape, np.float32), [ObjectShape(0.05, 0.95)] * 3)) == 2
    assert computed(page, "parts", OBJECTS, text_of(mask), 160, 120, scores, told) is None


def test_quality_without_a_fit_is_the_servers(page: Page) -> None:
    margins = np.random.default_rng(6).normal(size=(20, 30)).astype(np.float32) * 3
    code = """const map = { width: 30, height: 20, data: floats(given[0]) };
      return all.expectedIou(all.signsOf(map, { fit: null, look: null }, null), given[1]);"""
    found = computed(page, "answer", code, text_of(margins), dict(models()))
    assert found == pytest.approx(expected_iou(signs_of(margins)), abs=1e-5)
