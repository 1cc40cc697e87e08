"""A real Label Studio on loopback teaches the back-end and takes its predictions; its requests become fixtures.

It runs in an environment of its own: `RIFENET_LABEL_STUDIO` names one, else it is made, which downloads some 300 MB.
`RIFENET_RECORD=1` writes what it sent to `tests/server/label_studio/requests.json`, which the fast tests replay.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rifenet.engines.torch import TorchEngine
from rifenet.formats.brush_rle import decode_brush, encode_brush
from rifenet.formats.pictures import load_mask
from rifenet.server.app import create_app
from rifenet.server.label_studio.link import Link

from .conftest import running

EXAMPLES = Path(str(files("rifenet"))) / "examples"
TABLE = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
FIXTURE = Path(__file__).parent / "label_studio" / "requests.json"
LABELS = ("bear", "giraffe")
CONFIG = (
    '<View><Image name="img" value="$photo" zoom="true"/><BrushLabels name="brush" toName="img">'
    f"{''.join(f'<Label value={label!r}/>' for label in LABELS)}</BrushLabels></View>"
)
RELEASE = "label-studio==1.23.2"
TOKEN, STUDIO_TOKEN = "a-token-of-this-test", "0123456789abcdef0123456789abcdef01234567"


class Recorder:
    """ASGI middleware: keeps what is sent to the back-end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.sent: list[dict[str, Any]] = []
        self.statuses: list[tuple[str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def hear() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append((scope["path"], message["status"]))
                sent = {"method": scope["method"], "path": scope["path"], "body": json.loads(body) if body else None}
                self.sent.append(sent)
            await send(message)

        await (self.app(scope, hear, say) if scope["type"] == "http" else self.app(scope, receive, send))


def environment(folder: Path) -> Path:
    """The programs of an environment with Label Studio."""
    if given := os.environ.get("RIFENET_LABEL_STUDIO"):
        return Path(given) / "bin"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", RELEASE], check=True)
    return folder / "bin"


@contextlib.contextmanager
def label_studio(programs: Path, data: Path) -> Iterator[str]:
    """Address of a Label Studio with a user, on loopback, which calls no other host."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(data),
        "LABEL_STUDIO_HOST": address,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "USE_NGINX_FOR_UPLOADS": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "WEBHOOK_TIMEOUT": "10",
    }
    user = ["--username", "a@example.com", "--password", "password-of-this-test", "--user-token", STUDIO_TOKEN]
    options = ["--no-browser", "--port", str(port), "--internal-host", "127.0.0.1", "--data-dir", str(data), *user]
    with (data / "log.txt").open("wb") as log:
        command = [str(programs / "label-studio"), "start", *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        try:
            until = time.monotonic() + 500
            while True:
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"{address}/health", timeout=5).ok:
                        break
                assert process.poll() is None, (data / "log.txt").read_text()[-3000:]
                assert time.monotonic() < until, "Label Studio does not start"
                time.sleep(1)
            yield address
        finally:
            process.terminate()
            process.wait(30)


class Project:
    """A project in Label Studio, over its API."""

    def __init__(self, address: str) -> None:
        self.address, self.http = address, requests.Session()
        self.http.headers["Authorization"] = f"Token {STUDIO_TOKEN}"
        self.id = self.call("POST", "/api/projects", json={"title": "photos", "label_config": CONFIG})["id"]

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, f"{self.address}{path}", timeout=120, **options)
        assert answer.ok, (method, path, answer.status_code, answer.text[:1000])
        return answer.json() if answer.content else None

    def upload(self, photo: Path) -> None:
        with photo.open("rb") as file:
            self.call("POST", f"/api/projects/{self.id}/import", files={"file": (photo.name, file, "image/jpeg")})

    def tasks(self) -> dict[str, int]:
        """Task of each photo's name."""
        tasks = self.call("GET", f"/api/tasks?project={self.id}&page_size=100&fields=all")["tasks"]
        return {each["data"]["photo"].rpartition("-")[2]: each["id"] for each in tasks}

    def connect(self, backend: str) -> int:
        """Adds the back-end with its token as the password, and gives the webhook the token, too."""
        auth = {"auth_method": "BASIC_AUTH", "basic_auth_user": "rifenet", "basic_auth_pass": TOKEN}
        made = self.call("POST", "/api/ml", json={"url": backend, "project": self.id, "title": "rifenet", **auth})
        for hook in self.call("GET", f"/api/webhooks/?project={self.id}"):
            header = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
            self.call("PATCH", f"/api/webhooks/{hook['id']}/", json=header)
        return int(made["id"])

    def predictions(self, tasks: list[int]) -> dict[int, dict[str, Any]]:
        """The newest prediction of each task, after asking for them as the button of the task list does."""
        chosen = {"selectedItems": {"all": False, "included": tasks}}
        self.call("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={self.id}", json=chosen)
        found = {task: self.call("GET", f"/api/predictions?task={task}") for task in tasks}
        return {task: max(each, key=lambda one: one["id"]) for task, each in found.items() if each}


def example(label: str, support: bool, count: int) -> list[dict[str, Any]]:
    found = [each for each in TABLE["photos"] if each["classes"] == [label] and each["support"] is support]
    return found[:count]


def truth(photo: dict[str, Any], label: str) -> NDArray[np.uint8]:
    """0, 1, and 255 where nobody knows."""
    mask = load_mask(EXAMPLES / photo["mask"])
    return np.where(mask == 255, 255, mask == TABLE["classes"].index(label) + 1).astype(np.uint8)


def brush(mask: NDArray[np.uint8], label: str) -> dict[str, Any]:
    height, width = mask.shape
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    value = {"format": "rle", "rle": encode_brush(mask == 1), "brushlabels": [label]}
    return {"from_name": "brush", "to_name": "img", "type": "brushlabels", "value": value, **size}


def iou(prediction: dict[str, Any], photo: dict[str, Any], label: str) -> float:
    want = truth(photo, label)
    found = np.zeros(want.shape, np.uint8)
    for region in prediction["result"]:
        if region["value"]["brushlabels"] == [label]:
            found |= decode_brush(region["value"]["rle"], region["original_height"], region["original_width"])
    real, object_ = want != 255, want == 1
    return float(((found == 1) & object_).sum() / ((((found == 1) & real) | object_).sum()))


def trimmed(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the back-end reads of the requests, without addresses and tokens."""
    keep = {
        "project": ("id", "created_at", "label_config"),
        "annotation": ("id", "result", "was_cancelled", "updated_at", "task"),
        "task": ("id", "data"),
    }

    def short(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [short(name, each) for each in value]
        return {key: value[key] for key in keep[name] if key in value} if isinstance(value, dict) else value

    for request in sent:
        body = request["body"] or {}
        for name in ("project", "annotation", "task", "tasks"):
            if name in body:
                body[name] = short(name.removesuffix("s"), body[name])
        body.pop("params", None)
        for secret in ("access_token", "hostname"):
            if secret in body:
                body[secret] = f"the {secret}"
    return sent


@pytest.mark.slow
def test_a_real_project_is_taught_and_predicted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    taught = {label: example(label, True, 2) for label in LABELS}
    asked = {label: example(label, False, 2) for label in LABELS}
    with label_studio(environment(tmp_path / "environment"), data) as studio:
        app = create_app(TorchEngine.load("default", threads=1), token=TOKEN, label_studio=Link(studio, STUDIO_TOKEN))
        recorder = Recorder(app)
        with running(recorder) as address:  # type: ignore[arg-type]
            log = print
            project = Project(studio)
            for each in (*taught.values(), *asked.values()):
                for photo in each:
                    project.upload(EXAMPLES / photo["image"])
            tasks = project.tasks()
            task_of = {
                photo["image"]: tasks[Path(photo["image"]).name]
                for photo in TABLE["photos"]
                if Path(photo["image"]).name in tasks
            }
            log(f"Label Studio {RELEASE} at {studio}: project {project.id} with {len(tasks)} photos")
            assert requests.post(f"{studio}/api/ml", json={}, timeout=30).status_code == 401
            backend = project.connect(f"{address}/labeling")
            made = []
            for label in LABELS:
                for photo in taught[label]:
                    result = {"result": [brush(truth(photo, label), label)]}
                    path = f"/api/tasks/{task_of[photo['image']]}/annotations/"
                    made.append((project.call("POST", path, json=result)["id"], label, photo))
            log(f"annotated {len(made)} photos with brush labels; asked for predictions of the rest")
            rest = [task_of[photo["image"]] for label in LABELS for photo in asked[label]]
            first = project.predictions(rest)
            ious = {}
            for label in LABELS:
                for photo in asked[label]:
                    prediction = first[task_of[photo["image"]]]
                    ious[photo["image"]] = iou(prediction, photo, label)
                    measured = f"IoU {ious[photo['image']]:.3f}, score {prediction['score']}"
                    log(f"{label} {photo['image']}: {measured}, {prediction['model_version']}")
            (version,) = {each["model_version"] for each in first.values()}

            id, label, photo = made[0]
            half = truth(photo, label)
            half[:, : half.shape[1] // 2] = 0
            project.call("PATCH", f"/api/annotations/{id}/", json={"result": [brush(half, label)]})
            (second,) = {each["model_version"] for each in project.predictions(rest[:1]).values()}
            log(f"updated annotation {id}: {version} became {second}")
            project.call("DELETE", f"/api/annotations/{id}/")
            (third,) = {each["model_version"] for each in project.predictions(rest[:1]).values()}
            log(f"deleted annotation {id}: {second} became {third}")
            project.call("POST", f"/api/ml/{backend}/train", json={})
            assert len({version, second, third}) == 3

            sent = list(recorder.sent)
            fresh = create_app(recorder_engine(app), token=TOKEN, label_studio=Link(studio, STUDIO_TOKEN))
            recorder.app = fresh  # the same address after a restart
            (again,) = {each["model_version"] for each in project.predictions(rest[1:2]).values()}
            log(f"after a restart of the back-end: {again}")
            assert again == third
            refused = [each for each in recorder.statuses if each[1] >= 400]
            log(f"requests of Label Studio: {len(recorder.sent)}, refused: {refused}")
    assert np.mean(list(ious.values())) > 0.5, ious
    assert {status for _, status in refused} <= {401}, refused
    if os.environ.get("RIFENET_RECORD"):
        FIXTURE.write_text(json.dumps(trimmed(sent), separators=(",", ":")) + "\n", encoding="utf-8")


def recorder_engine(app: Any) -> Any:
    """The model of a server, so that it is loaded once."""
    return app.state.service.engine
