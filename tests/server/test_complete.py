"""`POST /api/complete`: strokes as pictures and as lines, in a form; a mask as JSON or PNG."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from rifenet.segmenting.segmenter import Segmenter
from rifenet.server.marks import MOST_POINTS

from .conftest import client_of, encoded, learn, quarter, scene

LINE: list[dict[str, Any]] = [{"points": [[4, 24], [12, 24]], "width": 3}]


def form(**files: bytes) -> dict[str, tuple[str, bytes]]:
    """The photo and further files of a form."""
    return {name: (name, content) for name, content in {"image": encoded(scene()), **files}.items()}


def marked(*lines: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A picture of strokes, 255 within boxes (top, left, bottom, right)."""
    mask = np.zeros((48, 64), np.uint8)
    for top, left, bottom, right in lines:
        mask[top:bottom, left:right] = 255
    return mask


def mask_of(answer: Any) -> NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    mask = np.array(Image.open(io.BytesIO(base64.b64decode(body["mask"]))))
    assert (body["width"], body["height"], body["pixels"]) == (64, 48, int((mask > 0).sum()))
    assert body["warnings"] == []
    return mask


def test_a_line_becomes_a_mask(client: TestClient) -> None:
    mask = mask_of(client.post("/api/complete", files=form(), data={"object": json.dumps(LINE)}))
    assert (mask == quarter("left")).mean() > 0.95
    assert mask[24, 4:12].all()


def test_pictures_lines_in_files_and_lines_in_texts_are_one(client: TestClient) -> None:
    box = marked((23, 4, 25, 12))
    expected = Segmenter(ColourEngine()).complete(scene(), object=box)
    clear = np.dstack([np.full_like(box, 255)] * 3 + [box])  # white strokes on a clear canvas, as a page has them
    for picture in (box, clear):
        np.testing.assert_array_equal(
            mask_of(client.post("/api/complete", files=form(object=encoded(picture)))), expected
        )
    line = json.dumps(LINE)
    as_text = mask_of(client.post("/api/complete", files=form(), data={"object": line}))
    as_file = mask_of(client.post("/api/complete", files=form(object=line.encode())))
    np.testing.assert_array_equal(as_text, as_file)


def test_lines_lie_where_they_are_drawn(client: TestClient) -> None:
    """A horizontal line of width 4 from (8, 10) to (40, 10) marks rows 8 to 11, with round ends."""
    data = {"object": json.dumps([{"points": [[8, 10], [40, 10]], "width": 4}])}
    photo = {"image": ("a.png", encoded(np.full((48, 64, 3), 90, np.uint8)))}
    mask = mask_of(client.post("/api/complete", files=photo, data={**data, "background": "[]"}))
    assert mask[8:12, 8:40].all()


def test_the_form_or_accept_chooses_json_or_png(client: TestClient) -> None:
    data = {"object": json.dumps(LINE)}
    for answer in (
        client.post("/api/complete", files=form(), data=data, headers={"Accept": "image/png"}),
        client.post("/api/complete", files=form(), data={**data, "format": "png"}),
    ):
        assert answer.headers["content-type"] == "image/png"
        mask = np.array(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(mask, mask_of(client.post("/api/complete", files=form(), data=data)))


def test_strokes_correct_a_mask(client: TestClient) -> None:
    start = encoded(quarter("left") | quarter("right"))
    data = {"background": json.dumps([{"points": [[52, 24], [60, 24]], "width": 3}])}
    mask = mask_of(client.post("/api/complete", files=form(start=start), data=data))
    assert mask[24, 52:60].sum() == 0
    assert mask[10:40, 2:12].mean() > 0.9


def test_a_learned_class_needs_no_stroke(client: TestClient) -> None:
    learn(client)
    mask = mask_of(client.post("/api/complete", files=form(), data={"name": "red"}))
    assert (mask == quarter("left")).mean() > 0.95
    other = TestClient(client.app, base_url=client.base_url)
    refused = other.post("/api/complete", files=form(), data={"name": "red"})
    assert (refused.status_code, "learned class" in refused.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("data", "files", "status", "words"),
    [
        ({}, {}, 422, "none marks a pixel"),
        ({"object": ""}, {}, 422, "none marks a pixel"),
        ({"object": "[1"}, {}, 422, "Expected object as a list of"),
        ({"object": "{}"}, {}, 422, "Expected object as a list of"),
        ({"object": "[3]"}, {}, 422, "Expected object as a list of"),
        ({"background": '[{"points": [], "width": 3}]'}, {}, 422, "Expected background as a list of"),
        ({"object": '[{"points": [[1, 2]]}]'}, {}, 422, "width"),
        ({"object": '[{"points": [[1, 2, 3]], "width": 1}]'}, {}, 422, "Expected object as"),
        ({"object": '[{"points": [[1, NaN]], "width": 1}]'}, {}, 422, "Expected object as"),
        ({"object": '[{"points": [[1, 1e300]], "width": 1}]'}, {}, 422, "Expected object as"),
        ({"object": '[{"points": [[1, 1]], "width": 0}]'}, {}, 422, "Expected object as"),
        ({"object": "[" * 9000}, {}, 422, "Expected object as"),
        ({"object": json.dumps([{"points": [[1, 1]] * (MOST_POINTS + 1), "width": 1}])}, {}, 422, "at most 20,000"),
        ({}, {"object": encoded(np.ones((4, 4), np.uint8))}, 422, "Expected object of the photo's size, 64 x 48"),
        ({}, {"object": encoded(marked((0, 0, 9, 9)), "JPEG")}, 415, "lossless"),
        ({}, {"object": b"nothing"}, 415, "Expected a picture"),
        ({}, {"start": encoded(np.ones((4, 4), np.uint8))}, 422, "Expected start of the photo's size"),
        ({"object": json.dumps(LINE), "format": "gif"}, {}, 422, "json or png"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    client: TestClient, data: dict[str, str], files: dict[str, bytes], status: int, words: str
) -> None:
    answer = client.post("/api/complete", files=form(**files), data=data)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_views_are_kept_between_requests_and_count_as_memory() -> None:
    engine = ColourEngine()
    with client_of(engine) as client:
        projects = client.app.state.service.projects  # type: ignore[attr-defined]
        assert projects.memory() == 0
        client.post("/api/complete", files=form(), data={"object": json.dumps(LINE)})
        seen = len(engine.encoded_queries)
        assert projects.memory() == projects.views.memory() > 0
        client.post("/api/complete", files=form(), data={"object": json.dumps(LINE)})
        assert len(engine.encoded_queries) == seen
        assert len(projects) == 0, "strokes without a class open no project"
        assert projects.views.memory() <= projects.views.most < 100e6
