"""docs/backbones.md as a reader follows it: named backbones and code of one's own train, resume, score and open."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from docs_blocks import ROOT, Block, blocks
from hf_folders import write_backbone
from rendered import make_custom
from safetensors.torch import load_file, save_file

from rifenet.cli.main import main
from rifenet.config import Config, from_dict, load_config
from rifenet.engines.onnx import OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.models.files.checkpoint import backbone_hash
from rifenet.models.files.hub import load_model
from rifenet.training import train
from rifenet.training.state import STATE_FILE

PAGE = ROOT / "docs" / "backbones.md"
BLOCKS = blocks(PAGE.read_text(encoding="utf-8"))
SMALL = {"embed_dim": 16, "heads": 2, "layers": 1, "points": 3, "local_dim": 8, "tokens_per_label": 12}
SHORT = {"image_size": 71, "holdout": 0.4, "min_area": 500, "workers": 0}
QUICK = {"batch_size": 2, "unlabeled": 0, "log_every": 1, "validate_every": 50, "validate_episodes": 2, "device": "cpu"}


def own_files() -> dict[str, Block]:
    """The page's Python blocks by the file that their first line names."""
    return {block.text.split()[1]: block for block in BLOCKS if block.language == "python"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the page's reader has: a dataset, two photos, a folder of DINOv2, the page's files, and weights for them."""
    make_custom(tmp_path / "my_photos", per_class=6)
    names = sorted((tmp_path / "my_photos" / "images").iterdir())
    for letter, photo in zip(("a", "query"), names, strict=False):
        shutil.copy(photo, tmp_path / f"{letter}.jpg")
    shutil.copy(tmp_path / "my_photos" / "masks" / f"{names[0].stem}.png", tmp_path / "a.png")
    write_backbone(tmp_path / "dinov2-small", "dinov2", num_hidden_layers=12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, block in own_files().items():
        (tmp_path / name).write_text(block.text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    names_of_file: dict[str, Any] = {}
    exec(compile(own_files()["my_backbone.py"].text, str(PAGE), "exec"), names_of_file)
    torch.manual_seed(3)
    save_file(names_of_file["Small"]().state_dict(), tmp_path / "small.safetensors")
    yield tmp_path
    for name in own_files():
        sys.modules.pop(Path(name).stem, None)


def config_of(out: str, steps: int = 20, **changes: Any) -> Config:
    data: dict[str, Any] = {"dataset": "custom", "root": "my_photos", **SHORT}
    sections = {"data": data, "model": {**SMALL}, "train": {"out": out, "steps": steps, **QUICK}}
    for name, value in changes.items():
        section, field = name.split("__")
        sections[section][field] = value
    return from_dict(Config, sections)


def test_an_own_backbone_of_twenty_lines_trains_resumes_and_opens(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = own_files()["my_backbone.py"].text.strip().splitlines()
    assert len([line for line in written if line.strip()]) <= 20
    whole, parts = (config_of(name, model__backbone="my_backbone:small") for name in ("whole", "parts"))
    train(whole)
    train(parts, stop_at=8)
    train(parts)
    first, second = (load_file(work / name / STATE_FILE) for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [json.loads(line) for line in (work / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))

    asked = ["info", "--flops", "--json", "--model", "whole"]
    del sys.modules["my_backbone"]
    monkeypatch.setenv("RIFENET_MODULES", "")
    words = ["segment", "--model", "whole", "--support", "x", "a.jpg", "a.png", "--query", "query.jpg", "--out", "out"]
    assert main(words) == 1
    assert "set RIFENET_MODULES=my_backbone" in capsys.readouterr().err
    assert "my_backbone" not in sys.modules, "nobody allowed its code to run"
    monkeypatch.setenv("RIFENET_MODULES", "other, my_backbone")
    assert main(words) == 0
    assert (work / "out" / "query_mask.png").is_file()
    capsys.readouterr()
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["rifenet"]["backbone"]["parameters"] > 0

    save_file({k: v * 1.01 for k, v in load_file("small.safetensors").items()}, work / "small.safetensors")
    with pytest.raises(ValueError, match="Expected the backbone"):
        load_model("whole")
    with pytest.raises(ValueError, match="same backbone"):
        train(dataclasses.replace(whole, train=dataclasses.replace(whole.train, validate_every=50)))


def test_an_own_head_and_an_own_loss_are_trained_by(work: Path) -> None:
    backbone = {"model__backbone": "my_backbone:small", "steps": 2}
    plain = config_of("plain", **backbone)
    own = config_of("own", **backbone, model__head="my_code:WideHead", train__loss="my_code:with_size")
    train(plain)
    train(own)
    lines = [json.loads(line) for line in (work / "own" / "metrics.jsonl").read_text().splitlines()]
    terms = [{name: line[name] for name in ("query", "aux", "size")} for line in lines if "loss" in line]
    totals = [line["loss"] for line in lines if "loss" in line]
    assert totals == pytest.approx([sum(each.values()) for each in terms], rel=1e-5)
    assert all(0 < each["size"] < 1 for each in terms)
    head = {name for name in load_file(work / "own" / "model.safetensors") if name.startswith("head.")}
    assert head == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    before, after = (load_file(work / "own" / STATE_FILE), load_model("own").state_dict())
    assert before["model.head.2.weight"].shape == after["head.2.weight"].shape == (2, SMALL["embed_dim"], 1, 1)

    with pytest.raises(ValueError, match="define Missing"):
        train(config_of("none", **backbone, model__head="my_code:Missing"))
    with pytest.raises(FileNotFoundError, match="no_such_code"):
        train(config_of("none", **backbone, model__head="no_such_code:Head"))
    with pytest.raises(ValueError, match=r"rifenet\.models\.Stages"):
        train(config_of("none", steps=2, model__backbone="collections:OrderedDict"))
    (work / "wrong.py").write_text("def loss(terms, output, batch):\n    return {}\n")
    with pytest.raises(ValueError, match="return loss terms"):
        train(config_of("none", **backbone, train__loss="wrong:loss"))


def test_a_trial_over_random_weights_says_so(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "dinov2-small" / "model.safetensors").unlink()
    folder = {"model__backbone": "./dinov2-small", "model__pretrained": False}
    with pytest.raises(ValueError, match=r"train\.random_backbone"):
        train(config_of("trial", steps=4, **folder))
    config = config_of("trial", steps=4, **folder, train__random_backbone=True)
    with pytest.raises(ValueError, match=r"model\.pretrained false"):
        train(dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=True)))
    train(config, stop_at=2)
    train(config)  # the same random weights again
    assert "A TRIAL: the frozen backbone has random weights" in capsys.readouterr().err
    shutil.rmtree(work / "dinov2-small")
    model = load_model("trial")  # its file holds them
    assert model.metadata["name"] == "trial (a trial: random backbone)"
    assert model.metadata["random_backbone"] is True


def test_a_run_over_a_folder_scores_exports_and_is_measured(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(
        "run",
        3,
        model__backbone="./dinov2-small",
        model__evidence=True,
        model__evidence_dim=32,
        data__cache_dir="cache",
    )
    train(config, stop_at=1)
    train(config)
    model = load_model("run")
    assert model.metadata["backbone_file"]["name"] == "dinov2-small"
    words = ["--dataset", "custom", "--root", "my_photos", "--min-area", "500", "--episodes", "3", "--some-classes"]
    assert main(["evaluate", "--model", "run", "--baseline", *words, "--seeds", "0", "--out", "result.json"]) == 0
    for name in ("result.json", "result-prototype.json"):
        record = json.loads((work / name).read_text())["model"]
        assert record["backbone"] == "dinov2-small"
        assert record["backbone_hash"] == backbone_hash(model)
    capsys.readouterr()
    assert main(["info", "--json", "--model", "run"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["backbone_hash"] == backbone_hash(model)
    assert main(["info", "--json", "--model", "prototype", "--backbone", "./dinov2-small"]) == 0
    card = json.loads(capsys.readouterr().out)["model"]
    assert (card["stride"], card["stages"], card["channels"]) == (14, [12], [32])
    assert main(["bench", "--backbones", "run", "--runs", "1", "--warmup", "0", "--out", "bench.json"]) == 0
    assert json.loads((work / "bench.json").read_text())["cases"][0]["size"] == 71


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit", "beit", "swin", "convnextv2", "resnet"])
def test_exports_agree_with_torch(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rifenet.export import export
    from rifenet.models import build_model

    write_backbone(tmp_path / "folder", kind)
    torch.manual_seed(0)
    model = build_model(backbone=str(tmp_path / "folder"), evidence=True, evidence_dim=32, aux=False, **SMALL).eval()
    torch.nn.init.normal_(model.evidence.decoder.classify.weight, std=0.3)  # which start at zero
    model.metadata = {"image_size": 113}
    card = export(TorchEngine(model, device="cpu"), tmp_path / "out")
    assert card["agreement_with_torch"]["logit_difference"] < 1e-3
    assert OnnxEngine(tmp_path / "out").size == 113


def family(name: str) -> tuple[str, dict[str, Any]]:
    """The small architecture that stands for a config's backbone."""
    if name.startswith("swin"):
        return "swin", {"window_size": 4}
    if name.endswith("_hub"):
        return "resnet", {}
    return ("dinov3_vit" if name.startswith("dinov3") else "dinov2"), {"num_hidden_layers": 12}


HUB = [f"{data}_resnet{depth}_hub" for data in ("pascal", "coco") for depth in ("50", "101")]


@pytest.mark.parametrize("name", HUB)
def test_a_hub_config_is_the_papers_but_for_its_backbone(name: str) -> None:
    config, paper = (load_config(ROOT / "configs" / f"{name.replace('hub', kind)}.yaml") for kind in ("hub", "paper"))
    depth = re.sub(r"\D", "", name)
    model = dataclasses.replace(paper.model, backbone=f"hf:microsoft/resnet-{depth}", stem=config.model.stem)
    assert config == dataclasses.replace(paper, model=model)


@pytest.mark.parametrize("name", ["dinov2_small", "dinov2_base", "dinov3_small", "swin_base", *HUB])
def test_a_ready_config_trains_over_its_family(work: Path, name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    page = PAGE.read_text(encoding="utf-8")
    assert f"| `{name}.yaml` | `{config.model.backbone}` | {config.data.image_size} px |" in page
    kind, options = family(name)
    write_backbone(work / "family", kind, **options)
    small = {"embed_dim": 32, "evidence_dim": 32, "backbone": "./family"}
    data = {"dataset": "custom", "root": "my_photos", "cache_dir": "cache", "shots": 2, **SHORT}
    quick = {
        "out": "run",
        "steps": 2,
        "epochs": 0,
        "validate_every": 2,
        "validate_episodes": 2,
        "batch_size": 2,
        "device": "cpu",
    }
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        model=dataclasses.replace(config.model, **small),
        train=dataclasses.replace(config.train, **quick),
    )
    assert train(config)["step"] == 2
    assert load_model("run").config.stride == config.model.stride


@pytest.mark.slow
def test_the_pages_commands_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = {
        "train": "--train.steps 2 --train.batch_size 2 --train.validate_every 2 --train.validate_episodes 2"
        " --train.unlabeled 0 --data.image_size 98 --data.holdout 0.4 --data.workers 0 --data.cache_dir ''"
        " --train.device cpu",
        "evaluate": "--episodes 3 --some-classes --seeds 0 --image-size 98",
    }
    (work / "configs").symlink_to(ROOT / "configs")
    ran = 0
    for block in BLOCKS:
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
            words = shlex.split(line)
            if words[0] == "export":
                monkeypatch.setenv(*words[1].split("="))
            elif words[0] == "rifenet":
                assert main([*words[1:], *shlex.split(shorter.get(words[1], ""))]) == 0, line
                ran += 1
            else:
                assert words[:2] == ["pip", "install"], line
    assert ran == 8
