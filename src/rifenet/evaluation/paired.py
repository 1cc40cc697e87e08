"""One row of an ablation minus another, with an interval over what was drawn: test queries and training seeds.

What a bootstrap sample draws, for each fold by itself:
- query images, with replacement, as many as the fold's episodes have: all episodes of a drawn image go in together,
  whatever their class, support and evaluation seed, as many times as it was drawn (`metrics.bootstrap_miou` does so
  too). A class of which no image was drawn is left out of that sample's mean, for both rows.
- training seeds, with replacement, as many as there are.
Both rows get the same images and the same seeds, so what these share cancels out: an episode is compared with the
episode of the same position, a run with the run of the same seed. What is not drawn again: the classes, the folds, and
the supports of an episode. With S seeds the spread over seeds comes out smaller by about sqrt(1 - 1/S), as in any
bootstrap; with one seed it is not in the interval at all.
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
    """Pairs of runs, of one fold and seed each, that were compared."""
    wins: int
    """Pairs in which the row was better."""

    @property
    def sign(self) -> str:
        """Of the interval: "+" or "-" where all of it is on that side of 0, else "0"."""
        return "+" if self.interval[0] > 0 else "-" if self.interval[1] < 0 else "0"


def paired_difference(mine: Runs, theirs: Runs, *, samples: int = 2000) -> PairedDifference | None:
    """`mine` minus `theirs` over the (fold, seed) pairs that both have; None where there is none.

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
    """The difference on one fold in each bootstrap sample, [samples]; S results of each row, one for each seed."""
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
    by_seed = values.reshape(samples, 2, seeds, runs).mean(-1)  # a sample without any query has no figure: NaN
    weights = np.random.default_rng(2 * fold + 1).multinomial(seeds, np.full(seeds, 1 / seeds), samples) / seeds
    return ((by_seed[:, 0] - by_seed[:, 1]) * weights).sum(-1)
