"""What an evaluation has scored so far, in a file beside its result, so that the same command goes on where it stopped.

Each process writes a file of its own: `result.json.partial` and, with several ranks, `result.json.partial.1` and so on.
A file holds JSON lines. The first line of each start says what is scored (`facts`); every other line is one episode:
its position, its four counts, and the seconds since the start. A killed process loses the episode that it was at.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rifenet.config import shown
from rifenet.files import naming

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Journal:
    """The episodes scored before and now, and those that could not be loaded.

    Without a path, nothing is kept. With `skip`, an episode whose images cannot be read is left out and named in
    `skipped`; else it ends the evaluation.
    """

    def __init__(self, path: Path | None = None, *, skip: bool = False) -> None:
        self.path, self.skip = path, skip
        self.known: dict[int, NDArray[np.int64]] = {}
        self.skipped: dict[int, str] = {}
        self.seconds = 0.0
        """Seconds that earlier starts took."""
        self._file: IO[str] | None = None
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def shared(self, facts: dict[str, Any], fabric: Fabric | None = None) -> Iterator[None]:
        """Takes over what earlier starts have scored, and keeps what this one scores, on all ranks of `fabric`.

        Raises ValueError where the files are of another evaluation.
        """
        rank, ranks = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
        if rank == 0:
            self._read(facts)
        if fabric is not None and ranks > 1:  # all must agree on what is left
            self.known = fabric.broadcast(self.known)
        with self._writing(facts, rank):
            yield
        if fabric is not None and ranks > 1:
            import torch  # only here: `evaluation.ablation` imports this module, and does without

            found: list[Any] = [None] * ranks
            torch.distributed.all_gather_object(found, self.skipped)
            self.skipped = {position: why for each in found for position, why in each.items()}

    def _read(self, facts: dict[str, Any]) -> None:
        for path in _files(self.path):
            starts = list(_starts(path))
            for before, episodes in starts:
                _expect_same(path, before, facts)
                self.known.update({position: np.array(counts).reshape(2, 2) for position, counts, _ in episodes})
            if path == self.path:
                self.seconds = sum(episodes[-1][2] for _, episodes in starts if episodes)

    @contextlib.contextmanager
    def _writing(self, facts: dict[str, Any], rank: int) -> Iterator[None]:
        self._started = time.perf_counter()
        if self.path is None:
            yield
            return
        own = self.path if rank == 0 else self.path.with_name(f"{self.path.name}.{rank}")
        own.parent.mkdir(parents=True, exist_ok=True)
        # A line that a killed process left half-written must not swallow the next one.
        torn = own.is_file() and not own.read_bytes().endswith(b"\n")
        # Also around closing: that writes what a full disk has kept from being written.
        with naming(own), own.open("a", encoding="utf-8") as self._file:
            self._write("\n" * torn + json.dumps({"facts": facts}) + "\n")
            try:
                yield
            finally:
                self._file = None

    def keep(self, position: int, counts: NDArray[np.int64]) -> None:
        """Notes the counts [2,2] of the episode at `position`; any thread may call it."""
        if self._file is not None:
            seconds = round(time.perf_counter() - self._started, 3)
            self._write(json.dumps([position, *counts.ravel().tolist(), seconds]) + "\n")

    def fail(self, position: int, error: Exception) -> None:
        """Notes that the episode at `position` cannot be loaded, or raises ValueError that says how to go on."""
        sentence = " ".join(str(error).split())
        if self.skip:
            self.skipped[position] = sentence
            return
        if self.path is None:
            raise error
        raise ValueError(
            f"{sentence} The episodes scored so far are kept in {self.path}: once the file is there, the same command "
            "goes on. --on-error skip leaves out the episodes whose images cannot be read."
        ) from error

    def _write(self, text: str) -> None:
        assert self._file is not None
        with self._lock, naming(Path(self._file.name)):
            self._file.write(text)
            self._file.flush()  # the system then has it, whatever happens to this process


def partial_path(result: Path) -> Path:
    """The file that keeps the partial result of `result`."""
    return result.with_name(f"{result.name}.partial")


def discard_partial(result: Path) -> None:
    """Removes what `Journal` kept for `result`, which is complete."""
    for path in _files(partial_path(result)):
        path.unlink(missing_ok=True)


def _files(path: Path | None) -> list[Path]:
    if path is None or not path.parent.is_dir():
        return []
    found = {other for other in path.parent.iterdir() if other.name == path.name}
    found |= {other for other in path.parent.iterdir() if other.name.removeprefix(f"{path.name}.").isdigit()}
    return sorted(found)


def _starts(path: Path) -> Iterator[tuple[dict[str, Any], list[tuple[int, list[int], float]]]]:
    """Yields the facts and the episodes of each start. Raises ValueError for a file of another kind."""
    facts: dict[str, Any] | None = None
    episodes: list[tuple[int, list[int], float]] = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        value = _parsed(line)
        if isinstance(value, dict) and isinstance(value.get("facts"), dict):
            if facts is not None:
                yield facts, episodes
            facts, episodes = value["facts"], []
        elif isinstance(value, list) and len(value) == 6 and facts is not None:
            episodes.append((value[0], value[1:5], value[5]))
    if facts is not None:
        yield facts, episodes
    elif "\n" in text:  # else a start that was killed in its first line
        raise ValueError(f"Expected {path} to be a partial result, but it is none. Remove it, or give another --out.")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # the line that a killed process was writing


def _expect_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"Expected {path} to hold a part of this evaluation, but {name} was {shown(before.get(name))} and is "
                f"{shown(now.get(name))}. Give another --out, or remove the file to score everything again."
            )
