"""References for the heads of other papers, from their equations, in loops.

PFENet (TPAMI 2020), section 3.3: each scale pools the query and the prior, merges them with the expanded prototype,
takes in the finer scale (alpha) and refines (beta), both with residual links; a 1x1 convolution joins all scales.

HSNet (ICCV 2021), equation 5: a centre-pivot 4D kernel is a 4D kernel that is zero but where the offset of one of the
two positions is zero; equations 1 and 2: the correlation is the clamped cosine to the masked support.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from reference.resize import bilinear_align_corners


def pointwise(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ReLU of a 1x1 convolution: weight [O,C], x [C,h,w]."""
    out = np.zeros((len(weight), *x.shape[1:]))
    for o, i, j in itertools.product(*map(range, out.shape)):
        out[o, i, j] = max(0.0, sum(weight[o, c] * x[c, i, j] for c in range(len(x))))
    return out


def conv3(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ReLU of a 3x3 convolution with zeros around: weight [O,C,3,3], x [C,h,w]."""
    channels, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for o, i, j in itertools.product(*map(range, out.shape)):
        total = 0.0
        for c, di, dj in itertools.product(range(channels), (-1, 0, 1), (-1, 0, 1)):
            if 0 <= i + di < height and 0 <= j + dj < width:
                total += weight[o, c, di + 1, dj + 1] * x[c, i + di, j + dj]
        out[o, i, j] = max(0.0, total)
    return out


def pool(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over cells that cover the map [C,H,W], as even as whole positions allow: [C,height,width]."""
    out = np.zeros((len(x), height, width))
    for c, i, j in itertools.product(*map(range, out.shape)):
        rows = range(math.floor(i * x.shape[1] / height), math.ceil((i + 1) * x.shape[1] / height))
        columns = range(math.floor(j * x.shape[2] / width), math.ceil((j + 1) * x.shape[2] / width))
        out[c, i, j] = np.mean([x[c, row, column] for row in rows for column in columns])
    return out


def enriched(
    query: np.ndarray, prototype: np.ndarray, prior: np.ndarray, weights: dict[str, np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """PFENet's feature enrichment of a query [C,h,w], a prototype [C] and a prior [1,h,w]."""
    height, width = query.shape[1:]
    scales: list[np.ndarray] = []
    for number, divisor in enumerate((1, 2, 4, 8)):
        h, w = math.ceil(height / divisor), math.ceil(width / divisor)
        expanded = np.broadcast_to(prototype[:, None, None], (len(prototype), h, w))
        main = pointwise(weights[f"merge.{number}"], np.concatenate([pool(query, h, w), expanded, pool(prior, h, w)]))
        if number:
            finer = bilinear_align_corners(scales[-1], h, w)
            main = main + pointwise(weights[f"alpha.{number - 1}"], np.concatenate([main, finer]))
        first, second = weights[f"beta.{number}.first"], weights[f"beta.{number}.second"]
        scales.append(main + conv3(second, conv3(first, main)))
    whole = [bilinear_align_corners(scale, height, width) for scale in scales]
    return pointwise(weights["concentrate"], np.concatenate(whole)), scales


def centre_pivot(
    x: np.ndarray, k_query: np.ndarray, k_support: np.ndarray, bias: np.ndarray, stride: int
) -> np.ndarray:
    """The 4D convolution of x [C,h,w,s,t] by a kernel that is zero off the two centres; stride on s and t."""
    outs, channels, size, _ = k_query.shape
    half = size // 2
    kernel = np.zeros((outs, channels, size, size, size, size))
    kernel[:, :, :, :, half, half] += k_query
    kernel[:, :, half, half, :, :] += k_support
    _, h, w, s, t = x.shape
    out = np.zeros((outs, h, w, math.ceil(s / stride), math.ceil(t / stride)))
    for i, j, k, m in itertools.product(*map(range, out.shape[1:])):
        at = (i, j, k * stride, m * stride)
        for offset in itertools.product(range(size), repeat=4):
            if not kernel[(slice(None), slice(None), *offset)].any():
                continue
            place = tuple(a + d - half for a, d in zip(at, offset, strict=True))
            if all(0 <= p < side for p, side in zip(place, (h, w, s, t), strict=True)):
                out[:, i, j, k, m] += kernel[(slice(None), slice(None), *offset)] @ x[(slice(None), *place)]
    return out + bias[:, None, None, None, None]


def correlation(query: np.ndarray, support: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Clamped cosines of all pairs of positions, [h,w,s,t], of query [D,h,w] and masked support [D,s,t]."""
    out = np.zeros((*query.shape[1:], *support.shape[1:]))
    for i, j, k, m in itertools.product(*map(range, out.shape)):
        a, b = query[:, i, j], support[:, k, m] * mask[k, m]
        length = math.sqrt(a @ a) * math.sqrt(b @ b)
        out[i, j, k, m] = max(0.0, a @ b / length) if length else 0.0
    return out
