"""How the server says no."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException


class Problem(HTTPException):
    """A request that is refused: the HTTP status and the sentence that its sender reads."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)
