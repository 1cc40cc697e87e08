"""The HTTP API: learn, list, forget, segment; each client its own classes; its description asks no other host."""

from __future__ import annotations

import base64
import io
import json
import re
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from rifenet.formats.polygons import fill_polygon
from rifenet.formats.run_lengths import decode_runs

from .conftest import client_of, encoded, learn, photo, quarter, scene, shot


def mask_of(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "P"
        return np.array(picture)


def test_two_classes_learned_and_found_where_they_are(client: TestClient) -> None:
    first = learn(client)
    assert first.status_code == 200, first.text
    second = learn(client, "blue", "right").json()
    assert [(each["id"], each["name"], each["shots"]) for each in second["classes"]] == [(1, "red", 1), (2, "blue", 1)]
    assert second.pop("warnings") == []
    assert client.get("/api/classes").json() == second
    (result,) = client.post("/api/segment", files=photo()).json()["results"]
    expected = quarter("left") + 2 * quarter("right")
    np.testing.assert_array_equal(mask_of(base64.b64decode(result["mask"])), expected)
    assert (result["name"], result["width"], result["height"], result["calibrated"]) == ("q.png", 64, 48, False)
    assert [(each["id"], each["name"], each["present"], each["pixels"]) for each in result["classes"]] == [
        (1, "red", True, 768),
        (2, "blue", True, 768),
    ]
    assert all(0.5 < each["confidence"] <= 1 for each in result["classes"])


def test_objects_are_counted_and_their_pixels_sent_on_request(client: TestClient) -> None:
    learn(client)
    (plain,) = client.post("/api/segment", files=photo()).json()["results"]
    (red,) = plain["classes"]
    truth = quarter("left") == 1
    rows, columns = np.nonzero(truth)
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    assert red["count"] == 1
    (each,) = red["instances"]
    assert (each["box"], each["area"]) == (box, int(truth.sum()))
    assert each["centroid"] == [
        pytest.approx(columns.mean() + 0.5, abs=0.01),
        pytest.approx(rows.mean() + 0.5, abs=0.01),
    ]
    assert 0.5 < each["score"] <= 1
    assert (each["polygons"], each["rle"]) == (None, None)
    (answer,) = client.post("/api/segment", files=photo(), data={"outlines": "rle"}).json()["results"]
    runs = answer["classes"][0]["instances"][0]["rle"]
    np.testing.assert_array_equal(decode_runs(runs, *truth.shape) == 1, truth)
    (answer,) = client.post("/api/segment", files=photo(), data={"outlines": "polygons"}).json()["results"]
    (corners,) = answer["classes"][0]["instances"][0]["polygons"]
    np.testing.assert_array_equal(fill_polygon(np.array(corners), *truth.shape), truth)
    refused = client.post("/api/segment", files=photo(), data={"outlines": "points"})
    assert refused.status_code == 422
    assert "Expected outlines to be polygons or rle, but got 'points'" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("accept", "data", "kind"),
    [
        ("image/png", {}, "image/png"),
        ("image/png, application/json", {}, "image/png"),
        ("application/json, image/png;q=0.5", {}, "application/json"),
        ("*/*", {}, "application/json"),
        ("image/png", {"format": "json"}, "application/json"),
        ("*/*", {"format": "png"}, "image/png"),
    ],
)
def test_the_form_or_accept_chooses_json_or_png(
    client: TestClient, accept: str, data: dict[str, str], kind: str
) -> None:
    learn(client)
    answer = client.post("/api/segment", files=photo(), data=data, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind == "image/png":
        np.testing.assert_array_equal(mask_of(answer.content), quarter("left"))


def test_several_photos_of_several_sizes_in_order(client: TestClient) -> None:
    learn(client)
    sizes = [(64, 48), (33, 90), (120, 30)]
    many = [photo(f"{width}.png", width=width, height=height)[0] for width, height in sizes]
    results = client.post("/api/segment", files=many).json()["results"]
    assert [(each["name"], each["width"], each["height"]) for each in results] == [(f"{w}.png", w, h) for w, h in sizes]
    assert [mask_of(base64.b64decode(each["mask"])).shape for each in results] == [(h, w) for w, h in sizes]


def test_shots_are_added_or_replaced_and_each_change_has_a_revision(client: TestClient) -> None:
    def classes(answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        return {each["name"]: each for each in answer.json()["classes"]}

    learn(client, "blue", "right")
    one = classes(learn(client))["red"]
    two = classes(learn(client))["red"]
    assert (one["shots"], two["shots"]) == (1, 2)
    back = classes(client.post("/api/classes", data={"name": "blue", "replace": "true"}, files=shot("left")))
    assert (back["blue"]["id"], back["blue"]["shots"], back["red"]) == (1, 1, two)
    assert len({one["revision"], two["revision"]}) == 2
    # blue is what the left quarter looks like now, and nothing is left of what it was
    answer = client.post("/api/segment", files=photo(), data={"format": "png"})
    np.testing.assert_array_equal(mask_of(answer.content), quarter("left"))


def test_a_refused_replacement_leaves_the_class_as_it_was(client: TestClient) -> None:
    before = learn(client).json()
    assert before.pop("warnings") == []
    bad = [("images", ("a.png", encoded(scene()))), ("masks", ("a.png", encoded(np.zeros((48, 64), np.uint8))))]
    refused = client.post("/api/classes", data={"name": "red", "replace": "true"}, files=bad)
    assert refused.status_code == 422
    assert "marks none" in refused.json()["detail"]
    assert client.get("/api/classes").json() == before


def test_forgotten_classes_are_gone(client: TestClient) -> None:
    learn(client)
    learn(client, "blå bil 2", "right")
    left = client.delete("/api/classes/red").json()
    assert [(each["id"], each["name"]) for each in left["classes"]] == [(1, "blå bil 2")]
    assert client.delete("/api/classes/red").status_code == 404
    assert client.delete("/api/classes/bla%CC%8A%20bil%202").json() == {"project": None, "classes": []}
    assert client.get("/api/health").json()["projects"] == 0
    assert client.post("/api/segment", files=photo()).status_code == 422


def test_browsers_and_clients_are_kept_apart(client: TestClient) -> None:
    mine = learn(client).json()["project"]
    assert len(mine) > 20
    other = TestClient(client.app, base_url=client.base_url)
    assert other.get("/api/classes").json() == {"project": None, "classes": []}
    learn(other, "blue", "right")
    assert [each["name"] for each in client.get("/api/classes").json()["classes"]] == ["red"]
    named = learn(other, "red", headers={"X-Project": "pets"})
    assert named.json()["project"] == "pets"
    assert "set-cookie" not in named.headers
    assert [each["name"] for each in other.get("/api/classes").json()["classes"]] == ["blue"]
    assert client.get("/api/health").json()["projects"] == 3


def test_the_cookie_is_for_this_site_alone(client: TestClient) -> None:
    cookie = learn(client).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_absent_classes_are_left_out_unless_kept() -> None:
    with client_of(ColourEngine(calibration={"a": 1.0, "b": -9.0})) as client:  # sure that nothing is ever there
        learn(client)
        (result,) = client.post("/api/segment", files=photo()).json()["results"]
        kept = client.post("/api/segment", files=photo(), data={"format": "png", "keep_absent": "true"})
    assert (result["classes"][0]["present"], result["calibrated"]) == (False, True)
    assert not mask_of(base64.b64decode(result["mask"])).any()
    np.testing.assert_array_equal(mask_of(kept.content), quarter("left"))


def test_the_description_is_local_and_complete(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    labeling = {f"/labeling/{name}" for name in ("health", "setup", "predict", "webhook")}
    assert set(description["paths"]) - labeling == {
        *("/api/health", "/api/classes", "/api/classes/{name}", "/api/segment", "/api/advice", "/api/adapt"),
        *("/api/complete", "/api/labels", "/api/files", "/api/progress", "/api/in-browser", "/api/learned"),
    }
    assert labeling <= set(description["paths"])
    page = client.get("/docs").text
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()}</span> <code>{path}</code>" in page
            assert set(operation["responses"]) >= {"200", "401", "403", "413"}
    assert "white_is_object" in page
    assert "X-Project" in page
    assert "//" not in re.sub(r"<!doctype html>", "", page).replace("application/", "")
    assert "<script" not in page


def test_no_file_of_the_page_names_another_host(client: TestClient) -> None:
    static = files("rifenet") / "server" / "static"
    names = sorted(each.name for each in static.iterdir() if each.is_file())
    assert {"index.html", "main.js", "page.css"} <= set(names)
    for name in names:
        assert client.get(f"/static/{name}").status_code == 200
        text = (static / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text) == [], name
        if name.endswith((".js", ".css", ".html")):
            assert len(text.splitlines()) <= 300, name


def test_the_page_and_the_examples_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "/static/main.js" in page.text
    table = client.get("/examples/examples.json").json()
    first = table["photos"][0]
    assert client.get(f"/examples/{first['image']}").headers["content-type"] == "image/jpeg"
    for path in ("/examples/../hub.py", "/static/..%2fapp.py", "/examples/%2e%2e/hub.py", "/static/%2fetc%2fpasswd"):
        assert client.get(path).status_code == 404


def test_health_says_what_is_accepted() -> None:
    with client_of(files=3) as client:
        health = client.get("/api/health").json()
    assert health["status"] == "ok"
    assert health["limits"]["files"] == 3
    assert (health["busy"], health["waiting"], health["projects"]) == (False, 0, 0)
    assert json.dumps(health)
