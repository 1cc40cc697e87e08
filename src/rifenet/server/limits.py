"""Bounds on what the server accepts and keeps. `rifenet serve --help` reads them without the server's packages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


def _bound(default: int, text: str) -> int:
    """A field, with its line of `--help`."""
    value: int = field(default=default, metadata={"help": text})
    return value


@dataclass(frozen=True)
class Limits:
    """Bounds on requests and on what the server keeps; each is a flag. Raises ValueError for one below 1."""

    file_mb: int = _bound(20, "megabytes of one uploaded file (413)")
    request_mb: int = _bound(100, "megabytes of a whole request (413)")
    megapixels: int = _bound(40, "million pixels of one picture (413); one is decoded at a time")
    files: int = _bound(20, "photos in one request (413)")
    classes: int = _bound(20, "classes of a project (422)")
    seconds: int = _bound(60, "seconds until an upload is complete (408), and then until its answer (503)")
    requests: int = _bound(100, "requests at a time, including those still uploading (503)")
    connections: int = _bound(512, "open connections, at most half of the files that the system lets the server open")
    queue: int = _bound(16, "requests that may wait for the model (503)")
    projects: int = _bound(64, "projects, that is browsers and clients, at a time (503)")
    memory_mb: int = _bound(2000, "megabytes that learned classes and annotations may take (503)")
    idle_minutes: int = _bound(120, "minutes after its last request that a project is kept")

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise ValueError(
                    f"Expected {each.name} to be at least 1, but got {getattr(self, each.name)}."
                    f" Set --{each.name.replace('_', '-')}."
                )
