"""Difference in mIoU of two rows of an ablation, with a bootstrap interval over test queries and training seeds.

Each bootstrap sample draws with replacement, separately for each fold:
- as many query images as the fold's episodes have. Each draw of an image adds all its episodes, of every class, support
  and evaluation seed (as in `metrics.bootstrap_miou`). A class without a drawn image is left out of the sample's mean,
  for both rows.
- as many training seeds as there are.

Both rows get the same images and seeds: an episode is paired with the episode at the same position, and a run with the
run of the same seed. Classes, folds and the supports of an episode stay fixed. With S seeds, any bootstrap shrinks the
spread over seeds by a factor of about sqrt(1 - 1/S). With one seed, the interval does not contain that spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.evaluation.result_file import expect_same_episodes, unpack_counts
from rifenet.metrics import Interval, percentile_interval, resampled_runs

Runs = Mapping[tuple[int, int], dict[str, Any]]  # (fold, training seed) -> result


class PairedDifference(NamedTuple):
    """mIoU of one row minus that of another: mean over folds of the mean over training seeds."""

    miou: float
    interval: Interval
    pairs: int
    """Number of compared pairs; the two runs of a pair share fold and seed."""
    wins: int
    """Number of pairs in which the row was better."""

    @property
    def sign(self) -> str:
        """Sign of the interval: "+" or "-" where all of it is on that side of 0, else "0"."""
        return "+" if self.interval[0] > 0 else "-" if self.interval[1] < 0 else "0"


def paired_difference(mine: Runs, theirs: Runs, *, samples: int = 2000) -> PairedDifference | None:
    """`mine` minus `theirs` over the (fold, seed) pairs that both have; None where they share no pair.

    Raises ValueError where two results of one fold were not scored on the same episodes by the same rules.
    """
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        return None
    folds = sorted({fold for fold, _ in shared})
    differences, drawn = [], np.zeros(samples)
    for fold in folds:
        keys = [key for key in shared if key[0] == fold]
        differences.append([_miou(mine[key]) - _miou(theirs[key]) for key in keys])
        drawn += _drawn([mine[key] for key in keys], [theirs[key] for key in keys], fold, samples) / len(folds)
    return PairedDifference(
        miou=float(np.mean([np.mean(values) for values in differences])),
        interval=percentile_interval(drawn),
        pairs=len(shared),
        wins=sum(value > 0 for values in differences for value in values),
    )


def _miou(result: dict[str, Any]) -> float:
    return float(result["scores"]["miou"]["mean"])


def _drawn(
    mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], fold: int, samples: int
) -> NDArray[np.float64]:
    """The difference on one fold in each bootstrap sample, [samples]. Each row has S results, one for each seed."""
    first = mine[0]
    for other in (*mine[1:], *theirs):
        expect_same_episodes(first, other)
    counted = [unpack_counts(result) for result in (*mine, *theirs)]
    seeds, runs = len(mine), len(first["seeds"])
    values = resampled_runs(
        np.concatenate([item.counts for item in counted]),  # [2*S*R,N,2,2]
        np.concatenate([item.class_ids for item in counted]),
        [row["id"] for row in first["per_class"]],
        np.concatenate([item.queries for item in counted]),
        samples,
        first["protocol"]["absent_as_zero"],
        stream=2 * fold,
    )
    by_seed = values.reshape(samples, 2, seeds, runs).mean(-1)  # NaN where a sample has no query
    weights = np.random.default_rng(2 * fold + 1).multinomial(seeds, np.full(seeds, 1 / seeds), samples) / seeds
    return ((by_seed[:, 0] - by_seed[:, 1]) * weights).sum(-1)
