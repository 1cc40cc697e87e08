"""Reference for the prior mask (method.md section 5).

> For query position `q`, the largest cosine similarity of `high[q]` to any *foreground* position of the support's
> `high` features, clamped at 0, min-max normalised over the query's valid positions to [0,1], averaged over the K
> shots. `[B,1,h,w]`. Foreground: the support mask resized bilinearly, weight > 0, features weighted by it. 255 counts
> as not foreground and not background.

Beyond the text: 1e-7 is added to the min-max denominator, so a constant map gives 0; a shot without any foreground
weight contributes 0 and still counts in the mean; invalid query positions are 0; the cosine to a zero vector is 0;
every foreground position is compared (no cap on the number of keys).
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-7


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two vectors; 0 where one of them is zero."""
    dot = squares_a = squares_b = 0.0
    for left, right in zip(a, b, strict=True):
        dot += left * right
        squares_a += left * left
        squares_b += right * right
    if squares_a == 0 or squares_b == 0:
        return 0.0
    return dot / (math.sqrt(squares_a) * math.sqrt(squares_b))


def prior_mask(
    query_high: np.ndarray, query_valid: np.ndarray, support_high: np.ndarray, support_soft_mask: np.ndarray
) -> np.ndarray:
    """Prior mask, [h, w], in [0, 1].

    Args:
        query_high: query features, [Ch, h, w].
        query_valid: True where the query has real pixels, bool [h, w].
        support_high: support features, [K, Ch, h, w].
        support_soft_mask: support masks resized bilinearly, [K, h, w], in [0, 1].
    """
    query_high = np.asarray(query_high, dtype=np.float64)
    support_high = np.asarray(support_high, dtype=np.float64)
    support_soft_mask = np.asarray(support_soft_mask, dtype=np.float64)
    _, h, w = query_high.shape
    shots, _, support_h, support_w = support_high.shape
    positions = [(i, j) for i in range(h) for j in range(w) if query_valid[i, j]]
    total = np.zeros((h, w))
    for k in range(shots):
        foreground = []
        for i in range(support_h):
            for j in range(support_w):
                weight = support_soft_mask[k, i, j]
                if weight > 0:
                    foreground.append(weight * support_high[k, :, i, j])
        if not foreground or not positions:
            continue
        similarity = {}
        for i, j in positions:
            best = max(cosine(query_high[:, i, j], feature) for feature in foreground)
            similarity[i, j] = max(best, 0.0)
        low, high = min(similarity.values()), max(similarity.values())
        for i, j in positions:
            total[i, j] += (similarity[i, j] - low) / (high - low + EPS)
    total /= shots
    return total
