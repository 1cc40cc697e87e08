"""The back-end for Label Studio: what it learns from annotations, what it predicts, and what it never asks for."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from rifenet.engines.torch import TorchEngine
from rifenet.formats.brush_rle import decode_brush, encode_brush
from rifenet.formats.pictures import load_mask
from rifenet.server import json_bodies
from rifenet.server.app import create_app
from rifenet.server.label_studio.book import AnnotationIn, Shot, TaskIn, packed
from rifenet.server.label_studio.link import Link
from rifenet.server.label_studio.regions import outlines_of, read_config
from rifenet.server.limits import Limits

from .conftest import encoded, quarter, running, scene, wait_for

EXAMPLES = Path(str(files("rifenet"))) / "examples"
TABLE = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
REQUESTS = Path(__file__).parent / "label_studio" / "requests.json"
CONFIG = (
    '<View><Image name="img" value="$photo"/><BrushLabels name="brush" toName="img"><Label value="red"/>'
    '<Label value="blue"/></BrushLabels><Choices name="c" toName="img"><Choice value="ok"/></Choices></View>'
)
POLYGONS = (
    '<View><Image name="img" value="$photo"/><PolygonLabels name="poly" toName="img"><Label value="red"/>'
    "</PolygonLabels></View>"
)
PROJECT = {"id": 7, "created_at": "2026-01-02T03:04:05.678901Z", "label_config": CONFIG}
NAME = "7.1767323045"


def data_uri(picture: NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded(picture)).decode()}"


SCENE = data_uri(scene())


def brush(mask: NDArray[np.uint8], label: str) -> dict[str, Any]:
    return {
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "img",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]},
    }


def event(action: str, id: int = 1, *regions: Any, photo: str = SCENE, **project: Any) -> dict[str, Any]:
    annotation = {"id": id, "result": list(regions), "updated_at": f"2026-01-02T03:04:{id:02}Z"}
    task = {"id": 100 + id, "data": {"photo": photo}}
    return {"action": action, "project": {**PROJECT, **project}, "annotation": annotation, "task": task}


def send(client: TestClient, what: dict[str, Any]) -> str:
    answer = client.post("/labeling/webhook", json=what)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def predict(client: TestClient, *photos: str, project: str = NAME, config: str = CONFIG) -> Any:
    tasks = [{"id": number, "data": {"photo": photo}} for number, photo in enumerate(photos, 1)]
    return client.post("/labeling/predict", json={"tasks": tasks, "project": project, "label_config": config})


def masks(prediction: dict[str, Any]) -> dict[str, NDArray[np.uint8]]:
    return {
        entry["value"]["brushlabels"][0]: decode_brush(
            entry["value"]["rle"], entry["original_height"], entry["original_width"]
        )
        for entry in prediction["result"]
    }


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ColourEngine()), base_url="http://127.0.0.1:8000") as made:
        yield made


def test_two_classes_are_learned_and_found_where_they_are(client: TestClient) -> None:
    assert client.get("/labeling/health").json()["status"] == "UP"
    untaught = client.post("/labeling/setup", json={"project": NAME, "schema": CONFIG}).json()["model_version"]
    assert predict(client, SCENE).json() == {"results": [[]], "model_version": untaught}
    choice = {"type": "choices", "from_name": "c", "to_name": "img", "value": {"choices": ["ok"]}}
    regions = [brush(quarter("left"), "red"), choice, brush(quarter("right"), "blue")]
    version = send(client, event("ANNOTATION_CREATED", 1, *regions))
    assert version != untaught
    wide = scene(96, 48)
    answer = predict(client, SCENE, data_uri(wide)).json()
    assert answer["model_version"] == version
    for (prediction,), width in zip(answer["results"], (64, 96), strict=True):
        found = masks(prediction)
        assert found.keys() == {"red", "blue"}
        assert (found["red"] == quarter("left", width)).mean() > 0.97
        assert (found["blue"] == quarter("right", width)).mean() > 0.97
        assert prediction["model_version"] == version
        assert 0 < prediction["score"] <= 1
        for entry in prediction["result"]:
            assert (entry["from_name"], entry["to_name"], entry["type"]) == ("brush", "img", "brushlabels")
            assert entry["image_rotation"] == 0


def test_updates_and_deletions_change_the_version_and_what_is_found(client: TestClient) -> None:
    first = send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    assert (masks(predict(client, SCENE).json()["results"][0][0])["red"] == quarter("left")).mean() > 0.97
    second = send(client, event("ANNOTATION_UPDATED", 1, brush(quarter("right"), "red")))
    assert (masks(predict(client, SCENE).json()["results"][0][0])["red"] == quarter("right")).mean() > 0.97
    third = send(client, event("ANNOTATION_CREATED", 2, brush(quarter("left"), "blue")))
    assert masks(predict(client, SCENE).json()["results"][0][0]).keys() == {"red", "blue"}
    deleted = {"action": "ANNOTATIONS_DELETED", "project": PROJECT, "annotations": [{"id": 2}]}
    assert send(client, deleted) == second  # the same annotations, the same name
    assert masks(predict(client, SCENE).json()["results"][0][0]).keys() == {"red"}
    assert len({first, second, third}) == 3
    send(client, {"action": "TASKS_DELETED", "project": PROJECT, "tasks": [{"id": 101}]})
    answer = predict(client, SCENE).json()
    assert (answer["results"], answer["model_version"].endswith("untaught")) == ([[]], True)


def test_a_webhook_learns_before_anyone_asks(client: TestClient) -> None:
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    learned: Callable[[], bool] = lambda: client.get("/api/health").json()["projects"] == 1  # noqa: E731
    wait_for(learned)


def test_skipped_annotations_teach_nothing(client: TestClient) -> None:
    what = event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red"))
    what["annotation"]["was_cancelled"] = True
    assert send(client, what).endswith("untaught")


def test_projects_keep_apart_and_no_client_of_the_api_reaches_them(client: TestClient) -> None:
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    assert predict(client, SCENE).json()["results"][0]
    assert predict(client, SCENE, project="8.1767323045").json()["results"] == [[]]
    assert client.get("/api/classes", headers={"X-Project": f"labeling:{NAME}"}).status_code == 422


def test_polygons_teach_and_are_predicted(client: TestClient) -> None:
    points = [[0, 0], [25, 0], [25, 100], [0, 100]]
    region = {**brush(quarter("left"), "red"), "type": "polygonlabels", "from_name": "poly"}
    region["value"] = {"points": points, "polygonlabels": ["red"]}
    send(client, event("ANNOTATION_CREATED", 1, region, label_config=POLYGONS))
    (prediction,) = predict(client, SCENE, config=POLYGONS).json()["results"][0]
    (entry,) = prediction["result"]
    assert entry["type"] == "polygonlabels"
    corners = np.array(entry["value"]["points"])
    assert np.allclose([corners.min(0), corners.max(0)], [[0, 0], [25, 100]], atol=2)


def test_outlines_drawn_again_are_the_mask_without_its_holes() -> None:
    picture = Image.new("L", (90, 70))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((5, 8, 50, 60), fill=1)
    draw.rectangle((60, 10, 80, 40), fill=1)
    draw.point((70, 60), fill=1)
    mask = np.array(picture)
    holed = mask.copy()
    holed[30:36, 20:30] = 0
    loops = outlines_of(holed == 1)
    assert len(loops) == 2  # one pixel is no part
    again = Image.new("L", (900, 700))
    for corners in loops:
        ImageDraw.Draw(again).polygon([(10 * x, 10 * y) for x, y in corners], fill=1)
    redrawn = np.array(again)[5::10, 5::10]
    mask[60, 70] = 0
    assert (redrawn & mask).sum() / (redrawn | mask).sum() > 0.97
    assert max(len(corners) for corners in loops) < 60  # of some 200 steps


def test_an_annotation_without_background_is_in_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    send(client, event("ANNOTATION_CREATED", 1, brush(np.ones((48, 64), np.uint8), "red")))
    with caplog.at_level(logging.WARNING):
        predict(client, SCENE)
    assert caplog.text.count("Nothing in it is background") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"original_width": 63}, "63 x 48"),
        ({"image_rotation": 90}, "turned"),
        ({"value": {"rle": [1, 2, 3], "brushlabels": ["red"]}}, "head of 7 bytes"),
        ({"value": {"rle": ["x"], "brushlabels": ["red"]}}, "numbers 0..255"),
    ],
)
def test_a_bad_annotation_is_named_and_the_others_teach(
    client: TestClient, change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    with caplog.at_level(logging.WARNING):
        send(client, event("ANNOTATION_CREATED", 2, {**brush(quarter("right"), "red"), **change}))
        found = masks(predict(client, SCENE).json()["results"][0][0])
    assert (found["red"] == quarter("left")).mean() > 0.97
    assert "task 102 teaches nothing" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("setup", {"project": NAME, "schema": "<View/>"}, "BrushLabels"),
        ("setup", {"project": NAME, "schema": '<!DOCTYPE a [<!ENTITY b "c">]><View/>'}, "document type"),
        ("setup", {"project": "../x", "schema": CONFIG}, "NUMBER.SECONDS"),
        ("setup", {"project": NAME}, "schema"),
        ("predict", {"tasks": "all", "project": NAME, "label_config": CONFIG}, "tasks"),
        ("webhook", {"action": "START_TRAINING"}, "send its payload"),
        ("webhook", {"action": "ANNOTATION_CREATED", "project": PROJECT}, "as Label Studio sends it"),
        ("webhook", {"action": "X", "project": {**PROJECT, "created_at": "soon"}}, "created_at"),
    ],
)
def test_what_is_no_request_of_label_studio_is_refused(
    client: TestClient, path: str, body: dict[str, Any], words: str
) -> None:
    answer = client.post(f"/labeling/{path}", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "where",
    [
        "http://evil.example/data/upload/1/a.png",
        "http://127.0.0.1:8080@evil.example/data/upload/a.png",
        "//evil.example/data/upload/a.png",
        "http://127.0.0.1:8081/data/upload/a.png",
        "https://127.0.0.1:8080/data/upload/a.png",
        "/api/users/",
        "/data/../api/users/",
        "/data/%2e%2e/api/users/",
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "/etc/passwd",
        "http://[",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,###",
    ],
)
def test_no_other_place_is_asked(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("it asked")

    monkeypatch.setattr("rifenet.server.label_studio.link.build_opener", never)
    with pytest.raises(ValueError, match=r"^Expected"):
        Link("http://127.0.0.1:8080", "token").photo(where, None, 10**6, 5)


def test_the_folder_gives_its_own_photos_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"photo")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    link = Link(folder=tmp_path / "in")
    with link.photo("/data/local-files/?d=a.png", None, 10, 5) as file:
        assert file.read() == b"photo"
    for name in ("../secret", "..%2fsecret", "link", str(tmp_path / "secret"), "%00", "", "b.png"):
        with pytest.raises(ValueError, match="label-studio-folder"):
            link.photo(f"/data/local-files/?d={name}", None, 10, 5)
    with pytest.raises(ValueError, match="at most"):
        link.photo("/data/local-files/?d=a.png", None, 2, 5)
    with pytest.raises(FileNotFoundError, match="label-studio-folder"):
        Link(folder=tmp_path / "nothing")
    with pytest.raises(ValueError, match="label-studio-url"):
        Link("localhost:8080")


class Studio(ThreadingHTTPServer):
    """A Label Studio of two paths: uploads (a scene in project 7, else an example) and the export.

    `asked` holds (path, Authorization) of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, str | None]] = []
        self.tasks: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: Studio

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        if self.headers["Authorization"] not in ("Token secret", "Bearer short-lived"):
            return self._say(401, b"")
        if self.path.startswith("/data/upload/7/"):
            return self._say(200, encoded(scene()))
        if self.path.startswith("/data/upload/"):
            return self._say(200, (EXAMPLES / "photos" / self.path.rpartition("-")[2]).read_bytes())
        if self.path.startswith("/api/projects/") and "/export?" in self.path:
            return self._say(200, json.dumps(self.server.tasks).encode())
        self.send_response(302)
        self.send_header("Location", "http://evil.example/")
        return self.end_headers()

    def do_POST(self) -> None:
        assert self.path == "/api/token/refresh/"
        assert json.loads(self.rfile.read(int(self.headers["Content-Length"]))) == {"refresh": "a.b.c"}
        self._say(200, b'{"access": "short-lived"}')

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A Label Studio, where the environment also names a proxy that nothing may go through."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Studio() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(5)


@pytest.mark.parametrize("token", ["secret", "a.b.c", None])
def test_annotations_survive_a_restart_in_label_studio(studio: Studio, token: str | None) -> None:
    """A server that has never heard of the project asks for its annotations, and then photos."""
    annotation = {"id": 1, "result": [brush(quarter("left"), "red")], "updated_at": "2026"}
    studio.tasks = [{"id": 5, "data": {"photo": "/data/upload/7/a b.png"}, "annotations": [annotation]}]
    connect = {"project": NAME, "schema": CONFIG, "access_token": "secret", "hostname": "http://evil.example"}
    versions = []
    for _ in range(2):
        app = create_app(ColourEngine(), label_studio=Link(studio.url, token))
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            versions.append(client.post("/labeling/setup", json=connect).json()["model_version"])
            answer = predict(client, f"{studio.url}/data/upload/7/b.png", "/data/upload/7/c.png").json()
            versions.append(answer["model_version"])
            assert [masks(each[0]).keys() for each in answer["results"]] == [{"red"}, {"red"}]
            studio.tasks[0]["annotations"][0]["updated_at"] = "2027"
            versions.append(send(client, {"action": "START_TRAINING", "project": PROJECT}))
    assert len(set(versions)) == 1
    assert not versions[0].endswith("untaught")


def test_the_requests_of_a_real_label_studio(studio: Studio) -> None:
    """Recorded by tests/server/test_label_studio.py: four photos annotated, one annotation changed and deleted."""
    app = create_app(TorchEngine.load("default", threads=1), label_studio=Link(studio.url, "secret"))
    versions, predicted, ious = [], 0, []
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for request in json.loads(REQUESTS.read_text(encoding="utf-8")):
            answer = client.request(request["method"], request["path"], json=request["body"])
            assert answer.status_code == 200, (request["path"], answer.text)
            if not request["path"].endswith("/predict"):
                continue
            versions.append(answer.json()["model_version"])
            tasks, predicted = request["body"]["tasks"], predicted + len(request["body"]["tasks"])
            for task, (prediction,) in zip(tasks, answer.json()["results"], strict=True):
                ious.append(iou_with_truth(prediction, Path(task["data"]["photo"].rpartition("-")[2]).stem))
    assert predicted == 6
    assert len(set(versions)) == 3
    assert np.mean(ious[:4]) > 0.6, ious
    assert {path.split("?")[0] for path, _ in studio.asked if "/data/" not in path} == {"/api/projects/1/export"}


def iou_with_truth(prediction: dict[str, Any], stem: str) -> float:
    truth = load_mask(EXAMPLES / "masks" / f"{stem}.png")
    (entry,) = [each for each in TABLE["photos"] if each["image"] == f"photos/{stem}.jpg"]
    object_ = truth == TABLE["classes"].index(entry["classes"][0]) + 1
    found = masks(prediction).get(entry["classes"][0], np.zeros(truth.shape, np.uint8)) == 1
    return float((found & object_).sum() / (((found & (truth != 255)) | object_).sum()))


def test_a_wrong_token_is_said_when_connecting(studio: Studio) -> None:
    app = create_app(ColourEngine(), label_studio=Link(studio.url, "wrong"))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        answer = client.post("/labeling/setup", json={"project": NAME, "schema": CONFIG})
        assert (answer.status_code, "--label-studio-token" in answer.json()["detail"]) == (422, True)


def test_a_redirect_is_not_followed(studio: Studio) -> None:
    with pytest.raises(ValueError, match="302"):
        Link(studio.url, "secret").photo("/data/elsewhere.png", None, 10**6, 5)
    with pytest.raises(ValueError, match="at most"):
        Link(studio.url, "secret").photo("/data/upload/7/a.png", None, 100, 5)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["nothing", "head", "body", "endless"],
)
def test_a_slow_host_is_left_in_time(sent: bytes) -> None:
    """It sends a byte now and then, as no timeout of a socket notices."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            host, _ = listener.accept()
            with host, contextlib.suppress(OSError):
                host.sendall(sent)
                for _ in range(200):
                    host.sendall(b"x" if sent else b"")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(ValueError, match="within 1 seconds"):
            Link(f"http://127.0.0.1:{listener.getsockname()[1]}").photo("/data/upload/1/a.png", None, 10**6, 1)
        assert time.monotonic() - begun < 4


def test_photos_and_annotations_count_as_memory() -> None:
    noise = data_uri(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8))  # 0.8 MB
    with TestClient(create_app(ColourEngine(), limits=Limits(memory_mb=2)), base_url="http://127.0.0.1:8000") as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        whole = brush(np.ones((400, 500), np.uint8), "red")
        events = [event("ANNOTATION_CREATED", id, whole, photo=noise) for id in range(1, 5)]
        answers = [client.post("/labeling/webhook", json=each) for each in events]
        assert [each.status_code for each in answers] == [200, 200, 503, 503]
        assert "--memory-mb" in answers[-1].json()["detail"]
        assert 1.6e6 < service.projects.beside < 2e6
        send(client, {"action": "TASKS_DELETED", "project": PROJECT, "tasks": [{"id": 101}, {"id": 102}]})
        assert service.projects.beside == 0
        assert client.post("/labeling/webhook", json=events[2]).status_code == 200


def test_a_large_annotation_is_kept_small() -> None:
    points = np.random.default_rng(0).random((50_000, 2)).round(4).tolist()
    region = {**brush(quarter("left"), "red"), "type": "polygonlabels", "from_name": "poly"}
    what = event("ANNOTATION_CREATED", 1, region | {"value": {"points": points, "polygonlabels": ["red"]}})
    what["annotation"]["extra"] = points
    config = read_config(POLYGONS)
    annotation = packed(TaskIn(**what["task"]), AnnotationIn(**what["annotation"]), config)
    assert annotation is not None
    assert annotation.memory < len(json.dumps(points))
    assert Shot(annotation, "red").regions[0].value["points"] == points


def test_json_of_too_many_values_is_not_parsed(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    loads = json_bodies.json.loads
    monkeypatch.setattr(json_bodies.json, "loads", lambda body: sizes.append(len(body)) or loads(body))
    for values in ("[],", "0,", "{},", '"",'):
        body = b'{"action": "X", "annotation": [' + values.encode() * 1_000_001 + b"0]}"
        answer = client.post("/labeling/webhook", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, "1,000,000 values" in answer.json()["detail"]) == (413, True)
    assert max(sizes) < 1000  # the answers
    long = SCENE + "A" * 3_000_000  # a text is one value
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red"), photo=long))


def test_large_json_leaves_others_answered() -> None:
    """In a thread, and no more at a time than takes a fraction of a second."""
    body = b'{"action": "X", "project": {}, "annotation": [' + b"[]," * 490_000 + b"0]}"
    slowest = 0.0
    with running(create_app(ColourEngine())) as address, httpx2.Client(base_url=address, timeout=20) as client:
        header = {"Content-Type": "application/json"}
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(httpx2.post, f"{address}/labeling/webhook", content=body, headers=header, timeout=60)
                for _ in range(8)
            ]
            while not all(each.done() for each in asked):
                begun = time.monotonic()
                assert client.get("/api/health").status_code == 200
                slowest = max(slowest, time.monotonic() - begun)
        assert {each.result().status_code for each in asked} == {422}
    print(f"slowest answer of health: {slowest:.2f} s")
    assert slowest < 3


def test_many_tasks_are_left_to_be_asked_one_by_one(client: TestClient) -> None:
    """Label Studio does so where it gets one result for several tasks."""
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    assert len(predict(client, *[SCENE] * 20).json()["results"]) == 20
    assert len(predict(client, *[SCENE] * 21).json()["results"]) == 1


def test_one_photo_that_cannot_be_had_leaves_the_others(client: TestClient) -> None:
    send(client, event("ANNOTATION_CREATED", 1, brush(quarter("left"), "red")))
    results = predict(client, "http://evil.example/a.png", SCENE).json()["results"]
    assert [len(each) for each in results] == [0, 1]
    alone = predict(client, "http://evil.example/a.png")
    assert (alone.status_code, "No other is asked" in alone.json()["detail"]) == (422, True)


def test_basic_auth_shows_the_token() -> None:
    token = "a-token-of-this-test"
    app = create_app(ColourEngine(), token=token, limits=Limits())
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for auth, status in ((None, 401), (("rifenet", "wrong"), 401), (("anyone", token), 200)):
            assert client.get("/labeling/health", auth=auth).status_code == status
        for bad in ("Basic ###", "Basic /w==", "Basic"):
            assert client.get("/labeling/health", headers={"Authorization": bad}).status_code == 401
