"""A small CVAT on this machine: one task, over HTTP, with answers that are built by the SDK's own models.

The models refuse an answer, or a request, that is not of the shape that CVAT's OpenAPI describes. Beyond that, written
shapes are checked as CVAT checks them: a mask decodes within its frame, a polygon has three corners inside it, the
label and the frame exist. Every answer and request is kept, so that a test can say what was asked.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from cvat_sdk import models
from cvat_sdk.api_client import Configuration
from cvat_sdk.api_client.model_utils import model_to_dict, validate_and_convert_types
from cvat_sdk.masks import decode_mask, encode_mask
from cvat_sdk.version import VERSION
from numpy.typing import NDArray
from PIL import Image

TASK, TOKEN = 7, "a-token"
CREATED = datetime(2026, 11, 30, tzinfo=UTC)
CHUNK = 3  # frames in each


def checked(content: Any, model: type[Any]) -> Any:
    """JSON of the SDK's model, after the model has taken it."""
    taken = validate_and_convert_types(content, (model,), ["content"], True, True, Configuration())
    return model_to_dict(taken, serialize=True)


class Task:
    """A task of images, and its annotations."""

    def __init__(self, images: Mapping[str, Image.Image], labels: Mapping[str, str], id: int = TASK) -> None:
        """`labels`: the type of each label (mask, polygon, any, rectangle)."""
        self.id, self.images = id, dict(images)
        self.labels = {number: (name, kind) for number, (name, kind) in enumerate(labels.items(), 31)}
        self.shapes: list[dict[str, Any]] = []
        self.tracks: list[dict[str, Any]] = []
        self.deleted: list[int] = []
        self.asked: list[str] = []
        self._numbers, self._changes = 0, 0

    def label(self, name: str) -> int:
        return next(number for number, (each, _) in self.labels.items() if each == name)

    def draw(self, frame: int, label: str, mask: NDArray[np.bool_], source: str = "manual") -> None:
        """As a person paints a mask in the browser."""
        points = [float(number) for number in encode_mask(mask)]
        self.add([{"type": "mask", "label_id": self.label(label), "frame": frame, "points": points, "source": source}])

    def outline(self, frame: int, label: str, points: Sequence[float], source: str = "manual") -> None:
        """As a person draws a polygon."""
        shape = {"type": "polygon", "label_id": self.label(label), "frame": frame, "points": [*map(float, points)]}
        self.add([{**shape, "source": source}])

    def add(self, shapes: Sequence[Mapping[str, Any]]) -> None:
        for shape in shapes:
            self._check(shape)
            self._numbers += 1
            kept = {"occluded": False, "outside": False, "z_order": 0, "rotation": 0.0, "group": 0, **shape}
            self.shapes.append({**kept, "attributes": [], "elements": [], "id": self._numbers})
        self._changes += bool(shapes)

    def remove(self, ids: Sequence[int]) -> None:
        self.shapes = [shape for shape in self.shapes if shape["id"] not in ids]
        self._changes += 1

    def mask_of(self, shape: Mapping[str, Any]) -> NDArray[np.bool_]:
        width, height = [*self.images.values()][shape["frame"]].size
        return np.asarray(decode_mask(shape["points"], image_width=width, image_height=height))

    def _check(self, shape: Mapping[str, Any]) -> None:
        name, kind = self.labels[shape["label_id"]]
        assert kind in ("any", shape["type"]), f"{name} takes {kind}, not {shape['type']}"
        assert 0 <= shape["frame"] < len(self.images)
        assert shape["source"] in ("auto", "semi-auto", "manual", "file", "consensus")
        assert 0 <= shape.get("score", 1.0) <= 1
        if shape["type"] == "mask":
            assert self.mask_of(shape).any()
        else:
            corners = np.array(shape["points"], float).reshape(-1, 2)
            assert len(corners) >= 3
            assert (corners >= 0).all()
            assert (corners <= [*self.images.values()][shape["frame"]].size).all()

    def about(self) -> dict[str, Any]:
        plain = {"url": f"http://localhost/api/tasks/{self.id}", "name": "a task", "mode": "annotation"}
        dates = {"created_date": CREATED, "updated_date": CREATED + timedelta(seconds=self._changes)}
        return checked(
            {
                **plain,
                **{key: value.isoformat() for key, value in dates.items()},
                "id": self.id,
                "project_id": None,
                "size": len(self.images),
                "data_chunk_size": CHUNK,
                "data_original_chunk_type": "imageset",
                "data_compressed_chunk_type": "imageset",
                "status": "annotation",
                "dimension": "2d",
                "organization": None,
                "jobs": {"count": 1, "completed": 0, "validation": 0, "url": "http://localhost/api/jobs"},
                "labels": {"url": "http://localhost/api/labels"},
            },
            models.TaskRead,
        )

    def meta(self) -> dict[str, Any]:
        frames = [
            {"name": name, "width": image.width, "height": image.height, "related_files": 0}
            for name, image in self.images.items()
        ]
        about = {"chunk_size": CHUNK, "size": len(frames), "start_frame": 0, "stop_frame": len(frames) - 1}
        made = {"chunks_updated_date": CREATED.isoformat(), "deleted_frames": self.deleted}
        return checked({**about, **made, "image_quality": 70, "frames": frames}, models.DataMetaRead)

    def annotations(self) -> dict[str, Any]:
        return checked({"version": 1, "tags": [], "shapes": self.shapes, "tracks": self.tracks}, models.LabeledData)

    def label_page(self) -> dict[str, Any]:
        rows = [
            {"id": number, "name": name, "type": kind, "color": "#112233", "attributes": [], "sublabels": []}
            for number, (name, kind) in self.labels.items()
        ]
        return checked({"count": len(rows), "next": None, "previous": None, "results": rows}, models.PaginatedLabelList)

    def data(self, asked: Mapping[str, list[str]]) -> bytes:
        """A frame, or a chunk of them as a ZIP, as PNG so that no pixel changes."""
        assert asked["quality"] == ["original"]
        number = int(asked["number"][0])
        if asked["type"] == ["frame"]:
            return png([*self.images.values()][number])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for place, image in [*enumerate(self.images.values())][number * CHUNK : (number + 1) * CHUNK]:
                archive.writestr(f"{place:06d}.png", png(image))
        return buffer.getvalue()

    def answer(self, method: str, parts: tuple[str, ...], asked: Mapping[str, list[str]], body: bytes) -> Any:
        action = asked.get("action", [method])[0]
        self.asked.append(" ".join([action, *parts]))
        if method != "get":
            return self.change(action, json.loads(body))
        answers = {(): self.about, ("data", "meta"): self.meta, ("annotations",): self.annotations}
        return self.data(asked) if parts == ("data",) else answers[parts]()

    def change(self, action: str, content: Any) -> dict[str, Any]:
        """Takes annotations to create or delete, or all of them (put), and answers with them."""
        checked(content, models.PatchedLabeledDataRequest)
        if action == "delete":
            self.remove([shape["id"] for shape in content["shapes"]])
            return checked({"version": 1, "tags": [], "shapes": [], "tracks": []}, models.LabeledData)
        if action == "put":
            self.shapes = []
        before = len(self.shapes)
        self.add(content.get("shapes", []))
        made = {"version": 1, "tags": [], "shapes": self.shapes[before:], "tracks": []}
        return checked(made, models.LabeledData)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What is refused, or fails, is an answer of 4xx."""

    server: Server

    def do_GET(self) -> None:
        self.answered("get")

    def do_PATCH(self) -> None:
        self.answered("patch")

    def do_PUT(self) -> None:
        self.answered("put")

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answered(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = 200, self.found(method, body)
        except KeyError as error:
            status, content = 404, {"detail": f"Not found: {error}"}
        except PermissionError as error:
            status, content = 401, {"detail": str(error)}
        except Exception as error:  # whatever a check raises
            status, content = 400, {"detail": repr(error)}
        binary = isinstance(content, bytes)
        raw = content if binary else json.dumps(content, default=datetime.isoformat).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if binary else "application/vnd.cvat+json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def found(self, method: str, body: bytes) -> Any:
        address = urlsplit(self.path)
        parts, asked = address.path.strip("/").split("/"), parse_qs(address.query)
        if parts == ["api", "server", "about"]:
            about = {"name": "CVAT", "description": "", "version": VERSION, "logo_url": "", "subtitle": ""}
            return checked(about, models.About)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise PermissionError("Authentication credentials were not provided.")
        if parts == ["api", "labels"]:
            return self.server.tasks[int(asked["task_id"][0])].label_page()
        return self.server.tasks[int(parts[2])].answer(method, tuple(parts[3:]), asked, body)


class Server(ThreadingHTTPServer):
    """CVAT, with these tasks by number."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tasks = {task.id: task for task in tasks}


@contextmanager
def serving(*tasks: Task) -> Iterator[str]:
    """The address of a server that has these tasks."""
    server = Server(tasks)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
