"""`POST /api/labels`: existing masks in. `POST /api/files`: files for other programs out. `GET /api/progress`."""

from __future__ import annotations

import base64
import io
import json
import threading
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from rifenet.formats.label_files import load_labels

from .conftest import SlowEngine, client_of, encoded, learn, photo, quarter, scene, wait_for

PHOTOS = [{"name": "a.jpg", "width": 64, "height": 48}, {"name": "b.jpg", "width": 64, "height": 48}]


def sent(client: TestClient, labels: bytes, photos: Any = None, name: str = "a.png") -> Any:
    form = {"photos": json.dumps(PHOTOS[:1] if photos is None else photos)}
    return client.post("/api/labels", data=form, files={"labels": (name, labels)})


def decoded(text: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_a_mask_is_read_for_its_photo(client: TestClient) -> None:
    mask = quarter("left") + 2 * quarter("right")
    (answer,) = sent(client, encoded(mask)).json()["photos"]
    assert [each["id"] for each in answer["classes"]] == [1, 2]
    np.testing.assert_array_equal(decoded(answer["mask"]), mask)


@pytest.mark.parametrize(
    ("labels", "photos", "status", "words"),
    [
        (encoded(quarter("left")), PHOTOS, 422, "one photo for a mask, but got 2"),
        (encoded(quarter("left", width=32)), None, 422, "64 x 48 pixels, as large as a.jpg, but it has 32 x 48"),
        (encoded(scene(), "JPEG"), None, 415, ""),
        (b"{", None, 422, "not JSON"),
        (b"[" * 101, None, 413, "nested at most 100 deep"),
        (b"[" + b"1," * 5_000_000 + b"1]", None, 413, "at most 5,000,000 values"),
        (encoded(quarter("left")), "no list", 422, "photos to be JSON"),
        (encoded(quarter("left")), [], 413, "1 to 20 photos"),
        (encoded(quarter("left")), [{"name": "a", "width": 0, "height": 1}], 422, "photos to be JSON"),
    ],
)
def test_what_cannot_be_read_is_refused(
    client: TestClient, labels: bytes, photos: Any, status: int, words: str
) -> None:
    answer = sent(client, labels, photos)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_a_json_is_read_for_the_photos_it_names_and_the_broken_ones_are_named(client: TestClient) -> None:
    content = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": 64, "height": 48}
            for number, name in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 16, 0, 16, 48, 0, 48]]},
            {"image_id": 2, "category_id": 1, "segmentation": {"size": [1, 1], "counts": [1]}},
        ],
    }
    answer = sent(
        client, json.dumps(content).encode(), [*PHOTOS, {"name": "c.jpg", "width": 64, "height": 48}], "x.json"
    ).json()
    (read,) = answer["photos"]
    assert (read["number"], read["classes"]) == (1, [{"id": 1, "name": "cat", "colour": None}])
    np.testing.assert_array_equal(decoded(read["mask"]), quarter("left"))
    assert [each.startswith("b.jpg: ") for each in answer["warnings"]] == [True]


def files_of(client: TestClient, formats: str = "coco,binary,labelme", **other: Any) -> Any:
    form = {
        "classes": json.dumps([{"name": "red", "confidence": 0.75}, {"name": "blue"}]),
        "formats": formats,
        "stem": "a",
        **other,
    }
    mask = quarter("left") + 2 * quarter("right")
    mask[0] = 255
    return client.post(
        "/api/files", data=form, files={"image": ("a.png", encoded(scene())), "mask": ("m.png", encoded(mask))}
    )


def test_a_mask_is_written_for_other_programs(client: TestClient) -> None:
    files = {
        each["kind"]: (each["name"], base64.b64decode(each["content"])) for each in files_of(client).json()["files"]
    }
    assert files["coco"][0] == "a_coco.json"
    coco = json.loads(files["coco"][1])
    assert [each["score"] for each in coco["annotations"]] == [0.75, 1.0]
    wanted = quarter("left")
    wanted[0] = 0  # what is ignored is of no class
    np.testing.assert_array_equal(load_labels(files["coco"][1], "red"), wanted)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files["binary:red"][1]))), wanted == 1)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"formats": "gif"}, "'gif'"),
        ({"formats": ""}, "formats"),
        ({"classes": "{}"}, "classes to be JSON"),
        ({"stem": "a/b"}, "stem"),
    ],
)
def test_other_forms_are_refused(client: TestClient, form: dict[str, str], words: str) -> None:
    answer = files_of(client, **form)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("route", ["adapt", "advice"])
def test_progress_is_told_while_a_long_request_is_under_way(route: str) -> None:
    engine = SlowEngine()
    engine.go.set()
    with client_of(engine) as client:
        headers = {"X-Project": "one"}
        learn(client, headers=headers)
        nothing = {"phase": "", "done": 0, "total": 0}
        assert client.get("/api/progress", headers=headers).json() == nothing
        engine.go.clear()
        images = [*photo("a.png"), *photo("b.png", width=80), *photo("c.png", width=96)]
        answers: list[Any] = []
        post = threading.Thread(
            target=lambda: answers.append(client.post(f"/api/{route}", files=images, headers=headers))
        )
        post.start()
        told = [nothing]
        wait_for(lambda: told.append(client.get("/api/progress", headers=headers).json()) or told[-1]["total"])  # type: ignore[func-returns-value]
        assert told[-1]["total"] in (1, 3)
        assert told[-1]["done"] < told[-1]["total"]
        assert client.get("/api/progress", headers={"X-Project": "another"}).json() == nothing
        engine.go.set()
        post.join(30)
        assert answers[0].status_code == 200, answers[0].text
        assert client.get("/api/progress", headers=headers).json() == nothing
