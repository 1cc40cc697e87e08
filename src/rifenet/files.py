"""Reads JSON and writes files atomically: a killed or failed write leaves the previous file unchanged."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames that file to `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # short: the name of `path` may itself be as long as allowed
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors lets only the owner read its files
        os.replace(temporary, path)
    except SafetensorError as error:
        # safetensors reports a full disk as its own error; users and callers expect an OSError.
        raise OSError(f"Could not write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def expect_writable(*paths: Path) -> None:
    """Checks, before long work, that files can be written at `paths`. Raises OSError naming the path that fails."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            trial = path.with_name(f".{uuid.uuid4().hex}.tmp")
            trial.touch()
            trial.unlink()
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise OSError(f"Expected to be able to write {path}, but cannot: {error.strerror or error}.") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` atomically."""
    write_atomically(path, lambda file: file.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, atomically."""
    write_bytes(path, text.encode())


def parse_json(text: str | bytes, where: str | Path) -> Any:
    """The value of JSON `text`; NaN and infinity, which JSON lacks, become null. Raises ValueError naming `where`."""
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"Expected {where} to be JSON, but it is not: {reason}.") from error
