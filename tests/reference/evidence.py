"""Reference for the evidence head (beyond the paper) and its loss: how similar a query is to the support and to itself.

> Support position p of shot k has the foreground weight f, the void weight v and the background weight
> b = max(1 - f - v, 0). Features of each stage have unit length per position. For each stage, and for all of them
> together where there are several (the concatenation of the units), five maps:
> 1. the largest cosine to a foreground position: f at least half of the largest f, over all shots;
> 2. the largest cosine to a background position: b > 0.5; at least 0;
> 3. the cosine to the foreground mean, which weighs the units by f;
> 4. the cosine to the background mean, which weighs them by b;
> 5. the share F / (F + B) of a vote, F = sum_p f_p / sum(f) * exp(20 * (cosine - 1)), B likewise with b.
> Score: the cosine to the foreground mean minus that to the background mean, of all stages together.

All shots are one long list of positions. A position of neither weight has no say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def levels(feature: np.ndarray, channels: Sequence[int]) -> list[np.ndarray]:
    """Of one position's feature, [D]: each stage at unit length, then, of several stages, these one after the other."""
    out, start = [], 0
    for count in channels:
        stage = np.asarray(feature[start : start + count], dtype=np.float64)
        out.append(stage / math.sqrt(sum(value * value for value in stage)))
        start += count
    return [*out, np.concatenate(out)] if len(out) > 1 else out


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors; 0 where one of them is 0."""
    dot = squares_a = squares_b = 0.0
    for x, y in zip(a, b, strict=True):
        dot += x * y
        squares_a += x * x
        squares_b += y * y
    return dot / math.sqrt(squares_a * squares_b) if squares_a * squares_b > 0 else 0.0


def weighted_mean(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Mean of vectors under weights; 0 where these sum to 0."""
    total, mass = np.zeros(len(vectors[0])), 0.0
    for vector, weight in zip(vectors, weights, strict=True):
        total += weight * vector
        mass += weight
    return total / mass if mass > 0 else total


def similarity(
    query: np.ndarray, support: np.ndarray, foreground: np.ndarray, void: np.ndarray, channels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Maps, [5 * levels, h, w], level by level, and score, [h, w].

    Args:
        query: features, [D, h, w].
        support: features, [K, D, H, W].
        foreground: soft masks, [K, H, W], in [0, 1].
        void: weights of ignored pixels, [K, H, W], in [0, 1].
        channels: channels of each stage; their sum is D.
    """
    f, b, keys = [], [], []
    for k in range(len(support)):
        for i in range(support.shape[2]):
            for j in range(support.shape[3]):
                f.append(float(foreground[k, i, j]))
                b.append(max(1 - float(foreground[k, i, j]) - float(void[k, i, j]), 0.0))
                keys.append(levels(support[k, :, i, j], channels))
    count = len(keys[0])
    means = [[weighted_mean([key[level] for key in keys], weights) for weights in (f, b)] for level in range(count)]
    _, height, width = query.shape
    maps, score = np.zeros((5 * count, height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            feature = levels(query[:, i, j], channels)
            for level in range(count):
                cosines = [cosine(feature[level], key[level]) for key in keys]
                to_means = [cosine(feature[level], mean) for mean in means[level]]
                maps[5 * level : 5 * level + 5, i, j] = [
                    max(c for c, weight in zip(cosines, f, strict=True) if weight >= max(f) / 2),
                    max([0.0, *(c for c, weight in zip(cosines, b, strict=True) if weight > 0.5)]),
                    *to_means,
                    vote(cosines, f, b),
                ]
                score[i, j] = to_means[0] - to_means[1]  # the last level stays
    return maps, score


def vote(cosines: Sequence[float], f: Sequence[float], b: Sequence[float]) -> float:
    """The foreground's share of a vote of all positions."""
    for_foreground = sum(w / sum(f) * math.exp(20 * (c - 1)) for c, w in zip(cosines, f, strict=True))
    for_background = sum(w / sum(b) * math.exp(20 * (c - 1)) for c, w in zip(cosines, b, strict=True))
    return for_foreground / (for_foreground + for_background)


def own_maps(query: np.ndarray, estimate: np.ndarray, valid: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Cosines to the query's own background and foreground mean, [2 * levels, h, w], level by level.

    Args:
        query: features, [D, h, w].
        estimate: probability p of the foreground, [h, w]; positions weigh p^2 and (1 - p)^2.
        valid: positions that count, bool [h, w].
        channels: channels of each stage.
    """
    _, height, width = query.shape
    positions = [(i, j) for i in range(height) for j in range(width)]
    features = {(i, j): levels(query[:, i, j], channels) for i, j in positions}
    real = [position for position in positions if valid[position]]
    count = len(features[0, 0])
    out = np.zeros((2 * count, height, width))
    for level in range(count):
        vectors = [features[position][level] for position in real]
        background = weighted_mean(vectors, [(1 - float(estimate[position])) ** 2 for position in real])
        foreground = weighted_mean(vectors, [float(estimate[position]) ** 2 for position in real])
        for i, j in positions:
            out[2 * level, i, j] = cosine(features[i, j][level], background)
            out[2 * level + 1, i, j] = cosine(features[i, j][level], foreground)
    return out


def group_norm(
    x: np.ndarray, groups: int, weight: np.ndarray, bias: np.ndarray, real: np.ndarray | None = None
) -> np.ndarray:
    """Of `x`, [c, N]: each group of channels to mean 0 and variance 1 over its channels and positions, then scaled.

    Where `real`, [N], is false there is neither a say nor a value but 0.
    """
    kept = range(x.shape[1]) if real is None else [n for n in range(x.shape[1]) if real[n]]
    size = len(x) // groups
    out = np.zeros_like(x)
    for group in range(groups):
        rows = range(group * size, (group + 1) * size)
        values = [x[row][n] for row in rows for n in kept]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        for row in rows:
            for n in kept:
                out[row][n] = (x[row][n] - mean) / math.sqrt(variance + 1e-5) * weight[row] + bias[row]
    return out


def spread(
    x: np.ndarray, cosines: np.ndarray, real: np.ndarray, sharpness: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Attention by cosines, [c, N]: softmax over the real positions of `cosine * sharpness`, one sharpness per head.

    Args:
        x: [c, N]; head m owns an equal share of the channels of its values.
        cosines: of position to position, [N, N].
        real: positions that are attended to, bool [N].
        sharpness: [heads].
        value: 1x1 convolution to the values, [c, c].
    """
    dim, count = x.shape
    values = np.zeros((dim, count))
    for o in range(dim):
        for n in range(count):
            values[o, n] = sum(value[o, c] * x[c, n] for c in range(dim))
    own = dim // len(sharpness)
    out = np.zeros((dim, count))
    for head, sharp in enumerate(sharpness):
        for n in range(count):
            weights = {m: math.exp(sharp * (cosines[n, m] - 1)) for m in range(count) if real[m]}
            for m, weight in weights.items():
                for c in range(head * own, (head + 1) * own):
                    out[c, n] += weight / sum(weights.values()) * values[c, m]
    return out


def mask_evidence(logits: np.ndarray, mask: np.ndarray) -> float:
    """Of one image: mean cross-entropy plus `1 - (2*sum(p*t) + 1) / (sum(p^2) + sum(t^2) + 1)`.

    Args:
        logits: background and foreground, [2, H, W]; p is the foreground's softmax.
        mask: 1 foreground, 0 background, 255 in no sum, [H, W].
    """
    entropy = overlap = squares = 0.0
    pixels = 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            if mask[i, j] == 255:
                continue
            background, foreground = math.exp(logits[0, i, j]), math.exp(logits[1, i, j])
            p = foreground / (background + foreground)
            t = int(mask[i, j])
            entropy -= math.log(p if t else background / (background + foreground))
            overlap += p * t
            squares += p * p + t * t
            pixels += 1
    return entropy / max(pixels, 1) + 1 - (2 * overlap + 1) / (squares + 1)
