"""Views in other worlds: colours against a slow reference, and masks that follow their photos."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.data import worlds
from rifenet.data.views import view_rng
from rifenet.data.worlds import WORLDS, recolour, world_view


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def test_colours_without_light_blur_and_noise(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_GAIN", (1.0, 1.0)), ("_SHIFT", 0.0), ("_BLUR_SIGMA", 0.0), ("_NOISE", 0.0)):
        monkeypatch.setattr(worlds, name, value)
    found = {world: recolour(picture, view_rng(1), world) for world in WORLDS}
    for y, x in np.ndindex(20, 30):
        red, green, blue = (int(value) for value in picture[y, x])
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        assert found["turned"][y, x].tolist() == [red, green, blue]
        assert found["inverted"][y, x].tolist() == [255 - blue, 255 - red, 255 - green]
        np.testing.assert_allclose(found["grey"][y, x], grey, atol=0.51)  # rounded to whole numbers


def test_light_blur_and_noise_differ_from_picture_to_picture(picture: NDArray[np.uint8]) -> None:
    smooth = np.full((64, 64, 3), 120, np.uint8)
    levels, noises = [], []
    for number in range(40):
        grey, inverted = (recolour(smooth, view_rng(number), world) for world in ("grey", "inverted"))
        assert (grey == grey[..., :1]).all()
        levels.append(grey.mean())
        noises.append(grey.astype(float).std())
        if noises[-1] > 3:
            assert (inverted != inverted[..., :1]).any()
    assert 80 <= min(levels) < 95
    assert 145 < max(levels) <= 160
    assert 0 <= min(noises) < 3
    assert 12 < max(noises) <= 17
    np.testing.assert_array_equal(recolour(picture, view_rng(3), "grey"), recolour(picture, view_rng(3), "grey"))
    with pytest.raises(ValueError, match=r"grey, inverted, turned, but got 'blue'"):
        recolour(picture, view_rng(0), "blue")


def test_masks_follow_their_photos_at_any_angle_and_scale() -> None:
    """The photo is bright where its mask is 1, so labels can be read off the turned view."""
    mask = np.zeros((60, 90), np.uint8)
    mask[15:45, 20:50] = 1
    photo = np.repeat(mask[..., None] * np.uint8(200) + np.uint8(20), 3, 2)
    shares, diagonal = [], 0
    for number in range(60):
        pixels, labels, valid = world_view(photo, mask, view_rng(number), world="turned", size=97, keep=(1,))
        agree = (pixels[..., 0] > 120) == (labels == 1)
        assert agree[valid].mean() > 0.96  # but for pixels on the edge, which the two samplers round apart
        assert (labels[~valid] == 255).all()
        assert (pixels[~valid] == [124, 116, 104]).all()
        shares.append((labels == 1).sum() / (900 * (97 / 90) ** 2))
        rows, columns = np.nonzero(labels == 1)
        filled = len(rows) / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
        diagonal += filled < 0.7  # a square on its corner fills half of its box
    assert 0.25 <= min(shares) < 0.35
    assert 2.5 < max(shares) <= 4.1
    assert 0.3 < np.mean(np.array(shares) < 1) < 0.7
    assert 5 <= diagonal <= 40


def test_padding_keeps_its_colour_in_every_world() -> None:
    photo = np.full((30, 90, 3), 200, np.uint8)
    for world in WORLDS:
        pixels, _, valid = world_view(photo, np.zeros((30, 90), np.uint8), view_rng(4), world=world, size=65)
        assert 0.05 < valid.mean() < 0.95
        assert (pixels[~valid] == [124, 116, 104]).all()
