"""Masks that a model's own scores stand in for, where a class is learned from photos that nobody annotated.

What `adaptation` makes of a user's photos and `evaluation` of an episode's; training's pseudo-labels are in `losses`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rifenet.formats.pictures import IGNORE

COUNT = 3
"""Photos that a class adopts, the surest of those it may."""
SURE = math.log(0.7 / 0.3)
"""Logit difference from which on a pixel teaches: scores of 0.7 and more, and of 0.3 and less."""


def pseudo_mask(differences: NDArray[np.float32], counts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mask of a class as a shot has it, [H,W], of logit differences [H,W].

    1 and 0 where they are sure, 255 where they are not, and where the pixel does not count.
    """
    mask = np.full(differences.shape, IGNORE, np.uint8)
    mask[differences >= SURE], mask[differences <= -SURE] = 1, 0
    mask[~counts] = IGNORE
    return mask
