"""Eight clients at once, good and bad requests mixed: the right answers, no failure, no growth of memory."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from rifenet import server

from .conftest import encoded, learn, photo, shot

HERE = Path(__file__).parent
LIMITS = {"file_mb": 1, "megapixels": 1, "files": 3, "queue": 4, "projects": 20, "seconds": 20}
CLIENTS = 8


@pytest.fixture
def program() -> Iterator[tuple[str, int]]:
    """Address and process id of a server in a process of its own."""
    path = os.pathsep.join([str(Path(server.__file__).parents[2]), str(HERE.parent)])
    command = [sys.executable, str(HERE / "colour_server.py"), json.dumps(LIMITS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert process.stdout is not None
    yield process.stdout.readline().strip().rstrip("/"), process.pid
    process.kill()
    process.communicate()


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


BOMB = encoded(np.zeros((1100, 1100), np.uint8))
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "segment": ("POST", "/api/segment", {"files": photo(width=320, height=240)}),
    "png": ("POST", "/api/segment", {"files": photo(), "headers": {"Accept": "image/png"}}),
    "learn": ("POST", "/api/classes", {"data": {"name": "red", "replace": "true"}, "files": shot()}),
    "list": ("GET", "/api/classes", {}),
    "bomb": ("POST", "/api/segment", {"files": [("images", ("b.png", BOMB))]}),
    "text": ("POST", "/api/segment", {"files": [("images", ("a.png", b"text"))]}),
    "other": ("POST", "/api/segment", {"files": photo(), "headers": {"Origin": "http://evil.example"}}),
    "many": ("POST", "/api/segment", {"files": photo() * 4}),
    "missing": ("DELETE", "/api/classes/nobody", {}),
}


def one_client(address: str, number: int, until: float, seen: list[tuple[str, int, float]]) -> None:
    """Asks in turn for good and bad things; `seen` gets (what, status, seconds)."""
    rng = np.random.default_rng(number)
    with httpx2.Client(base_url=address, timeout=30) as client:
        while learn(client).status_code == 503:
            time.sleep(0.05)
        while time.monotonic() < until:
            what = str(rng.choice(list(KINDS)))
            method, path, content = KINDS[what]
            begun = time.monotonic()
            answer = client.request(method, path, **content)
            seen.append((what, answer.status_code, time.monotonic() - begun))


GOOD = {"segment": 200, "png": 200, "learn": 200, "list": 200}
RIGHT = {**GOOD, "bomb": 413, "text": 415, "other": 403, "many": 413, "missing": 404}


def load(address: str, seconds: float) -> list[tuple[str, int, float]]:
    seen: list[tuple[str, int, float]] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=one_client, args=(address, number, until, seen)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    assert not any(thread.is_alive() for thread in threads)
    return seen


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Memory of another process is read from /proc.")
@pytest.mark.parametrize(
    ("warm", "seconds"), [(5, 10), pytest.param(15, 60, marks=pytest.mark.slow)], ids=["15 s", "75 s"]
)
def test_eight_clients_at_once(program: tuple[str, int], warm: float, seconds: float) -> None:
    address, pid = program
    load(address, warm)
    before = resident(pid)
    seen = load(address, seconds)
    after = resident(pid)
    statuses = collections.Counter((what, status) for what, status, _ in seen)
    wrong = {key: count for key, count in statuses.items() if key[1] not in (RIGHT[key[0]], 503)}
    assert wrong == {}
    busy = sum(count for (_, status), count in statuses.items() if status == 503)
    assert all(statuses[what, status] > 0 for what, status in RIGHT.items()), statuses
    times = [taken for what, status, taken in seen if GOOD.get(what) == status]
    print(
        f"{len(seen)} requests in {seconds} s, {busy} answered 503, p95 {1000 * np.quantile(times, 0.95):.0f} ms,"
        f" memory {before:.0f} -> {after:.0f} MB"
    )
    assert after < 1.1 * before, (before, after)
    with httpx2.Client(base_url=address) as client:
        assert learn(client).status_code == 200
        assert client.post("/api/segment", files=photo()).status_code == 200
