"""Reads JSON and writes files atomically: a killed or failed write leaves the previous file unchanged."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

if sys.platform != "win32":
    import fcntl

_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.tmp")
_OLD = 24 * 60 * 60  # seconds after which no write still runs, where no lock can tell


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """A hidden folder in `place` for files in the making; it is removed at the end. Raises OSError.

    Its process holds a lock in it. The system drops the lock of a killed process: by that, the next process that writes
    to `place` knows the folder as a leftover, and removes it.
    """
    place.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place)
    folder, lock = _made_and_locked(place)
    try:
        yield folder
    finally:
        if sys.platform == "win32":
            os.close(lock)  # before, because Windows removes no open file
            shutil.rmtree(folder, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)  # after, so that no other process takes the folder for a leftover


def contents(folder: Path) -> list[Path]:
    """What a folder holds, without scratch folders and what killed processes left of them. Raises OSError."""
    return [path for path in folder.iterdir() if not _SCRATCH.fullmatch(path.name)]


def _made_and_locked(place: Path) -> tuple[Path, int]:
    while True:
        folder = place / f".{uuid.uuid4().hex}.tmp"
        folder.mkdir()
        try:
            lock = _lock_file(folder)
        except FileNotFoundError:
            continue  # another process took the new folder, without a lock yet, for a leftover
        if sys.platform != "win32":
            with suppress(OSError):  # some network disks have no locks; there, only old leftovers are removed
                fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)  # the same, a moment later


def _lock_file(folder: Path) -> int:
    return os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)


@functools.cache  # once a process is enough, and a folder may hold many files
def _remove_leftovers(place: Path) -> None:
    """Removes what killed processes left in `place`, as far as that may be done. Never raises."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _SCRATCH.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    """Removes a scratch folder that no process holds. Raises OSError where it cannot be told."""
    if not path.is_dir():  # older versions made files, which have no lock
        if time.time() - path.stat().st_mtime > _OLD:
            path.unlink()
        return
    if sys.platform == "win32":
        if time.time() - path.stat().st_mtime > _OLD:
            shutil.rmtree(path)
        return
    lock = _lock_file(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(lock)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a new file beside `path`, then puts that in place. Raises OSError naming `path`."""
    with naming(path), scratch_folder(path.parent) as scratch:
        new = scratch / "new"
        new.touch()
        mode = new.stat().st_mode
        write(new)
        new.chmod(mode)  # safetensors makes files that only their owner may read
        os.replace(new, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError name `path` if it names no file, as that of a full disk, or one that users do not know."""
    try:
        yield
    except SafetensorError as error:
        # safetensors reports a full disk as its own error; users and callers expect an OSError.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(f"Could not write {path}: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error
    except OSError as error:
        # A full disk has no file name, and the scratch folder's tells a user nothing.
        unnamed = error.filename is None or _SCRATCH.search(os.fspath(error.filename))
        if error.errno is None or not unnamed:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def expect_writable(*paths: Path) -> None:
    """Checks, before long work, that files can be written at `paths`. Raises OSError naming the path that fails."""
    for path in paths:
        try:
            with scratch_folder(path.parent):
                pass
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise OSError(f"Expected to be able to write {path}, but cannot: {error.strerror or error}.") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` atomically."""
    write_atomically(path, lambda file: file.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, atomically; what is not UTF-8 in the name of a file, with backslashes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def parse_json(text: str | bytes, where: str | Path) -> Any:
    """The value of JSON `text`; NaN and infinity, which JSON lacks, become null. Raises ValueError naming `where`."""
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"Expected {where} to be JSON, but it is not: {reason}.") from error
