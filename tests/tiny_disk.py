"""A disk that fills up for real: a small tmpfs where the tests may mount one, else the system's limit on file sizes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class TinyDisk:
    """A folder; after `fill` no write of more than a few bytes fits."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted
        self._limits: tuple[int, int] | None = None

    def fill(self) -> None:
        if self.mounted:
            with (self.folder / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return
        resource = _resource()
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, self._limits[1]))

    def release(self) -> None:
        if self._limits is not None:
            resource = _resource()
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
            self._limits = None
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def tiny_disk(folder: Path, kilobytes: int = 256) -> Iterator[TinyDisk]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    disk = TinyDisk(folder, mounted)
    try:
        yield disk
    finally:
        disk.release()
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _resource() -> Any:
    return pytest.importorskip("resource", reason="This system can neither mount a small disk nor limit file sizes.")
