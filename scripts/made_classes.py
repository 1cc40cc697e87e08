"""Pictures of made classes, for training: thin strokes, blobs, and regions of one colour and texture.

`scripts/make_union.py` writes them beside its photos. Everyday photos teach what an object is; these teach that what is
marked may as well be a crack, a road, a cell, a stain, or a patch of grass. All randomness comes from `rng`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.cluster.vq import kmeans2

Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""A picture uint8 [H, W, 3], and where it shows the class, [H, W]."""

SIZE = 480  # pixels of a side of a made picture
REGIONS = 6  # clusters of a photo
REGION_SHARE = (0.06, 0.4)  # of the photo, for a region to become a class
_GRID = 96  # pixels of the longer side of the picture that is clustered


def strokes(rng: np.random.Generator, count: int, photos: Sequence[NDArray[np.uint8]] = ()) -> Iterator[Picture]:
    """`count` pictures of one class of thin, bent, branching lines on one kind of ground; two in five on `photos`."""
    ground, width, bend = _Ground(rng, photos), rng.uniform(2.5, 14), rng.uniform(0.02, 0.15)
    lines, branches = int(rng.integers(2, 5)), rng.random() < 0.5
    paint, other, soft = _Paint(rng, ground), _Paint(rng, ground), rng.uniform(0.3, 1.5)
    distracted = rng.random() < 0.5
    for _ in range(count):
        picture = ground.picture(rng)
        if distracted:  # what looks otherwise does not belong to the class, wherever it lies
            picture = other.on(picture, _blobs(rng, 3, 30.0, 0.3, 1.5), rng, soft)
        mask = np.zeros((SIZE, SIZE), bool)
        for _ in range(lines):
            path = _path(rng, rng.uniform(0, SIZE, 2), bend, int(rng.integers(150, 500)))
            mask |= _thick(path, width * rng.uniform(0.8, 1.25))
            if branches:
                start = path[rng.integers(len(path))]
                mask |= _thick(_path(rng, start, bend, int(rng.integers(60, 200))), width * rng.uniform(0.6, 1))
        yield paint.on(picture, mask, rng, soft), mask


def blobs(rng: np.random.Generator, count: int, photos: Sequence[NDArray[np.uint8]] = ()) -> Iterator[Picture]:
    """`count` pictures of one class of round or ragged spots on one kind of ground; two in five on `photos`."""
    ground, radius, ragged = _Ground(rng, photos), rng.uniform(14, 90), rng.uniform(0, 0.5)
    number, longer = int(rng.integers(1, max(2, round(12 * 20 / radius)) + 1)), rng.uniform(1, 2.5)
    paint, other, soft = _Paint(rng, ground), _Paint(rng, ground), rng.uniform(0.3, 2.5)
    distracted = rng.random() < 0.5
    for _ in range(count):
        picture = ground.picture(rng)
        if distracted:
            line = _thick(_path(rng, rng.uniform(0, SIZE, 2), 0.08, 400), 6.0)
            picture = other.on(picture, line, rng, soft)
        mask = _blobs(rng, number, radius, ragged, longer)
        yield paint.on(picture, mask, rng, soft), mask


def regions(
    photo: NDArray[np.uint8], allowed: NDArray[np.bool_], rng: np.random.Generator, count: int
) -> list[Picture]:
    """`count` cuts of one photo, with one of its regions of like colour and texture as the class.

    Empty where no region of the photo has the share `REGION_SHARE` of it and lies within `allowed`, [H, W].
    """
    height, width = photo.shape[:2]
    scale = _GRID / max(height, width)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    values = np.asarray(Image.fromarray(photo).resize(small, Image.Resampling.BOX).convert("LAB"), np.float32)
    light = ndimage.gaussian_filter(values, (1.5, 1.5, 0))
    rough = np.sqrt(ndimage.gaussian_filter((values - light) ** 2, (2, 2, 0)).mean(2, keepdims=True))
    features = np.concatenate([light * [0.6, 1.5, 1.5], 3 * rough], 2).reshape(-1, 4)
    _, labels = kmeans2(features, REGIONS, minit="++", rng=rng)
    smoothed = np.stack(
        [ndimage.gaussian_filter((labels == k).astype(np.float32).reshape(small[::-1]), 1.5) for k in range(REGIONS)]
    )
    region = np.asarray(
        Image.fromarray(smoothed.argmax(0).astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    )
    low, high = REGION_SHARE
    fitting = [k for k in range(REGIONS) if low <= (region == k).mean() <= high and allowed[region == k].mean() > 0.97]
    if not fitting:
        return []
    mask = region == fitting[int(rng.integers(len(fitting)))]
    cuts: list[Picture] = []
    for _ in range(20 * count):
        size = [int(side * rng.uniform(0.45, 0.7)) for side in (height, width)]
        top, left = (int(rng.integers(side - part + 1)) for side, part in zip((height, width), size, strict=True))
        part = np.s_[top : top + size[0], left : left + size[1]]
        if 0.04 <= mask[part].mean() <= 0.7:
            cuts.append((photo[part], mask[part]))
        if len(cuts) == count:
            return cuts
    return []


class _Ground:
    """What the pictures of one class are painted on: photos, or a colour with noise of several sizes and shaded."""

    def __init__(self, rng: np.random.Generator, photos: Sequence[NDArray[np.uint8]]) -> None:
        self.photos = photos if rng.random() < 0.4 else ()
        self.colour = (rng.uniform(20, 235) + rng.normal(0, rng.choice([0, 15, 60]), 3)).clip(0, 255)
        self.sizes = [(float(np.exp(rng.uniform(0, math.log(60)))), rng.uniform(2, 25)) for _ in range(3)]
        self.grey = bool(np.ptp(self.colour) < 1) or rng.random() < 0.3

    def picture(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Another picture of this ground, [SIZE, SIZE, 3]."""
        if self.photos:
            photo = Image.fromarray(self.photos[int(rng.integers(len(self.photos)))])
            side = int(min(photo.size) * rng.uniform(0.4, 0.9))
            left, top = (int(rng.integers(limit - side + 1)) for limit in photo.size)
            cut = photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            grey = np.asarray(cut.convert("L"), np.float32)[..., None].repeat(3, 2)
            return grey if self.grey else np.asarray(cut, np.float32)
        colour = (self.colour + rng.normal(0, 10)).astype(np.float32)
        picture = np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()
        for size, strength in self.sizes:
            noise = texture(rng, size, 1 if self.grey else 3)
            picture += np.float32(strength) * noise
        slope = np.linspace(-1, 1, SIZE, dtype=np.float32) * np.float32(rng.uniform(-25, 25))
        return picture + (slope[:, None, None] if rng.random() < 0.5 else slope[None, :, None])


class _Paint:
    """Colour and texture of a class: at least 30 of 255 off its ground."""

    def __init__(self, rng: np.random.Generator, ground: _Ground) -> None:
        while True:
            self.colour = (rng.uniform(0, 255) + rng.normal(0, 0 if ground.grey else 40, 3)).clip(0, 255)
            if np.abs(self.colour - ground.colour).mean() >= 30:
                break
        self.size, self.strength = float(np.exp(rng.uniform(0, 3))), rng.uniform(0, 25)
        self.cover = rng.uniform(0.55, 1)

    def on(
        self, picture: NDArray[Any], mask: NDArray[np.bool_], rng: np.random.Generator, soft: float
    ) -> NDArray[np.uint8]:
        """The picture with the mask painted over, its edge softened by `soft` pixels."""
        cover = ndimage.gaussian_filter(mask.astype(np.float32), soft)[..., None] * np.float32(self.cover)
        paint = (self.colour + rng.normal(0, 8)).astype(np.float32) + self.strength * texture(rng, self.size, 1)
        return (picture * (1 - cover) + paint * cover).round().clip(0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, size: float, channels: int) -> NDArray[np.float32]:
    """Noise [SIZE, SIZE, channels] of mean 0 and deviation 1 whose grains are about `size` pixels wide."""
    coarse = max(4, round(SIZE / size))
    grains = rng.standard_normal((coarse, coarse, channels)).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(grains[..., channel]).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for channel in range(channels)
    ]
    noise = np.stack(planes, 2)
    return (noise - noise.mean()) / noise.std()


def _path(rng: np.random.Generator, start: NDArray[np.float64], bend: float, length: int) -> NDArray[np.float64]:
    """Points [length, 2] (row, column), 2 px apart, of a walk whose direction drifts; it may leave the picture."""
    angles = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, bend, length))
    return start + 2 * np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1), 0)


def _thick(path: NDArray[np.float64], width: float) -> NDArray[np.bool_]:
    off = np.ones((SIZE, SIZE), bool)
    inside = path.round().astype(int)
    inside = inside[((inside >= 0) & (inside < SIZE)).all(1)]
    off[inside[:, 0], inside[:, 1]] = False
    return ndimage.distance_transform_edt(off) <= width / 2 if len(inside) else ~off


def _blobs(rng: np.random.Generator, number: int, radius: float, ragged: float, longer: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    mask = np.zeros((SIZE, SIZE), bool)
    for _ in range(number):
        (y, x), turn = rng.uniform(0.1 * SIZE, 0.9 * SIZE, 2), rng.uniform(0, math.pi)
        along = (columns - x) * math.cos(turn) + (rows - y) * math.sin(turn)
        across = (rows - y) * math.cos(turn) - (columns - x) * math.sin(turn)
        angle = np.arctan2(across, along)
        edge = 1 + sum(
            ragged / k * rng.uniform(-1, 1) * np.cos(k * angle + rng.uniform(0, 2 * math.pi)) for k in range(2, 6)
        )
        own = radius * rng.uniform(0.75, 1.3)
        mask |= np.hypot(along / longer**0.5, across * longer**0.5) <= own * np.clip(edge, 0.3, 2)
    return mask
