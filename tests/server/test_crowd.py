"""More requests at a time than the server takes: a sentence and a Retry-After for those beyond, over real sockets."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx2
from colour_engine import ColourEngine

from rifenet.server.app import create_app
from rifenet.server.limits import Limits

from .conftest import colour_program, encoded, learn, photo, running, scene, wait_for

TOKEN = "a-token-of-this-test"
BODY = (
    b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    + encoded(scene())
    + b"\r\n--x--\r\n"
)


class Upload:
    """A client of its own with a photo to segment, half of which it sends once the server asks for it."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        self.socket = socket.create_connection((place.hostname, place.port), timeout=20)
        head = (
            f"POST /api/segment HTTP/1.1\r\nHost: {place.netloc}\r\nX-Project: crowd\r\nConnection: close\r\n"
            "Expect: 100-continue\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        self.first = self.socket.recv(len(b"HTTP/1.1 100"))
        if self.first == b"HTTP/1.1 100":
            self.socket.sendall(BODY[: len(BODY) // 2])

    def finish(self) -> bytes:
        """What else comes."""
        with self.socket, self.socket.makefile("rb") as answer:
            self.socket.sendall(BODY[len(BODY) // 2 :])
            return answer.read()


def test_beyond_the_crowd_a_client_reads_when_to_try_again() -> None:
    with (
        colour_program(requests=3) as (address, _),
        httpx2.Client(base_url=address, headers={"X-Project": "crowd"}) as client,
    ):
        assert learn(client).status_code == 200
        uploads = [Upload(address) for _ in range(3)]
        assert [each.first for each in uploads] == [b"HTTP/1.1 100"] * 3
        page = client.get("/")
        for answer in (client.get("/api/classes"), page, client.post("/api/segment", files=photo()), learn(client)):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["detail"].startswith("The server has 3 requests at a time")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert client.get("/api/health").json()["limits"]["requests"] == 3
        assert client.get("/static/base.css").status_code == 200

        assert b"HTTP/1.1 200" in uploads[0].finish()  # those within are served
        assert client.post("/api/segment", files=photo()).status_code == 200
        uploads.append(Upload(address))
        assert client.get("/api/classes").status_code == 503
        uploads[1].socket.close()  # who hangs up makes room, too
        wait_for(lambda: client.get("/api/classes").status_code == 200)
        assert all(b"HTTP/1.1 200" in each.finish() for each in uploads[2:])


def test_one_client_leaves_room_for_another() -> None:
    app = create_app(ColourEngine(), limits=Limits(requests=3))
    with running(app) as address, httpx2.Client(base_url=address, headers={"X-Project": "other"}) as other:
        uploads = [Upload(address) for _ in range(3)]
        assert [each.first for each in uploads] == [b"HTTP/1.1 100"] * 3
        assert learn(other).status_code == 200
        refused = uploads[2].finish()
        assert b"HTTP/1.1 503" in refused
        assert b"retry-after: 5" in refused.lower()
        for upload in uploads[:2]:
            assert b"HTTP/1.1 422" in upload.finish()  # it has no class


def test_open_connections_alone_are_no_crowd() -> None:
    """Browsers keep half a dozen open each."""
    with running(create_app(ColourEngine(), limits=Limits(requests=1))) as address:
        clients = [httpx2.Client(base_url=address) for _ in range(8)]
        for client in clients:
            assert client.get("/api/classes").status_code == 200
        assert learn(clients[0]).status_code == 200
        for client in clients:
            client.close()


def test_who_has_no_token_takes_no_place() -> None:
    """Not even by a form for the token that never ends."""
    app = create_app(ColourEngine(), limits=Limits(requests=1, seconds=20), token=TOKEN, hosts=None)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with running(app) as address, httpx2.Client(base_url=address) as client:
        place = urlsplit(address)
        forms = [socket.create_connection((place.hostname, place.port), timeout=20) for _ in range(3)]
        for form in forms:
            form.sendall(f"POST / HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 20\r\n\r\ntok".encode())
        assert [Upload(address).first for _ in range(3)] == [b"HTTP/1.1 401"] * 3
        assert client.get("/api/classes", headers=bearer).status_code == 200
        for form in forms:
            form.close()
