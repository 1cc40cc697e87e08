"""Checks each request before the application: host, origin, token, number, size, time. Sets every answer's headers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rifenet.server.clients import client_of
from rifenet.server.limits import Limits
from rifenet.server.problem import Problem

TOKEN_COOKIE = "rifenet_token"
OPEN_PATHS = ("/api/health",)  # need no token and no room, for health checks
_MAX_FORM = 4096  # bytes of the form that asks for the token
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",  # with the one above: browsers then give WebAssembly its threads
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_COMPILED = (
    "/static/device/",
    "/in-browser/",
)  # programs that the browser runs in a thread of their own, by WebAssembly
# A referrer policy of its own, because under no-referrer browsers call the origin of a form null.
_ASK = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>rifenet</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="same-origin">'
    '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/base.css">'
    '<main class="ask"><h1>rifenet</h1><p>This server asks for its token.</p><form action="/" method="post">'
    '<label for="token">Token</label><input id="token" name="token" type="password" autocomplete="off" required>'
    '<button class="primary">Open</button>{wrong}</form></main></html>'
)
_WRONG = '<p role="alert">That is not the token. The person who started the server knows it.</p>'


class Guard:
    """ASGI middleware. Refuses foreign hosts, other sites' pages, missing tokens, crowds, and large or slow bodies.

    It counts requests. uvicorn's own limit counts open connections, also idle ones of browsers, and refuses without
    a sentence and without a Retry-After.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, token: str | None, hosts: Sequence[str] | None) -> None:
        """`hosts` are the names in the Host header that are answered; None answers all, for servers with a token."""
        self.app, self.limits, self.token = app, limits, token
        # A Host header has an IPv6 address in brackets.
        self.hosts = None if hosts is None else [f"[{host}]" if ":" in host else host for host in hosts]
        self._inside: list[_Body] = []  # of the requests that the application has now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _with_headers(send, scope["path"])
        try:
            await self._check_host(scope, receive)
            self._judge(scope)
            early = None
            if not _is_open(scope["path"]):
                if self.token is not None:
                    early = await self._ask_for_token(self.token, scope, receive)
                if early is None:
                    self._make_room(client_of(scope))
        except Problem as problem:
            early = JSONResponse({"detail": problem.detail}, problem.status_code, problem.headers)
        if early is not None:
            await early(scope, receive, answer)
            return
        body = _Body(receive, self.limits, client_of(scope))
        self._inside.append(body)
        try:
            await self.app(scope, body, answer)
        finally:
            if body in self._inside:
                self._inside.remove(body)

    async def _check_host(self, scope: Scope, receive: Receive) -> None:
        """Raises Problem: 403 where Starlette's middleware would refuse the Host header; it says which name to use."""
        if self.hosts is None:
            return
        known = False

        async def pass_on(*_: object) -> None:
            nonlocal known
            known = True

        async def drop(message: Message) -> None:
            """Starlette's own answer does not say which name would be right."""

        await TrustedHostMiddleware(pass_on, self.hosts, www_redirect=False)(scope, receive, drop)
        if not known:
            raise Problem(
                403,
                f"Expected a request to {' or '.join(sorted(self.hosts))}, but it names another host. Use that name.",
            )

    def _judge(self, scope: Scope) -> None:
        """Raises Problem: 403 or 413."""
        headers = Headers(scope=scope)
        if scope["method"] not in _SAFE:
            _check_same_site(headers, headers.get("host", ""))
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self.limits.request_mb * 10**6:
            raise _too_large(self.limits)

    def _make_room(self, client: str) -> None:
        """Where the application has as many requests as it may, ends the newest upload of who has the most.

        Raises Problem: 503 where `client` would then have as many, or that client has no unfinished upload.
        """
        if len(self._inside) < self.limits.requests:
            return
        sentence = f"The server has {self.limits.requests} requests at a time, and all are under way. Try again soon."
        counted = Counter(body.client for body in self._inside)
        heaviest, most = counted.most_common(1)[0]
        uploads = [body for body in self._inside if body.client == heaviest and not body.complete]
        if most <= counted[client] + 1 or not uploads:
            raise Problem(503, sentence)
        uploads[-1].refuse(Problem(503, sentence))
        self._inside.remove(uploads[-1])

    async def _ask_for_token(self, token: str, scope: Scope, receive: Receive) -> Response | None:
        """The answer to a client without the token, None for one that has it. Raises Problem: 401, 408 or 413."""
        headers, secret = Headers(scope=scope), _cookie_of(token)
        if scope["path"] == "/" and scope["method"] == "POST":
            if not _same(await self._token_of_form(scope, receive), token):
                return HTMLResponse(_ASK.format(wrong=_WRONG), 401)
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(
                TOKEN_COOKIE, secret, httponly=True, samesite="strict", secure=scope["scheme"] == "https"
            )
            return welcome
        bearer = _token_of(headers.get("authorization", ""))
        cookie = cookie_parser(headers.get("cookie", "")).get(TOKEN_COOKIE, "")
        if _same(bearer, token) or _same(cookie, secret):
            return None
        if scope["path"] == "/":
            return HTMLResponse(_ASK.format(wrong=""), 401)
        raise Problem(
            401,
            "Expected the server's token, but got none or another. Send the header 'Authorization: Bearer TOKEN'.",
            {"WWW-Authenticate": "Bearer"},
        )

    async def _token_of_form(self, scope: Scope, receive: Receive) -> str:
        body = b""
        async for part in Request(scope, _Body(receive, self.limits, "")).stream():
            body += part
            if len(body) > _MAX_FORM:
                raise Problem(413, f"Expected a token of at most {_MAX_FORM} bytes, but the form is larger.")
        return parse_qs(body.decode("latin-1")).get("token", [""])[0]


class _Body:
    """A request's body with bounds. Raises Problem (413, 408, 503) in the application while it reads."""

    def __init__(self, receive: Receive, limits: Limits, client: str) -> None:
        self.client, self.complete = client, False
        self._receive, self._limits = receive, limits
        self._left, self._deadline = limits.request_mb * 10**6, time.monotonic() + limits.seconds
        self._timeout: asyncio.Timeout | None = None
        self._refusal: Problem | None = None

    def refuse(self, problem: Problem) -> None:
        """Ends the upload with this problem, also where the application waits for a part of it."""
        self._refusal = problem
        if self._timeout is not None:
            self._timeout.reschedule(0)

    async def __call__(self) -> Message:
        if self.complete:
            return await self._receive()  # waits for the client to go
        if self._refusal is not None:
            raise self._refusal
        try:
            async with asyncio.timeout(max(0, self._deadline - time.monotonic())) as self._timeout:
                message = await self._receive()
        except TimeoutError:
            raise self._refusal or Problem(
                408, f"Expected the whole request within {self._limits.seconds} seconds, but it took longer. Send less."
            ) from None
        finally:
            self._timeout = None
        self._left -= len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self._left < 0:
            raise _too_large(self._limits)
        return message


def _is_open(path: str) -> bool:
    """Whether a path needs no token: health, and the page's files, which the form for the token shows."""
    return path in OPEN_PATHS or path.startswith("/static/")


def _with_headers(send: Send, path: str) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            if path.startswith(_COMPILED):
                policy = headers["Content-Security-Policy"]
                headers["Content-Security-Policy"] = policy.replace(
                    "script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"
                )
            kept = path.startswith(("/static/", "/examples/", "/in-browser/"))
            headers["Cache-Control"] = "no-cache" if kept else "no-store"
        await send(message)

    return answer


def _check_same_site(headers: Headers, host: str) -> None:
    """Raises Problem: 403 where a browser says that another site's page makes it send this."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if site not in ("same-origin", "none") or (origin is not None and _place_of(origin) != host.lower()):
        raise Problem(403, "Expected a request from this server's own page, but another page sent it. Open this one.")


def _place_of(origin: str) -> str | None:
    """Host and port of an Origin header, None of one that is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"Expected a request of at most {limits.request_mb} MB, but it is larger. Send fewer photos.")


def _token_of(authorization: str) -> str:
    """The token of `Bearer TOKEN`, or of `Basic`, where it is the password and the user may have any name."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _cookie_of(token: str) -> str:
    return hashlib.sha256(f"rifenet {token}".encode()).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
