"""Eight clients at once, good and bad requests mixed: the right answers, no failure, no growth of memory.

Over the colour engine, whose masks are known, and over a network run by torch; each client has classes of its own.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
from PIL import Image
from tiny_model import write_tiny_model

from rifenet.formats.pictures import load_image

from .conftest import colour_program, encoded, learn, photo, quarter, rifenet_program, scene, shot, wait_for

CLIENTS = 8
LIMITS = {"file_mb": 1, "megapixels": 2, "files": 3, "projects": 20, "seconds": 20}
EXAMPLE = min((Path(str(files("rifenet"))) / "examples" / "photos").glob("*.jpg"))
LARGE = encoded(scene(1600, 1200), "JPEG")
NOISE = encoded(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))
SCENE = photo(width=320, height=240)


def files_of(*contents: bytes) -> dict[str, Any]:
    return {"files": [("images", ("a", content)) for content in contents]}


def masked(mask: bytes) -> dict[str, Any]:
    return {"data": {"name": "red", "replace": "true"}, "files": [photo()[0], ("masks", ("m", mask))]}


SEGMENT, CLASSES = ("POST", "/api/segment"), ("POST", "/api/classes")
# What a client asks, and the status that this must have, if it is not 503; 0 for a client that did not wait.
ASKED: dict[str, tuple[tuple[str, str], dict[str, Any], set[int]]] = {
    "segment": (SEGMENT, {"files": SCENE}, {200}),
    "large": (SEGMENT, files_of(LARGE), {200}),
    "real": (SEGMENT, files_of(EXAMPLE.read_bytes()), {200}),
    "several": (SEGMENT, files_of(SCENE[0][1][1], EXAMPLE.read_bytes(), encoded(scene())), {200}),
    "png": (SEGMENT, {"files": photo(), "headers": {"Accept": "image/png"}}, {200}),
    "learn": (CLASSES, {"data": {"name": "red", "replace": "true"}, "files": shot() * 2}, {200}),
    "brief": (CLASSES, masked(encoded(1 - quarter("left") - quarter("right"))) | {"data": {"name": "grey"}}, {200}),
    "forget": (("DELETE", "/api/classes/grey"), {}, {200, 404}),
    "list": (("GET", "/api/classes"), {}, {200}),
    "page": (("GET", "/"), {}, {200}),
    "health": (("GET", "/api/health"), {}, {200}),
    "leaves": (SEGMENT, files_of(LARGE, LARGE) | {"timeout": 0.02}, {0, 200}),
    "bomb": (SEGMENT, files_of(encoded(np.zeros((1500, 1500), np.uint8))), {413}),
    "weight": (SEGMENT, files_of(NOISE), {413}),
    "many": (SEGMENT, {"files": photo() * 4}, {413}),
    "text": (SEGMENT, files_of(b"text"), {415}),
    "form": (SEGMENT, {"json": {"images": []}}, {415}),
    "lossy": (CLASSES, masked(encoded(quarter("left"), "JPEG")), {415}),
    "cut": (SEGMENT, files_of(EXAMPLE.read_bytes()[:9000]), {422}),
    "size": (CLASSES, masked(encoded(quarter("left", 64, 47))), {422}),
    "nobody": (SEGMENT, {"files": photo(), "headers": {"X-Project": "nobody"}}, {422}),
    "other": (SEGMENT, {"files": photo(), "headers": {"Origin": "http://evil.example"}}, {403}),
    "host": (("GET", "/api/classes"), {"headers": {"Host": "evil.example"}}, {403}),
    "missing": (("DELETE", "/api/classes/nobody"), {}, {404}),
    "route": (("PUT", "/api/classes"), {}, {405}),
}
SEGMENTED = {
    "segment": [(320, 240)],
    "large": [(1600, 1200)],
    "several": [(320, 240), load_image(EXAMPLE).shape[1::-1], (64, 48)],
}


class Asked(NamedTuple):
    """One request."""

    what: str
    status: int
    seconds: float


def one_request(client: httpx2.Client, what: str, own: str, exact: bool, seen: list[Asked]) -> int:
    """Its status, 0 where the client did not wait for it."""
    (method, path), content, _ = ASKED[what]
    begun = time.monotonic()
    try:
        answer = client.request(method, path, **content)
    except httpx2.TimeoutException:
        if what != "leaves":
            raise
        seen.append(Asked(what, 0, time.monotonic() - begun))
        return 0
    seen.append(Asked(what, answer.status_code, time.monotonic() - begun))
    if what in SEGMENTED and answer.status_code == 200:
        check_masks(answer, what, own, exact)
    return answer.status_code


def check_masks(answer: httpx2.Response, what: str, own: str, exact: bool) -> None:
    """Each photo at its size with the client's own classes; `exact`: what the colour engine must find."""
    results = answer.json()["results"]
    assert [(each["width"], each["height"]) for each in results] == SEGMENTED[what]
    assert {found["name"] for each in results for found in each["classes"]} - {"grey"} == {"red", own}
    if exact and what == "segment":
        mask = np.array(Image.open(io.BytesIO(base64.b64decode(results[0]["mask"]))))
        assert (mask[:, :70] == 1).all()
        assert (mask[:, -70:] == 2).all()


def one_client(address: str, number: int, until: float, exact: bool, seen: list[Asked]) -> None:
    """Asks for good and bad things at random, after its share of them all, so that each is answered on any machine."""
    rng, own = np.random.default_rng(number), f"blue {number}"
    with httpx2.Client(base_url=address, timeout=60) as client:
        for name, side in (("red", "left"), (own, "right")):
            while learn(client, name, side).status_code == 503:
                time.sleep(0.05)
        for what in list(ASKED)[number::CLIENTS]:
            while one_request(client, what, own, exact, seen) == 503:
                time.sleep(0.05)
        while time.monotonic() < until:
            one_request(client, str(rng.choice(list(ASKED))), own, exact, seen)
        for name in ("red", own, "grey"):  # else the learned classes count as growth
            while client.delete(f"/api/classes/{name}").status_code == 503:
                time.sleep(0.05)


def load(address: str, seconds: float, exact: bool) -> list[Asked]:
    """All that the clients asked. Raises what one of them found wrong."""
    seen: list[Asked] = []
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(one_client, address, number, until, exact, seen) for number in range(CLIENTS)]
    for each in clients:
        each.result()
    return seen


def resident(address: str, pid: int) -> float:
    """Megabytes of memory that a process holds once it works for nobody and keeps no project."""

    def idle() -> bool:
        health = httpx2.get(f"{address}/api/health", timeout=20).json()
        return not (health["busy"] or health["waiting"] or health["projects"])

    wait_for(idle)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


@contextlib.contextmanager
def served(model: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of a server; over the colour engine with so short a queue that it is full at times."""
    if model == "colour":
        program = colour_program(**LIMITS, queue=4)
    else:
        name = str(write_tiny_model(folder / "tiny.safetensors")) if model == "tiny" else "default"
        flags = [each for key, value in LIMITS.items() for each in (f"--{key.replace('_', '-')}", str(value))]
        program = rifenet_program("--model", name, *flags)
    with program as (address, process):
        yield address, process.pid


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Memory of another process is read from /proc.")
@pytest.mark.parametrize(
    ("model", "warm", "seconds"),
    [
        ("colour", 2, 5),
        ("tiny", 2, 4),
        pytest.param("colour", 15, 60, marks=pytest.mark.slow),
        pytest.param("default", 15, 60, marks=pytest.mark.slow),
    ],
)
def test_eight_clients_at_once(model: str, warm: float, seconds: float, tmp_path: Path) -> None:
    with served(model, tmp_path) as (address, pid):
        load(address, warm, model == "colour")
        before = resident(address, pid)
        seen = load(address, seconds, model == "colour")
        after = resident(address, pid)
        statuses = collections.Counter((each.what, each.status) for each in seen)
        assert {key: n for key, n in statuses.items() if key[1] not in {503, *ASKED[key[0]][2]}} == {}
        busy = sum(count for (_, status), count in statuses.items() if status == 503)
        answered = {what for what, status in statuses if status != 503}
        assert answered == set(ASKED), statuses
        times = [each.seconds for each in seen if each.what in SEGMENTED and each.status == 200]
        print(
            f"{model}: {len(seen)} requests in {seconds} s, {busy} answered 503, p95 of segmenting"
            f" {1000 * np.quantile(times, 0.95):.0f} ms, memory {before:.0f} -> {after:.0f} MB"
        )
        for _ in range(3):  # a short warm-up may not have met all kinds of requests at once; what leaks grows each time
            if after < 1.1 * before:
                break
            load(address, seconds, model == "colour")
            before, after = after, resident(address, pid)
        assert after < 1.1 * before, (before, after)
        with httpx2.Client(base_url=address, timeout=60) as client:
            assert learn(client).status_code == 200
            assert client.post("/api/segment", files=photo()).status_code == 200
