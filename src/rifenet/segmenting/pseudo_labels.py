"""Pseudo-labels: masks that a model's own scores give to photos without annotation.

`adaptation` uses them on a user's photos, `evaluation` on an episode's. Training has its own, in `training.losses`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE

COUNT = 3
"""Default number of photos that a class adopts."""
SURE = math.log(7 / 3)
"""Least margin (`segmenting.margins`) of a foreground pixel in a pseudo-mask; `-SURE` is the largest margin of a
background pixel. The odds at these margins are 7/3 and 3/7 times the threshold's odds. The bundled model's threshold of
0.33 makes them probabilities of 0.535 and 0.174; a threshold of 0.5 makes them 0.7 and 0.3."""


def pseudo_mask(margins: NDArray[np.float32], counts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pseudo-mask [H,W] of a class, as a shot needs it, from margins [H,W]: 1 foreground, 0 background, 255 ignore.

    A pixel is 255 if its margin is between `-SURE` and `SURE`, or if `counts` [H,W] is false there.
    """
    mask = np.full(margins.shape, IGNORE, np.uint8)
    mask[margins >= SURE], mask[margins <= -SURE] = 1, 0
    mask[~counts] = IGNORE
    return mask
