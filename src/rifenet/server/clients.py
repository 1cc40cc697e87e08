"""Who asks: what the server shares its queue and its room among."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROJECT_COOKIE = "rifenet_project"


def client_of(scope: Scope) -> str:
    """The machine that asks; on this machine, or behind a proxy on it, the project that it asks for."""
    address = str((scope.get("client") or ("",))[0])
    if address not in LOOPBACK:
        return address
    headers = Headers(scope=scope)
    project = headers.get("x-project") or cookie_parser(headers.get("cookie", "")).get(PROJECT_COOKIE, "")
    return f"{address} {project[:64]}"
