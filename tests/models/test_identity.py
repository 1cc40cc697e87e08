"""A model's hash says which model it is: one that may answer otherwise has another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_model import write_smallest_model

from rifenet import Segmenter, load_model
from rifenet.cli.main import main
from rifenet.config import ModelConfig, behaviour
from rifenet.engines.onnx import OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.examples.samples import load_examples
from rifenet.models import build_model
from rifenet.models.files.checkpoint import backbone_hash, identify, read_file, save_model
from rifenet.models.files.hub import bundled_model

TRAINING_ONLY = {"dropout": 0.3, "assist_dropout": 0.1, "head_dropout": 0.2, "random_tokens": False, "guide": "self"}
DOG = next(example for example in load_examples()[1] if example.support and "dog" in example.classes)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smallest_model(tmp_path_factory.mktemp("models") / "smallest.safetensors")


def other(original: Path, path: Path, metadata: dict[str, Any] | None = None, **config: Any) -> Path:
    """The same weights with other options or metadata."""
    model = load_model(original)
    model.config = dataclasses.replace(model.config, **config)
    save_model(model, path, {**model.metadata, **(metadata or {})}, with_backbone=True)
    return path


@pytest.mark.parametrize(
    ("config", "metadata"),
    [
        ({"mask_threshold": 0.3}, {}),
        ({"support_views": 4}, {}),
        ({"support_views": 2, "support_closer": True}, {}),
        ({"max_prior_keys": 17}, {}),
        ({}, {"calibration": {"a": 9.0, "b": -4.0}}),
        ({}, {"image_size": 97}),
    ],
)
def test_what_may_answer_otherwise_has_another_hash(
    original: Path, tmp_path: Path, config: dict[str, Any], metadata: dict[str, Any]
) -> None:
    first, second = load_model(original), load_model(other(original, tmp_path / "b.safetensors", metadata, **config))
    assert first.weights_hash == second.weights_hash
    assert first.hash != second.hash


def test_what_only_training_or_people_read_is_no_part_of_it(original: Path, tmp_path: Path) -> None:
    told = {"name": "renamed", "classes_trained_on": ["x"]}
    path = other(original, tmp_path / "b.safetensors", told, **TRAINING_ONLY)
    assert load_model(original).hash == load_model(path).hash


def test_other_weights_have_both_hashes_otherwise(original: Path, tmp_path: Path) -> None:
    first, second = load_model(original), load_model(original)
    next(second.head.parameters()).data += 0.01
    save_model(second, tmp_path / "b.safetensors", second.metadata, with_backbone=True)
    changed = load_model(tmp_path / "b.safetensors")
    assert first.weights_hash != changed.weights_hash
    assert first.hash != changed.hash


def test_a_changed_config_is_identified_anew(original: Path) -> None:
    model = load_model(original)
    before = model.hash, model.weights_hash
    model.config = dataclasses.replace(model.config, mask_threshold=0.2)
    identify(model)
    assert model.hash != before[0]
    assert model.weights_hash == before[1]


def test_options_by_default_are_no_part_of_it() -> None:
    """So that a new option, off by default, leaves every model's hash."""
    assert behaviour(ModelConfig()) == {}
    assert behaviour(ModelConfig(mask_threshold=0.4, dropout=0.2)) == {"mask_threshold": 0.4}


def test_models_in_memory_are_told_apart_by_their_weights() -> None:
    options = {"backbone": "resnet18", "pretrained": False, "width": 0.25, "embed_dim": 32}
    engines = [TorchEngine(build_model(**options), device="cpu") for _ in range(2)]
    assert engines[0].hash != engines[1].hash
    assert engines[0].weights_hash != engines[1].weights_hash


def taught(model: Path) -> Segmenter:
    segmenter = Segmenter.from_pretrained(model, device="cpu")
    labels = np.zeros(_shape(), np.uint8)
    labels[50:150, 50:150] = 1
    segmenter.learn("dog", [DOG.image], [labels])
    return segmenter


def _shape() -> tuple[int, int]:
    with Image.open(DOG.image) as photo:
        return photo.height, photo.width


def test_classes_of_the_same_weights_with_another_threshold_are_refused(original: Path, tmp_path: Path) -> None:
    taught(original).save_classes(tmp_path / "dog.safetensors")
    moved = Segmenter.from_pretrained(other(original, tmp_path / "b.safetensors", mask_threshold=0.2), device="cpu")
    with pytest.raises(ValueError, match="same weights but another threshold, calibration or option"):
        moved.load_classes(tmp_path / "dog.safetensors")


def test_classes_from_before_load_with_a_sentence(original: Path, tmp_path: Path) -> None:
    segmenter = taught(original)
    segmenter.save_classes(tmp_path / "dog.safetensors")
    with safe_open(tmp_path / "dog.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["rifenet-classes"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    header.update(version=2, model_hash=header.pop("weights_hash"))
    save_file(tensors, tmp_path / "older.safetensors", {"rifenet-classes": json.dumps(header)})
    fresh = Segmenter.from_pretrained(original, device="cpu")
    with pytest.warns(UserWarning, match="did not record the model's threshold and calibration"):
        fresh.load_classes(tmp_path / "older.safetensors")
    np.testing.assert_array_equal(
        fresh.segment(DOG.image, keep_absent=True).mask, segmenter.segment(DOG.image, keep_absent=True).mask
    )


def test_a_folder_of_results_is_not_shared_by_two_thresholds(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = other(original, tmp_path / "b.safetensors", mask_threshold=0.2)
    out = tmp_path / "out"
    line = ["segment", "--support", "dog", str(DOG.image), str(tmp_path / "dog.png"), "--query", str(DOG.image)]
    labels = np.zeros(_shape(), np.uint8)
    labels[50:150, 50:150] = 1
    Image.fromarray(labels).save(tmp_path / "dog.png")
    assert main([*line, "--model", str(original), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main([*line, "--model", str(moved), "--out", str(out)]) == 1
    assert "holds others" in capsys.readouterr().err

    manifest = json.loads((out / "manifest.json").read_text())
    model = manifest["settings"]["model"]
    manifest["settings"]["model"] = {"name": model["name"], "hash": model["weights_hash"]}
    (out / "manifest.json").write_text(json.dumps(manifest))  # as versions before wrote it, here and in the record
    record = json.loads((out / f"{DOG.image.stem}.json").read_text())
    record["run"] = hashlib.sha256(json.dumps(manifest["settings"], sort_keys=True).encode()).hexdigest()[:16]
    (out / f"{DOG.image.stem}.json").write_text(json.dumps(record))
    before = (out / f"{DOG.image.stem}.json").stat().st_mtime_ns
    assert main([*line, "--model", str(original), "--out", str(out)]) == 0
    assert "segmented again" in capsys.readouterr().err
    assert (out / f"{DOG.image.stem}.json").stat().st_mtime_ns > before


def test_exports_carry_threshold_and_both_hashes(exported: tuple[Path, Path], tmp_path: Path) -> None:
    model, engine = load_model(exported[0]), OnnxEngine(exported[1])
    assert (engine.hash, engine.weights_hash) == (model.hash, model.weights_hash)
    assert engine.threshold == model.config.mask_threshold == 0.4


def test_a_shipped_model_saved_again_names_the_backbone_that_it_was_trained_over(
    original: Path, tmp_path: Path
) -> None:
    """A file for shipping rounds its backbone, so that the hash of what it holds is another."""
    before, model = read_file(original)[0]["backbone_hash"], load_model(original)
    assert backbone_hash(model) != before
    again = other(original, tmp_path / "again.safetensors", support_views=2)
    assert read_file(again)[0]["backbone_hash"] == before
    twice = other(again, tmp_path / "twice.safetensors")
    assert read_file(twice)[0]["backbone_hash"] == before


def test_the_bundled_model_names_the_backbone_that_it_was_trained_over() -> None:
    config = dataclasses.replace(load_model("default").config, pretrained=True, weights="")
    assert read_file(bundled_model())[0]["backbone_hash"] == backbone_hash(build_model(config))
