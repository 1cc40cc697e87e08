"""A small pixel classifier of a class: a linear discriminant in closed form, fitted to the annotated photos alone.

The network knows what the class has in common with other things. In worlds far from its training photos, plain features
of a pixel often tell more: colour, contrast, the backbone's features. The classifier reads them on the grid of the fine
features. Foreground and background count the same, whatever their areas, and ridge regularisation keeps the few shots
from being learned by heart. Its scores are log-odds at equal areas of both labels.

Sums over pixels are all that it keeps of a shot. Subtracting one shot's sums gives the classifier without that shot.

    F features of a pixel · D channels of the high features · f g grid of the fine features · S side of the input
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE
from rifenet.data.transforms import enlarged, interpolation
from rifenet.segmenting.boxes import box_mean

Inner = Mapping[str, NDArray[Any]]
"""Maps of one image from `Engine.inner`."""

MOST = 1500  # pixels of each label that a shot teaches; more do not change the result
RIDGE = 0.3  # in units of the variance of a feature
RADII = (2, 5, 12)  # of the surroundings that a pixel's colour is compared with, in positions of the grid
BOUND = 4.0
"""Largest score in size: a pixel unlike any of the shots must not overrule the network."""
_LEAST = 1e-4


class Sums(NamedTuple):
    """Weighted sums over pixels of background and foreground; those of several shots add up."""

    weights: NDArray[np.float64]
    """[2]."""
    means: NDArray[np.float64]
    """Of the features, [2,F]."""
    products: NDArray[np.float64]
    """Of all pairs of features, [2,F,F]."""

    def plus(self, other: Sums) -> Sums:
        """The sums over the pixels of both."""
        return Sums(*(own + theirs for own, theirs in zip(self, other, strict=True)))


class Described(NamedTuple):
    """Features of one image's pixels: on the coarse grid, and on the fine one."""

    high: NDArray[np.float32]
    """[D,h,w]."""
    fine: NDArray[np.float32]
    """[F-D,f,g]."""


class PixelClassifier(NamedTuple):
    """Weights of the features and a bias."""

    weights: NDArray[np.float32]
    """[F]."""
    bias: NDArray[np.float32]
    """[1]."""

    def scores(self, seen: Described) -> NDArray[np.float32]:
        """Log-odds [f,g] of the class at equal areas, within `BOUND`."""
        count = len(seen.high)
        # Enlarging is linear, so the weighted sum is enlarged and not each channel.
        coarse = np.tensordot(self.weights[:count], seen.high, 1)
        fine = np.tensordot(self.weights[count:], seen.fine, 1)
        scores: NDArray[np.float32] = enlarged(coarse, seen.fine.shape[1:]) + fine + self.bias
        return scores.clip(-BOUND, BOUND)


def describe(inner: Inner, pixels: NDArray[np.float32]) -> Described | None:
    """Features of an image's pixels; None if the network has no fine features.

    Args:
        inner: maps of the image from `Engine.inner`.
        pixels: the image as network input, [3,S,S] in [0,1].
    """
    if "fine" not in inner or not inner["fine"].size:
        return None
    fine = np.asarray(inner["fine"], np.float32)
    return Described(np.asarray(inner["high"], np.float32), np.concatenate([fine, contrasts(pixels, fine.shape[1])]))


def contrasts(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Colour and local contrast on a grid: [16,side,side] of an image [3,S,S].

    Mean colour; its difference from the mean of the surroundings, for each of `RADII`; standard deviation of the grey
    value in two surroundings; and how much darker and lighter than its surroundings the most telling pixels are.
    """
    step = (pixels.shape[-1] - 1) // max(side - 1, 1)
    colours = box_mean(pixels, 1)[:, ::step, ::step][:, :side, :side]
    grey = pixels.mean(0)
    around = [colours - box_mean(colours, radius) for radius in RADII]
    coarse = colours.mean(0)
    spread = [np.sqrt((box_mean(coarse**2, radius) - box_mean(coarse, radius) ** 2).clip(0))[None] for radius in (1, 4)]
    local = grey - box_mean(grey, step)
    sides = [
        np.sqrt(box_mean(part**2, step // 2)[::step, ::step][:side, :side])[None]
        for part in (local.clip(max=0), local.clip(0))
    ]
    return np.concatenate([colours, *around, *spread, *sides]).astype(np.float32)


def pixel_sums(seen: Described, mask: NDArray[np.uint8]) -> Sums:
    """Sums over the pixels of one image with its mask [S,S] (0, 1, 255)."""
    height, width = seen.fine.shape[1:]
    share, counts = shares(mask, height)
    count, total = len(seen.high), len(seen.high) + len(seen.fine)
    sums = Sums(np.zeros(2), np.zeros((2, total)), np.zeros((2, total, total)))
    for chosen in (np.flatnonzero((share > 0) & (counts > 0)), np.flatnonzero((share <= 0) & (counts > 0))):
        if not chosen.size:
            continue
        kept = chosen[np.linspace(0, chosen.size - 1, min(MOST, chosen.size)).round().astype(int)]
        values = np.empty((len(kept), total), np.float32)
        values[:, :count] = enlarged_at(seen.high, (height, width), kept)
        values[:, count:] = seen.fine.reshape(len(seen.fine), -1)[:, kept].T
        weight = counts[kept] * (chosen.size / len(kept))
        for label, part in enumerate(((1 - share[kept]) * weight, share[kept] * weight)):
            if part.any():
                weighted = values * part[:, None].astype(np.float32)
                sums.weights[label] += part.sum()
                sums.means[label] += weighted.sum(0, dtype=np.float64)
                sums.products[label] += weighted.T @ values
    return sums


def shares(mask: NDArray[np.uint8], side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """On a grid of `side`, flat: the class's share in each position's surroundings, and how much of them counts."""
    step = (mask.shape[-1] - 1) // max(side - 1, 1)
    counted = box_mean((mask != IGNORE).astype(np.float32), step // 2)[::step, ::step][:side, :side]
    own = box_mean((mask == 1).astype(np.float32), step // 2)[::step, ::step][:side, :side]
    counts = np.where(counted > 0.5, counted, 0).ravel()
    return (own.ravel() / np.maximum(counted.ravel(), _LEAST)).clip(0, 1), counts


def discriminant(sums: Sums, ridge: float = RIDGE) -> PixelClassifier:
    """The classifier of sums that hold both labels."""
    weights = np.maximum(sums.weights, _LEAST)[:, None]
    means = sums.means / weights
    within = sum(
        product / weight[0] - np.outer(mean, mean)
        for product, weight, mean in zip(sums.products, weights, means, strict=True)
    )
    within = np.asarray(within) / 2
    apart = means[1] - means[0]
    scale = np.sqrt(np.diag(within).clip(0) + apart**2 / 4) + _LEAST
    scaled = within / np.outer(scale, scale) + ridge * np.eye(len(scale))
    direction = np.linalg.solve(scaled, apart / scale) / scale
    bias = -direction @ (means[0] + means[1]) / 2
    return PixelClassifier(direction.astype(np.float32), np.array([bias], np.float32))


def total(parts: Sequence[Sums]) -> Sums:
    """The sums over the pixels of all parts."""
    first = parts[0]
    for part in parts[1:]:
        first = first.plus(part)
    return first


def enlarged_at(maps: NDArray[np.float32], shape: tuple[int, int], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """`enlarged` maps [D,h,w] at some flat positions [N] of `shape`, [N,D]."""
    rows, columns = np.divmod(positions, shape[1])
    (top, down), (left, right) = (interpolation(maps.shape[axis], shape[axis - 1]) for axis in (1, 2))
    above, before = top[rows], left[columns]
    below, after = np.minimum(above + 1, maps.shape[1] - 1), np.minimum(before + 1, maps.shape[2] - 1)
    flat = maps.reshape(len(maps), -1).T
    width = maps.shape[2]
    fall, run = down[rows][:, None], right[columns][:, None]
    upper = flat[above * width + before] * (1 - run) + flat[above * width + after] * run
    lower = flat[below * width + before] * (1 - run) + flat[below * width + after] * run
    found: NDArray[np.float32] = upper * (1 - fall) + lower * fall
    return found
