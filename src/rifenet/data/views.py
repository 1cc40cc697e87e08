"""Weak and strong views of training images (method.md 11). Only numpy and Pillow.

All their randomness comes from the generator that is handed in, so a view depends on nothing but its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from rifenet.data.transforms import MEAN, place, resize_mask, resized
from rifenet.formats.pictures import IGNORE

_FILL = tuple(round(255 * value) for value in MEAN)
_BLUR_SIGMA = 1.1  # what OpenCV derives from the 5 x 5 kernel of the published codes
_NEAREST, _BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
_CROP_TRIES = 30
_CROP_SHARE = 0.85


def view_rng(*key: int) -> np.random.Generator:
    """Generator of one view, from whole numbers >= 0 such as (seed, step, sample, image): equal keys, equal views."""
    return np.random.default_rng([len(key), *key])  # the length, because numpy pads short keys with zeros


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
    """Weak view (method.md 11): uint8 image [size, size, 3], uint8 mask and valid (True = real pixel) [size, size].

    Longer side to size * scale; rotation up to +-`rotate` degrees (p .5); Gaussian blur (p `blur`); mirror (p `flip`);
    random crop, padded with the mean and label 255. Angle and crop are drawn again, 30 times at most, until 85% of the
    area of each class in `keep` stays, else the best try counts. A class in `keep` that the mask shows is in the view
    for certain. A mask of None (an unlabeled image) counts as background.
    """
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    target = place(image.shape[0], image.shape[1], max(1, round(size * rng.uniform(*scale))))
    height, width = target.scaled_height, target.scaled_width
    photo = resized(image, height, width)
    labels = Image.fromarray(np.ascontiguousarray(resize_mask(mask, target)[:height, :width]))
    bound = math.radians(rotate) if rng.random() < 0.5 else 0.0
    if rng.random() < flip:
        photo, labels = ImageOps.mirror(photo), ImageOps.mirror(labels)
    if rng.random() < blur:  # before the padding is there, so that it does not bleed in
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
    if best == 0:  # a few pixels that no try kept: the whole picture, upright, has them
        return weak_view(image, mask, rng, size=size, scale=(1.0, 1.0), rotate=0.0, blur=blur, flip=flip)
    pixels = _warped(photo, chosen, size, _FILL, _BILINEAR)
    # At the very edge Pillow's two samplers may disagree on what lies inside: a pixel is real where both say so.
    full = Image.new("L", photo.size, 255)
    inside = [_warped(full, chosen, size, 0, resample) > 0 for resample in (_NEAREST, _BILINEAR)]
    valid = inside[0] & inside[1]
    pixels[~valid] = _FILL
    cropped[~valid] = IGNORE
    return pixels, cropped, valid


def _crop_matrix(top: int, left: int, angle: float, height: int, width: int) -> tuple[float, ...]:
    """Affine map from crop coordinates to those of the unrotated height x width picture, turned about its centre."""
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
    """Strong view of a weak one, uint8 [H, W, 3]: colour jitter before normalising (method.md 11 and 12, row 4).

    Brightness, contrast and saturation times 0.5..1.5 and hue turned by up to a quarter, in random order. Values stay
    0..255, so the view is always finite. Padding (`valid` False) keeps its colour.
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
