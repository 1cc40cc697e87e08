"""The paired interval: against loops over the same draws, and what it says of rows whose difference is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation.test_result_file import CLASSES, counted, result
from reference.paired import drawn_difference

from rifenet.evaluation.paired import paired_difference
from rifenet.evaluation.result_file import unpack_counts


def runs(offset: int = 0, folds: tuple[int, ...] = (2, 3), seeds: int = 3, better: int = 0) -> dict[Any, Any]:
    """Results of a row by (fold, seed): episodes are the fold's, counts differ with the seed."""
    made = {}
    for fold in folds:
        for seed in range(seeds):
            counts = counted(100 * fold + 10 * seed + offset, runs=2, better=better)
            made[fold, seed] = result(counts, fold=fold, episodes_hash=f"episodes of {fold}")
    return made


def test_the_interval_is_that_of_loops_over_the_same_draws() -> None:
    mine, theirs, samples = runs(), runs(offset=5, better=3000), 40
    drawn = np.zeros(samples)
    for fold in (2, 3):
        packed = [[unpack_counts(row[fold, seed]) for seed in range(3)] for row in (mine, theirs)]
        names = np.unique(packed[0][0].queries)
        queries = np.random.default_rng(2 * fold).multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
        seeds = np.random.default_rng(2 * fold + 1).multinomial(3, np.full(3, 1 / 3), samples)
        for sample in range(samples):
            drawn[sample] += 0.5 * drawn_difference(
                [item.counts for item in packed[0]],
                [item.counts for item in packed[1]],
                packed[0][0].class_ids,
                packed[0][0].queries,
                list(CLASSES),
                dict(zip(names.tolist(), queries[sample].tolist(), strict=True)),
                seeds[sample].tolist(),
            )
    found = paired_difference(mine, theirs, samples=samples)
    assert found is not None
    assert found.interval == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=1e-12)
    means = [[row[key]["scores"]["miou"]["mean"] for key in sorted(row)] for row in (mine, theirs)]
    assert found.miou == pytest.approx(np.subtract(*means).mean())
    assert (found.pairs, found.wins) == (6, int((np.subtract(*means) > 0).sum()))


def test_what_both_rows_share_cancels_out() -> None:
    mine = runs()
    same = paired_difference(mine, runs())
    assert same is not None
    assert (same.miou, same.interval, same.sign, same.wins) == (0.0, (0.0, 0.0), "0", 0)
    better = paired_difference(runs(better=2000), mine)
    worse = paired_difference(mine, runs(better=2000))
    assert better is not None
    assert worse is not None
    assert (better.sign, better.wins, worse.sign, worse.wins) == ("+", 6, "-", 0)
    assert worse.miou == pytest.approx(-better.miou)


def test_seeds_that_disagree_widen_the_interval() -> None:
    # Two seeds gain and lose the same: without drawing seeds the interval would be a point at 0.
    base = runs(folds=(2,), seeds=2)
    for fold, seed in base:
        base[fold, seed] = result(counted(7, better=3000), fold=fold)
    changed = {(2, seed): result(counted(7, better=better), fold=2) for seed, better in enumerate((0, 6000))}
    found = paired_difference(changed, base)
    assert found is not None
    assert abs(found.miou) < 1e-9
    assert found.interval[0] < -0.02
    assert found.interval[1] > 0.02
    assert (found.sign, found.wins, found.pairs) == ("0", 1, 2)


def test_only_pairs_that_both_have_are_compared() -> None:
    mine = runs(better=2000)
    part = {key: value for key, value in runs().items() if key in ((2, 0), (2, 1), (3, 2))}
    found = paired_difference(mine, part)
    assert found is not None
    assert found.pairs == 3
    expected = [[mine[key]["scores"]["miou"]["mean"] - part[key]["scores"]["miou"]["mean"] for key in keys]
                for keys in ([(2, 0), (2, 1)], [(3, 2)])]  # fmt: skip
    assert found.miou == pytest.approx(np.mean([np.mean(values) for values in expected]))
    assert paired_difference(mine, {}) is None


def test_other_episodes_are_refused() -> None:
    other = runs()
    other[2, 1]["episodes_hash"] = "other"
    with pytest.raises(ValueError, match="Expected two results on the same episodes, but episodes_hash differs"):
        paired_difference(runs(), other)
