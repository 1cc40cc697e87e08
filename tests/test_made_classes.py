"""Pictures of made classes: what is marked is what was painted, and one class keeps its look."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("made_classes")


@pytest.mark.parametrize("kind", ["strokes", "blobs"])
def test_one_class_has_one_colour_and_its_mask_marks_it(made: ModuleType, kind: str) -> None:
    widths = []
    for seed in range(4):
        pictures = list(getattr(made, kind)(np.random.default_rng(seed), 3))
        again = list(getattr(made, kind)(np.random.default_rng(seed), 3))
        assert all(
            np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(pictures, again, strict=True)
        )
        colours, contrasts = [], []
        for picture, mask in pictures:
            assert picture.shape == (made.SIZE, made.SIZE, 3)
            assert picture.dtype == np.uint8
            if not mask.any():
                continue
            depth = ndimage.distance_transform_edt(mask)
            widths.append(2 * depth.max())
            inside, outside = depth >= depth.max() / 2, ndimage.distance_transform_edt(~mask) > 8
            colours.append(np.median(picture[inside], axis=0))
            contrasts.append(np.abs(colours[-1] - np.median(picture[outside], axis=0)).mean())
        assert min(contrasts) > 8
        assert np.abs(np.array(colours) - np.mean(colours, axis=0)).max() < 60
    assert max(widths) < 45 if kind == "strokes" else max(widths) > 45


def test_a_region_is_of_one_colour_and_lies_off_marked_objects(made: ModuleType) -> None:
    rng = np.random.default_rng(0)
    photo = np.zeros((160, 240, 3), np.uint8)
    photo[:, :80], photo[:, 80:160], photo[:, 160:] = (200, 40, 40), (40, 160, 40), (60, 60, 200)
    photo = (photo + rng.normal(0, 6, photo.shape)).clip(0, 255).astype(np.uint8)
    allowed = np.ones((160, 240), bool)
    allowed[:, :80] = False
    kinds = set()
    for seed in range(6):
        cuts = made.regions(photo, allowed, np.random.default_rng(seed), 3)
        for picture, mask in cuts:
            assert picture.shape[:2] == mask.shape
            assert min(mask.shape) >= 0.45 * 160 - 1
            strongest = picture[mask].mean(0).argmax()
            kinds.add(int(strongest))
            assert np.std(picture[mask].astype(float), axis=0).max() < 45
    assert kinds <= {1, 2}
    assert kinds
    assert made.regions(photo, np.zeros((160, 240), bool), rng, 3) == []
