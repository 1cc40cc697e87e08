"""What the server's tests share: pictures as files, a server over the colour engine, and one with a real port."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from colour_engine import ColourEngine
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from rifenet import server
from rifenet.engines import Engine
from rifenet.server.app import create_app
from rifenet.server.limits import Limits
from rifenet.server.run import uvicorn_config

from .browsing import browser, open_page

__all__ = ["browser", "open_page"]  # fixtures of the tests of the page

HERE = Path(__file__).parent
SOURCE = Path(server.__file__).parents[2]

RED, BLUE = (200, 30, 30), (30, 30, 200)


def encoded(array: NDArray[np.uint8], format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


def scene(width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Grey, with a red left quarter and a blue right quarter."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[:, : width // 4] = RED
    picture[:, -(width // 4) :] = BLUE
    return picture


def quarter(side: str, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """1 on the left or the right quarter of a scene."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, slice(None, width // 4) if side == "left" else slice(-(width // 4), None)] = 1
    return mask


def shot(side: str = "left", **size: int) -> list[tuple[str, tuple[str, bytes]]]:
    """An annotated scene as the files of a form."""
    return [("images", ("a.png", encoded(scene(**size)))), ("masks", ("a.png", encoded(quarter(side, **size))))]


def photo(name: str = "q.png", **size: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (name, encoded(scene(**size))))]


def learn(client: Any, name: str = "red", side: str = "left", **options: Any) -> Any:
    return client.post("/api/classes", data={"name": name}, files=shot(side), **options)


@contextlib.contextmanager
def client_of(engine: Engine | None = None, **limits: int) -> Iterator[TestClient]:
    """A client of a fresh server with these limits."""
    app = create_app(engine or ColourEngine(), limits=Limits(**limits))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of() as made:
        yield made


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Address of the application on a free port of this machine, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(app, app.state.service.limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@contextlib.contextmanager
def started(*command: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address, without a slash at its end, and process of a Python program that prints it once it serves."""
    path = os.pathsep.join([str(SOURCE), str(HERE.parent)])
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.search(r"(http://\S+)/", line := process.stdout.readline())
        assert found, line + process.stderr.read()
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def colour_program(
    open_files: int | None = None, **limits: int
) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    """`started` with a server over the colour engine, which may have so many files open."""
    return started(
        str(HERE / "colour_server.py"), json.dumps(limits), *([] if open_files is None else [str(open_files)])
    )


def rifenet_program(
    *options: str, **environment: str
) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    """`started` with `rifenet serve`."""
    return started("-m", "rifenet", "serve", "--port", "0", "--threads", "1", *options, **environment)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Fails where `condition` does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class SlowEngine(ColourEngine):
    """Waits in `encode_query` until it is let go; `decoded` counts what comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go, self.decoded = threading.Event(), threading.Event(), 0

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        self.entered.set()
        assert self.go.wait(30)
        return super().encode_query(images, valid)

    def decode(self, features: Any, context: Any) -> NDArray[np.float32]:
        self.decoded += 1
        return super().decode(features, context)
