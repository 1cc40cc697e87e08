"""Runs the application on a socket until it is stopped."""

from __future__ import annotations

import gc
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from rifenet.engines import Engine
from rifenet.engines.allocator import give_back_memory
from rifenet.server.app import create_app
from rifenet.server.clients import LOOPBACK
from rifenet.server.connections import Connection, open_files
from rifenet.server.in_browser import Offer
from rifenet.server.label_studio.link import Link
from rifenet.server.limits import Limits

MIN_TOKEN = 12
_ACCEPTED = 64  # most connections accepted in one go
_WAITING = 1024
"""Connections that wait to be accepted. Beyond them the system drops a client's first packet, and the client sends it
again a second later."""
_TURN = 0.001
"""Seconds that one thread may keep the others from running Python. An answer takes several turns, and with Python's own
5 ms each of them is late by 5 ms for each thread that computes."""
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to open in their place


def check_exposure(host: str, token: str | None, names: Sequence[str] = ()) -> None:
    """Raises ValueError where other machines could use the server without a token, or with one that can be guessed.

    Also raises it for a name that is a pattern, because that could match other hosts.
    """
    if token is not None and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN},}}", token):
        raise ValueError(
            f"Expected a token of at least {MIN_TOKEN} printable ASCII characters without blanks. Make one with:"
            ' python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    if patterns := [name for name in names if "*" in name]:
        raise ValueError(f"Expected a host name, but got --name {patterns[0]}. Give --name once for each name.")
    further = [name for name in names if name.lower() not in LOOPBACK]
    if token is None and (host not in LOOPBACK or further):
        option = f"--host {host}" if host not in LOOPBACK else f"--name {further[0]}"
        raise ValueError(
            f"Expected a token with {option}, because other machines can reach it, but there is none. Set"
            f" RIFENET_TOKEN or --token, or leave {option.split()[0]} out to serve this machine only."
        )


def serve(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    token: str | None = None,
    names: Sequence[str] = (),
    label_studio: Link | None = None,
    offer: Offer | None = None,
    ready: Callable[[str], object] = lambda address: None,
) -> None:
    """Serves until the process gets SIGINT or SIGTERM.

    Args:
        engine: runs the model.
        host: the address to listen on.
        port: 0 takes a free one.
        limits: None takes the defaults.
        token: what every request must show; required where `host` is not loopback.
        names: further names in the Host header that are answered, e.g. behind a proxy; they require a token, too.
        label_studio: where photos of labeling tasks may come from.
        offer: files for browsers that segment photos themselves.
        ready: called with the page's address on this machine once connections are accepted.

    Raises:
        ValueError: a token is missing or weak.
        OSError: the address is not of this machine, or its port is taken.
    """
    check_exposure(host, token, names)
    give_back_memory()
    hosts = (*LOOPBACK, *names) if host in LOOPBACK or names else None
    limits = _possible(limits or Limits(), open_files())
    app = create_app(engine, limits=limits, token=token, hosts=hosts, label_studio=label_studio, offer=offer)
    with _listen(host, port) as listener:
        here = _EVERYWHERE.get(host, host)
        address = f"[{here}]" if ":" in here else here
        started = partial(ready, f"http://{address}:{listener.getsockname()[1]}/")
        sys.setswitchinterval(_TURN)
        _Server(uvicorn_config(app, limits), started).run(sockets=[listener])


class _Server(uvicorn.Server):
    """With a longer queue than asyncio asks for, which takes one number for it and for what is accepted in one go."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and says so."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_WAITING)
        _leave_out_of_searches()
        self._started()


def _leave_out_of_searches() -> None:
    """Has Python's search for garbage leave out what is there now: modules, which stay to the end.

    They are a quarter of a million objects, and a search through them keeps all others waiting for over a tenth of a
    second.
    """
    gc.collect()
    gc.freeze()


def uvicorn_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs the application: behind bounded connections, with no log line that a client can cause."""
    protocol: Any = partial(Connection, limits=limits)
    return uvicorn.Config(
        app,
        http=protocol,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=_ACCEPTED,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=3,
    )


def _possible(limits: Limits, files: int) -> Limits:
    """Connections take at most half of the files that may be open, and requests leave some of those to `/api/health`.

    The other half is for uploads, of which large ones are files, and for what waits to be accepted.
    """
    connections = min(limits.connections, max(files // 2, 4))
    return replace(limits, connections=connections, requests=min(limits.requests, connections * 3 // 4))


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(
            f"Expected to listen on {host}, port {port}, but cannot: {why}. Choose another --port."
        ) from error
    # asyncio sets this itself, but not on what `create_server` makes; else each kept-alive answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
