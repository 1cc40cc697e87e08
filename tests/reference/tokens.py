"""Reference for the choice of support tokens (method.md section 8).

> Support tokens: foreground = soft mask > 0.5. 300 foreground and 300 background from the union of the shots, times K
> up to a cap (`max_support_tokens`, 1,200); where one side is short the other fills up; where the map is smaller than
> the count, empty slots are masked; where no foreground survives the resize, the position of the largest soft mask
> counts as foreground. [...] At test the choice is deterministic and evenly spaced, by cumulative rank and fixed-size
> selection with a validity mask (so that it exports).

Beyond the text: 255 is neither side, so a position that is mostly void (more than 0.5) is no background; the fallback
position is the lowest index among equal largest, and is found only where the soft mask is non-zero somewhere.
"""

from __future__ import annotations

import numpy as np


def select_evenly(label_mask: np.ndarray, count: int) -> np.ndarray:
    """Ascending indices of min(count, F) evenly spaced entries among the F True ones of `label_mask`, bool [M].

    The True entry of rank r is chosen where `floor((r+1)*count/F) > floor(r*count/F)`.
    """
    total = sum(1 for flag in label_mask if flag)
    chosen = []
    rank = 0
    for index, flag in enumerate(label_mask):
        if not flag:
            continue
        if (rank + 1) * count // total > rank * count // total:
            chosen.append(index)
        rank += 1
    return np.array(chosen, dtype=np.int64)


def counts(foreground: int, background: int, total: int) -> tuple[int, int]:
    """How many (foreground, background) tokens are taken when there are so many of each and `total` slots.

    Half of the slots each; a side that has fewer leaves all the remaining slots to the other.
    """
    half = total // 2
    if foreground < half:
        return foreground, min(background, total - foreground)
    if background < half:
        return min(foreground, total - background), background
    return half, half


def labels(soft_mask: np.ndarray, soft_void: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which positions are foreground and which background, two bool arrays of the shape of `soft_mask`.

    Args:
        soft_mask: foreground mask resized bilinearly, in [0, 1], any shape.
        soft_void: mask of the 255 pixels resized bilinearly, in [0, 1], same shape.
        valid: True where the support has real pixels, bool, same shape.
    """
    soft_mask = np.asarray(soft_mask, dtype=np.float64)
    soft_void = np.asarray(soft_void, dtype=np.float64)
    foreground = np.zeros(soft_mask.size, dtype=bool)
    largest, largest_index = 0.0, -1
    for index, value in enumerate(soft_mask.ravel()):
        foreground[index] = value > 0.5
        if value > largest:
            largest, largest_index = value, index
    if not foreground.any() and largest_index >= 0:
        foreground[largest_index] = True
    background = np.zeros(soft_mask.size, dtype=bool)
    for index, (void, is_valid) in enumerate(zip(soft_void.ravel(), np.asarray(valid).ravel(), strict=True)):
        background[index] = not foreground[index] and bool(is_valid) and void <= 0.5
    return foreground.reshape(soft_mask.shape), background.reshape(soft_mask.shape)
