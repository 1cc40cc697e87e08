"""Clients that connect and say nothing, or do not listen: they are closed, and the others are answered at once."""

from __future__ import annotations

import contextlib
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import requests
import uvicorn
from colour_engine import ColourEngine

from rifenet.server import api
from rifenet.server.app import create_app
from rifenet.server.limits import Limits
from rifenet.server.run import serve

from .conftest import colour_program, running, shot

FILES = 200  # that the server may have open
THREADS = 40  # that anyio gives to requests


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as client:
        yield client


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on open files to set.")
def test_more_silent_clients_than_files_leave_the_others_answered() -> None:
    with colour_program(open_files=FILES) as (address, process), contextlib.ExitStack() as stack:
        for _ in range(FILES + 60):
            stack.enter_context(connected(address)).send(b"G")
        for _ in range(5):
            begun = time.monotonic()
            assert httpx2.get(f"{address}/api/health", timeout=10).status_code == 200
            assert time.monotonic() - begun < 3
            time.sleep(0.2)
        process.terminate()
        assert process.stderr is not None
        assert len(process.stderr.read()) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="Other systems count waiting connections otherwise.")
def test_hundreds_of_connections_may_wait_while_the_server_is_busy() -> None:
    """Where too many wait, a client's first packet is lost, and it tries again after a second, and two, and four."""
    with colour_program() as (address, process), contextlib.ExitStack() as stack:
        process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(300):
                place = urlsplit(address)
                stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=0.9))
        finally:
            process.send_signal(signal.SIGCONT)


def test_computing_threads_keep_the_others_waiting_for_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sys.getswitchinterval()
    found: list[float] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: found.append(sys.getswitchinterval()))
    try:
        serve(ColourEngine(), port=0)
    finally:
        sys.setswitchinterval(usual)
    assert found == [pytest.approx(0.001)]


def test_the_connection_that_was_idle_for_longest_makes_room() -> None:
    app = create_app(ColourEngine(), limits=Limits(connections=3))
    with running(app) as address, connected(address) as first, connected(address) as second:
        for client in (first, second):
            client.sendall(b"GET /api/he")
            time.sleep(0.1)
        with httpx2.Client(base_url=address) as third, httpx2.Client(base_url=address) as fourth:
            assert third.get("/api/health").status_code == 200
            assert fourth.get("/api/health").status_code == 200
            assert _end(first) == b""
            second.sendall(b"alth HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert _end(second).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("trickle", [False, True])
def test_a_head_that_never_ends_is_given_up(trickle: bool) -> None:
    with running(create_app(ColourEngine(), limits=Limits(seconds=1))) as address, connected(address) as client:
        begun = time.monotonic()
        client.sendall(b"GET /api/health HTTP/1.1\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            while trickle and time.monotonic() - begun < 5:
                client.sendall(b"x")
                time.sleep(0.05)
        assert _end(client) == b""
        assert time.monotonic() - begun < 4


def test_a_kept_connection_has_its_own_time_for_each_head() -> None:
    with running(create_app(ColourEngine(), limits=Limits(seconds=2))) as address, connected(address) as client:
        for _ in range(3):
            client.sendall(b"GET /api/health HTTP/1.1\r\n")
            time.sleep(1)
            client.sendall(b"Host: 127.0.0.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}}"):
                answer += client.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_given_up() -> None:
    app = create_app(ColourEngine(), limits=Limits(seconds=1))
    with running(app) as address, connected(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2000)
        # Not read to the end: what the system has buffered for so small a window takes minutes.
        with pytest.raises(ConnectionError):
            _send_until_closed(client)


def test_a_kept_connection_answers_without_delay() -> None:
    """Where the system waits for more to send, each answer takes 40 ms longer."""
    with colour_program() as (address, _), httpx2.Client(base_url=address) as client:
        took = []
        for _ in range(15):
            begun = time.perf_counter()
            assert client.get("/api/health").status_code == 200
            took.append(time.perf_counter() - begun)
        assert statistics.median(took) < 0.03, took


def _send_until_closed(client: socket.socket) -> None:
    """Sends a byte now and then, for 8 seconds at most."""
    for _ in range(40):
        time.sleep(0.2)
        client.send(b"x")


def _end(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def test_health_answers_while_every_thread_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, go_on = threading.Semaphore(0), threading.Event()

    def waiting(*_: Any) -> None:
        taken.release()
        go_on.wait(30)

    monkeypatch.setattr(api, "check_files", waiting)
    app = create_app(ColourEngine(), limits=Limits(requests=100))
    with running(app) as address, ThreadPoolExecutor(THREADS) as pool:
        try:
            for _ in range(THREADS):
                url, data = f"{address}/api/classes", {"name": "red"}
                pool.submit(requests.post, url, data=data, files=shot(), timeout=60)
            for _ in range(THREADS):
                assert taken.acquire(timeout=30)
            assert requests.get(f"{address}/api/health", timeout=10).status_code == 200
        finally:
            go_on.set()


def test_the_first_request_does_not_wait_for_routes_to_be_built() -> None:
    app = create_app(ColourEngine())
    assert app.openapi_schema is None
    with running(app):
        assert app.openapi_schema is not None


SEARCHES = """
import gc, os
from colour_engine import ColourEngine
from rifenet.server.run import serve

def tell(address):
    print(gc.get_freeze_count() / (gc.get_freeze_count() + len(gc.get_objects())))
    os._exit(0)

serve(ColourEngine(), port=0, ready=tell)
"""


def test_searches_for_garbage_leave_out_what_stays_to_the_end() -> None:
    """A search through all modules keeps everybody waiting for over a tenth of a second."""
    told = subprocess.run(
        [sys.executable, "-c", SEARCHES], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1]
    )
    assert float(told.stdout) > 0.95, told.stderr
