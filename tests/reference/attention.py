"""Reference for the attention of the feature activation (method.md section 8, steps 1 and 2).

> 1. self-attention over the `N` query tokens: deformable attention, 8 heads, 9 points, one level, sine position
>    encoding on the queries; residual, LayerNorm; FFN (3x wide), LayerNorm;
> 2. cross-attention from query tokens to support tokens, cycle-consistent: per head, a support token whose best query
>    token's best support token carries the other label (foreground/background) is masked out (argmax over valid
>    positions, ties to the lowest index); residual, LayerNorm; FFN, LayerNorm.

Only the attention itself is here: no residual, LayerNorm, FFN or dropout. Tokens are in row-major order, token
`row * w + column`. Head `m` owns the channels `m*d` to `(m+1)*d`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """`weight @ row + bias` for every row, [n, out], of `x`, [n, in], with `weight`, [out, in], and `bias`, [out]."""
    x, weight, bias = (np.asarray(array, dtype=np.float64) for array in (x, weight, bias))
    out = np.zeros((len(x), len(weight)))
    for n in range(len(x)):
        for o in range(len(weight)):
            out[n, o] = sum(weight[o, i] * x[n, i] for i in range(x.shape[1])) + bias[o]
    return out


def softmax(logits: list[float]) -> list[float]:
    """Softmax of a non-empty list."""
    largest = max(logits)
    exponentials = [math.exp(logit - largest) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def bilinear_or_zero(grid: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear sample, [d], of `grid`, [h, w, d], at pixel coordinates; each neighbour outside the map is a zero."""
    h, w, d = grid.shape
    top, left = math.floor(y), math.floor(x)
    out = np.zeros(d)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < h and 0 <= column < w:
                out += (1 - abs(y - row)) * (1 - abs(x - column)) * grid[row, column]
    return out


def deformable(
    query_with_pos: np.ndarray,
    value_in: np.ndarray,
    h: int,
    w: int,
    valid: np.ndarray,
    heads: int,
    points: int,
    weights: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Single-level deformable attention, [N, C], with N = h*w.

    Args:
        query_with_pos: tokens with their position encoding, [N, C]; they give the offsets and the attention weights.
        value_in: tokens without position encoding, [N, C].
        h: rows of the map.
        w: columns of the map.
        valid: bool [N]; the projected value of an invalid position is zero.
        heads: number of heads; C is a multiple of it.
        points: sampling points per head.
        weights: `value_w` [C, C], `value_b` [C], `offset_w` [heads*points*2, C] (last axis x, y in feature pixels),
            `offset_b`, `attn_w` [heads*points, C], `attn_b`, `out_w` [C, C], `out_b`.
    """
    tokens, channels = value_in.shape
    d = channels // heads
    value = linear(value_in, weights["value_w"], weights["value_b"])
    for n in range(tokens):
        if not valid[n]:
            value[n] = 0.0
    grid = value.reshape(h, w, heads, d)
    offsets = linear(query_with_pos, weights["offset_w"], weights["offset_b"]).reshape(tokens, heads, points, 2)
    logits = linear(query_with_pos, weights["attn_w"], weights["attn_b"]).reshape(tokens, heads, points)
    sampled = np.zeros((tokens, channels))
    for row in range(h):
        for column in range(w):
            n = row * w + column
            for m in range(heads):
                attention = softmax([float(logit) for logit in logits[n, m]])
                for p in range(points):
                    dx, dy = offsets[n, m, p]
                    sample = bilinear_or_zero(grid[:, :, m], row + dy, column + dx)
                    sampled[n, m * d : (m + 1) * d] += attention[p] * sample
    return linear(sampled, weights["out_w"], weights["out_b"])


def cycle_mask(
    query: np.ndarray,
    keys: np.ndarray,
    query_valid: np.ndarray,
    token_valid: np.ndarray,
    token_labels: np.ndarray,
) -> np.ndarray:
    """Which support tokens each head may attend to, bool [heads, T]; an invalid token is never kept.

    Args:
        query: projected query tokens, [N, heads, d].
        keys: projected support tokens, [T, heads, d].
        query_valid: bool [N].
        token_valid: bool [T].
        token_labels: True for foreground, bool [T].
    """
    query = np.asarray(query, dtype=np.float64)
    keys = np.asarray(keys, dtype=np.float64)
    tokens, heads, d = keys.shape
    valid_queries = [n for n in range(len(query)) if query_valid[n]]
    valid_tokens = [t for t in range(tokens) if token_valid[t]]
    keep = np.zeros((heads, tokens), dtype=bool)
    for m in range(heads):

        def affinity(n: int, t: int, head: int = m) -> float:
            return float(sum(query[n, head, i] * keys[t, head, i] for i in range(d)))

        for t in valid_tokens:
            if not valid_queries:
                keep[m, t] = True
                continue
            best_query = valid_queries[0]
            for n in valid_queries:
                if affinity(n, t) > affinity(best_query, t):
                    best_query = n
            best_token = valid_tokens[0]
            for other in valid_tokens:
                if affinity(best_query, other) > affinity(best_query, best_token):
                    best_token = other
            keep[m, t] = bool(token_labels[best_token]) == bool(token_labels[t])
    return keep


def cross(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, keep: np.ndarray, token_valid: np.ndarray
) -> np.ndarray:
    """Softmax attention over the kept valid tokens, scaled by 1/sqrt(d), [N, heads*d]; zeros where no token is left.

    Args:
        query: projected query tokens, [N, heads, d].
        keys: projected support tokens, [T, heads, d].
        values: projected support tokens, [T, heads, d].
        keep: bool [heads, T].
        token_valid: bool [T].
    """
    query = np.asarray(query, dtype=np.float64)
    keys = np.asarray(keys, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    positions, heads, d = query.shape
    out = np.zeros((positions, heads * d))
    for n in range(positions):
        for m in range(heads):
            allowed = [t for t in range(len(keys)) if keep[m, t] and token_valid[t]]
            if not allowed:
                continue
            logits = [float(sum(query[n, m, i] * keys[t, m, i] for i in range(d))) / math.sqrt(d) for t in allowed]
            for attention, t in zip(softmax(logits), allowed, strict=True):
                out[n, m * d : (m + 1) * d] += attention * values[t, m]
    return out


def sine_position(h: int, w: int, channels: int) -> np.ndarray:
    """Sine position encoding, [channels, h, w]: the first half of the channels for the row, the second for the column.

    Channel `i` of a half is sin (even `i`) or cos (odd `i`) of `2*pi*(index+1)/size / 10000**(2*(i//2)/(channels/2))`.
    """
    half = channels // 2
    out = np.zeros((channels, h, w))
    for row in range(h):
        for column in range(w):
            for i in range(half):
                wavelength = 10000 ** (2 * (i // 2) / half)
                function = math.sin if i % 2 == 0 else math.cos
                out[i, row, column] = function((row + 1) / h * 2 * math.pi / wavelength)
                out[half + i, row, column] = function((column + 1) / w * 2 * math.pi / wavelength)
    return out
