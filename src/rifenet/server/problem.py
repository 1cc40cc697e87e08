"""How the server says no."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException


class Problem(HTTPException):
    """Refuses a request, with an HTTP status and a sentence for its sender. A 503 says when to try again."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        again = {"Retry-After": "5"} if status == 503 else {}
        super().__init__(status, sentence, {**again, **(headers or {})})
