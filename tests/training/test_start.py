"""`train.start`: a run that begins with the weights of a trained model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from rendered import make_voc
from safetensors.torch import load_file
from tiny_model import SMALL

from rifenet.config import Config, DataConfig, ModelConfig, TrainConfig, load_config, to_dict
from rifenet.data.sources import open_dataset
from rifenet.models import build_model
from rifenet.models.files.checkpoint import read_model, save_model, trained_state
from rifenet.models.files.hub import bundled_model
from rifenet.training import train
from rifenet.training.selection import run_metadata
from rifenet.training.split import base_split
from rifenet.training.start import start_from
from rifenet.training.state import STATE_FILE


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"), class_ids=tuple(range(1, 11)), per_class=6)


def _model(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **changes})


def _config(voc: Path, out: Path, fold: int = 0, **train_options: Any) -> Config:
    options: dict[str, Any] = {
        **{"steps": 4, "batch_size": 2, "optimizer": "adamw", "lr": 0.001, "unlabeled": 0, "save_every": 1},
        **{"validate_episodes": 2, "device": "cpu", **train_options},
    }
    return Config(
        data=DataConfig(root=str(voc), image_size=65, fold=fold, min_area=500, holdout=0.4),
        model=_model(pretrained=True),
        train=TrainConfig(out=str(out), **options),
    )


@pytest.fixture(scope="module")
def first(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on fold 0, whose base classes are VOC's 6 to 10."""
    folder = tmp_path_factory.mktemp("first")
    train(_config(voc, folder, steps=2))
    return folder


def test_the_first_step_starts_from_the_model(voc: Path, first: Path, tmp_path: Path) -> None:
    """With a rate that moves nothing, the kept model is the one started from; without a start it is not."""
    before = load_file(first / "model.safetensors")
    for start, same in ((str(first), True), ("", False)):
        run = tmp_path / f"run{same}"
        train(_config(voc, run, steps=1, lr=1e-12, start=start))
        after = load_file(run / "model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before) is same


def test_a_resumed_run_goes_on_without_the_model_it_started_from(voc: Path, first: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes((first / "model.safetensors").read_bytes())
    whole, parts = (_config(voc, tmp_path / name, start=str(start)) for name in ("whole", "parts"))
    train(whole)
    train(parts, stop_at=2)
    start.unlink()
    train(parts)
    one, other = (load_file(tmp_path / name / STATE_FILE) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"train\.start"):
        train(_config(voc, tmp_path / "parts"))
    with pytest.raises(FileNotFoundError, match=r"start\.safetensors"):
        train(_config(voc, tmp_path / "other", start=str(start)))


def test_the_model_says_what_it_started_from_and_all_classes_that_taught_it(
    voc: Path, first: Path, tmp_path: Path
) -> None:
    """Fold 1 holds out what fold 0 trained on: a model of both has seen it, and evaluation has to know."""
    train(_config(voc, tmp_path, fold=1, steps=1, start=str(first)))
    before, after = read_model(first / "model.safetensors"), read_model(tmp_path / "model.safetensors")
    assert "started_from" not in before.metadata
    assert after.metadata["started_from"] == {"name": first.name, "hash": before.hash}
    seen = after.metadata["classes_trained_on"]
    assert set(before.metadata["classes_trained_on"]) < set(seen)
    assert {"aeroplane", "boat", "bus", "chair"} <= set(seen)
    assert len(seen) == len(set(seen))
    assert load_config(tmp_path / "config.yaml").train.start == str(first)


@pytest.mark.parametrize(
    ("own", "before", "kept"),
    [
        (True, {"exclude_novel": True, "novel_classes": ["aeroplane", "bicycle", "bird", "boat", "bottle"]}, True),
        (True, {"exclude_novel": True, "classes_never_seen": ["bird", "boat", "bottle", "aeroplane", "bicycle"]}, True),
        (True, {"exclude_novel": False, "novel_classes": ["aeroplane", "bicycle", "bird", "boat", "bottle"]}, False),
        (False, {"exclude_novel": True, "novel_classes": ["aeroplane", "bicycle", "bird", "boat", "bottle"]}, False),
        (True, {"exclude_novel": True, "novel_classes": ["bus", "car"]}, False),  # those of another fold
        (True, {"exclude_novel": True}, None),
        (True, {}, None),
    ],
)
def test_the_filter_is_on_only_if_it_was_for_the_start_model_too(
    voc: Path, tmp_path: Path, own: bool, before: dict[str, Any], kept: bool | None
) -> None:
    config = _config(voc, tmp_path / "run")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, exclude_novel=own))
    model = build_model(config.model)
    save_model(model, tmp_path / "model.safetensors", {"classes_trained_on": ["zebra"], **before})
    split = base_split(config, open_dataset("pascal", voc))
    progress = {"best_step": 1, "best_miou": None, "started_from": start_from(str(tmp_path), model)}  # type: ignore[arg-type]
    assert run_metadata(config, split, progress)["exclude_novel"] is kept


@pytest.mark.parametrize(
    ("before", "images"),
    [
        ({"classes_trained_on": ["zebra"], "images_trained_on": 7}, 7),
        ({"classes_trained_on": ["zebra"], "images_trained_on": 7, "started_from": {}}, None),
        ({"images_trained_on": 7, "started_from": {}, "images_trained_on_before": 30}, 37),
        ({}, None),
    ],
)
def test_what_taught_the_start_model_taught_the_new_one(
    voc: Path, tmp_path: Path, before: dict[str, Any], images: int | None
) -> None:
    config = _config(voc, tmp_path / "run")
    model = build_model(config.model)
    save_model(model, tmp_path / "model.safetensors", before)
    split = base_split(config, open_dataset("pascal", voc))
    progress = {"best_step": 1, "best_miou": None, "started_from": start_from(str(tmp_path), model)}  # type: ignore[arg-type]
    metadata = run_metadata(config, split, progress)
    assert metadata["images_trained_on"] == len(split.pool.index)
    assert metadata["images_trained_on_before"] == images
    assert ("zebra" in metadata.get("classes_trained_on", ())) == ("classes_trained_on" in before)
    assert ("classes_trained_on" in metadata) == ("classes_trained_on" in before), "unknown stays unknown"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"embed_dim": 64}, "these of .* differ"),
        ({"layers": 1}, "these of .* differ"),
        ({"layers": 3}, "these of .* differ"),
        ({"backbone": "efficientnet_lite1"}, "has efficientnet_lite0"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(first: Path, changes: dict[str, Any], named: str) -> None:
    model = build_model(_model(**changes))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=named):
        start_from(str(first), model)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_weights_of_the_same_backbone_are_refused(tmp_path: Path) -> None:
    save_model(build_model(_model()), tmp_path / "model.safetensors", {})
    model = build_model(_model())
    model.backbone.load_state_dict({name: value * 1.5 for name, value in model.backbone.state_dict().items()})
    with pytest.raises(ValueError, match=r"Expected the model of train\.start to have the run's backbone weights"):
        start_from(str(tmp_path), model)  # type: ignore[arg-type]


def test_there_is_nothing_to_start_from_in_a_prototype(tmp_path: Path) -> None:
    prototype = build_model(ModelConfig(kind="prototype", backbone="efficientnet_lite0", stride=16, pretrained=False))
    save_model(prototype, tmp_path / "model.safetensors", {}, with_backbone=True)
    with pytest.raises(ValueError, match="is a prototype"):
        start_from(str(tmp_path), build_model(_model()))  # type: ignore[arg-type]


def test_a_shipped_file_lacks_the_auxiliary_head_which_starts_random(tmp_path: Path) -> None:
    torch.manual_seed(1)
    shipped = build_model(_model())
    save_model(shipped, tmp_path / "model.safetensors", {}, with_backbone=True)
    torch.manual_seed(2)
    model = build_model(_model())
    model.backbone.load_state_dict(shipped.backbone.state_dict())
    before = {name: value.clone() for name, value in trained_state(model).items()}
    start_from(str(tmp_path), model)  # type: ignore[arg-type]
    changed = {name for name, value in trained_state(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("auxiliary.") for name in changed)
    assert any(name.startswith("auxiliary.") for name in before)


def test_the_bundled_model_fits_its_own_config_and_other_caps() -> None:
    bundled = read_model(bundled_model())
    config = dataclasses.replace(bundled.config, pretrained=True, aux=True, dropout=0.2, max_evidence_keys=500)
    model = build_model(config)
    start_from("default", model)  # type: ignore[arg-type]
    given = trained_state(bundled)
    own = trained_state(model)
    assert all(torch.equal(own[name], value) for name, value in given.items())
    assert to_dict(model.config)["max_evidence_keys"] == 500
