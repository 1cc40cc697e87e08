"""Optional packages, and the error that says how to install a missing one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ValueError):
    """An optional package is not installed; the message names the pip command."""


@contextmanager
def needs(requirement: str) -> Iterator[None]:
    """Raises `MissingExtra` if code in this block imports a package that is not installed.

    `requirement`: what pip should install. Wrap an import, or decorate a whole command that may import anywhere.

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
