"""One job at a time: a full queue, a late answer and a client that leaves are all dealt with, and work goes on."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from colour_engine import ColourEngine
from starlette.datastructures import UploadFile

from rifenet.server import answers, api
from rifenet.server.app import create_app
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem
from rifenet.server.projects import Projects, checked_id
from rifenet.server.uploads import read_photo
from rifenet.server.worker import Stopped, Worker

from .conftest import SlowEngine, encoded, learn, photo, running, shot, wait_for

LATE = 3  # seconds for an answer that does not come: the upload before it has as many, also on a busy machine


async def stays() -> None:
    await asyncio.sleep(60)


def test_jobs_run_one_after_another_in_one_thread() -> None:
    worker = Worker(20)
    inside: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        inside.append(number)
        assert len(inside) == 1
        time.sleep(0.01)
        inside.remove(number)
        return number

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(worker.run(lambda n=number: work(n), 20, stays) for number in range(8)))

    assert asyncio.run(all_at_once()) == list(range(8))
    assert len(threads) == 1
    worker.close()


def test_errors_reach_the_caller_and_the_worker_goes_on() -> None:
    worker = Worker(2)

    def broken() -> None:
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        asyncio.run(worker.run(broken, 5, stays))
    assert asyncio.run(worker.run(lambda: 7, 5, stays)) == 7
    assert (worker.busy, worker.waiting) == (False, 0)
    worker.close()


def test_a_job_that_takes_too_long_is_answered_and_stopped() -> None:
    worker, stopped = Worker(2), threading.Event()

    def endless() -> None:
        try:
            while True:
                worker.check()
                time.sleep(0.005)
        except Stopped:
            stopped.set()
            raise

    with pytest.raises(Problem, match=r"within 0\.2 seconds") as late:
        asyncio.run(worker.run(endless, 0.2, stays))
    assert late.value.status_code == 503
    assert stopped.wait(5)
    assert asyncio.run(worker.run(lambda: "next", 5, stays)) == "next"
    worker.close()


def test_closing_stops_what_runs_and_answers_what_waits() -> None:
    worker, started = Worker(4), threading.Event()

    def endless() -> None:
        started.set()
        while True:
            worker.check()
            time.sleep(0.005)

    async def talk() -> list[object]:
        jobs = [asyncio.ensure_future(worker.run(work, 20, stays)) for work in (endless, lambda: 1, lambda: 2)]
        await asyncio.to_thread(started.wait, 5)
        await asyncio.to_thread(worker.close)
        return await asyncio.gather(*jobs, return_exceptions=True)

    answers = asyncio.run(talk())
    assert [getattr(each, "status_code", None) for each in answers] == [503, 503, 503]


def test_a_full_queue_says_so_and_empties_again() -> None:
    engine = SlowEngine()
    app = create_app(engine, limits=Limits(queue=2))
    with running(app) as address, httpx2.Client(base_url=address, timeout=20) as client:
        assert learn(client).status_code == 200
        statuses: list[int] = []

        def segment() -> None:
            cookies = dict(client.cookies)
            statuses.append(
                httpx2.post(f"{address}/api/segment", files=photo(), cookies=cookies, timeout=20).status_code
            )

        threads = [threading.Thread(target=segment) for _ in range(3)]
        threads[0].start()
        assert engine.entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: client.get("/api/health").json()["waiting"] == 2)
        full = client.post("/api/segment", files=photo())
        assert (full.status_code, full.headers["retry-after"]) == (503, "2")
        assert "2 requests wait" in full.json()["detail"]
        engine.go.set()
        for thread in threads:
            thread.join(20)
        assert statuses == [200, 200, 200]
        assert client.post("/api/segment", files=photo()).status_code == 200


def test_a_client_that_leaves_stops_its_job_and_the_one_in_the_queue() -> None:
    engine = SlowEngine()
    app = create_app(engine)
    with running(app) as address, httpx2.Client(base_url=address, timeout=20) as client:
        learn(client)

        def leave() -> None:
            with pytest.raises(httpx2.TimeoutException):
                client.post("/api/segment", files=photo(), timeout=2)

        threads = [threading.Thread(target=leave) for _ in range(2)]
        threads[0].start()
        assert engine.entered.wait(10)
        threads[1].start()
        for thread in threads:
            thread.join(20)
        service = app.state.service
        wait_for(lambda: service.worker._current is not None and service.worker._current.stopped.is_set())
        wait_for(lambda: not service.worker.waiting)  # the server learns of the other's leaving in its own time
        engine.go.set()
        wait_for(lambda: not service.worker.busy and not service.worker.waiting)
        assert engine.decoded == 0  # neither job went on to its next step
        assert len(engine.encoded_queries) == 1  # and the second did not begin
        assert client.post("/api/segment", files=photo()).status_code == 200


def test_an_answer_that_takes_too_long() -> None:
    engine = SlowEngine()
    with running(create_app(engine, limits=Limits(seconds=LATE))) as address, httpx2.Client(base_url=address) as client:
        learn(client)
        late = client.post("/api/segment", files=photo())
        assert (late.status_code, f"within {LATE} seconds" in late.json()["detail"]) == (503, True)
        engine.go.set()
        assert client.post("/api/segment", files=photo()).status_code == 200


class SlowLearner(ColourEngine):
    """Waits in `encode_support` until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def encode_support(self, *shots: Any) -> Any:
        self.entered.set()
        assert self.go.wait(30)
        return super().encode_support(*shots)


@pytest.mark.parametrize("seconds", [LATE, 60], ids=["late", "left"])
def test_a_class_that_nobody_waits_for_is_not_learned(seconds: int) -> None:
    engine = SlowLearner()
    app = create_app(engine, limits=Limits(seconds=seconds))
    header = {"X-Project": "pets"}
    with running(app) as address, httpx2.Client(base_url=address, timeout=20, headers=header) as client:
        if seconds == LATE:
            assert learn(client).status_code == 503
        else:
            with pytest.raises(httpx2.TimeoutException):
                learn(client, timeout=0.5)
            wait_for(lambda: app.state.service.worker._current.stopped.is_set())
        assert engine.entered.is_set()
        engine.go.set()
        wait_for(lambda: not app.state.service.worker.busy)
        assert client.get("/api/classes").json() == {"project": None, "classes": []}
        assert learn(client).json()["classes"][0]["shots"] == 1


def test_a_job_whose_client_has_gone_leaves_its_place_in_the_queue() -> None:
    worker, go = Worker(1), threading.Event()

    async def talk() -> tuple[object, object]:
        first = asyncio.ensure_future(worker.run(lambda: go.wait(10), 20, stays))
        while not worker.busy:
            await asyncio.sleep(0.01)
        with pytest.raises(Problem, match="within"):
            await worker.run(lambda: 1, 0.05, stays)
        assert worker.waiting == 0
        third = asyncio.ensure_future(worker.run(lambda: 3, 20, stays))
        while not worker.waiting:
            await asyncio.sleep(0.01)
        go.set()
        return await first, await third

    assert asyncio.run(talk()) == (True, 3)
    worker.close()


def test_no_more_photos_are_decoded_for_a_client_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    read, go, original = [], threading.Event(), api.read_framed

    def slowly(*asked: Any) -> Any:
        read.append(asked[1])
        assert go.wait(20)
        return original(*asked)

    monkeypatch.setattr(api, "read_framed", slowly)
    app = create_app(ColourEngine(), limits=Limits(seconds=LATE))
    with running(app) as address, httpx2.Client(base_url=address, timeout=20) as client:
        assert client.post("/api/classes", data={"name": "red"}, files=shot() * 3).status_code == 503
        go.set()
        wait_for(lambda: not app.state.service.worker.busy)
    assert read == [1]


def test_a_label_file_is_drawn_no_longer_than_anyone_waits() -> None:
    """A small file of many large polygons would be drawn for minutes."""
    side = 3000
    corners = [[0, 0], [side, 0], [side, side]]
    shapes = [{"label": "red", "shape_type": "polygon", "points": corners}] * 3000
    labels = json.dumps({"shapes": shapes, "imageHeight": side, "imageWidth": side}).encode()
    files = [*photo(width=side, height=side), ("masks", ("a.json", labels))]
    app = create_app(ColourEngine(), limits=Limits(seconds=LATE))
    with running(app) as address, httpx2.Client(base_url=address, timeout=20) as client:
        assert client.post("/api/classes", data={"name": "red"}, files=files).status_code == 503
        wait_for(lambda: not app.state.service.worker.busy, seconds=3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_photo_is_decoded_no_longer_than_anyone_waits(format: str) -> None:
    content = encoded(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8), format)
    upload = UploadFile(io.BytesIO(content), size=len(content), filename="a")
    parts = []
    whole = read_photo(upload, 1, lambda: parts.append(1))
    assert whole.shape == (400, 500, 3)

    def check() -> None:
        parts.pop()
        if len(parts) == 3:
            raise Stopped

    with pytest.raises(Problem):  # not the whole picture, whatever it is called: nobody reads it
        read_photo(upload, 1, check)


def test_classes_are_listed_while_they_change() -> None:
    """Readers and the model's thread meet in the projects: no reader may see a change by halves."""
    app = create_app(ColourEngine(), limits=Limits(projects=5))
    service = app.state.service
    with running(app) as address, httpx2.Client(base_url=address, timeout=20) as client:
        seen: list[tuple[int, int]] = []
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                for id in ("one", "two", "three"):
                    project = service.projects.find(id)
                    listed = answers.classes_answer(project).classes
                    seen.append((len(listed), sum(each.shots for each in listed)))
                time.sleep(0.0002)

        with ThreadPoolExecutor() as pool:
            reader = pool.submit(read)
            for step in range(30):
                header = {"X-Project": ("one", "two", "three")[step % 3]}
                assert learn(client, "red", headers=header).status_code == 200
                if step % 2:
                    assert client.delete("/api/classes/red", headers=header).status_code == 200
            over.set()
            reader.result(20)
    assert {classes for classes, _ in seen} == {0, 1}
    assert all(shots >= classes for classes, shots in seen)


def test_clients_take_turns_and_share_the_queue() -> None:
    """One that sends two dozen requests at once keeps nobody out, and has the queue while nobody else comes."""
    worker, go = Worker(6), threading.Event()
    order: list[str] = []

    async def talk() -> tuple[list[object], list[object]]:
        def send(client: str) -> asyncio.Future[object]:
            return asyncio.ensure_future(worker.run(lambda: order.append(client), 20, stays, client))

        first = asyncio.ensure_future(worker.run(lambda: go.wait(10), 20, stays, "many"))
        while not worker.busy:
            await asyncio.sleep(0.01)
        many = [send("many") for _ in range(24)]
        await asyncio.sleep(0.05)
        assert worker.waiting == 6
        few = [send(client) for client in ("one", "two", "one")]
        await asyncio.sleep(0.05)
        assert worker.waiting == 6
        go.set()
        await first
        return await asyncio.gather(*many, return_exceptions=True), await asyncio.gather(*few, return_exceptions=True)

    many, few = asyncio.run(talk())
    assert few == [None] * 3
    assert many[:3] == [None] * 3
    assert {getattr(each, "status_code", None) for each in many[3:]} == {503}
    assert order == ["many", "one", "two", "many", "one", "many"]
    worker.close()


def test_closing_with_a_full_queue_ends_at_once() -> None:
    worker, go = Worker(1), threading.Event()

    async def talk() -> list[object]:
        first = asyncio.ensure_future(worker.run(lambda: go.wait(10), 20, stays))
        while not worker.busy:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(worker.run(lambda: 2, 20, stays))
        while not worker.waiting:
            await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
        await asyncio.sleep(0.05)
        go.set()
        begun = time.monotonic()
        await closing
        assert time.monotonic() - begun < 5
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(talk())
    assert first is True
    assert getattr(second, "status_code", None) == 503


def test_idle_projects_are_dropped_and_make_room() -> None:
    now = [0.0]
    projects = Projects(ColourEngine(), Limits(projects=2, idle_minutes=10), clock=lambda: now[0])
    first, second = projects.open("first"), projects.open(None)
    with pytest.raises(Problem, match="2 projects"):
        projects.open("third")
    now[0] = 500
    assert projects.find(second.id) is second
    now[0] = 700  # the first has been idle for 700 seconds, the second for 200
    assert projects.find("first") is None
    assert projects.open("third") is not first
    assert projects.find(second.id) is second
    assert len(projects) == 2


def test_names_of_new_projects_cannot_be_guessed() -> None:
    projects = Projects(ColourEngine(), Limits())
    ids = {projects.open(None).id for _ in range(50)}
    assert len(ids) == 50
    assert min(map(len, ids)) >= 20


@pytest.mark.parametrize("id", ["", "a b", "../x", "x" * 65, "ü", "a\n"])
def test_wrong_names_of_projects(id: str) -> None:
    with pytest.raises(Problem) as refused:
        checked_id(id)
    assert refused.value.status_code == 422
