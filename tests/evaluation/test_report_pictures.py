"""Pictures of the report: curves and bars from committed files, strips of the episodes that the counts name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from evaluation.scenes import ColourModel, Scene, mixed_scenes, open_scenes, write_dataset
from evaluation.test_report import scored
from PIL import Image
from rendered import make_coco

from rifenet.cli.main import main
from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.index import ImageIndex
from rifenet.evaluation.protocol import evaluate
from rifenet.evaluation.report_pictures import ablation_bars, training_curves
from rifenet.evaluation.result_file import EpisodeCounts
from rifenet.evaluation.strips import chosen_episodes, strip_sections
from rifenet.models import build_model
from rifenet.models.files.checkpoint import save_model
from rifenet.training.losses import total

ROOT = Path(__file__).parents[2]
LOG = [
    {"step": 10, "loss": 1.5, "query": 1.0, "aux": 0.5},
    {"step": 20, "loss": 1.0, "query": 0.7, "aux": 0.3},
    {"step": 20, "heldout_miou": 0.4, "best": True},
    {"step": 30, "loss": 0.9, "query": 0.6, "aux": 0.3},
    {"step": 40, "heldout_miou": 0.3, "best": False},
]


def log(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_of_a_log(tmp_path: Path) -> None:
    text = training_curves(log(tmp_path / "metrics.jsonl", LOG), "mine")
    assert text.count('<g id="series-') == 2 * 3 + 1  # three terms, thin and smooth; the held-out mIoU
    assert ">self<" not in text
    assert ">kept: step 20<" in text
    assert training_curves(log(tmp_path / "early.jsonl", LOG[:2]), "mine").count('<g id="series-') == 6
    with pytest.raises(ValueError, match="Expected points to draw for Training of mine"):
        training_curves(log(tmp_path / "empty.jsonl", []), "mine")


def test_every_loss_term_of_a_log_is_drawn(tmp_path: Path) -> None:
    terms = {name: torch.tensor(0.5) for name in ("query", "aux", "self", "evidence", "crossed")}
    losses = {"loss": float(total(terms, 1.0, 0.5)), **{name: float(term) for name, term in terms.items()}}
    others = {"gradient_norm": 3.0, "lr": [0.1, 0.2], "episodes_per_second": 7.0}
    lines = [{"step": step, **losses, **others} for step in (1, 2)]
    text = training_curves(log(tmp_path / "metrics.jsonl", lines), "mine")
    assert text.count('<g id="series-') == 2 * len(losses)
    assert all(f">{name}<" in text for name in losses)
    assert not any(f">{name}<" in text for name in others)


def test_runs_of_one_name_have_pictures_of_their_own(tmp_path: Path) -> None:
    line = ["report"]
    for number, parent in enumerate(("first try", "second (b)", "third")):
        run = tmp_path / parent / ("Fold2" if number == 2 else "fold2")
        run.mkdir(parents=True)
        line.append(str(scored(run / "result.json", name=parent)))
        log(run / "metrics.jsonl", [{"step": 1, "loss": number + 0.5}, {"step": 2, "loss": number + 0.25}])
    tables = []
    for parent in ("first try", "third"):
        path = tmp_path / parent / "parts.json"
        path.write_text(json.dumps(ablation(parent)))
        tables.append(str(path))
    out = tmp_path / "my docs" / "all results.md"
    assert main([*line, "--ablation", *tables, "--out", str(out)]) == 0
    links = re.findall(r"\]\(([^)]*)\)", out.read_text())
    assert len(links) == 3 * 2 + 2 + 3  # curves and their logs, bars, sources
    assert not any(" " in link or "(" in link for link in links)
    assert all((out.parent / unquote(link)).is_file() for link in links)
    pictures = [link for link in links if link.endswith(".svg")]
    assert len(set(map(str.casefold, pictures))) == 5
    assert "all%20results/fold2-2-curves.svg" in pictures
    assert len({(out.parent / unquote(link)).read_text() for link in pictures}) == 5


def ablation(title: str) -> dict[str, Any]:
    """A table with one difference."""
    rows = [row("base", 0.4, None), row("more", 0.5, {"miou": 0.1, "interval": [0.05, 0.2], "pairs": 2, "wins": 2})]
    table = {"format": 1, "kind": "ablation", "title": title, "baseline": "base", "folds": [1], "seeds": [0, 1]}
    return {**table, "setting": None, "rows": rows, "failures": {}, "sources": []}


def test_the_committed_log_can_be_drawn() -> None:
    for path in sorted((ROOT / "docs" / "results").glob("*/metrics.jsonl")):
        assert "held-out mIoU" in training_curves(path, path.parent.name)


def test_the_report_links_curves_and_bars_beside_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    result = scored(tmp_path / "runs" / "result.json")
    log(tmp_path / "runs" / "metrics.jsonl", LOG)
    table = ablation("parts")
    (tmp_path / "parts.json").write_text(json.dumps(table))
    out = tmp_path / "docs" / "results.md"
    line = ["report", str(result), "--ablation", str(tmp_path / "parts.json"), "--out", str(out)]
    assert main(line) == 0
    text = out.read_text()
    for name in ("runs-curves.svg", "parts-ablation.svg"):
        assert f"](results/{name})" in text
        assert (out.parent / "results" / name).read_text().startswith("<svg")
    assert "[metrics.jsonl](../runs/metrics.jsonl)" in text
    assert "| more | 50.0 | +10.0 (5.0 to 20.0) | + | 2 of 2 |" in text
    assert text.index("## Ablation: parts") < text.index("## Sources")
    bars = ablation_bars(table)
    svg = ElementTree.fromstring(bars)
    assert len(svg.findall(".//*[@id='rings-0']//{http://www.w3.org/2000/svg}use")) == 2
    assert "+10.0 (+5.0 to +20.0)" in bars

    assert main(["report", "--ablation", str(tmp_path / "parts.json"), "--out", str(out)]) == 0
    assert out.read_text().startswith("# Ablations")


def row(name: str, mean: float, difference: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": name,
        "overrides": {},
        "paper": "",
        "folds": {"1": {"mean": mean, "std": None, "seeds": {"0": mean - 0.1, "1": mean + 0.1}}},
        "mean": mean,
        "runs": 2,
        "wanted": 2,
        "difference": difference and {**difference, "sign": "+"},
    }


def test_best_median_and_worst_by_hand() -> None:
    class_ids = np.array([[1, 2, 1], [1, 1, 1]], np.int32)
    counts = np.zeros((2, 3, 2, 2), np.int32)
    counts[..., 1, 1] = 100
    counts[0, :, 1, 0] = (50, 99, 20)
    counts[1, :, 1, 0] = (80, 50, 10)
    chosen = chosen_episodes(EpisodeCounts(class_ids, class_ids, counts), 1)
    assert [(rank, *item) for rank, item in chosen.items()] == [
        ("worst", 1, 2, 0.1),
        ("median", 1, 1, 0.5),
        ("best", 1, 0, 0.8),
    ]
    assert chosen_episodes(EpisodeCounts(class_ids, class_ids, counts), 7) == {}


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageIndex:
    """The mixed scenes, and one more leaf that only half of is annotated."""
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    half = Scene(((2, 0, 0, True), (2, 40, 40, False)))
    return open_scenes(write_dataset(tmp_path / "scenes", {**mixed_scenes(), "poor leaf": half}))


def test_strips_show_the_episodes_that_were_scored(scenes: ImageIndex, tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(dataset="custom", fold=0, image_size=64, min_area=100),
        eval=EvalConfig(episodes=30, seeds=(0, 1)),
    )
    model = ColourModel().eval()
    result = evaluate(model, scenes, config)
    folder = tmp_path / "docs" / "results"
    lines = strip_sections(model, scenes, result, "run", folder, tmp_path / "docs")
    for name in ("leaf", "lemon", "heather"):
        assert f"![worst, median and best episode of {name}](results/run-{name}.jpg)" in lines
        with Image.open(folder / f"run-{name}.jpg") as picture:
            assert picture.height > 3 * 150  # a strip for each rank
            assert picture.width > 5 * 150  # support, query, prediction, truth, score
    changed = {**result, "dataset": {**result["dataset"], "hash": "0" * 64}}
    with pytest.raises(ValueError, match="Expected the images of dataset hash 000000000000"):
        strip_sections(model, scenes, changed, "run", folder, tmp_path)
    with pytest.raises(ValueError, match="but its seeds draw others"):
        strip_sections(model, scenes, {**result, "seeds": [0, 5]}, "run", folder, tmp_path)
    model.scale.data.neg_()  # another model: it finds everything but the class
    with pytest.raises(ValueError, match=r"Expected IoU .* as recorded .* Give the model"):
        strip_sections(model, scenes, result, "run", folder, tmp_path)


def test_strips_of_other_folds_and_none_of_what_they_cannot_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root, file = make_coco(tmp_path / "coco", class_ids=(2, 3, 25)), tmp_path / "model.safetensors"
    torch.manual_seed(4)
    model = build_model(backbone="resnet18", width=0.25, pretrained=False, embed_dim=32, tokens_per_label=20)
    save_model(model, file, {"name": "small", "image_size": 65}, with_backbone=True)
    # Classes 2 and 3 are novel in fold 0 of the contiguous folds only.
    score = ["evaluate", "--model", str(file), "--dataset", "coco", "--root", str(root), "--folds", "contiguous"]
    own = ["--min-area", "100", "--save-episodes", str(tmp_path / "episodes.json")]
    few = ["--episodes", "5", "--seeds", "0"]
    results = [tmp_path / name / "fold0" / "result.json" for name in ("own", "twice", "hsnet", "listed", "other")]
    assert main([*score, *few, *own, "--out", str(results[0])]) == 0
    assert main([*score, *few, "--min-area", "100", "--name", "again", "--out", str(results[1])]) == 0
    assert main([*score, *few, "--protocol", "hsnet", "--image-size", "65", "--out", str(results[2])]) == 0
    content = json.loads((tmp_path / "episodes.json").read_text())
    (tmp_path / "theirs.json").write_text(json.dumps({**content, "episodes": content["episodes"][::-1]}))
    listed = ["--min-area", "100", "--episodes-from", str(tmp_path / "theirs.json")]
    assert main([*score, *listed, "--out", str(results[3])]) == 0
    other = make_coco(tmp_path / "other", class_ids=(2, 3))
    there = [str(other) if word == str(root) else word for word in score]
    assert main([*there, *few, "--min-area", "100", "--out", str(results[4])]) == 0
    capsys.readouterr()
    out = tmp_path / "tables.md"
    show = ["report", *map(str, results), "--strips", str(file), "--root", str(root), "--out", str(out)]
    assert main(show) == 0
    said = capsys.readouterr().err
    assert f"{results[2]} has no strips: strips need a result of the protocol pfenet, and this one is of hsnet." in said
    assert f"{results[3]} has no strips: its episodes come from theirs.json" in said
    assert f"{results[4]} has no strips: it was scored on other images than those in --root." in said
    assert said.count("has no strips") == 3
    text = out.read_text()
    assert text.count("## Episodes: ") == 2
    for class_name in ("thing-2", "thing-3"):
        for name in ("fold0-result", "fold0-result-2"):
            assert f"](tables/{name}-{class_name}.jpg)" in text
            with Image.open(tmp_path / "tables" / f"{name}-{class_name}.jpg") as picture:
                assert picture.width > 6 * 150  # the prior, too


@pytest.mark.parametrize(
    "words", [[], ["--ablation", "a.json"], ["r.json", "--strips", "m"], ["r.json", "--strips", "m", "--root", "d"]]
)
def test_wrong_usage_of_the_report(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == 2
    assert "usage: rifenet report" in capsys.readouterr().err


def test_strips_need_a_result_of_their_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = scored(tmp_path / "result.json")
    line = ["report", str(result), "--strips", "default", "--root", str(tmp_path), "--out", str(tmp_path / "x.md")]
    assert main(line) == 1
    assert "Expected a result of the model default" in capsys.readouterr().err
