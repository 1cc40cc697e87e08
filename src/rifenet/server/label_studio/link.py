"""Fetches photos of labeling tasks: from the one Label Studio of `--label-studio-url`, a folder, or the task itself."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

_SOCKET_SECONDS = 10
_IN_MEMORY = 2**20  # bytes of a photo that are not worth a file
_CHUNK = 2**16
_PHOTO_PATHS = ("/data/", "/tasks/", "/storage-data/")  # below its address


class _NoRedirect(HTTPRedirectHandler):
    """A redirect could lead to another host, with the token."""

    def redirect_request(self, *args: Any) -> None:
        """Refuses: the answer is then an HTTPError of its status."""


_DIRECT = (ProxyHandler({}), _NoRedirect)  # tokens and photos pass through no proxy that the environment names


class _Opener:
    """Opens addresses until the seconds are over; then it cuts the connections, whatever they wait for.

    A timeout of a socket begins anew with every byte, so that a host which sends one now and then would never meet it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def late(self) -> bool:
        """Whether the seconds are over."""
        return time.monotonic() >= self._deadline

    def open(self, request: Request) -> Any:
        """The answer, to be closed by the caller."""
        opened = self._sockets

        class Connection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened.append(self.sock)

        class SecureConnection(HTTPSConnection, Connection):
            def connect(self) -> None:
                super().connect()
                opened.append(self.sock)  # in place of the one within it

        class Plain(HTTPHandler):
            def http_open(self, asked: Request) -> Any:
                return self.do_open(Connection, asked)

        class Secure(HTTPSHandler):
            def https_open(self, asked: Request) -> Any:
                return self.do_open(SecureConnection, asked)

        return build_opener(*_DIRECT, Plain, Secure).open(request, timeout=min(_SOCKET_SECONDS, self._seconds))

    def close(self) -> None:
        """No connection needs to be cut any more."""
        self._timer.cancel()

    def _cut(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Link:
    """The Label Studio and the folder that photos may come from. The server asks no other place."""

    url: str | None = None
    """Its address, e.g. http://localhost:8080; None asks none."""
    token: str | None = None
    """A legacy token or a personal access token; None takes what Label Studio itself sends when it connects."""
    folder: Path | None = None
    """What `/data/local-files/?d=NAME` is looked up in, before Label Studio is asked."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url or "http://localhost")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError(
                f"Expected the address of Label Studio, such as http://localhost:8080, but got {self.url!r}. Set"
                " --label-studio-url."
            )
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(
                f"Expected a folder of photos, but there is none at {self.folder}. Set --label-studio-folder."
            )

    def photo(self, where: str, token: str | None, max_bytes: int, seconds: float) -> IO[bytes]:
        """The bytes of a task's photo, to be closed by the caller.

        Args:
            where: what the task says: a path below Label Studio, its whole address, or a data: URI.
            token: what Label Studio sent when it connected.
            max_bytes: of the file.
            seconds: until it must be there.

        Raises:
            ValueError: it lies elsewhere, is too large, or cannot be had.
        """
        if where.startswith("data:"):
            return _spooled(_of_data_uri(where, max_bytes))
        if self.folder is not None and urlsplit(where).path.endswith("/data/local-files/"):
            return self._of_folder(self.folder, where, max_bytes)
        address = self._address(where)
        if self.url is None or address is None:
            raise ValueError(
                "Expected a photo in the task itself (a data: URI), in --label-studio-folder or below"
                f" --label-studio-url {self.url or '(not set)'}, but it is at {where[:100]!r}. No other is asked."
            )
        file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._fetch(address, token, file, max_bytes, seconds)
        file.seek(0)
        return file

    def annotated_tasks(self, project: int, token: str | None, max_bytes: int, seconds: float) -> list[Any]:
        """The tasks of a project that have annotations, as Label Studio exports them; none without an address.

        Raises ValueError where it cannot be had.
        """
        if self.url is None:
            return []
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
            path = f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=false"
            self._fetch(self.url.rstrip("/") + path, token, file, max_bytes, seconds)
            file.seek(0)
            try:
                tasks = json.load(file)
            except ValueError as error:
                raise ValueError(f"Expected JSON of Label Studio's project {project}, but got: {error}.") from error
        return tasks if isinstance(tasks, list) else []

    def _address(self, where: str) -> str | None:
        """The photo's address below Label Studio's own; None for any other."""
        if self.url is None:
            return None
        own = urlsplit(self.url)
        try:
            whole = urlsplit(urljoin(f"{own.scheme}://{own.netloc}/", where))
            same = (whole.scheme, whole.hostname, whole.port, whole.username) == (
                *(own.scheme, own.hostname, own.port),
                None,
            )
        except ValueError:
            return None
        path = whole.path.removeprefix(own.path.rstrip("/"))
        if not same or not path.startswith(_PHOTO_PATHS) or ".." in unquote(path).split("/"):
            return None
        query = f"?{quote(whole.query, safe='=&%/+')}" if whole.query else ""
        return f"{self.url.rstrip('/')}{quote(path, safe='/%')}{query}"

    def _of_folder(self, folder: Path, where: str, max_bytes: int) -> IO[bytes]:
        name = parse_qs(urlsplit(where).query).get("d", [""])[0]
        try:
            path = (folder / name).resolve()
            inside = path.is_relative_to(folder.resolve()) and path.is_file()
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise ValueError(f"Expected a photo in --label-studio-folder, but there is none called {name[:100]!r}.")
        if path.stat().st_size > max_bytes:
            raise _too_large(max_bytes)
        return path.open("rb")

    def _fetch(self, address: str, token: str | None, file: IO[bytes], max_bytes: int, seconds: float) -> None:
        opener = _Opener(seconds)
        try:
            request = Request(address, headers=self._authorization(self.token or token, opener))
            with opener.open(request) as answer:
                taken = 0
                while part := answer.read(_CHUNK):
                    taken += len(part)
                    if taken > max_bytes:
                        raise _too_large(max_bytes)
                    file.write(part)
        except HTTPError as error:
            hint = " Set --label-studio-token." if error.code in (401, 403) else ""
            raise ValueError(
                f"Expected an answer of Label Studio at {address}, but it said {error.code}.{hint}"
            ) from error
        except (OSError, HTTPException) as error:
            if not opener.late:
                raise ValueError(f"Expected Label Studio at {self.url}, but it does not answer: {error}.") from error
        finally:
            opener.close()
        if opener.late:
            raise ValueError(f"Expected Label Studio's answer within {seconds:g} seconds, but it took longer.")

    def _authorization(self, token: str | None, opener: _Opener) -> dict[str, str]:
        """Headers with the token. A personal access token (three parts with dots) first fetches a short one."""
        if not token:
            return {}
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ValueError("Expected a Label Studio token of printable ASCII characters, but got another.")
        if token.count(".") != 2:
            return {"Authorization": f"Token {token}"}
        request = Request(
            f"{(self.url or '').rstrip('/')}/api/token/refresh/",
            json.dumps({"refresh": token}).encode(),
            {"Content-Type": "application/json"},
        )
        with opener.open(request) as answer:
            try:
                return {"Authorization": f"Bearer {json.loads(answer.read(_CHUNK))['access']}"}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError("Expected a token of Label Studio's token/refresh, but it gave none.") from error


def _of_data_uri(where: str, max_bytes: int) -> bytes:
    head, _, body = where.partition(",")
    if not re.fullmatch(r"data:image/[\w.+-]+;base64", head):
        raise ValueError("Expected a data: URI of a picture in base64, but got another. Send data:image/png;base64,...")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise _too_large(max_bytes)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Expected a data: URI in base64, but it cannot be read: {error}.") from error


def _spooled(data: bytes) -> IO[bytes]:
    file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    file.write(data)
    file.seek(0)
    return file


def _too_large(max_bytes: int) -> ValueError:
    return ValueError(f"Expected at most {max_bytes / 1e6:g} MB, but there is more. Make it smaller, or see --file-mb.")
