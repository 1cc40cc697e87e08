"""Label files of other programs, uploaded as masks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from rifenet.formats.brush_rle import encode_brush

from .conftest import client_of, encoded, photo, quarter, scene

LEFT = quarter("left")
SIZE = {"original_width": 64, "original_height": 48}


def brush(name: str = "bear", rle: Any = None) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(LEFT) if rle is None else rle, "brushlabels": [name]}
    return {"value": value, "type": "brushlabels", **SIZE}


def task(file: str, *regions: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"image": f"/data/upload/1/01234567-{file}"}, "annotations": [{"result": list(regions)}]}


def learn_from(client: TestClient, labels: bytes, **form: str) -> Any:
    files = [("images", ("q.png", encoded(scene()))), ("masks", ("labels", labels))]
    return client.post("/api/classes", data={"name": "bear", **form}, files=files)


@pytest.mark.parametrize("form", ["label studio", "cut-out", "colours"])
def test_a_class_is_learned_from_a_label_file(form: str) -> None:
    with client_of() as client:
        tasks = [task("other.png", brush("cow")), task("q.png", brush("Bear"), brush("cow"))]
        rows = {
            "label studio": (json.dumps(tasks).encode(), {}),
            "cut-out": (encoded(np.dstack([scene(), 255 * LEFT])), {}),
            "colours": (encoded(scene()), {"label": "#{:02x}{:02x}{:02x}".format(*scene()[LEFT == 1][0])}),
        }
        labels, more = rows[form]
        answer = learn_from(client, labels, **more)
        assert answer.status_code == 200, answer.text
        found = client.post("/api/segment", files=photo()).json()["results"][0]["classes"][0]
        assert found["pixels"] == LEFT.sum()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (b"{", "not JSON"),
        (b'{"shapes": [], "imageHeight": 30000, "imageWidth": 30000}', "at most 40,000,000 pixels"),
        (json.dumps([task("a.png"), task("b.png")]).encode(), "the photo q.png, but the file annotates"),
        (
            json.dumps([task("q.png", brush("cow"))]).encode(),
            "the label 'bear' (the class's name) in the photo, but it has cow",
        ),
        (json.dumps([task("q.png", brush(rle=[1, 2, 3]))]).encode(), "head of 7 bytes"),
        (
            json.dumps([task("q.png", {**brush(), "original_width": 65})]).encode(),
            "belongs to a picture of another size",
        ),
        (json.dumps({"shapes": [], "imageHeight": 9, "imageWidth": 9}).encode(), "but it has none"),
    ],
)
def test_broken_label_files_are_refused(labels: bytes, words: str) -> None:
    with client_of() as client:
        answer = learn_from(client, labels)
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["detail"]
        assert client.get("/api/health").json()["projects"] == 0


def test_a_json_is_no_photo() -> None:
    with client_of() as client:
        files = [("images", ("q.png", b"{}")), ("masks", ("m.png", encoded(LEFT)))]
        assert client.post("/api/classes", data={"name": "bear"}, files=files).status_code == 415
