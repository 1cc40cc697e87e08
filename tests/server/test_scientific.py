"""Files of science, maps, video and CVAT, sent to the server: read like photos, or refused with what to do instead."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import tifffile
from starlette.testclient import TestClient

from .conftest import encoded, learn, quarter, scene

GREY = np.uint16(15) * scene()[..., 0]
DEEP = (257 * scene().astype(np.uint32)).astype(np.uint16)
PLACED = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 5e5, 5e6, 0), True)]
XML = b'<?xml version="1.0"?>\n<annotations><image id="0" name="a.png" width="64" height="48"/></annotations>'


def tiff(pixels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def segmented(client: TestClient, content: bytes) -> Any:
    learn(client)
    return client.post("/api/segment", files=[("images", ("scan.tif", content))])


@pytest.mark.parametrize(
    "content",
    [
        tiff(DEEP, photometric="rgb"),
        tiff(scene(), photometric="rgb", bigtiff=True),
        tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"),
        tiff(scene(), photometric="rgb", tile=(16, 16), compression="zstd"),
        tiff(np.stack([scene()] * 3), photometric="rgb"),
        tiff(scene(), photometric="rgb", extratags=PLACED),
    ],
    ids=["16 bits", "BigTIFF", "planar", "tiles", "pages", "placed"],
)
def test_tiffs_that_are_photos_are_segmented(client: TestClient, content: bytes) -> None:
    answer = segmented(client, content)
    assert answer.status_code == 200, answer.text
    ((red,),) = [result["classes"] for result in answer.json()["results"]]
    assert red["pixels"] == pytest.approx(quarter("left").sum(), rel=0.15)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(GREY, photometric="minisblack"), "were taken for 12 bits (0 to 4095), not for 16"),
        (tiff(GREY, photometric="minisblack", bigtiff=True), "were taken for 12 bits (0 to 4095), not for 16"),
        (tiff(np.stack([GREY] * 3), photometric="minisblack"), "It has 3 pages, and only the first was read."),
        (tiff(scene(), photometric="rgb", extratags=PLACED), "It has a place on the map, which its mask will lack"),
    ],
    ids=["16 bits", "BigTIFF", "pages", "placed"],
)
def test_what_was_taken_is_said(client: TestClient, content: bytes, words: str) -> None:
    answer = segmented(client, content)
    assert answer.status_code == 200, answer.text
    told = [sentence for sentence in answer.json()["warnings"] if words in sentence]
    assert len(told) == 1
    assert told[0].startswith("photo scan.tif: ")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (tiff(GREY.astype(np.float32), photometric="minisblack"), 422, "for the server, save it as PNG of 8 or 16"),
        (tiff(GREY.astype(np.int16) - 2000, photometric="minisblack"), 422, "`rifenet segment` and Python read it"),
        (tiff(np.where(GREY > 2000, np.nan, 0.5), photometric="minisblack"), 415, "`rifenet segment` and Python"),
        (tiff([GREY] * 5, photometric="minisblack", planarconfig="separate"), 415, "a TIFF of numbers, bands or"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", 415, "a video. Send its frames; `rifenet segment` reads"),
        (b"\x1a\x45\xdf\xa3\x01\0", 415, "a video. Send its frames; `rifenet segment` reads"),
        (b"RIFF\x0a\x0a\0\0AVI LIST", 415, "a video. Send its frames; `rifenet segment` reads"),
        (b"\0\0\0\x20ftypheic\0\0\2\0", 415, "something else: an HEIC. Save it as JPEG."),
        (XML, 415, "CVAT's XML. Export the labels as COCO 1.0"),
        (b"PK\x03\x04\x14\0", 415, "a zip. Unpack it"),
        (b"nothing at all", 415, "something else, or damaged. Send another."),
    ],
)
def test_what_is_refused_says_what_to_do(client: TestClient, content: bytes, status: int, words: str) -> None:
    answer = segmented(client, content)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_labels_of_cvat_are_refused_with_what_to_export(client: TestClient) -> None:
    files = [("images", ("a.png", encoded(scene()))), ("masks", ("a.xml", XML))]
    form = {"photos": json.dumps([{"name": "a.png", "width": 64, "height": 48}])}
    for answer in (
        client.post("/api/classes", data={"name": "x"}, files=files),
        client.post("/api/labels", data=form, files={"labels": ("a.xml", XML)}),
    ):
        assert answer.status_code == 415
        assert "a.xml is something else: CVAT's XML. Export the labels as COCO 1.0" in answer.json()["detail"]


def test_a_stack_of_masks_is_read_as_its_first_page_and_says_so(client: TestClient) -> None:
    masks = tiff(np.stack([quarter("left"), quarter("right")]), photometric="minisblack")
    files = [("images", ("a.png", encoded(scene()))), ("masks", ("a.tif", masks))]
    answer = client.post("/api/classes", data={"name": "red"}, files=files)
    assert answer.status_code == 200, answer.text
    assert any("mask a.tif: It has 2 pages, and only the first was read" in each for each in answer.json()["warnings"])
