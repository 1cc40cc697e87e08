"""Scores episodes on other machines, a shard of them at a time (`rifenet evaluate --ray`).

A shard is a contiguous part of the order of scoring, so its machine encodes each query and most supports once. Counts
are whole numbers of pixels that depend on the episode alone: on equal processors they are those of one machine to the
bit, and on others they differ where a probability lies at the threshold.

What a shard has scored is in the journal once it comes back, so a killed machine costs the shards in its hands, and a
killed command those of all machines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode
from rifenet.evaluation.partial import Journal
from rifenet.evaluation.prediction import Model, ScoringRules, accelerate
from rifenet.evaluation.provenance import environment, peak_memory
from rifenet.evaluation.scoring import score_episodes, scoring_order

SHARD = 250
"""Episodes that a machine scores before it gives back their counts."""
_SAME = ("rifenet", "torch", "numpy", "pillow")  # versions that may change a digit

Spread = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[Any, Any]]]
"""Has jobs done elsewhere by a function for one; yields each with its result or its exception, as they end."""


@dataclass(frozen=True)
class Elsewhere:
    """Other machines that score."""

    spread: Spread
    device: str = "cpu"
    """Of each worker: cpu or cuda."""
    threads: int = 1
    """CPU threads of each worker; each scores episodes of its own."""
    shard: int = SHARD


class _Scored(NamedTuple):
    """What comes back of a shard."""

    counts: NDArray[np.int64]
    """[n,2,2], in the order of the shard."""
    skipped: dict[int, str]
    """Why the episode at a place of the shard could not be read."""
    machine: dict[str, Any]
    """`environment` of the worker."""
    memory: dict[str, float | None]


def score_elsewhere(
    model: Model,
    index: ImageIndex,
    episodes: Sequence[Episode],
    size: int,
    *,
    rules: ScoringRules,
    elsewhere: Elsewhere,
    journal: Journal,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int64], dict[str, Any], dict[str, float | None]]:
    """`score_episodes` on other machines; they must see the files of the dataset by the same names.

    Returns:
        The counts [N,2,2]; what is told of the devices in `environment`; and the highest `peak_memory` of a worker.

    Raises:
        ValueError: a shard fails, a worker has other versions, or an image cannot be read and the journal stops there.
    """
    counts = np.zeros((len(episodes), 2, 2), dtype=np.int64)
    for position, known in journal.known.items():
        counts[position] = known
    if journal.known and progress is not None:
        progress(len(journal.known))
    open_positions = [position for position in scoring_order(episodes) if position not in journal.known]
    shards = [
        tuple(open_positions[start : start + elsewhere.shard])
        for start in range(0, len(open_positions), elsewhere.shard)
    ]
    score = functools.partial(_scored, model, index, tuple(episodes), size, rules, elsewhere.device, elsewhere.threads)
    names: set[str] = set()
    memory: dict[str, float | None] = {"process": None, "device": None}
    own = environment(torch.device("cpu"), 1)
    for shard, outcome in elsewhere.spread(shards, score) if shards else ():
        scored = _checked(outcome, own)
        unread = {shard[place]: sentence for place, sentence in scored.skipped.items()}
        for position, found in zip(shard, scored.counts, strict=True):
            if position not in unread:
                counts[position] = found
                journal.keep(position, found)
        for position, sentence in unread.items():
            journal.fail(position, ValueError(sentence))
        if progress is not None:
            progress(len(shard))
        names.add(scored.machine["device_name"])
        memory = {name: max(filter(None, (peak, scored.memory[name])), default=None) for name, peak in memory.items()}
    return counts, {"device_name": ", ".join(sorted(names))} if names else {}, memory


def _scored(
    model: Model,
    index: ImageIndex,
    episodes: Sequence[Episode],
    size: int,
    rules: ScoringRules,
    device: str,
    threads: int,
    shard: Sequence[int],
) -> _Scored:
    """Scores the episodes at the positions of a shard, on this machine."""
    torch.set_num_threads(threads)
    assert isinstance(model, nn.Module)
    model.to(device)
    accelerate(model)  # again, because the move has ended it
    journal = Journal(skip=True)
    own = [episodes[position] for position in shard]
    counts = score_episodes(model, index, own, size, rules=rules, journal=journal)
    there = torch.device(device)
    return _Scored(counts, journal.skipped, environment(there, 1), peak_memory(there))


def _checked(outcome: Any, own: dict[str, Any]) -> _Scored:
    """The outcome of a shard, if it may be used. Raises ValueError."""
    if isinstance(outcome, Exception):
        raise ValueError(
            f"Expected a shard of episodes to be scored, but {type(outcome).__name__}: {' '.join(str(outcome).split())}"
            " The episodes that are scored are kept: the same command goes on."
        ) from outcome
    scored: _Scored = outcome
    if other := next((name for name in _SAME if scored.machine[name] != own[name]), None):
        raise ValueError(
            f"Expected the same versions on all machines, but a worker has {other} {scored.machine[other]} and this"
            f" machine {own[other]}. Install the same on all."
        )
    return scored
