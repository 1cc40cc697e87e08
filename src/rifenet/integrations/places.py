"""Folders on disks and in object stores, by their URL: the photos below one, and files read and written whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rifenet.config import needs
from rifenet.files import write_bytes
from rifenet.formats.pictures import PHOTO_SUFFIXES
from rifenet.formats.remarks import counted, remark

EXTRA = "rifenet[ray]"
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified")
"""Where the file systems of fsspec say which state of a file this is."""


class FoundPhoto(NamedTuple):
    """A photo's URL, with its size in bytes (-1 if unknown) and what changes with its content (empty if unknown)."""

    photo: str
    bytes: int = -1
    stamp: str = ""


class Place:
    """A folder, by its path or URL (`s3://bucket/folder`), whatever fsspec knows."""

    def __init__(self, url: str) -> None:
        self.files, root = file_system(url)
        self.url = str(self.files.unstrip_protocol(root)).rstrip("/")
        self.root = str(root).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        try:
            return bytes(self.files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all. A killed process leaves the file as it was."""
        if is_local(self.files):
            write_bytes(Path(self._path(name)), data)
        else:
            self.files.pipe_file(self._path(name), data)  # an object store shows an object once all of it is there

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder below; none if there is no such folder."""
        try:
            entries = self.files.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        # A scratch folder of `write` is no file, and some stores list the folder itself.
        found = (str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "file")
        return [path.rpartition("/")[2] for path in found if path != self._path(folder)]

    def is_empty(self) -> bool:
        """Whether it holds neither files nor folders."""
        try:
            return not self.files.ls(self.root, detail=False)
        except FileNotFoundError:
            return True

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all it holds, if it is there."""
        try:
            self.files.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def file_system(word: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it. Raises ValueError for one that no package here knows."""
    with needs(EXTRA):
        from fsspec.core import url_to_fs
    try:
        # Listings are never kept: other processes write here, too, and those of millions of files take much memory.
        files, path = url_to_fs(absolute(word), use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"Expected a URL whose file system is installed, but got {word} ({' '.join(str(error).split())}). s3://"
            " comes with the extra; gs:// needs the package gcsfs, az:// adlfs."
        ) from error
    return files, str(path)


@contextmanager
def reaching(word: str) -> Iterator[None]:
    """Turns what libraries of stores raise, for lack of credentials, say, into an OSError that names the URL."""
    try:
        yield
    except ValueError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected {word} to be there, but it is not ({error}).") from error
    except Exception as error:
        raise OSError(
            f"Expected to be able to list and read {word}, but got {type(error).__name__}: {error}. Check the URL, the"
            " credentials of this machine and the address of the store."
        ) from error


def absolute(word: str) -> str:
    """A URL as it is; a path as an absolute one, which means the same to processes in other folders."""
    return word if "://" in word else os.path.abspath(word)


def is_local(files: Any) -> bool:
    """Whether a file system of fsspec is the disk."""
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def local_copy(url: str, folder: Path, number: int) -> Path:
    """The photo as a file on this disk: itself, or a copy in `folder`. Raises what the file system raises."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url)
    if is_local(files):
        return Path(path)
    copy = folder / f"{number}{Path(path).suffix}"
    copy.write_bytes(files.cat_file(path))
    return copy


def photos_at(words: list[str]) -> Iterator[FoundPhoto]:
    """The photos that paths and URLs name, in no order: a folder's own, a pattern's, a list's, or one by itself.

    A pattern that ends in `/**` names all photos below a folder. A remark counts the files of a folder or pattern that
    are no photos. A list is a file that ends in `.txt` and names a photo a line; its photos are not looked up. Raises
    FileNotFoundError where a folder or a pattern has none.
    """
    for word in words:
        files, path = file_system(word)
        some = False
        with reaching(word):
            if word.lower().endswith(".txt"):
                lines = files.cat_file(path).decode().splitlines()
                found: Iterator[FoundPhoto] = (FoundPhoto(_url(line.strip())) for line in lines if line.strip())
            else:
                found = _looked_up(files, path)
            for photo in found:
                some = True
                yield photo
        if not some:
            raise FileNotFoundError(
                f"Expected photos ({', '.join(PHOTO_SUFFIXES)}) at {word} of --query, but there are none."
            )


def _url(word: str) -> str:
    files, path = file_system(word)
    return str(files.unstrip_protocol(path))


def _looked_up(files: Any, path: str) -> Iterator[FoundPhoto]:
    if path.endswith("/**"):  # walked, because a pattern's files come all at once: gigabytes for millions of photos
        walked = files.walk(path.removesuffix("/**"), detail=True)
        entries = (entry for _, _, inside in walked for entry in inside.values())
    elif any(sign in path for sign in "*?["):
        entries = iter(files.glob(path, detail=True).values())
    elif files.isdir(path):
        entries = iter(files.ls(path, detail=True))
    else:  # a photo that does not exist is found out by the worker that reads it, as others that cannot be read
        yield _found(files, files.info(path) if files.exists(path) else {"name": path})
        return
    others: Counter[str] = Counter()
    for entry in entries:
        suffix = Path(entry["name"]).suffix.lower()
        if entry["type"] == "file" and suffix in PHOTO_SUFFIXES:
            yield _found(files, entry)
        elif entry["type"] == "file":
            others[suffix or "without a suffix"] += 1
    if others:
        remark(path, f"Left out: {counted(others)}. Only photos are segmented over a cluster.")


def _found(files: Any, entry: dict[str, Any]) -> FoundPhoto:
    stamp = next((str(entry[key]) for key in _STAMPS if entry.get(key)), "")
    size = entry.get("size")
    return FoundPhoto(str(files.unstrip_protocol(entry["name"])), -1 if size is None else int(size), stamp)
