"""Runs episodes through a model and counts the pixels of each.

Decisions, so that batch size, threads and ranks never change a digit:
- The network sees one episode at a time, because batching changes the last bits of sums.
- On the CPU each operation uses one thread, because several threads change those bits, too. The threads score different
  episodes instead, which is also faster.
- Episodes run query by query, and queries of one class run together. So a query is encoded once for all its classes,
  episodes and seeds, and a bounded cache that the threads share holds most supports (`supports`). Each rank, and each
  of its threads, takes a contiguous part of that order. The counts return in the caller's order.

`prediction` turns logits into masks; `partial` keeps what is scored.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rifenet.data.episodes import EvaluationEpisodes, as_batches
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode
from rifenet.evaluation.partial import Journal
from rifenet.evaluation.prediction import (
    PFENET,
    Model,
    ScoringRules,
    device_of,
    majority,
    mask_threshold,
    predicted_mask,
)
from rifenet.evaluation.supports import CACHE_BYTES, Supports, Unreadable, reading
from rifenet.evaluation.unlabeled import semi_supervised
from rifenet.metrics import intersection_union

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")


def score_episodes(
    model: Model,
    index: ImageIndex,
    episodes: Sequence[Episode],
    size: int,
    *,
    rules: ScoringRules = PFENET,
    batch_size: int = 1,
    workers: int = 0,
    fabric: Fabric | None = None,
    progress: Callable[[int], None] | None = None,
    journal: Journal | None = None,
) -> NDArray[np.int64]:
    """Pixel counts of each episode, [N,2,2], in the order of `episodes` (see `metrics.intersection_union`).

    All ranks return all counts. Scoring is not random, builds no autograd graph, and leaves the model's mode and every
    random generator as they were.

    Args:
        model: the module itself, not a data-parallel wrapper of it.
        index: the dataset.
        episodes: what to score.
        size: side S of the square network input, pixels.
        rules: the protocol's rules for input, size and shots.
        batch_size: episodes loaded together.
        workers: loader processes in all; if not 0, each thread has at least one.
        fabric: shares the work among its processes; None: this process does all of it.
        progress: called, from any thread, with the number of episodes done since its last call.
        journal: episodes that it knows are not scored again; it notes each one scored. An episode that it skips has
            counts of 0. None: nothing is kept, and an image that cannot be read is an error.

    Raises:
        ValueError, FileNotFoundError: an image cannot be read, or the model's logits are not finite.
    """
    rank, ranks = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    journal = Journal() if journal is None else journal
    positions = _parts([position for position in scoring_order(episodes) if position not in journal.known], ranks)[rank]
    if journal.known and progress is not None:
        progress(len(journal.known) // ranks)
    counts = np.zeros((len(episodes), 2, 2), dtype=np.int64)
    was_training = model.training
    model.train(False)
    try:
        supports = Supports(model, index, size, rules, CACHE_BYTES)
        run = _Run(model, index, episodes, size, rules, supports, journal, progress, counts)
        _score_in_threads(run, positions, batch_size, workers)
    finally:
        model.train(was_training)
    if fabric is not None and ranks > 1:
        # Each episode is non-zero on one rank only, so a sum of whole numbers gathers them exactly.
        gathered = fabric.all_reduce(torch.from_numpy(counts).to(fabric.device), reduce_op="sum")
        assert isinstance(gathered, Tensor)
        counts = gathered.cpu().numpy()
    for position, known in journal.known.items():
        counts[position] = known
    return counts


@dataclass(frozen=True)
class _Run:
    """What the threads of one process share."""

    model: Model
    index: ImageIndex
    episodes: Sequence[Episode]
    size: int
    rules: ScoringRules
    supports: Supports
    journal: Journal
    progress: Callable[[int], None] | None
    counts: NDArray[np.int64]  # the result, [N,2,2]; no two threads write the same episode


def _score_in_threads(run: _Run, positions: Sequence[int], batch_size: int, workers: int) -> None:
    """Scores the episodes at `positions`, with one thread on an accelerator and all of torch's on the CPU."""
    threads = torch.get_num_threads()
    parts = _parts(positions, max(1, min(threads, len(positions))) if device_of(run.model).type == "cpu" else 1)
    # Start loader processes before the threads: a process forked while threads run may inherit a held lock.
    share = -(-workers // len(parts))
    streams = [iter(_loader(run, part, batch_size, share)) for part in parts]
    stop = threading.Event()
    try:
        with ThreadPoolExecutor(len(parts), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            work = [pool.submit(_score, run, part, stream, stop) for part, stream in zip(parts, streams, strict=True)]
            try:
                wait(work, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # after an error or interrupt, the other threads stop after their episode
    finally:
        torch.set_num_threads(threads)
    for done in work:
        done.result()


def scoring_order(episodes: Sequence[Episode]) -> list[int]:
    """Positions in the order of scoring: by the lowest class that each query is asked for, then by query."""
    first: dict[int, int] = {}
    for episode in episodes:
        first[episode.query] = min(episode.class_id, first.get(episode.query, episode.class_id))
    asked = [(first[episode.query], episode.query, episode.class_id) for episode in episodes]
    return sorted(range(len(episodes)), key=asked.__getitem__)


def _parts(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Contiguous parts whose lengths differ by at most one."""
    return [items[part * len(items) // count : (part + 1) * len(items) // count] for part in range(count)]


class _Loaded(Dataset[dict[str, Any]]):
    """The episodes of a dataset; one that cannot be read is its error, as `problem`."""

    def __init__(self, episodes: EvaluationEpisodes) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, i: int) -> dict[str, Any]:
        try:
            with reading():
                return self.episodes[i]
        except Unreadable as problem:
            return {"problem": problem.error}  # in a loader process, where an error would lose its sentence


def _loader(run: _Run, part: Sequence[int], batch_size: int, workers: int) -> Iterable[list[dict[str, Any]]]:
    # Loader processes load the supports ahead. Without them, a support that the cache holds need not be loaded at all.
    episodes = [run.episodes[position] for position in part]
    loaded = EvaluationEpisodes(run.index, episodes, run.size, run.rules.squashed, supports=workers > 0)
    return DataLoader(
        _Loaded(loaded),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=as_batches,
        # Without its own generator, a loader draws from the global one, and validation would change a training run.
        generator=torch.Generator(),
    )


@torch.inference_mode()
def _score(run: _Run, part: Sequence[int], batches: Iterator[list[dict[str, Any]]], stop: threading.Event) -> None:
    """Scores the episodes at the positions `part`, whose arrays come from `batches` in this order."""
    query = _Query(run)
    for position, loaded in zip(part, itertools.chain.from_iterable(batches), strict=True):
        try:
            if "problem" in loaded:
                raise Unreadable(loaded["problem"])
            run.counts[position] = _counted(run, run.episodes[position], loaded, query)
        except Unreadable as problem:
            run.journal.fail(position, problem.error)
        else:
            run.journal.keep(position, run.counts[position])
        if run.progress is not None:
            run.progress(1)
        if stop.is_set():
            return


def _counted(run: _Run, episode: Episode, loaded: dict[str, Any], query: _Query) -> NDArray[np.int64]:
    """The counts [2,2] of one episode."""
    features = query.features(episode, loaded)
    taught = list(run.supports.contexts(episode, loaded))
    if episode.unlabeled:
        device = device_of(run.model)
        (context,) = taught  # unlabeled images exclude a vote
        support = run.supports.tensors(episode, slice(len(episode.supports)), loaded)
        unlabeled = [loaded[f"unlabeled_{part}"][0].to(device) for part in ("images", "valid")]
        kept = run.supports.photos(unlabeled, episode)
        taught = [semi_supervised(run.model, support, unlabeled, context, kept)]
    threshold = mask_threshold(run.model)
    logits = [run.model.decode(features, context) for context in taught]
    masks = [predicted_mask(each, loaded["placement"], run.rules, threshold) for each in logits]
    target = loaded["query_mask_original"] if run.rules.original_size else loaded["query_masks"][0].numpy()
    return intersection_union(majority(masks), target)


class _Query:
    """The features of a thread's last query; the same query follows for all its classes and episodes."""

    def __init__(self, run: _Run) -> None:
        self._run, self._image, self._features = run, -1, None

    def features(self, episode: Episode, loaded: dict[str, Any]) -> Any:
        """The features of the episode's query, whose arrays are `loaded`."""
        if episode.query != self._image:
            device = device_of(self._run.model)
            photo = (loaded[f"query_{part}"].to(device) for part in ("images", "valid"))
            self._features = self._run.model.encode_query(*photo)
            self._image = episode.query
        return self._features
