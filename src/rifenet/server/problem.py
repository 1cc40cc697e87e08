"""How the server says no."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException


class Problem(HTTPException):
    """A request that is refused: the HTTP status and the sentence that its sender reads. 503 says when to try again."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        again = {"Retry-After": "5"} if status == 503 else {}
        super().__init__(status, sentence, {**again, **(headers or {})})
