"""Runs episodes through a model and counts the pixels of each.

Decisions, so that batch size, threads and ranks never change a digit:
- The network sees one episode at a time, because batching changes the last bits of sums.
- On the CPU each operation uses one thread, because several threads change those bits, too. The threads score different
  episodes instead, which is also faster.
- Episodes run query by query, and queries of one class run together. So a query is encoded once for all its classes,
  episodes and seeds, and a bounded cache that the threads share holds most supports. Each rank, and each of its
  threads, takes a contiguous part of that order. The counts return in the caller's order.

`prediction` turns logits into masks.
"""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from rifenet.data.episodes import EvaluationEpisodes, collate_evaluation
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode
from rifenet.evaluation.prediction import (
    PFENET,
    Model,
    ScoringRules,
    majority,
    mask_threshold,
    predicted_mask,
)
from rifenet.evaluation.unlabeled import semi_supervised
from rifenet.metrics import intersection_union

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")

PARTS = ("images", "masks", "valid")
CACHE_BYTES = 2**31
"""Bytes of support contexts that the cache holds: 330 one-shot supports at 473 px with ResNet-50."""


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

    Raises:
        ValueError: the model's logits are not finite.
    """
    rank, ranks = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    order = _order(episodes)
    positions = _parts(order, ranks)[rank]
    mine = [episodes[position] for position in positions]
    counts = torch.zeros(len(episodes), 2, 2, dtype=torch.int64)
    was_training = model.training
    model.train(False)
    try:
        counts[positions] = torch.from_numpy(
            _score_in_threads(model, index, mine, size, rules, batch_size, workers, progress)
        )
    finally:
        model.train(was_training)
    if fabric is not None and ranks > 1:
        # Each episode is non-zero on one rank only, so a sum of whole numbers gathers them exactly.
        gathered = fabric.all_reduce(counts.to(fabric.device), reduce_op="sum")
        assert isinstance(gathered, Tensor)
        counts = gathered.cpu()
    return counts.numpy()


def _score_in_threads(
    model: Model,
    index: ImageIndex,
    episodes: Sequence[Episode],
    size: int,
    rules: ScoringRules,
    batch_size: int,
    workers: int,
    progress: Callable[[int], None] | None,
) -> NDArray[np.int64]:
    """Counts of all `episodes`, with one thread on an accelerator and all of torch's threads on the CPU."""
    threads = torch.get_num_threads()
    parts = _parts(episodes, max(1, min(threads, len(episodes))) if device_of(model).type == "cpu" else 1)
    # Start loader processes before the threads: a process forked while threads run may inherit a held lock.
    share = -(-workers // len(parts))
    streams = [
        iter(_loader(EvaluationEpisodes(index, part, size, rules.squashed), batch_size, share)) for part in parts
    ]
    stop, contexts = threading.Event(), _Contexts(CACHE_BYTES)
    try:
        with ThreadPoolExecutor(len(parts), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            work = [
                pool.submit(_score, model, stream, part, rules, contexts, stop, progress)
                for stream, part in zip(streams, parts, strict=True)
            ]
            try:
                wait(work, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # after an error or interrupt, the other threads stop after their episode
    finally:
        torch.set_num_threads(threads)
    return np.concatenate([part.result() for part in work])


def _order(episodes: Sequence[Episode]) -> list[int]:
    """Positions in the order of scoring: by the lowest class that each query is asked for, then by query."""
    first: dict[int, int] = {}
    for episode in episodes:
        first[episode.query] = min(episode.class_id, first.get(episode.query, episode.class_id))
    asked = [(first[episode.query], episode.query, episode.class_id) for episode in episodes]
    return sorted(range(len(episodes)), key=asked.__getitem__)


def _parts(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Contiguous parts whose lengths differ by at most one."""
    return [items[part * len(items) // count : (part + 1) * len(items) // count] for part in range(count)]


def _loader(episodes: EvaluationEpisodes, batch_size: int, workers: int) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        episodes,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate_evaluation,
        # Without its own generator, a loader draws from the global one, and validation would change a training run.
        generator=torch.Generator(),
    )


@torch.inference_mode()
def _score(
    model: Model,
    batches: Iterator[dict[str, Any]],
    episodes: Sequence[Episode],
    rules: ScoringRules,
    contexts: _Contexts,
    stop: threading.Event,
    progress: Callable[[int], None] | None,
) -> NDArray[np.int64]:
    device, threshold = device_of(model), mask_threshold(model)
    counts = np.zeros((len(episodes), 2, 2), dtype=np.int64)
    done, encoded = 0, -1
    for batch in batches:
        for item, placement in enumerate(batch["placement"]):
            one = {key: value[item : item + 1] for key, value in batch.items() if isinstance(value, Tensor)}
            one = {key: value.to(device) for key, value in one.items()}
            episode = episodes[done]
            if episode.query != encoded:
                features, encoded = model.encode_query(one["query_images"], one["query_valid"]), episode.query
            taught: Iterable[Any] = _contexts(model, one, episode, contexts, rules.vote)
            if episode.unlabeled:
                (context,) = taught  # unlabeled images exclude a vote
                support = [one[f"support_{part}"] for part in PARTS]
                unlabeled = [
                    torch.from_numpy(batch[f"unlabeled_{part}"][item]).to(device) for part in ("images", "valid")
                ]
                kept = _photos(model, unlabeled, episode, contexts)
                taught = [semi_supervised(model, support, unlabeled, context, kept)]
            logits = [model.decode(features, context) for context in taught]
            masks = [predicted_mask(each, placement, rules, threshold) for each in logits]
            target = batch["query_mask_original"][item] if rules.original_size else batch["query_masks"][item].numpy()
            counts[done] = intersection_union(majority(masks), target)
            done += 1
            if progress is not None:
                progress(1)
            if stop.is_set():
                return counts
    return counts


def _contexts(model: Model, one: dict[str, Tensor], episode: Episode, cache: _Contexts, alone: bool) -> Iterator[Any]:
    """Yields the context of all shots together, or of each shot `alone`; encodes it where the cache lacks it."""
    shots = len(episode.supports)
    for shot in [slice(k, k + 1) for k in range(shots)] if alone else [slice(shots)]:
        key = (episode.class_id, episode.supports[shot])
        context = cache.get(key)
        if context is None:
            context = model.encode_support(*(one[f"support_{part}"][:, shot] for part in PARTS))
            cache.put(key, context)
        yield context


def _photos(model: Model, unlabeled: Sequence[Tensor], episode: Episode, cache: _Contexts) -> Iterator[Any]:
    """Yields the features of each unlabeled image; encodes them where the cache lacks them."""
    for image, valid, record in zip(*unlabeled, episode.unlabeled, strict=True):
        features = cache.get(record)
        if features is None:
            features = model.encode_query(image[None], valid[None])
            cache.put(record, features)
        yield features


class _Contexts:
    """Cache of the support contexts and unlabeled features used last, up to `limit` bytes, shared by all threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The context kept under `key`, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, context: Iterable[Tensor]) -> None:
        """Stores `context`, a tuple of tensors, and drops the entries used longest ago while over the limit."""
        with self._lock:
            if key in self._kept:
                return  # another thread has stored the same values
            self._kept[key] = context
            self._bytes += sum(field.nbytes for field in context)
            while self._bytes > self._limit:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= sum(field.nbytes for field in oldest)


def device_of(model: Model) -> torch.device:
    """The model's device; the CPU for a model without parameters and buffers."""
    return next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
