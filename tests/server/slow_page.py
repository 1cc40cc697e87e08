"""Fixtures of tests of the page that hold the server while it works: import them, and name them in `__all__`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rifenet.server.app import create_app

from .conftest import SlowEngine, running

ENGINE = SlowEngine()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(ENGINE)) as there:
        yield there
        ENGINE.go.set()


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Each test begins with a server that answers at once, and leaves none waiting."""
    ENGINE.go.set()
    yield
    ENGINE.go.set()


def hold() -> None:
    """From now on the server takes a photo and does not answer before `ENGINE.go.set()`."""
    ENGINE.entered.clear()
    ENGINE.go.clear()
