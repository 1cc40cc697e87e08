"""Reference for the multi-level prototype interaction (method.md section 7).

> Query: `[query C | global C, expanded | local g*g*c, expanded | prior 1] -> 1x1 conv -> ReLU -> C`.
> Support: `[support C | that shot's own masked average, expanded] -> 1x1 conv -> ReLU -> C`.

The method lets what is constant over the map go through the conv once; here everything is concatenated at every
position, so that the two ways can be compared.
"""

from __future__ import annotations

import numpy as np


def merge(parts: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """ReLU of the bias-free 1x1 conv `weight`, [C, sum of channels], on the concatenated `parts`, each [*, h, w]."""
    weight = np.asarray(weight, dtype=np.float64)
    stacked = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=0)
    out_channels, in_channels = weight.shape
    if len(stacked) != in_channels:
        raise ValueError(f"Expected {in_channels} concatenated channels for this weight, but got {len(stacked)}.")
    _, h, w = stacked.shape
    out = np.zeros((out_channels, h, w))
    for i in range(h):
        for j in range(w):
            for o in range(out_channels):
                out[o, i, j] = max(sum(weight[o, c] * stacked[c, i, j] for c in range(in_channels)), 0.0)
    return out


def expand(vector: np.ndarray, h: int, w: int) -> np.ndarray:
    """The vector [C] repeated at every position, [C, h, w]."""
    out = np.zeros((len(vector), h, w))
    for c in range(len(vector)):
        out[c] = vector[c]
    return out


def query_merge(
    projected: np.ndarray,
    global_prototype: np.ndarray | None,
    local: np.ndarray | None,
    prior: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Merged query features, [C, h, w]; a prototype that is None is left out of the concatenation.

    Args:
        projected: projected query features, [C, h, w].
        global_prototype: [C] or None.
        local: flattened local prototype, [L] or None.
        prior: prior mask, [h, w].
        weight: the 1x1 conv, [C, C (+ C) (+ L) + 1], its inputs in the order of the method.
    """
    _, h, w = projected.shape
    parts = [projected]
    if global_prototype is not None:
        parts.append(expand(global_prototype, h, w))
    if local is not None:
        parts.append(expand(local, h, w))
    parts.append(np.asarray(prior)[None])
    return merge(parts, weight)


def support_merge(projected: np.ndarray, own_prototype: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Merged features of one shot, [C, h, w].

    Args:
        projected: projected features of the shot, [C, h, w].
        own_prototype: masked average of the shot's own projected features, [C].
        weight: the 1x1 conv, [C, 2C].
    """
    _, h, w = projected.shape
    return merge([projected, expand(own_prototype, h, w)], weight)
