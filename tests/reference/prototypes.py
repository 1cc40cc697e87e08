"""Reference for the multi-level prototypes (method.md section 6).

> *Global support prototype* `[B,C]`: masked average pooling (soft mask) of the projected support features; mean over
> shots.
> *Local query prototype* `[B,g*g*c]`: `low` query features -> 1x1 conv to `c = 64` -> ReLU -> Dropout2d(0.5) ->
> multiplied by the prior mask -> average-pooled on a `g x g` grid (`g = 4`; the authors pool 15x15 windows of a 60x60
> map) -> 1x1 conv -> channel attention (squeeze and excitation) -> flattened.
> Adaptive pooling over valid positions, so that every size works and 473 gives the same windows as the authors'.

Beyond the text: an empty mask gives a zero prototype, which still counts in the mean over shots; a grid cell without a
valid position is 0; no convolution has a bias; the flattened order is channel-major. Dropout is off.
"""

from __future__ import annotations

import math

import numpy as np


def masked_average(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean, [C], of `features`, [C, h, w], under `weight`, [h, w]; zeros where the weights sum to 0."""
    features = np.asarray(features, dtype=np.float64)
    weight = np.asarray(weight, dtype=np.float64)
    channels, h, w = features.shape
    total = np.zeros(channels)
    mass = 0.0
    for i in range(h):
        for j in range(w):
            mass += weight[i, j]
            for c in range(channels):
                total[c] += weight[i, j] * features[c, i, j]
    if mass > 0:
        total /= mass
    return total


def global_prototype(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the shots, [C], of the masked averages of `features`, [K, C, h, w], under `weights`, [K, h, w]."""
    shots, channels = features.shape[:2]
    total = np.zeros(channels)
    for k in range(shots):
        total += masked_average(features[k], weights[k])
    total /= shots
    return total


def grid_pool(features: np.ndarray, valid: np.ndarray, g: int) -> np.ndarray:
    """Mean over each cell's valid positions, [c, g, g], of `features`, [c, h, w], with `valid`, bool [h, w].

    Cell `i` of an axis of size `n` covers `floor(i*n/g)` to `ceil((i+1)*n/g)` exclusive, so cells may overlap.
    """
    features = np.asarray(features, dtype=np.float64)
    channels, h, w = features.shape
    out = np.zeros((channels, g, g))
    for i in range(g):
        for j in range(g):
            count = 0
            for row in range(math.floor(i * h / g), math.ceil((i + 1) * h / g)):
                for column in range(math.floor(j * w / g), math.ceil((j + 1) * w / g)):
                    if valid[row, column]:
                        count += 1
                        for c in range(channels):
                            out[c, i, j] += features[c, row, column]
            if count:
                out[:, i, j] /= count
    return out


def channel_attention(x: np.ndarray, w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """Squeeze and excitation, [c, g, g], of `x`, [c, g, g], with bias-free layers `w1`, [r, c], and `w2`, [c, r]."""
    x = np.asarray(x, dtype=np.float64)
    channels, height, width = x.shape
    reduced = len(w1)
    squeezed = [
        sum(x[c, i, j] for i in range(height) for j in range(width)) / (height * width) for c in range(channels)
    ]
    hidden = [max(sum(w1[r, c] * squeezed[c] for c in range(channels)), 0.0) for r in range(reduced)]
    out = np.zeros_like(x)
    for c in range(channels):
        gate = 1 / (1 + math.exp(-sum(w2[c, r] * hidden[r] for r in range(reduced))))
        out[c] = gate * x[c]
    return out


def local_prototype(
    low_reduced: np.ndarray,
    prior: np.ndarray,
    valid: np.ndarray,
    g: int,
    refine_weight: np.ndarray,
    w1: np.ndarray,
    w2: np.ndarray,
) -> np.ndarray:
    """Local query prototype, [g*g*c], channel-major.

    Args:
        low_reduced: low query features after their 1x1 conv and ReLU, [c, h, w].
        prior: prior mask, [h, w].
        valid: True where the query has real pixels, bool [h, w].
        g: cells per side of the pooling grid.
        refine_weight: the 1x1 conv after the pooling, [c, c].
        w1: first layer of the channel attention, [r, c].
        w2: second layer of the channel attention, [c, r].
    """
    low_reduced = np.asarray(low_reduced, dtype=np.float64)
    channels, h, w = low_reduced.shape
    weighted = np.zeros_like(low_reduced)
    for c in range(channels):
        for i in range(h):
            for j in range(w):
                weighted[c, i, j] = low_reduced[c, i, j] * prior[i, j]
    pooled = grid_pool(weighted, valid, g)
    refined = np.zeros_like(pooled)
    for out_channel in range(channels):
        for c in range(channels):
            refined[out_channel] += refine_weight[out_channel, c] * pooled[c]
    attended = channel_attention(refined, w1, w2)
    return np.array([attended[c, i, j] for c in range(channels) for i in range(g) for j in range(g)])
