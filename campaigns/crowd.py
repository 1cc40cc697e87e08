"""Eight clients for half an hour among attackers: no failure, no client kept waiting, memory bounded, health at once.

    PYTHONPATH=tests:src python -m campaigns.crowd --minutes 30 --out docs/results/campaigns/crowd.json

The clients learn classes and segment photos with the bundled model. In turns, for twenty seconds each, attackers
hold connections that they never use, send polygons of many corners, large JSON, many requests at once, or damaged
pictures. Another process times the health checks: in this one they would wait for its clients, too. A third asks a
server that does nothing else, which tells how much of a delay is the machine's.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import requests
from PIL import Image
from server.conftest import rifenet_program

from campaigns.common import written_record
from rifenet.examples.samples import load_examples

CLIENTS = 8
TURN = 20.0
HEALTH = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1])
while time.monotonic() < float(sys.argv[2]):
    begun = time.monotonic()
    connection.request("GET", "/api/health")
    answer = connection.getresponse()
    answer.read()
    print(answer.status, begun, time.monotonic() - begun, flush=True)
    time.sleep(0.25)
"""
NOTHING = """
import asyncio
async def answer(reader, writer):
    while True:
        try:
            await reader.readuntil(b"\\r\\n\\r\\n")
        except asyncio.IncompleteReadError:
            return
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
WARM_UP = 0.15
"""Share of the time after which memory may no longer grow by more than a tenth: its peak, which learning makes, beyond
that of the warm-up; and its median, from the first half of the rest to the second."""


class Asked(NamedTuple):
    """One request of a client or attacker, or one check of health."""

    who: str
    what: str
    status: int
    begun: float
    seconds: float


def main() -> None:
    """Runs the campaign, writes what was seen, and fails where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with rifenet_program("--seconds", "60") as (address, process), _nothing() as beside:
        seen, memory = _campaign(address, beside, process.pid, 60 * arguments.minutes)
    figures = _figures(seen, memory, arguments.minutes)
    written_record(arguments.out, figures)
    sys.exit(1 if figures["missed bars"] else 0)


@contextlib.contextmanager
def _nothing() -> Iterator[str]:
    """Address of a server that does nothing but answer."""
    with subprocess.Popen([sys.executable, "-c", NOTHING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def _campaign(address: str, beside: str, pid: int, seconds: float) -> tuple[list[Asked], list[tuple[float, float]]]:
    seen: list[Asked] = []
    memory: list[tuple[float, float]] = []
    begun = time.monotonic()
    until = begun + seconds
    jobs: list[Callable[[], None]] = [
        *(lambda number=number: _client(address, number, until, seen) for number in range(CLIENTS)),
        lambda: _attacks(address, until, seen),
        lambda: _health(address, until, seen, "health"),
        lambda: _health(beside, until, seen, "nothing"),
        lambda: _memory(pid, begun, until, memory),
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    return seen, memory


def _figures(seen: list[Asked], memory: list[tuple[float, float]], minutes: float) -> dict[str, Any]:
    clients = [each for each in seen if each.who.startswith("client")]
    longest = {
        who: max(each.seconds for each in clients if each.who == who) for who in sorted({each.who for each in clients})
    }
    answers = collections.Counter(each.who for each in clients if each.status == 200)
    health, nothing = (np.array([each.seconds for each in seen if each.what == what]) for what in ("health", "nothing"))
    turns = [each for each in seen if each.who == "turns"]
    statuses = collections.Counter(f"{each.what} {each.status}" for each in seen if each.who != "turns")
    cold, warm = (
        np.array([size for at, size in memory if (at > 60 * minutes * WARM_UP) == later]) for later in (False, True)
    )
    half = len(warm) // 2
    growth = {
        "of the peak": float(warm.max() / cold.max()) - 1,
        "of the median": float(np.median(warm[half:]) / np.median(warm[:half])) - 1,
    }
    failures = collections.Counter(
        f"{each.who.split()[0]} {each.what}: {each.status}"
        for each in seen
        if each.status >= 500 and each.status != 503
    )
    wrong = collections.Counter(f"{each.what}: {each.status}" for each in clients if each.status not in (200, 503))
    beyond = max(longest.values()) - float(np.median(list(longest.values())))
    missed = {
        "5xx other than 503": bool(failures),
        "a client refused": bool(wrong),
        "a client waited 10 s beyond its share": beyond > 10,
        "memory grew by over 10%": max(growth.values()) > 0.10,
        "health over 100 ms": bool(health.max() > 0.1),
    }
    return {
        "minutes": minutes,
        "requests": len(seen) - len(turns),
        "answers of the clients": dict(answers),
        "longest wait of each client, s": {who: round(value, 2) for who, value in longest.items()},
        "longest wait beyond the median client's, s": round(beyond, 2),
        "failures": dict(failures),
        "refused clients": dict(wrong),
        "health ms, median, 99 of 100, longest": _milliseconds(health),
        "the same of a server that does nothing else": _milliseconds(nothing),
        "health over 100 ms, during": dict(
            collections.Counter(
                next((turn.what for turn in turns if turn.begun <= check.begun <= turn.begun + turn.seconds), "none")
                for check in seen
                if check.what == "health" and check.seconds > 0.1
            )
        ),
        "memory MB, largest of the warm-up, largest after, last": [
            round(float(value)) for value in (cold.max(), warm.max(), warm[-1])
        ],
        "memory growth": {name: round(value, 3) for name, value in growth.items()},
        "statuses": dict(sorted(statuses.items())),
        "missed bars": [name for name, is_missed in missed.items() if is_missed],
    }


def _milliseconds(seconds: np.ndarray[Any, Any]) -> list[float]:
    """Median, 99% quantile and largest."""
    return [round(1000 * float(value), 1) for value in (np.median(seconds), np.quantile(seconds, 0.99), seconds.max())]


def _client(address: str, number: int, until: float, seen: list[Asked]) -> None:
    """Learns a class from a bundled photo and segments others, over and over; asks again a second after a 503."""
    names, examples = load_examples()
    shots = [each for each in examples if each.support]
    queries = [each for each in examples if not each.support]
    shot = shots[number % len(shots)]
    label = np.asarray(Image.open(shot.mask)) == names.index(shot.classes[0]) + 1
    mask = _png(label.astype(np.uint8))
    project = {"X-Project": f"client-{number}"}
    session = requests.Session()
    for turn in itertools.count():
        if time.monotonic() > until:
            return
        what = "learn" if turn % 6 == 0 else "segment"
        image = (shot if what == "learn" else queries[(turn + number) % len(queries)]).image.read_bytes()
        files = [("images", ("a.jpg", image)), *([("masks", ("a.png", mask))] if what == "learn" else [])]
        url = f"{address}/api/{'classes' if what == 'learn' else 'segment'}"
        if what == "learn" and turn:
            forget = partial(session.delete, f"{url}/it", headers=project, timeout=90)
            _asked(f"client {number}", "forget", seen, forget)
        call = partial(session.post, url, data={"name": "it"}, files=files, headers=project, timeout=90)
        while _asked(f"client {number}", what, seen, call) == 503 and time.monotonic() < until:
            time.sleep(1)


def _attacks(address: str, until: float, seen: list[Asked]) -> None:
    attacks = (_half_open, _many_corners, _large_json, _flood, _damaged)
    for attack in itertools.cycle(attacks):
        if time.monotonic() > until:
            return
        begun = time.monotonic()
        attack(address, min(until, begun + TURN), seen)
        seen.append(Asked("turns", attack.__name__.strip("_"), 200, begun, time.monotonic() - begun))


def _half_open(address: str, until: float, seen: list[Asked]) -> None:
    place = urlsplit(address)
    with contextlib.ExitStack() as held:
        for _ in range(300):
            with contextlib.suppress(OSError):
                connection = socket.create_connection((place.hostname, place.port), timeout=5)
                held.enter_context(connection)
                connection.sendall(b"P")
        time.sleep(max(until - time.monotonic(), 0))


def _many_corners(address: str, until: float, seen: list[Asked]) -> None:
    angles = np.random.default_rng(0).uniform(0, 300, (150_000, 2)).round(1).tolist()
    shapes = [{"label": "it", "points": angles, "shape_type": "polygon"}]
    label = json.dumps({"imagePath": "a.jpg", "imageWidth": 300, "imageHeight": 300, "shapes": shapes}).encode()
    files = [("images", ("a.png", _png(np.zeros((300, 300), np.uint8)))), ("masks", ("a.json", label))]
    _repeat(address, until, seen, "corners", "/api/classes", data={"name": "it"}, files=files)


def _large_json(address: str, until: float, seen: list[Asked]) -> None:
    body = json.dumps({"action": "ANNOTATION_CREATED", "project": {"id": 1}, "annotation": {"result": [[1]] * 450_000}})
    headers = {"Content-Type": "application/json", "X-Project": "attacker"}
    _repeat(address, until, seen, "json", "/labeling/webhook", data=body, headers=headers)


def _flood(address: str, until: float, seen: list[Asked]) -> None:
    photo = _png(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8))
    with ThreadPoolExecutor(24) as pool:
        for _ in range(24):
            pool.submit(
                *(_repeat, address, until, seen, "flood", "/api/segment"), files=[("images", ("a.png", photo))] * 4
            )


def _damaged(address: str, until: float, seen: list[Asked]) -> None:
    photo = load_examples()[1][0].image.read_bytes()
    rng = np.random.default_rng(0)
    while time.monotonic() < until:
        at = int(rng.integers(0, len(photo)))
        files = [("images", ("a.jpg", photo[:at] + rng.bytes(20) + photo[at + 20 :]))]
        _once(address, seen, "damaged", "/api/segment", files=files)


def _repeat(address: str, until: float, seen: list[Asked], what: str, path: str, **content: Any) -> None:
    while time.monotonic() < until:
        _once(address, seen, what, path, **content)


def _once(address: str, seen: list[Asked], what: str, path: str, **content: Any) -> None:
    content.setdefault("headers", {"X-Project": "attacker"})
    _asked("attacker", what, seen, lambda: requests.post(f"{address}{path}", timeout=90, **content))


def _asked(who: str, what: str, seen: list[Asked], call: Callable[[], requests.Response]) -> int:
    begun = time.monotonic()
    try:
        status = call().status_code
    except requests.RequestException:
        status = 0  # the server closed the connection, as it may for what it refuses
    seen.append(Asked(who, what, status, begun, time.monotonic() - begun))
    return status


def _health(address: str, until: float, seen: list[Asked], what: str) -> None:
    words = [sys.executable, "-c", HEALTH, urlsplit(address).netloc, str(until)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        status, begun, seconds = line.split()
        seen.append(Asked("health", what, int(status), float(begun), float(seconds)))


def _memory(pid: int, begun: float, until: float, memory: list[tuple[float, float]]) -> None:
    for _ in _every(1, until):
        status = Path(f"/proc/{pid}/status").read_text()
        memory.append((time.monotonic() - begun, int(status.split("VmRSS:")[1].split()[0]) / 1000))


def _every(seconds: float, until: float) -> Iterator[None]:
    while time.monotonic() < until:
        yield
        time.sleep(seconds)


def _png(array: np.ndarray[Any, Any]) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "PNG")
        return file.getvalue()


if __name__ == "__main__":
    main()
