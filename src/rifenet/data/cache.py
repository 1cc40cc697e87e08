"""The user's cache folder: scans of datasets, and masks that were drawn from annotations."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from rifenet.files import write_text


def cache_folder() -> Path:
    """RIFENET_CACHE, else XDG_CACHE_HOME, else ~/.cache; below it, `rifenet`."""
    folder = os.environ.get("RIFENET_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if folder.startswith("~"):  # a user without a home folder, as in some containers
        folder = tempfile.gettempdir()
    return Path(folder) / "rifenet"


def read_scans(path: Path, fingerprint: str) -> list[Any] | None:
    """The scans in `path`; None unless they were made of files with this `fingerprint`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["scans"] if stored["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_scans(path: Path, fingerprint: str, scans: list[Any]) -> None:
    """Keeps `scans` for the next start, where that is possible."""
    with suppress(OSError):  # a read-only or full disk costs the next start its speed, nothing else
        write_text(path, json.dumps({"fingerprint": fingerprint, "scans": scans}))
