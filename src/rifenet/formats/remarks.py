"""Says what a file was taken for where it could mean two things; every reader of files says it here.

A remark becomes a `UserWarning`, unless a listener is set with `heard`: commands print remarks, the server answers with
them.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, str], object]
"""Gets what a remark is about, such as "mask file a.png", and the remark."""

_MOST_NAMED = 3
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def remark(about: str, sentence: str) -> None:
    """Says `sentence`, one or several, about a file or a picture."""
    if (listener := _listener.get()) is None:
        warnings.warn(f"{about}: {sentence}", UserWarning, stacklevel=_depth_of_caller())
    else:
        listener(about, sentence)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Gives each different remark of this thread to `listener`, once. A remark of the listener's goes further out."""
    outer = _listener.get()
    told = set[tuple[str, str]]()

    def once(about: str, sentence: str) -> None:
        if (about, sentence) in told:
            return
        told.add((about, sentence))
        token = _listener.set(outer)
        try:
            listener(about, sentence)
        finally:
            _listener.reset(token)

    token = _listener.set(once)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """Says equal remarks about several files in one, at the end; also where an error ends the work."""
    found: dict[str, list[str]] = {}
    try:
        with heard(lambda about, sentence: found.setdefault(sentence, []).append(about)):
            yield
    finally:
        for sentence, files in found.items():
            remark(_named(files), sentence)


@contextmanager
def collected() -> Iterator[list[str]]:
    """A list that gets the remarks of this thread, each once, as a sentence that begins with what it is about."""
    found: list[str] = []
    with heard(lambda about, sentence: found.append(f"{about}: {sentence}")):
        yield found


def _named(files: list[str]) -> str:
    more = len(files) - _MOST_NAMED
    return ", ".join(files[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _depth_of_caller() -> int:
    """How far up the first frame lies that is not of this package, as `warnings.warn` counts in `remark`."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(("rifenet.", "contextlib")):
        depth, frame = depth + 1, frame.f_back
    return depth


def counted(kinds: Counter[str]) -> str:
    """How many there are of each kind, as a sentence lists them: `2 .md, 1 folder(s)`."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
