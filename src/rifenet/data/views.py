"""Weak and strong views of training images. Only numpy and Pillow.

All randomness comes from the argument `rng`, so its seed determines the view.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from rifenet import IGNORE
from rifenet.data.transforms import MEAN, place, resize_mask, resized

_FILL = tuple(round(255 * value) for value in MEAN)
_BLUR_SIGMA = 1.1  # OpenCV derives it from the 5 x 5 kernel of the published code
_NEAREST, _BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
_CROP_TRIES = 30
_CROP_SHARE = 0.85


def view_rng(*key: int) -> np.random.Generator:
    """Generator for one view, seeded by whole numbers >= 0 such as (seed, step, sample, image)."""
    return np.random.default_rng([len(key), *key])  # numpy pads short keys with zeros; the length tells them apart


def weak_view(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float] = (0.9, 1.1),
    rotate: float = 10.0,
    blur: float = 0.5,
    flip: float = 0.5,
    keep: Iterable[int] = (),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Weak view: uint8 image [size, size, 3], uint8 mask and valid (True = real pixel) [size, size].

    Scales the longer side to size * scale; rotates by up to +-`rotate` degrees (p .5); blurs (p `blur`); mirrors (p
    `flip`); crops at random, with the mean colour and label 255 as padding. Draws angle and crop up to 30 times, until
    the crop keeps 85% of the area of each mask value in `keep`; otherwise takes the best try. The view always shows
    each value in `keep` that the mask shows. `mask` None (an unlabeled image) counts as background.
    """
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    target = place(image.shape[0], image.shape[1], max(1, round(size * rng.uniform(*scale))))
    height, width = target.scaled_height, target.scaled_width
    photo = resized(image, height, width)
    labels = Image.fromarray(np.ascontiguousarray(resize_mask(mask, target)[:height, :width]))
    bound = math.radians(rotate) if rng.random() < 0.5 else 0.0
    if rng.random() < flip:
        photo, labels = ImageOps.mirror(photo), ImageOps.mirror(labels)
    if rng.random() < blur:  # before padding, whose colour would bleed in
        photo = photo.filter(ImageFilter.GaussianBlur(_BLUR_SIGMA))
    areas = {label: count for label in keep if (count := np.count_nonzero(np.asarray(labels) == label))}
    best = -1.0
    for _ in range(_CROP_TRIES):
        top, left = (int(rng.integers(min(0, free), max(0, free) + 1)) for free in (height - size, width - size))
        matrix = _crop_matrix(top, left, rng.uniform(-bound, bound), height, width)
        crop = _warped(labels, matrix, size, IGNORE, _NEAREST)
        share = min((np.count_nonzero(crop == label) / area for label, area in areas.items()), default=1.0)
        if share > best:
            best, chosen, cropped = share, matrix, crop
        if share >= _CROP_SHARE:
            break
    if best == 0:  # no try kept a tiny object: take the whole picture, upright
        return weak_view(image, mask, rng, size=size, scale=(1.0, 1.0), rotate=0.0, blur=blur, flip=flip)
    pixels = _warped(photo, chosen, size, _FILL, _BILINEAR)
    # Pillow's two samplers may disagree on whether a pixel at the edge lies inside: it is valid if both agree.
    full = Image.new("L", photo.size, 255)
    inside = [_warped(full, chosen, size, 0, resample) > 0 for resample in (_NEAREST, _BILINEAR)]
    valid = inside[0] & inside[1]
    pixels[~valid] = _FILL
    cropped[~valid] = IGNORE
    return pixels, cropped, valid


def _crop_matrix(top: int, left: int, angle: float, height: int, width: int) -> tuple[float, ...]:
    """Affine map from the crop's coordinates to the picture's (height x width), with a turn about the centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = left - width / 2, top - height / 2
    return (cos, sin, cos * x + sin * y + width / 2, -sin, cos, -sin * x + cos * y + height / 2)


def _warped(
    picture: Image.Image, matrix: tuple[float, ...], size: int, fill: Any, resample: Image.Resampling
) -> NDArray[np.uint8]:
    return np.array(picture.transform((size, size), Image.Transform.AFFINE, matrix, resample, fillcolor=fill))


def strong_view(
    image: NDArray[np.uint8], rng: np.random.Generator, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Strong view of a weak view, uint8 [H, W, 3]: colour jitter on the image, before normalising.

    Multiplies brightness, contrast and saturation by 0.5..1.5 and turns the hue by up to a quarter, in random order.
    Values stay in 0..255, so the view is always finite. Padding (`valid` False) keeps its colour.
    """
    picture = Image.fromarray(image)
    factors = rng.uniform(0.5, 1.5, 3)
    turn = round(256 * rng.uniform(-0.25, 0.25))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for step in rng.permutation(4):
        if step < 3:
            picture = enhancers[step](picture).enhance(factors[step])
        else:
            hue, saturation, value = picture.convert("HSV").split()
            turned = hue.point([(level + turn) % 256 for level in range(256)])
            picture = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    jittered = np.array(picture)
    if valid is not None:
        jittered[~valid] = image[~valid]
    return jittered
