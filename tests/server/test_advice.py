"""`POST /api/advice`: what it says, what it refuses, and that nobody's leaving keeps the model busy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from .conftest import client_of, encoded, learn, photo, scene, shot


def told(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def plain(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((48, 64, 3), colour, np.uint8)


def test_names_the_wrong_shot_and_the_photo_unlike_the_others(client: TestClient) -> None:
    for side in ("left", "left", "right", "left", "left"):
        learn(client, side=side)
    files = [*photo("same.png"), ("images", ("new.png", encoded(plain((230, 200, 20)))))]
    found = told(client.post("/api/advice", files=files, data={"suggest": "1"}))
    assert [(each["class_name"], each["number"]) for each in found["shots"] if each["warns"]] == [("red", 3)]
    ious = [each["iou"] for each in found["shots"]]
    assert (ious[2], min(ious[:2] + ious[3:]) > 0.3) == (0.0, True)
    assert [(each["name"], each["number"], each["rank"]) for each in found["next"]] == [("new.png", 2, 1)]
    assert found["next"][0]["reason"].endswith(".")


def test_photos_are_not_needed_and_nothing_is_changed(client: TestClient) -> None:
    before = {name: value for name, value in learn(client).json().items() if name != "warnings"}
    found = told(client.post("/api/advice"))
    assert [(each["verdict"], each["warns"]) for each in found["shots"]] == [("alone", False)]
    assert found["next"] == []
    assert client.get("/api/classes").json() == before


@pytest.mark.parametrize(
    ("files", "data", "status", "words"),
    [
        ([("images", ("a.txt", b"no picture"))], {}, 415, "a.txt"),
        ([("images", ("cut.png", encoded(scene())[:-200]))], {}, 422, "cut.png"),
        (photo(), {"suggest": "0"}, 422, "suggest"),
        (photo() * 4, {}, 413, "at most 3 photos"),
    ],
)
def test_what_cannot_be_used_is_refused(files: Any, data: Any, status: int, words: str) -> None:
    with client_of(files=3) as client:
        learn(client)
        answer = client.post("/api/advice", files=files, data=data)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
        assert client.post("/api/advice").status_code == 200  # it goes on


def test_a_project_without_classes_is_told_what_to_do(client: TestClient) -> None:
    answer = client.post("/api/advice", files=photo())
    assert (answer.status_code, "POST /api/classes" in answer.json()["detail"]) == (422, True)


def test_it_ends_when_its_time_is_over() -> None:
    with client_of(seconds=1) as client:
        learn(client)
        engine = client.app.state.service.projects.engine._engine  # type: ignore[attr-defined]
        calls, slow = [], engine.encode_query

        def encode_query(images: Any, valid: Any) -> Any:
            calls.append(1)
            time.sleep(0.4)
            return slow(images, valid)

        engine.encode_query = encode_query
        answer = client.post("/api/advice", files=photo() * 15)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        engine.encode_query = slow
        assert told(client.post("/api/advice"))["shots"]  # so the worker is free
    assert len(calls) < 8


def test_masks_of_another_size_teach_as_well(client: TestClient) -> None:
    learn(client)
    client.post("/api/classes", data={"name": "red"}, files=shot("left", width=120, height=40))
    found = told(client.post("/api/advice"))
    assert [each["verdict"] for each in found["shots"]] == ["good", "good"]
    assert all(each["iou"] > 0.9 for each in found["shots"])
