"""The page's own reading and writing of index PNGs, in Chromium, against Pillow and files made by hand."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from rifenet.server.app import create_app

from .conftest import encoded, running, scene

DECODE = """async (text) => {
  const { decodePng } = await import("/static/png.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  try {
    const { width, height, data } = await decodePng(bytes);
    return { width, height, data: [...data] };
  } catch (error) {
    return { error: error.message };
  }
}"""
ENCODE = """async ([width, height, data, palette]) => {
  const { encodePng } = await import("/static/png.js");
  const blob = await encodePng({ width, height, data: Uint8Array.from(data) }, palette);
  return [...new Uint8Array(await blob.arrayBuffer())];
}"""
LABELS = np.random.default_rng(0).integers(0, 256, (11, 7), np.uint8)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(ColourEngine())) as there:
        yield there


@pytest.fixture
def page(open_page: Any) -> Any:
    return open_page()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, width: int, height: int, *, bits: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    """A file of these rows, each after the number of its filter; their data in chunks of 20 bytes."""
    packed = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    parts = [chunk(b"IDAT", packed[at : at + 20]) for at in range(0, len(packed), 20)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(parts) + chunk(b"IEND", b"")


def filtered(labels: NDArray[np.uint8], kind: int) -> bytes:
    """Rows after one of the five filters, pixel by pixel from the format's definition."""
    rows = bytearray()
    for y, row in enumerate(labels.tolist()):
        above = labels[y - 1].tolist() if y else [0] * len(row)
        rows.append(kind)
        for x, value in enumerate(row):
            a, b, c = row[x - 1] if x else 0, above[x], above[x - 1] if x else 0
            nearest = min((a, b, c), key=lambda each, p=a + b - c: abs(p - each))  # the first of equals
            rows.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
    return bytes(rows)


def decoded(page: Page, content: bytes) -> Any:
    return page.evaluate(DECODE, base64.b64encode(content).decode())


def test_every_filter_is_undone(page: Page) -> None:
    for kind in range(5):  # none, sub, up, average, Paeth's
        content = png(filtered(LABELS, kind), 7, 11)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(content))), LABELS
        )  # the file made here is right
        assert decoded(page, content) == {"width": 7, "height": 11, "data": LABELS.ravel().tolist()}, kind


def test_what_the_page_writes_is_read_by_pillow_and_by_itself(page: Page) -> None:
    palette = [[value, 255 - value, 7] for value in range(256)]
    for colours in (None, palette):
        content = bytes(page.evaluate(ENCODE, [7, 11, LABELS.ravel().tolist(), colours]))
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.mode == ("P" if colours else "L")
            np.testing.assert_array_equal(np.asarray(picture), LABELS)
            if colours:
                assert picture.getpalette() == [level for colour in palette for level in colour]
        assert decoded(page, content)["data"] == LABELS.ravel().tolist()


PLAIN = filtered(LABELS, 0)
WHOLE = png(PLAIN, 7, 11)


NO_INDEX_PNG = {
    "jpeg": (encoded(scene(), "JPEG"), "Expected a PNG"),
    "empty": (b"", "Expected a PNG"),
    "rgb": (encoded(scene()), "8-bit index PNG"),
    "16-bit": (png(PLAIN, 3, 11, bits=16), "8-bit index PNG"),
    "interlaced": (png(PLAIN, 7, 11, interlace=1), "8-bit index PNG"),
    "cut": (WHOLE[: len(WHOLE) // 2], "damaged"),
    "signature": (WHOLE[:8], "damaged"),
    "a row too few": (png(PLAIN[:-8], 7, 11), "damaged"),
    "a row too many": (png(PLAIN + bytes(8), 7, 11), "damaged"),
    "filter": (png(b"\5" + PLAIN[1:], 7, 11), "damaged"),
    "no deflate": (WHOLE.replace(zlib.compress(PLAIN)[:2], b"no"), "damaged"),
}


def test_what_is_no_index_png_is_refused(page: Page) -> None:
    for what, (content, words) in NO_INDEX_PNG.items():
        answer = decoded(page, content)
        assert set(answer) == {"error"}, what
        assert answer["error"].startswith("Expected"), what
        assert words in answer["error"], what
