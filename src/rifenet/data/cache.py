"""The user's cache folder: scans of datasets, and masks drawn from annotations."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from rifenet.files import write_text


def cache_folder() -> Path:
    """The folder `rifenet` in $RIFENET_CACHE, else in $XDG_CACHE_HOME, else in ~/.cache."""
    folder = os.environ.get("RIFENET_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if folder.startswith("~"):  # a user without a home folder, as in some containers
        folder = tempfile.gettempdir()
    return Path(folder) / "rifenet"


def read_scans(path: Path, fingerprint: str) -> list[Any] | None:
    """The scans stored in `path`; None without a readable file or if its fingerprint is not `fingerprint`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["scans"] if stored["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_scans(path: Path, fingerprint: str, scans: list[Any]) -> None:
    """Stores `scans` for the next start; does nothing on a read-only or full disk."""
    with suppress(OSError):  # without the file, the next start scans again
        write_text(path, json.dumps({"fingerprint": fingerprint, "scans": scans}))
