"""Views of a training photo as if it came from another world than everyday photos. Only numpy and Pillow.

A world is a kind of picture: all photos of an episode are shown in one world, so a class keeps its look from the
supports to the query. All randomness comes from the argument `rng`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rifenet.data.views import weak_view

WORLDS = ("grey", "inverted", "turned")
"""grey: a grey picture with the blur and noise of a microscope or a line camera; inverted: a negative with its colours
changed over; turned: the photo's own colours. All three at any angle and at 0.5 to 2 times the size."""

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L
_SCALE = (0.5, 2.0)
_GAIN = (0.5, 1.5)
_SHIFT = 40.0  # of 255, up or down
_BLUR_SIGMA = 2.0
_NOISE = 16.0  # of 255


def world_view(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    world: str,
    size: int,
    keep: Iterable[int] = (),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """View in `world` (one of `WORLDS`); shapes, padding and `keep` as for `weak_view`.

    Sizes from 0.5 to 2 are uniform in their logarithm: half of the views are smaller than the photo.
    """
    scale = float(np.exp(rng.uniform(*np.log(_SCALE))))
    pixels, labels, valid = weak_view(
        image, mask, rng, size=size, scale=(scale, scale), rotate=180.0, blur=0.0, flip=0.5, keep=keep
    )
    recoloured = recolour(pixels, rng, world)
    recoloured[~valid] = pixels[~valid]  # padding keeps the mean colour in every world
    return recoloured, labels, valid


def recolour(image: NDArray[np.uint8], rng: np.random.Generator, world: str) -> NDArray[np.uint8]:
    """The picture uint8 [H, W, 3] with the colours of `world`. Raises ValueError for an unknown world."""
    if world not in WORLDS:
        raise ValueError(f"Expected a world of {', '.join(WORLDS)}, but got {world!r}.")
    if world == "turned":
        return image.copy()
    values = image.astype(np.float32)
    grey = world == "grey"
    values = np.repeat(values @ _LUMINANCE[:, None], 3, axis=2) if grey else 255 - values[..., [2, 0, 1]]
    # Contrast about the picture's own mean: the light of a scene differs from photo to photo, also in one world.
    mean = values.mean()
    values = (values - mean) * rng.uniform(*_GAIN) + mean + rng.uniform(-_SHIFT, _SHIFT)
    picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, _BLUR_SIGMA))), np.float32)
    # A sensor's noise is one for the three channels of a grey picture, and one for each of a coloured one.
    shape = (*image.shape[:2], 1 if grey else 3)
    noisy = blurred + rng.uniform(0, _NOISE) * rng.standard_normal(shape, np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)
