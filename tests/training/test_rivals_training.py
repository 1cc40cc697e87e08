"""The heads of other papers train in the same loop: cached features, resuming, the loss of PFENet's scales, scoring."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from docs_blocks import ROOT
from reference import losses as reference
from rendered import make_custom, make_voc

from rifenet import load_model
from rifenet.cli.ablate import train_and_score
from rifenet.cli.main import main
from rifenet.config import Config, from_dict, save_config
from rifenet.data.folds import VOC_CLASSES
from rifenet.models import aligned_resize, build_model
from rifenet.models.rivals.cyctr import CyCTR
from rifenet.models.rivals.hsnet import HSNet
from rifenet.models.rivals.pfenet import PFENet, PFENetOutput
from rifenet.training import train
from rifenet.training.loop import loss_terms, prepare

TYPES = {"pfenet": PFENet, "hsnet": HSNet, "cyctr": CyCTR}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"), class_ids=tuple(range(1, 11)), per_class=8, mixed=4)


def config(voc: Path, out: Path, kind: str, **train: Any) -> Config:
    return from_dict(
        Config,
        {
            "data": {
                "root": str(voc), "image_size": 65, "fold": 0, "min_area": 500, "holdout": 0.4, "workers": 0,
                "cache_dir": str(out.parent / "cache"), "cache_views": 2, "cache_strong": True,
            },
            "model": {
                "kind": kind, "backbone": "efficientnet_lite0", "stride": 16, "embed_dim": 32, "heads": 4,
                "local_dim": 16, "tokens_per_label": 12,
            },
            "train": {
                "out": str(out), "steps": 4, "batch_size": 2, "optimizer": "adamw", "lr": 0.001, "log_every": 1,
                "save_every": 2, "validate_every": 4, "validate_episodes": 4, "device": "cpu", **train,
            },
            "eval": {"episodes": 12, "seeds": [0]},
        },
    )  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_a_head_trains_resumes_and_is_scored_like_rifenet(voc: Path, tmp_path: Path, kind: str) -> None:
    settings = config(voc, tmp_path / "out", kind)
    train(config(voc, tmp_path / "parts", kind), stop_at=2)
    train(config(voc, tmp_path / "parts", kind))
    result = train_and_score(settings)
    assert result["model"]["kind"] == kind
    assert 0 <= result["scores"]["miou"]["mean"] <= 1
    whole, parts = load_model(tmp_path / "out"), load_model(tmp_path / "parts")
    assert type(whole) is TYPES[kind]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), f"{name} of a resumed run"
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    terms = {name for line in lines for name in line} & {"query", "aux", "self", "scales"}
    assert terms == {"query"} | {"pfenet": {"scales"}, "cyctr": {"aux"}}.get(kind, set()), "and no unlabeled branch"


def test_the_prototype_over_random_weights_does_not_depend_on_the_runs_before_it(voc: Path, tmp_path: Path) -> None:
    """Processes that share a grid score its rows in any order."""
    hashes = set()
    for name, before in (("first", 0), ("later", 5)):
        torch.rand(before)
        settings = config(voc, tmp_path / name, "prototype")
        random = dataclasses.replace(settings.model, pretrained=False)
        result = train_and_score(dataclasses.replace(settings, model=random))
        hashes.add((result["model"]["backbone_hash"], result["scores"]["miou"]["mean"]))
    assert len(hashes) == 1


def test_a_grid_is_scored_on_another_dataset(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rivals_coseg.yaml` with one seed and two steps: trained on one set without fold 0, and scored on another's."""
    names = VOC_CLASSES[:8]
    other = make_custom(tmp_path / "coseg", class_names=names, per_class=3, mixed=0, folds={0: names[:5], 1: names[5:]})
    save_config(
        config(voc, tmp_path / "unused", "rifenet", steps=2, validate_every=2, save_every=2), tmp_path / "c.yaml"
    )
    out = tmp_path / "out"
    words = ["--config", str(tmp_path / "c.yaml"), "--grid", str(ROOT / "configs" / "grids" / "rivals_coseg.yaml")]
    words += ["--eval.dataset", "custom", "--eval.root", str(other), "--seeds", "0", "--train.out", str(out)]
    assert main(["ablate", *words]) == 0
    table = json.loads((out / "rivals_coseg.json").read_text())
    assert {row["name"]: row["runs"] for row in table["rows"]} == dict.fromkeys([*TYPES, "rifenet", "prototype"], 1)
    for path in (out / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        assert result["dataset"]["images"] == 3 * len(names)
        assert (result["config"]["data"]["dataset"], result["config"]["data"]["root"]) == ("custom", "coseg")
        assert [row["name"] for row in result["per_class"]] == list(names[:5])
        assert result["novel_classes_seen"] == []
        if "seed" in path.parent.name:
            trained = result["model"]["metadata"]["classes_trained_on"]
            assert not set(trained) & set(names[:5])
            assert set(trained) & set(names[5:])
    capsys.readouterr()
    assert main(["ablate", *words]) == 0
    assert "5 of them finished" in capsys.readouterr().err
    assert main(["ablate", *words[:4], "--eval.dataset", "custom"]) == 1
    assert "Expected eval.dataset and eval.root together" in capsys.readouterr().err


def test_the_loss_of_pfenets_scales_is_the_mean_of_their_dice() -> None:
    torch.manual_seed(0)
    model = build_model(kind="pfenet", backbone="resnet18", width=0.125, embed_dim=32, heads=4, pretrained=False).eval()
    masks = torch.zeros(2, 33, 33, dtype=torch.uint8)
    masks[0, 5:20, 5:25], masks[1, 10:30, 3:12], masks[:, :3] = 1, 1, 255
    batch = {
        "support_images": torch.rand(2, 1, 3, 33, 33),
        "support_masks": masks.flip(0)[:, None],
        "support_valid": torch.ones(2, 1, 33, 33, dtype=torch.bool),
        "query_images": torch.rand(2, 3, 33, 33),
        "query_valid": torch.ones(2, 33, 33, dtype=torch.bool),
        "query_masks": masks,
    }
    settings = from_dict(Config, {"data": {"root": "x"}}).train
    with torch.no_grad():
        terms = loss_terms(model, model, batch, settings)
        output = model(
            *(batch[name] for name in ("support_images", "support_masks", "query_images")),
            support_valid=batch["support_valid"], query_valid=batch["query_valid"],
        )  # fmt: skip
    assert isinstance(output, PFENetOutput)
    dice = [
        reference.dice(aligned_resize(scale, (33, 33))[number].double().numpy(), masks[number].numpy())
        for scale in output.scales
        for number in range(2)
    ]
    assert len(dice) == 8
    assert float(terms["scales"]) == pytest.approx(np.mean(dice), rel=1e-4)


@pytest.mark.parametrize("option", ["compile", "checkpoint_activations"])
def test_options_of_the_attention_are_refused_where_there_is_none(tmp_path: Path, option: str) -> None:
    settings = config(tmp_path, tmp_path / "out", "hsnet", **{option: True})
    model = build_model(kind="hsnet", backbone="resnet18", width=0.125, embed_dim=32, heads=4, pretrained=False)
    with pytest.raises(ValueError, match=r"Expected model\.kind rifenet or cyctr"):
        prepare(model, settings.train)
