"""What the benchmarks share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rendered import make_custom
from tiny_model import write_smallest_model

from benchmarks.common import Draw, Values, add_draws, difference, each_picture_once, measure_draws, parser
from rifenet.engines.torch import TorchEngine
from rifenet.models import Backbone, Features

ENGINE = SimpleNamespace(name="some", hash="0123", size=65)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    root = make_custom(tmp_path / "data", class_names=("disc", "block"), mixed=2)
    return ["--root", str(root), "--classes", "disc", "block", "--min-area", "500", "--out", str(tmp_path / "out.json")]


def run(words: list[str], measure: object, seed: int = 0, draws: int = 4) -> Values:
    made = parser("")
    add_draws(made, draws)
    options = made.parse_args([*words, "--seed", str(seed)])
    measure_draws(options, ENGINE, measure, lambda draws: {"draws": len(draws)}, {"what": "test"})  # type: ignore[arg-type]
    return json.loads(options.out.read_text(encoding="utf-8"))


def seen(draw: Draw) -> Values:
    return {"images": draw.images, "next": draw.rng.random()}


def test_a_draw_depends_on_the_seed_and_its_number_alone(words: list[str]) -> None:
    first, longer, other = run(words, seen), run(words, seen, draws=6), run(words, seen, seed=1)
    assert longer["draws"][:4] == first["draws"]
    assert other["draws"] != first["draws"]
    assert [draw["class"] for draw in longer["draws"]] == ["disc", "block"] * 3
    assert first["draws"][0] != first["draws"][2]
    assert first["what"] == "test"
    assert first["model"] == {"name": "some", "hash": "0123", "size": 65}
    assert {"git_commit", "dataset", "classes", "seed", "min_area", "summary"} <= first.keys()


def test_a_run_that_is_stopped_keeps_its_draws(words: list[str], tmp_path: Path) -> None:
    def stopped(draw: Draw) -> Values:
        if draw.class_id == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(words, stopped)
    kept = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (kept["draws"], kept["summary"]) == ([{"class": "disc"}], {"draws": 1})


def test_a_draw_hands_out_the_mask_of_its_class(words: list[str]) -> None:
    def check(draw: Draw) -> Values:
        both = next(image for image in draw.images if len(draw.index.records[image].areas) == 2)
        with Image.open(draw.index.records[both].mask_path) as picture:
            labels = np.asarray(picture)
        for class_id in (None, 1, 2):
            photo, mask = draw.pair(both, class_id)
            expected = np.where(labels == 255, 255, labels == (class_id or draw.class_id))
            assert photo.shape[:2] == mask.shape
            assert np.array_equal(mask, expected)
        return {}

    assert len(run(words, check, draws=2)["draws"]) == 2


def test_a_difference_is_paired() -> None:
    assert difference([3.0, 5.0, 7.0], [1.0, 3.0, 5.0]) == [2.0, 2.0, 2.0]
    mean, low, high = difference([1.0, 5.0], [1.0, 1.0])
    assert (mean, low, high) == (2.0, 0.0, 4.0)  # of two draws, a resample is both once or one twice


def test_pictures_seen_once_give_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine.load(write_smallest_model(tmp_path / "m.safetensors", support_views=4), device="cpu")
    rng = np.random.default_rng(0)
    images, masks = rng.random((1, 3, 65, 65), np.float32), np.zeros((1, 65, 65), np.uint8)
    masks[:, 10:30, 20:50] = 1
    valid = np.ones(masks.shape, bool)

    def logits() -> np.ndarray:
        return engine.decode(engine.encode_query(images, valid), engine.encode_support(images, masks, valid))

    expected = logits()
    passes: list[int] = []
    plain = type(engine.model.backbone).forward

    def counting(backbone: Backbone, pictures: torch.Tensor) -> Features:
        passes.append(len(pictures))
        return plain(backbone, pictures)

    monkeypatch.setattr(type(engine.model.backbone), "forward", counting)
    with each_picture_once(engine.model.backbone):
        found = [logits(), logits()]
    assert sum(passes) == 4, "the query is the first of the four views"
    assert all(np.array_equal(each, expected) for each in found)
    logits()
    assert sum(passes) == 4 + 5, "outside it forgets"
