"""A class is learned and fitted with one look at each photo, and comes out as with many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import SMALL

from rifenet.engines import is_shotwise
from rifenet.engines.torch import TorchEngine
from rifenet.models import build_model
from rifenet.segmenting.fitting import fit_class
from rifenet.segmenting.looks import Looks, looking_once
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.shots import Shots
from rifenet.segmenting.trials import context_of

SIDE = 97


def engine(**options: Any) -> TorchEngine:
    torch.manual_seed(0)
    found = TorchEngine(build_model(**{**SMALL, **options}).eval(), device="cpu")
    found.size = SIDE
    return found


EVIDENCE = {"evidence": True, "evidence_dim": 32, "support_views": 4, "fine": 1}
each_network = pytest.mark.parametrize("options", [{}, EVIDENCE], ids=["paper", "evidence"])


def shots(count: int, seed: int = 0) -> Shots:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, SIDE, SIDE)).astype(np.float32) / np.float32(255)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for number, mask in enumerate(masks):
        mask[10 + 5 * number : 60, 20 : 50 + 7 * number] = 1
        images[number] *= 0.3 + 0.7 * mask
    images = (255 * images).round() / np.float32(255)
    return Shots(images, masks, np.ones(masks.shape, bool))


@each_network
def test_a_class_of_shots_encoded_one_by_one_is_that_of_shots_encoded_together(options: dict[str, Any]) -> None:
    """The caps choose every n-th position, so that the order of the positions matters."""
    plain, own = engine(**options, max_support_tokens=40, max_prior_keys=30), shots(3)
    assert is_shotwise(plain)
    expected, found = plain.encode_support(*own), Looks(plain).encode_support(*own)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        # float32 rounding: the backbone takes the images alone instead of in pairs
        np.testing.assert_allclose(found[name], array, atol=1e-4, err_msg=name)


@each_network
def test_a_shots_photo_is_a_query_without_another_look(options: dict[str, Any]) -> None:
    plain, own = engine(**options), shots(2)
    looks, passes = Looks(plain), counted(plain)
    context = looks.encode_support(*own)
    before = list(passes)
    features = looks.encode_query(own.images[1:], own.valid[1:])
    assert passes == before
    expected = plain.encode_query(own.images[1:], own.valid[1:])
    np.testing.assert_allclose(looks.decode(features, context), plain.decode(expected, context), atol=1e-4)
    other = shots(1, seed=1)
    looks.encode_query(other.images, other.valid)  # a photo of no shot
    looks.encode_query(own.images, own.valid)  # two at once
    assert len(passes) == len(before) + 4


def counted(engine: TorchEngine) -> list[int]:
    """How many images each pass of the backbone took."""
    passes: list[int] = []
    inner = engine.model.backbone.stages

    def stages(images: torch.Tensor) -> Any:
        passes.append(len(images))
        return inner(images)

    engine.model.backbone.stages = stages
    return passes


def test_a_fit_looks_at_each_view_of_a_shot_once_and_at_its_object_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rifenet.segmenting.fitting.SMALL", 0)  # no tiles, which are further looks
    plain, own = engine(**EVIDENCE), shots(4)
    passes = counted(plain)
    once = looking_once(plain)
    fitted = fit_class(once, own, context_of(once, own, None))
    assert sum(passes) <= 4 * 4 + 4  # four views, and one closer look of the pixel classifier
    expected = fit_class(plain, own, context_of(plain, own, None))
    assert str(fitted) == str(expected)
    assert fitted.notes == expected.notes
    assert fitted.quality == pytest.approx(expected.quality, abs=0.01)  # a pixel whose margin is 0 may change sides


def test_an_engine_that_cannot_encode_shots_alone_is_left_as_it_is() -> None:
    baseline = engine().baseline()
    assert not is_shotwise(baseline)
    assert looking_once(baseline) is baseline


def test_learning_takes_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rifenet.segmenting.fitting.SMALL", 0)
    plain, own = engine(**EVIDENCE), shots(3)
    passes = counted(plain)
    pictures = [(255 * image).round().astype(np.uint8).transpose(1, 2, 0) for image in own.images]
    Segmenter(plain).learn("it", pictures, list(own.masks))
    assert sum(passes) <= 3 * 4 + 3
