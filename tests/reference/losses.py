"""Reference for the losses of one image (method.md section 10).

> Dice, per image and channel: `1 - 2*sum(p*t) / (sum(p^2) + sum(t^2))`, `p` = sigmoid of that channel's logit, targets
> [background, foreground]; summed over the 2 channels, mean over the batch; ignored pixels are in no sum.
> `L_self` at feature size: Dice between the strong view's prediction and the weak view's detached pseudo-label.

Beyond the text: 1e-7 is added to each denominator, so that an image without a scored pixel has a loss of 2.
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-7


def sigmoid(x: float) -> float:
    """Logistic function, safe for large |x|."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def dice_soft(logits: np.ndarray, target_probability: np.ndarray, valid: np.ndarray) -> float:
    """Dice loss summed over the two channels, in [0, 2].

    Args:
        logits: [2, h, w], background and foreground.
        target_probability: [2, h, w], in [0, 1].
        valid: bool [h, w]; other pixels are in no sum.
    """
    _, h, w = logits.shape
    loss = 0.0
    for channel in range(2):
        overlap = squares_p = squares_t = 0.0
        for i in range(h):
            for j in range(w):
                if not valid[i, j]:
                    continue
                p = sigmoid(float(logits[channel, i, j]))
                t = float(target_probability[channel, i, j])
                overlap += p * t
                squares_p += p * p
                squares_t += t * t
        loss += 1 - 2 * overlap / (squares_p + squares_t + EPS)
    return loss


def dice(logits: np.ndarray, target: np.ndarray) -> float:
    """Dice loss summed over the two channels, in [0, 2].

    Args:
        logits: [2, H, W], background and foreground.
        target: [H, W]; 0 background, 1 foreground, 255 ignored.
    """
    h, w = target.shape
    one_hot = np.zeros((2, h, w))
    valid = np.zeros((h, w), dtype=bool)
    for i in range(h):
        for j in range(w):
            label = int(target[i, j])
            if label == 255:
                continue
            valid[i, j] = True
            one_hot[label, i, j] = 1.0
    return dice_soft(logits, one_hot, valid)
