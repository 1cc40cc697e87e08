"""Other web pages, other hosts and clients without the token get nowhere; every answer carries the headers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from colour_engine import ColourEngine
from starlette.testclient import TestClient

from rifenet.server.app import create_app
from rifenet.server.guard import Guard
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem
from rifenet.server.run import check_exposure

from .conftest import learn, photo

TOKEN = "a-token-of-this-test"


@pytest.fixture
def guarded() -> Iterator[TestClient]:
    """A server for other machines: with a token, whatever its name."""
    with TestClient(create_app(ColourEngine(), token=TOKEN, hosts=None), base_url="http://photos.example") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[", "10.0.0.5"]
)
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    """A page of evil.example whose name is made to point at 127.0.0.1 still says its own name."""
    for path in ("/", "/api/classes", "/static/main.js", "/openapi.json"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403, path
        assert "another host" in answer.json()["detail"]


def test_a_refusal_names_the_hosts_that_are_answered(client: TestClient) -> None:
    answer = client.get("/", headers={"Host": "www.evil.example"})
    assert answer.json()["detail"] == (
        "Expected a request to 127.0.0.1 or [::1] or localhost, but it names another host. Use that name."
    )
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_further_name_is_answered_in_any_case() -> None:
    app = create_app(ColourEngine(), token=TOKEN, hosts=["Photos.Example", "fe80::5"])
    with TestClient(app) as client:
        for host, status in (("photos.example:80", 401), ("[fe80::5]", 401), ("fe80::5", 403), ("example", 403)):
            assert client.get("/api/classes", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1:1"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/classes", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
    ],
)
def test_other_pages_cannot_drive_the_server(client: TestClient, headers: dict[str, str]) -> None:
    learn(client)
    assert client.post("/api/segment", files=photo(), headers=headers).status_code == 403
    assert learn(client, "blue", "right", headers=headers).status_code == 403
    assert client.delete("/api/classes/red", headers=headers).status_code == 403
    assert [each["name"] for each in client.get("/api/classes").json()["classes"]] == ["red"]


def test_the_own_page_can(client: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert learn(client, headers=own).status_code == 200
    assert client.post("/api/segment", files=photo(), headers=own).status_code == 200


def test_no_answer_allows_another_origin(client: TestClient) -> None:
    origin = {"Origin": "http://evil.example"}
    preflight = client.options("/api/segment", headers={**origin, "Access-Control-Request-Method": "POST"})
    for answer in (preflight, client.get("/api/classes", headers=origin), client.get("/", headers=origin)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/api/health", "/static/main.js", "/examples/examples.json", "/nothing"]
)
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_without_the_token_only_health_answers(guarded: TestClient) -> None:
    for method, path in (
        ("GET", "/api/classes"),
        ("GET", "/docs"),
        ("GET", "/examples/examples.json"),
        ("POST", "/api/segment"),
    ):
        answer = guarded.request(method, path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    assert guarded.get("/api/health").status_code == 200
    page = guarded.get("/")
    assert page.status_code == 401
    assert 'type="password"' in page.text
    assert guarded.get(f"/?token={TOKEN}").status_code == 401  # an address would end up in logs
    assert "not the token" not in page.text
    wrong_form = guarded.post("/", data={"token": "wrong"})
    assert (wrong_form.status_code, "not the token" in wrong_form.text) == (401, True)
    assert guarded.post("/", data={"token": "x" * 5000}).status_code == 413
    assert guarded.post("/", data={"token": TOKEN}, headers={"Origin": "http://evil.example"}).status_code == 403
    for wrong in ("Bearer ", "Bearer wrong", TOKEN[:-1], "Bearer é".encode("latin-1")):
        assert guarded.get("/api/classes", headers={"Authorization": wrong}).status_code == 401


def test_the_token_opens_by_header_or_by_the_form(guarded: TestClient) -> None:
    assert guarded.get("/api/classes", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    welcome = guarded.post("/", data={"token": TOKEN}, follow_redirects=False)
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/").status_code == 200
    assert guarded.post("/", data={"token": TOKEN}).status_code == 200  # a second tab with the form
    assert learn(guarded).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (TOKEN, 401),
        (f" {TOKEN}", 401),
        (f"Token {TOKEN}", 401),
        (f"Bearer{TOKEN}", 401),
        (f"bearer {TOKEN}", 200),
        (f"Bearer  {TOKEN}", 200),
        (f"Bearer {TOKEN} {TOKEN}", 401),
    ],
)
def test_the_header_names_its_scheme(guarded: TestClient, authorization: str, status: int) -> None:
    assert guarded.get("/api/classes", headers={"Authorization": authorization}).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "photos.example", ""])
def test_other_hosts_need_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="RIFENET_TOKEN"):
        check_exposure(host, None)
    check_exposure(host, TOKEN)


def test_further_names_need_a_token() -> None:
    """Behind a proxy the server listens on loopback, and other machines reach it all the same."""
    with pytest.raises(ValueError, match=r"--name photos\.example.*RIFENET_TOKEN"):
        check_exposure("127.0.0.1", None, ["localhost", "photos.example"])
    check_exposure("127.0.0.1", None, ["localhost"])
    check_exposure("127.0.0.1", TOKEN, ["photos.example"])


@pytest.mark.parametrize("name", ["*", "*.example.com", "a*b"])
def test_a_name_is_no_pattern(name: str) -> None:
    with pytest.raises(ValueError, match=r"Expected a host name, but got --name .*\*"):
        check_exposure("127.0.0.1", TOKEN, [name])


@pytest.mark.parametrize(
    "token", ["", "short", "eleven-char", "with a line\nbreak", "nicht-ascii-ü", " " * 20, "two words, long"]
)
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(ValueError, match="at least 12"):
        check_exposure("127.0.0.1", token)


def test_a_body_that_never_ends_is_refused_in_time() -> None:
    """Against the middleware alone: a client that sends one byte and then waits."""

    async def read_all(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def talk() -> None:
        messages = iter([{"type": "http.request", "body": b"x", "more_body": True}])

        async def receive() -> Any:
            for message in messages:
                return message
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            raise AssertionError(message)

        guard = Guard(read_all, limits=Limits(seconds=1), token=None, hosts=None)
        await guard({"type": "http", "method": "POST", "path": "/api/segment", "headers": []}, receive, send)

    with pytest.raises(Problem) as refused:
        asyncio.run(asyncio.wait_for(talk(), 10))
    assert refused.value.status_code == 408
