"""What a plain install lacks, and the one sentence that says so."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ValueError):
    """A package is not installed that only some users need; the message names the pip command."""


@contextmanager
def needs(requirement: str) -> Iterator[None]:
    """Turns a package that is missing within into `MissingExtra`; `requirement` is what pip is to install.

    Around an import, or as a decorator of a whole command: what is missing may turn up anywhere in it.

        with needs("rifenet[sbd]"):
            from scipy.io import loadmat
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "rifenet"):
            raise
        raise MissingExtra(
            f"Expected the package {package}, but it is not installed. Run: pip install {shlex.quote(requirement)}"
        ) from error
