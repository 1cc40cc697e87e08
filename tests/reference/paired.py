"""The paired bootstrap of an ablation as loops: draws come from outside, everything else is counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def drawn_difference(
    mine: Sequence[NDArray[np.integer]],
    theirs: Sequence[NDArray[np.integer]],
    class_ids: NDArray[np.integer],
    queries: NDArray[np.integer],
    classes: Sequence[int],
    drawn_queries: dict[int, int],
    drawn_seeds: Sequence[int],
) -> float:
    """One fold's difference in one sample: counts [S][R,N,2,2], how often each query and each seed was drawn."""
    total, weight = 0.0, 0
    for seed, times in enumerate(drawn_seeds):
        for run in range(len(class_ids)):
            scores = []
            for counts in (mine[seed], theirs[seed]):
                ious = []
                for class_id in classes:
                    intersection = union = 0
                    for episode in range(class_ids.shape[1]):
                        if class_ids[run, episode] == class_id:
                            repeated = drawn_queries.get(int(queries[run, episode]), 0)
                            intersection += repeated * int(counts[run, episode, 1, 0])
                            union += repeated * int(counts[run, episode, 1, 1])
                    if union:
                        ious.append(intersection / union)
                scores.append(sum(ious) / len(ious))
            total += times * (scores[0] - scores[1])
            weight += times
    return total / weight
