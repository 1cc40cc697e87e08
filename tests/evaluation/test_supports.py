"""Supports encoded one by one, and kept: the same masks as encoded together, and each image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rendered import make_custom
from tiny_model import SMALL

from rifenet.data.episodes import load_episode
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode
from rifenet.data.sources import open_dataset
from rifenet.evaluation import scoring
from rifenet.evaluation.prediction import predicted_mask
from rifenet.evaluation.scoring import score_episodes
from rifenet.evaluation.supports import joined
from rifenet.metrics import intersection_union
from rifenet.models import build_model
from rifenet.models.backbones import Backbone

SIZE = 65
KINDS: dict[str, dict[str, Any]] = {
    "paper": {},
    "four views": {"support_views": 4},
    "two views, one closer": {"support_views": 2, "support_closer": True},
    "evidence, four views, caps that bite": {
        "evidence": True,
        "evidence_dim": 32,
        "support_views": 4,
        "max_evidence_keys": 40,
        "max_support_tokens": 30,
    },
    "prototype": {"kind": "prototype"},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = make_custom(tmp_path_factory.mktemp("photos"), class_names=("disc", "block"), per_class=4, mixed=0)
    return open_dataset("custom", root, progress=False)


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(3)
    model = build_model(**{**SMALL, **KINDS[request.param]}).eval()
    if "evidence" in KINDS[request.param]:
        torch.nn.init.normal_(model.evidence.decoder.classify.weight, std=0.3)  # which start at zero
    return model


def episodes(index: ImageIndex) -> list[Episode]:
    """Each image of a class as a query, the three others as its supports, in two orders."""
    found = []
    for class_id in (1, 2):
        images = index.images_of(class_id)
        for query in images:
            others = [image for image in images if image != query]
            found += [Episode(class_id, query, tuple(others)), Episode(class_id, query, tuple(others[::-1]))]
    return found


def supports_of(index: ImageIndex, episode: Episode) -> list[torch.Tensor]:
    arrays = load_episode(index, episode, SIZE)
    return [torch.from_numpy(arrays[f"support_{part}"])[None] for part in ("images", "masks", "valid")]


def test_shots_encoded_alone_make_the_same_class(index: ImageIndex, model: Any) -> None:
    shots = supports_of(index, episodes(index)[0])
    with torch.inference_mode():
        together = model.encode_support(*shots)
        alone = [model.encode_shots(*(part[:, k : k + 1] for part in shots)) for k in range(3)]
        made = model.learn(joined(alone))
        swapped = model.learn(joined([alone[1], alone[0], alone[2]]))
    for name, value in together.named().items():
        # Convolutions over one image and over several add in another order.
        torch.testing.assert_close(made.named()[name].float(), value.float(), rtol=1e-4, atol=1e-5, msg=name)
    if model.config.kind == "rifenet":
        assert not torch.allclose(swapped.prior_keys, together.prior_keys, atol=1e-3), "the order of shots is not seen"


@pytest.mark.parametrize("workers", [0, 1])
def test_counts_are_those_of_supports_encoded_together(index: ImageIndex, model: Any, workers: int) -> None:
    listed = episodes(index)[:6]
    counts = score_episodes(model, index, listed, SIZE, workers=workers)
    for episode, found in zip(listed, counts, strict=True):
        arrays = load_episode(index, episode, SIZE)
        with torch.inference_mode():
            query = (torch.from_numpy(arrays[f"query_{part}"])[None] for part in ("images", "valid"))
            logits = model.decode(model.encode_query(*query), model.encode_support(*supports_of(index, episode)))
        mask = predicted_mask(logits, arrays["placement"], threshold=getattr(model.config, "mask_threshold", 0.5))
        expected = intersection_union(mask, arrays["query_mask_original"])
        assert np.abs(found - expected).max() <= 3  # pixels at the threshold, by the last bits of sums


def test_each_support_goes_through_the_backbone_once_for_its_class(
    index: ImageIndex, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    plain = Backbone.stages

    def counting(backbone: Backbone, images: torch.Tensor) -> Any:
        nonlocal seen
        seen += len(images)
        return plain(backbone, images)

    monkeypatch.setattr(Backbone, "stages", counting)
    listed, views = episodes(index), getattr(model.config, "support_views", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads may both encode what neither has yet
    try:
        score_episodes(model, index, listed, SIZE)
        assert seen == 8 + 8 * views  # 8 queries, and the same 8 images as supports
        seen = 0
        monkeypatch.setattr(scoring, "CACHE_BYTES", 0)
        score_episodes(model, index, listed, SIZE)
        assert seen == 8 + len(listed) * 3 * views
    finally:
        torch.set_num_threads(before)


def test_the_cache_changes_no_digit(index: ImageIndex, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = score_episodes(model, index, episodes(index), SIZE)
    monkeypatch.setattr(scoring, "CACHE_BYTES", 0)
    assert (score_episodes(model, index, episodes(index), SIZE) == kept).all()


def test_a_support_that_the_cache_holds_is_not_loaded_again(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rifenet.evaluation import supports

    loaded: list[tuple[int, int]] = []
    plain = supports.load_support

    def counting(index: ImageIndex, class_id: int, image: int, *words: Any, **named: Any) -> Any:
        loaded.append((class_id, image))
        return plain(index, class_id, image, *words, **named)

    monkeypatch.setattr(supports, "load_support", counting)
    torch.manual_seed(3)
    model = build_model(**SMALL).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        score_episodes(model, index, episodes(index), SIZE)
    finally:
        torch.set_num_threads(before)
    assert sorted(loaded) == sorted({(e.class_id, image) for e in episodes(index) for image in e.supports})
