"""The photo's own low-level features, against a plain computation in numpy, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rifenet.models.backbones.photo_edges import CHANNELS, photo_edges

FILTER = np.array([1, 4, 6, 4, 1]) / 16


def blurred(image: np.ndarray, step: int = 1) -> np.ndarray:
    """[H,W] smoothed by the binomial filter whose taps are `step` apart; beyond the border is the outer pixel."""
    height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for i, down in enumerate(FILTER):
                for j, across in enumerate(FILTER):
                    row = min(max(y + (i - 2) * step, 0), height - 1)
                    column = min(max(x + (j - 2) * step, 0), width - 1)
                    out[y, x] += down * across * image[row, column]
    return out


def expected(image: np.ndarray) -> np.ndarray:
    red, green, blue = image
    colours = [(red + green + blue) / 3, red - green, (red + green) / 2 - blue]
    smooth = [blurred(colour) for colour in colours]
    near = [colour[::4, ::4] for colour in smooth]
    contrast = [colour - blurred(blurred(colour), 2) for colour in near]
    rough = sum(np.abs(colour - soft) for colour, soft in zip(colours, smooth, strict=True)) / 3
    height, width = near[0].shape
    slope = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for colour in near:
                across = colour[y, min(x + 1, width - 1)] - colour[y, max(x - 1, 0)]
                down = colour[min(y + 1, height - 1), x] - colour[max(y - 1, 0), x]
                slope[y, x] += across**2 + down**2
    return np.stack([*near, *contrast, blurred(rough)[::4, ::4], np.sqrt(slope + 1e-6)])


@pytest.mark.parametrize(("height", "width"), [(33, 33), (30, 45)])
def test_it_is_the_plain_computation(height: int, width: int) -> None:
    image = np.random.default_rng(0).random((3, height, width))
    got = photo_edges(torch.from_numpy(image)[None])[0].numpy()
    assert got.shape == (CHANNELS, -(-height // 4), -(-width // 4))
    np.testing.assert_allclose(got, expected(image), atol=1e-12)


def test_a_step_is_steep_where_it_is_and_nowhere_else() -> None:
    image = torch.zeros(1, 3, 65, 65)
    image[..., 32:] = 1.0
    slope = photo_edges(image)[0, -1]
    assert (slope[:, 7:10].amax(1) > 0.4).all()
    assert (slope[:, :5] < 0.01).all()
    assert (slope[:, 12:] < 0.01).all()
