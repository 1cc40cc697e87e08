"""The configs of the paper: their values are those of the table in docs/method.md, and each of them trains."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from docs_blocks import ROOT
from rendered import VOC_IDS, make_coco, make_voc

from rifenet.cli.main import main
from rifenet.config import SECTIONS, Config, effective, load_config, of_fold, to_dict
from rifenet.models.backbones import build_backbone

CONFIGS = ROOT / "configs"
DATASETS = ("pascal", "coco")
DEPTHS = (50, 101)
FILES = [f"{dataset}_resnet{depth}_{kind}" for dataset in DATASETS for depth in DEPTHS for kind in ("paper", "ours")]


def table() -> dict[str, dict[str, str]]:
    """Section 11 of docs/method.md: row -> cell of each dataset; "the same" is the cell to its left."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    section = text[text.index("## 11. Training recipe") : text.index("## 12.")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert [re.sub(r"-\d+i", "", name).lower() for name in rows[0][1:]] == ["pascal", "coco"]
    return {row[0]: {"pascal": row[1], "coco": row[1] if row[2] == "the same" else row[2]} for row in rows[2:]}


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text)]


def values(config: Config, *names: str) -> list[Any]:
    plain = to_dict(config)
    return [plain[section][field] for section, field in (name.split(".") for name in names)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_paper_file_is_the_table(dataset: str, depth: int) -> None:
    config = load_config(CONFIGS / f"{dataset}_resnet{depth}_paper.yaml")
    said = {name: cells[dataset] for name, cells in table().items()}
    assert (config.data.dataset, config.model.backbone, config.model.stem) == (dataset, f"resnet{depth}", "deep")
    assert [config.data.image_size] == numbers(said["input"])
    low, high, chance, angle = numbers(said["weak view"])
    assert values(config, "data.scale_min", "data.scale_max", "data.rotate") == [low, high, angle]
    assert values(config, "data.blur", "data.flip") == [chance, chance]
    assert "turned by" in said["weak view"], "half of the views are turned: fixed in the code"
    assert chance == 0.5
    assert [config.train.epochs] == numbers(said["length"])
    assert config.train.steps == 0, "the epochs say how many"
    for option, row in (("batch_size", "episodes a step"), ("lr", "SGD rate")):
        by_fold = numbers(said[f"{row}, ResNet-{depth}, folds 0 to 3"].removeprefix("ResNet"))
        assert len(by_fold) == 4
        for fold, value in enumerate(by_fold):
            assert of_fold(option, getattr(config.train, option), fold) == value
            chosen = effective(dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold)))
            assert getattr(chosen.train, option) == value
    momentum, decay, _one, power = numbers(said["all but the transformer"])
    assert values(config, "train.momentum", "train.weight_decay", "train.poly_power") == [momentum, decay, power]
    assert config.train.optimizer == "paper"
    rate, decay = numbers(said["transformer (section 8)"].replace("none on biases", ""))
    assert values(config, "train.transformer_lr", "train.transformer_weight_decay") == [rate, decay]
    assert [config.train.clip] == numbers(said["gradient norm"])
    assert values(config, "train.unlabeled", "train.beta", "train.w_aux") == numbers(said["`U`, `beta`, `w_aux`"])
    projections, others = numbers(said["dropout"])
    assert config.model.proj_dropout == projections
    drops = ("dropout", "attention_dropout", "point_dropout", "value_dropout", "cycle_dropout", "head_dropout")
    assert values(config, *(f"model.{name}" for name in drops)) == [others] * 6


def beyond() -> set[str]:
    """Options that docs/paper_map.md lists as ours."""
    page = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    return set(re.findall(r"`((?:data|model|train|eval)\.\w+)", page[page.index("## Beyond the paper") :]))


def test_the_help_of_what_is_ours_says_so_and_the_table_has_all_of_it() -> None:
    marked = set()
    for name, cls in SECTIONS.items():
        for base in cls.__mro__[:-1]:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(body, ast.ClassDef)
            for field, text in pairwise(body.body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(text, ast.Expr)
                    and "eyond the paper" in ast.unparse(text)
                ):
                    marked.add(f"{name}.{ast.unparse(field.target)}")
    assert marked == beyond()


def test_nothing_that_goes_beyond_the_paper_is_on_in_a_paper_file() -> None:
    as_published = {"data.sampling": "image", "train.optimizer": "paper", "model.deep_stages": "dilate"}
    as_published |= {"data.holdout": 0.0, "train.precision": "32-true"}
    for name in FILES:
        config = load_config(CONFIGS / f"{name}.yaml")
        for option in beyond():
            (value,), (default,) = values(config, option), values(Config(), option)
            if name.endswith("paper") and option in as_published:
                assert value == as_published[option], (name, option)
            elif option not in ("data.holdout", "train.precision"):
                assert value == default, (name, option)
    assert not Config().model.evidence


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_ours_differs_in_what_its_head_lists_and_in_nothing_else(dataset: str, depth: int) -> None:
    name = f"{dataset}_resnet{depth}"
    head = (CONFIGS / f"{name}_ours.yaml").read_text(encoding="utf-8").split("\ndata:")[0]
    listed: dict[str, tuple[Any, Any]] = {}
    for options, ours, paper in re.findall(r"#   ([a-z_. ,]+?) (\S+) instead of ([^:\s]+)", head):
        section = options.split(".")[0]
        for option in re.findall(r"\w+", options.split(".", 1)[1].replace(" and ", " ")):
            listed[f"{section}.{option}"] = (yaml.safe_load(ours), yaml.safe_load(paper.rstrip(":")))
    paper, ours = (load_config(CONFIGS / f"{name}_{kind}.yaml") for kind in ("paper", "ours"))
    differ = {
        f"{section}.{option}": (value, to_dict(paper)[section][option])
        for section, options in to_dict(ours).items()
        for option, value in options.items()
        if value != to_dict(paper)[section][option]
    }
    assert differ == listed
    assert len(differ) == 6


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_where_its_weights_come_from(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    depth = re.search(r"resnet(\d+)", name)[1]  # type: ignore[index]
    assert f"--model.weights resnet{depth}_v2.pth" in text
    assert "https://" in text
    assert "Neither states a size or hash" in text


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("paper")])
def test_a_paper_file_names_the_rows_in_which_it_does_not_follow_the_paper(name: str) -> None:
    """Rows of docs/paper_map.md's table of which a value of the file is not the paper's."""
    config = load_config(CONFIGS / f"{name}.yaml")
    stated = 0.005 if "pascal" in name else 0.0025
    others = {
        2: config.train.pseudo_labels != "mutual",
        3: not config.train.hard_labels,
        5: of_fold("lr", config.train.lr, 0) != stated,
        10: config.data.unlabeled_source != "any",
    }
    head = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").split("\ndata:")[0]
    said = {int(row) for row in re.findall(r"\b(\d+)\s+(?:#\s+)?\(", head[head.index("follows the paper, but") :])}
    assert said == {row for row, other in others.items() if other}
    assert "in four more places, which docs/paper_map.md lists below that table" in " ".join(head.split("\n# "))
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert "in four more places" in page
    listed = re.search(r"but for rows ([\d, and]+) of \[the table\]", page)
    assert listed
    assert {int(row) for row in re.findall(r"\d+", listed[1])} == said


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each class so many photos that a tenth of them, held out, are enough for an episode."""
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "pascal": make_voc(folder / "VOC2012", class_ids=VOC_IDS, per_class=12, mixed=4),
        "coco": make_coco(folder / "coco", class_ids=range(1, 13), per_class=12, mixed=2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_it_trains_20_steps_on_data_of_the_true_layout(
    name: str, roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network is narrow and its input small, so that a CPU is quick; everything else is the file's."""
    config = load_config(CONFIGS / f"{name}.yaml")
    torch.manual_seed(0)
    weights = tmp_path / "resnet.pth"
    small = build_backbone(config.model.backbone, stride=8, stem="deep", width=0.125)
    torch.save(small.state_dict(), weights)
    out, fold = tmp_path / "run", 3
    line = ["train", "--config", str(CONFIGS / f"{name}.yaml"), "--data.root", str(roots[config.data.dataset])]
    line += ["--data.fold", str(fold), "--model.weights", str(weights), "--train.out", str(out)]
    line += ["--train.steps", "20", "--data.image_size", "97", "--model.width", "0.125", "--data.workers", "0"]
    line += ["--train.validate_episodes", "4", "--train.log_every", "1", "--train.device", "cpu"]
    assert main(line) == 0
    written = load_config(out / "config.yaml")
    assert written.train.lr == of_fold("lr", config.train.lr, fold)
    lines = [yaml.safe_load(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert all({"query", "aux", "self"} <= line.keys() for line in steps)
    assert any("heldout_miou" in line for line in lines) == name.endswith("ours")
    assert (out / "model.safetensors").is_file()
