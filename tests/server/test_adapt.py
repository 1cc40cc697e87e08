"""`POST /api/adapt`: what it teaches, how long that lasts, and what it refuses."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from starlette.testclient import TestClient

from .conftest import RED, client_of, encoded, learn, photo, scene

REDDISH, BROWN = (185, 75, 30), (110, 125, 30)  # found from red; found once the first is taken for red, too


def shaded(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    picture = scene()
    picture[(picture == RED).all(-1)] = colour
    return picture


def upload(name: str, colour: tuple[int, int, int]) -> tuple[str, tuple[str, bytes]]:
    return "images", (name, encoded(shaded(colour)))


def brown_pixels(client: TestClient) -> int:
    (result,) = client.post("/api/segment", files=[upload("q.png", BROWN)]).json()["results"]
    return int(result["classes"][0]["pixels"])


def test_photos_teach_until_a_class_changes(client: TestClient) -> None:
    learn(client)
    learn(client, "blue", "right")
    listed = client.get("/api/classes").json()
    assert brown_pixels(client) == 0
    files = [*photo("same.png"), upload("new.png", REDDISH)]
    answer = client.post("/api/adapt", files=files)
    assert answer.status_code == 200, answer.text
    red, blue = answer.json()["classes"]
    assert (red["class_name"], [(each["name"], each["number"]) for each in red["adopted"]]) == ("red", [("new.png", 2)])
    assert 0.5 < red["adopted"][0]["confidence"] < 1
    assert (blue["class_name"], [each["number"] for each in blue["adopted"]]) == ("blue", [2])  # it is there as well
    assert brown_pixels(client) == 768
    after = client.get("/api/classes").json()
    assert [each["shots"] for each in after["classes"]] == [1, 1]  # what was annotated
    assert all(new["revision"] != old["revision"] for new, old in zip(after["classes"], listed["classes"], strict=True))
    learn(client)
    assert brown_pixels(client) == 0


@pytest.mark.parametrize(
    ("files", "data", "status", "words"),
    [
        ([("images", ("a.txt", b"no picture"))], {}, 415, "a.txt"),
        ([upload("new.png", REDDISH), ("images", ("cut.png", encoded(scene())[:-200]))], {}, 422, "cut.png"),
        (photo(), {"count": "0"}, 422, "count"),
        (photo() * 4, {}, 413, "at most 3 photos"),
    ],
)
def test_what_cannot_be_used_teaches_nothing(files: Any, data: Any, status: int, words: str) -> None:
    with client_of(files=3) as client:
        learn(client)
        answer = client.post("/api/adapt", files=files, data=data)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
        assert brown_pixels(client) == 0


def test_a_project_without_classes_is_told_what_to_do(client: TestClient) -> None:
    answer = client.post("/api/adapt", files=photo())
    assert (answer.status_code, "POST /api/classes" in answer.json()["detail"]) == (422, True)


def test_what_nobody_waits_for_any_more_is_not_kept() -> None:
    engine = ColourEngine(calibration={"a": 20.0, "b": -7.0})
    with client_of(engine, seconds=1) as client:
        learn(client)
        before, calls, quick = brown_pixels(client), [], engine.decode

        def decode(features: Any, context: Any) -> Any:
            calls.append(1)
            time.sleep(1.5 * (len(calls) == 2))  # the very last step: the sample's look for the shift
            return quick(features, context)

        engine.decode = decode  # type: ignore[method-assign]
        answer = client.post("/api/adapt", files=[upload("new.png", REDDISH)])
        assert (answer.status_code, len(calls)) == (503, 2)
        time.sleep(1)  # until that step is over
        assert brown_pixels(client) == before == 0
        engine.decode = quick  # type: ignore[method-assign]
        adopted = client.post("/api/adapt", files=[upload("new.png", REDDISH)]).json()["classes"][0]["adopted"]
        assert [each["name"] for each in adopted] == ["new.png"]
