"""Reads JSON and writes files atomically: a killed or failed write leaves the previous file unchanged."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
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


JsonShape = Any
"""What a value of a JSON has to be, for `misfit`.

- `str`, `bool`, `int`, `float`, `dict`, `list`, None: a value of this kind. A float may be a whole number; no number is
  larger than `LARGEST_NUMBER`.
- a tuple: one of several;
- a list of one shape: a list of such values; of several shapes: a list of as many values;
- a dict with the key `str`: names, each with such a value;
- another dict: values by name, and others that are not looked at. A name that ends in `?` may be missing.
"""
LARGEST_NUMBER = 2**53
"""Whole numbers up to it are exact as floats."""
_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}


def misfit(value: Any, shape: JsonShape, place: str) -> str:
    """What is wrong with a value called `place`, such as "classes[2] to be a text, but got 5"; empty if it fits."""
    if isinstance(shape, tuple):
        wrong = [misfit(value, each, place) for each in shape]
        if not all(wrong):
            return ""
        kinds = [_described(each) for each in shape]
        same = [words for each, words in zip(shape, wrong, strict=True) if _fits(value, _kind(each))]
        return same[0] if same else _wrong(place, " or ".join(kinds), value)
    if not _fits(value, _kind(shape)):
        return _wrong(place, _described(shape), value)
    entries: Iterable[tuple[Any, JsonShape, str]] = ()
    if isinstance(shape, list):
        if len(shape) > 1 and len(value) != len(shape):
            return f"{place} to have {len(shape)} entries, but got {len(value)}"
        shapes = itertools.cycle(shape)
        entries = ((each, next(shapes), f"{place}[{number}]") for number, each in enumerate(value))
    elif isinstance(shape, dict) and str in shape:
        entries = ((each, shape[str], f"{place}.{name}") for name, each in value.items())
    elif isinstance(shape, dict):
        if missing := [name for name in shape if name not in value and not name.endswith("?")]:
            return f"{place} to have {', '.join(missing)}, but it does not"
        known = {name.removesuffix("?"): each for name, each in shape.items()}
        entries = ((value[name], each, f"{place}.{name}") for name, each in known.items() if name in value)
    return next((words for each, own, where in entries if (words := misfit(each, own, where))), "")


def _kind(shape: JsonShape) -> Any:
    return type(shape) if isinstance(shape, list | dict) else shape


def _fits(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind in (int, float):
        kinds = (int,) if kind is int else (int, float)
        return type(value) in kinds and abs(value) <= LARGEST_NUMBER
    return type(value) is kind


def _described(shape: JsonShape) -> str:
    return {list: "a list", dict: "names and values"}.get(_kind(shape)) or _KINDS[shape]


def _wrong(place: str, expected: str, value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return f"{place} to be {expected}, but got {text[:60]}"
