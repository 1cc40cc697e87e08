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
SURE = math.log(7 / 3)
"""Margin (`segmenting.margins`) from which on a pixel teaches that it is the class; from minus as much down, that it is
not. The odds are then 7/3 and 3/7 times those of the mask's threshold. With the bundled model's threshold of 0.33 these
are probabilities of 0.535 and 0.174, with a threshold of 0.5 they are 0.7 and 0.3."""


def pseudo_mask(margins: NDArray[np.float32], counts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mask of a class as a shot has it, [H,W], from margins [H,W].

    1 and 0 where they are sure, 255 where they are not, and where the pixel does not count.
    """
    mask = np.full(margins.shape, IGNORE, np.uint8)
    mask[margins >= SURE], mask[margins <= -SURE] = 1, 0
    mask[~counts] = IGNORE
    return mask
