"""Grids: what the committed ones ask for, what a wrong one is told, and one ablation run, killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluation.test_report import scored, trained
from filelock import FileLock
from rendered import make_voc

from rifenet.cli.ablate import train_and_score
from rifenet.cli.main import main
from rifenet.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig, load_config, save_config
from rifenet.evaluation.ablation import run_grid, stored_result
from rifenet.evaluation.ablation_table import ablation_markdown, ablation_table
from rifenet.evaluation.grid import Grid, plan, read_grid, run_config, run_name
from rifenet.evaluation.result_file import read_result
from rifenet.training.state import save_state

ROOT = Path(__file__).parents[2]
GRIDS = sorted((ROOT / "configs" / "grids").glob("*.yaml"))
BASES = [ROOT / "configs" / "ablate_voc_mini.yaml", ROOT / "configs" / "coco_resnet50_paper.yaml"]


def written(path: Path, **content: Any) -> Path:
    """A grid file; without other content, two rows on one fold with one seed."""
    rows = {"plain": {"train.unlabeled": 0}, "more": {"train.unlabeled": 2}}
    path.write_text(
        yaml.safe_dump({"rows": rows, "baseline": "plain", "folds": [0], "seeds": [0], **content}, sort_keys=False)
    )
    return path


def values(grid: Grid, name: str) -> list[Any]:
    section, field = name.split(".")
    return [getattr(getattr(row.config, section), field) for row in grid.rows if row.name != "prototype"]


@pytest.mark.parametrize("base", BASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_committed_grid_expands_to_different_valid_runs(path: Path, base: Path) -> None:
    grid = read_grid(path, load_config(base))
    jobs = plan(grid, "out")
    trained = [row for row in grid.rows if row.config.model.kind != "prototype"]
    assert len(trained) >= 2
    # No two rows of a grid ask for one thing, and every row is run on each fold with each seed.
    assert len(jobs) == len(grid.folds) * (len(trained) * len(grid.seeds) + 1)
    assert grid.rows[-1].name == "prototype"
    assert f"--grid configs/grids/{path.name}" in path.read_text()


def test_the_committed_grids_hold_what_they_are_named_for() -> None:
    base = load_config(BASES[0])
    grids = {path.stem: read_grid(path, base) for path in GRIDS}
    parts = ("train.unlabeled", "model.use_global", "model.use_local")
    assert list(zip(*(values(grids["components"], part) for part in parts), strict=True)) == [
        (0, False, False),
        (2, False, False),
        (0, True, True),
        (2, True, True),
    ]
    guided = list(
        zip(values(grids["guidance"], "train.unlabeled"), values(grids["guidance"], "model.guide"), strict=True)
    )
    assert guided[1:] == [(2, "query"), (2, "self"), (2, "none")]
    assert guided[0][0] == 0
    pairs = zip(
        values(grids["pseudo_labels"], "train.pseudo_labels"),
        values(grids["pseudo_labels"], "train.hard_labels"),
        strict=True,
    )
    assert set(pairs) == {(how, hard) for how in ("weak_to_strong", "mutual") for hard in (False, True)}
    assert [row.name for row in grids["pseudo_labels"].rows][1:3] == ["weak to strong, hard", "mutual, soft"]
    assert values(grids["unlabeled_images"], "train.unlabeled") == [0, 1, 2, 3, 4]
    assert values(grids["beta"], "train.beta") == [0.0, 0.25, 0.5, 1.0]
    assert values(grids["layers"], "model.layers") == [1, 2, 3]
    assert values(grids["auxiliary"], "model.aux") == [False, True]
    assert values(grids["exclude_novel"], "data.exclude_novel") == [True, False]
    levels = zip(values(grids["prototypes"], parts[1]), values(grids["prototypes"], parts[2]), strict=True)
    assert list(levels) == [(False, False), (False, True), (True, False), (True, True)]
    steps = base.train.steps
    assert values(grids["longer"], "train.steps")[:3] == [steps, steps * 3 // 2, 2 * steps]
    in_epochs = read_grid(ROOT / "configs" / "grids" / "longer.yaml", load_config(BASES[1]))
    assert values(in_epochs, "train.steps")[:3] == [0, 0, 0]
    assert values(in_epochs, "train.epochs")[:3] == [50, 75, 100]
    for name in ("components", "guidance", "pseudo_labels"):
        assert (grids[name].folds, grids[name].seeds) == ((2, 3), (0, 1, 2))


def test_a_run_has_the_values_of_its_fold(tmp_path: Path) -> None:
    base = load_config(BASES[1])
    grid = written(tmp_path / "grid.yaml", folds=[0, 1, 3])
    rates = {
        job.config.data.fold: (job.config.train.lr, job.config.train.batch_size)
        for job in plan(read_grid(grid, base), "out")
        if job.config.model.kind == "rifenet"
    }
    assert rates == {0: (0.0375, 1), 1: (0.045, 1), 3: (0.15, 2)}
    row = {"plain": {"train.lr": 0.5}, "more": {"train.unlabeled": 1}}
    jobs = plan(read_grid(written(tmp_path / "one.yaml", rows=row, folds=[3]), base), "out")
    assert sorted(job.config.train.lr for job in jobs if job.config.model.kind == "rifenet") == [0.15, 0.5]


def test_grids_share_the_runs_that_they_have_in_common() -> None:
    base = load_config(BASES[0])
    names = {
        name: {job.folder.name for job in plan(read_grid(ROOT / "configs" / "grids" / f"{name}.yaml", base), "out")}
        for name in ("components", "guidance", "pseudo_labels")
    }
    # 4 + 2 + 3 trained rows on 2 folds with 3 seeds, and the prototype once for each fold.
    assert len(set.union(*names.values())) == 9 * 6 + 2


def test_equal_runs_have_one_name_and_others_another() -> None:
    def name(section: str = "train", fold: int = 2, seed: int = 1, **changes: Any) -> str:
        part = dataclasses.replace(getattr(Config(), section), **changes)
        return run_name(run_config(dataclasses.replace(Config(), **{section: part}), fold, seed))

    plain = name()
    assert plain.startswith("fold2-seed1-")
    same = [name(out="elsewhere"), name(log_every=3, device="cpu"), name("data", root="x", workers=3), name(seed=1)]
    assert set(same) == {plain}
    off = name(unlabeled=0)
    assert {name(beta=0.0), name(beta=0), name(unlabeled=0, hard_labels=True)} == {off}
    others = [off, name(beta=0.25), name(fold=3), name(seed=2), name("data", seed=4), name("model", guide="self")]
    assert len({plain, *others}) == 7
    assert name("model", aux=False) == name(w_aux=0.0)
    assert name("model", use_local=False, guide="self") == name("model", use_local=False)
    assert name("model", kind="prototype", seed=1) == name("model", kind="prototype", seed=2)


def test_runs_with_and_without_the_feature_cache_are_two() -> None:
    def name(**data: Any) -> str:
        return run_name(run_config(Config(data=DataConfig(**data)), 2, 1))

    plain, cached = name(), name(cache_dir="a")
    assert plain != cached
    assert name(cache_dir="b") == cached  # it may move
    assert len({cached, name(cache_dir="a", cache_views=2), name(cache_dir="a", cache_strong=True)}) == 3
    # Without a cache nothing reads its options, and data.seed draws the held-out slice alone.
    assert {name(cache_views=2), name(cache_strong=True), name(seed=1)} == {plain}
    assert name(seed=4) != plain
    assert name(seed=4, holdout=0.0) == name(holdout=0.0)
    assert len({cached, name(cache_dir="a", seed=1), name(cache_dir="a", seed=4)}) == 3


def test_a_run_folder_does_not_go_on_when_the_cache_is_switched_on_or_off(tmp_path: Path) -> None:
    job = plan(read_grid(written(tmp_path / "grid.yaml"), Config()), tmp_path)[0]
    job.folder.mkdir(parents=True)
    data = dataclasses.replace(job.config.data, cache_dir="cache")
    save_config(dataclasses.replace(job.config, data=data), job.folder / "config.yaml")
    with pytest.raises(ValueError, match=r"data\.cache_dir = 'on', but got 'off'"):
        stored_result(job)
    save_config(job.config, job.folder / "config.yaml")
    assert stored_result(job) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"columns": 1}, "Expected only title, baseline, .* but got columns"),
        ({"baseline": "none such"}, "Expected a row of .*, but got 'none such'. Its rows: plain, more, prototype"),
        ({"paper": {"mre": "x"}}, "Expected a row of .*, but got 'mre'"),
        ({"folds": [0, 0]}, r"folds of .* different whole numbers in a list, but got \[0, 0\]"),
        ({"seeds": None}, "seeds of .*, but got None"),
        ({"rows": {"plain": {"train.rate": 1}}}, "name of an option in .*row plain, but got 'train.rate'"),
        ({"rows": {"plain": {"data.fold": 1}}}, "sets data.fold. Leave it out"),
        ({"rows": {"plain": {"train.unlabeled": "two"}}}, "train.unlabeled in .* of type int, but got 'two'"),
        ({"rows": {"plain": {"model.aux": 1}}}, "model.aux in .* of type bool, but got 1"),
        ({"rows": {"plain": {"model.guide": "other"}}}, "Expected model.guide to be one of query, self, none"),
        ({"rows": {"plain": {"data.seed": "one"}}}, "data.seed in .* of type int, but got 'one'"),
        ({"rows": {"plain": {"model.low": ["a"]}}}, r"model.low in .* list of whole numbers, but got \['a'\]"),
        ({"rows": {"plain": {"eval.episodes": 9}}}, "row plain sets eval.episodes. Set it in the config"),
        ({"set": {"eval.protocol": "hsnet"}}, "sets eval.protocol. Set it in the config"),
        *(
            (
                {"rows": {"plain": {}, "other": {f"data.{name}": value}}},
                f"row other sets data.{name}. Set it in the config",
            )
            for name, value in {
                **{"shots": 5, "min_area": 1, "list_file": "all", "dataset": "coco"},
                **{"folds": "contiguous", "root": "elsewhere"},
            }.items()
        ),
        ({"rows": ["plain"]}, r"rows of .* to be a mapping, but got \['plain'\]"),
        ({"rows": {"plain": "train.unlabeled: 0"}}, "row plain to be a mapping, but got 'train.unlabeled: 0'"),
        ({"set": [1]}, r"set of .* to be a mapping, but got \[1\]"),
        ({"paper": "words"}, "paper of .* to be a mapping, but got 'words'"),
        ({"product": {"soft": {}}}, "product of .* list of axes"),
        ({"product": ["soft"]}, "each axis of the product of .* mapping, but got 'soft'"),
        ({"product": [{}]}, "list of axes, each with its options"),
        ({"product": [{"soft": 3}]}, "option soft in the product of .* mapping, but got 3"),
        ({"folds": 2}, "folds of .* in a list, but got 2"),
    ],
)
def test_a_wrong_grid_is_told_what_is_wrong(tmp_path: Path, content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_grid(written(tmp_path / "grid.yaml", **content), Config())


@pytest.mark.parametrize("content", [b"rows: {plain: [", b"rows: {plain: {}}\n\tbaseline: plain", b"\x89PNG\xff\xfe"])
def test_a_file_that_is_no_yaml_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"Expected YAML in .*grid\.yaml, but it cannot be read \(.*Correct it"
    ) as caught:
        read_grid(path, Config())
    assert "\n" not in str(caught.value)


def test_rows_of_a_grid_bear_the_marks_of_their_results(tmp_path: Path) -> None:
    """A run may begin from a trained model, which has seen classes of the fold."""
    grid = read_grid(written(tmp_path / "grid.yaml", folds=[1, 2]), Config())
    jobs = plan(grid, tmp_path)
    finished = {}
    for job in jobs:
        row, fold, _ = job.uses[0]
        kind = "prototype" if row == "prototype" else "rifenet"
        absent = ["train"] if (row, fold) == ("more", 2) else []
        path = scored(tmp_path / f"{row}{fold}.json", fold=fold, kind=kind, absent_classes=absent)
        if row == "more":
            trained(path, classes_trained_on=["kitten"])
        finished[job.folder.name] = read_result(path)
    made = ablation_table(grid, jobs, finished, {})
    lines = ablation_markdown(json.loads(json.dumps(made)), tmp_path / "grid.json", tmp_path)
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[1:4] == ["plain", "more†‡", "prototype"]
    assert "- † more, folds 1, 2: the model was trained on cat (as kitten)." in lines
    assert "- ‡ more, fold 2: no episode of train, left out of the mean." in lines
    assert "- plain, folds 1, 2: what it was trained on is not recorded, perhaps these classes." in lines


def test_images_that_are_tested_are_never_kept_for_training(tmp_path: Path) -> None:
    grid = written(tmp_path / "grid.yaml", rows={"plain": {"data.exclude_novel": False}})
    with pytest.raises(ValueError, match="training and test photos are of one list"):
        read_grid(grid, Config(data=DataConfig(list_file="all")))
    assert not read_grid(grid, Config()).rows[0].config.data.exclude_novel


def test_a_run_that_another_process_is_at_comes_last(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path / "grid.yaml"), Config())
    first, *_ = plan(grid, tmp_path)
    (tmp_path / "runs").mkdir()
    order = []

    class Stop(BaseException):
        pass

    def run(config: Config) -> dict[str, Any]:
        order.append(Path(config.train.out).name)
        if len(order) == 2:
            raise Stop
        raise ValueError("no data here")

    with FileLock(tmp_path / "runs" / f"{first.folder.name}.lock"), pytest.raises(Stop):
        run_grid(grid, tmp_path, run, lambda text: None)
    assert len(set(order)) == 2
    assert first.folder.name not in order


def test_the_table_holds_what_other_processes_finished_meanwhile(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path / "grid.yaml"), Config())
    jobs = plan(grid, tmp_path)
    rules = {"protocol": "pfenet", "episodes": 1000, "seeds": [0, 1, 2, 3, 4], "absent_as_zero": False}
    config = {"data": {"root": "photos", "image_size": 473}, "eval": rules}
    told: list[list[int]] = []

    def run(given: Config) -> dict[str, Any]:
        told.append([row["runs"] for row in json.loads((tmp_path / "grid.json").read_text())["rows"]])
        if len(told) == 1:  # another process finishes the last run
            scored(jobs[-1].folder / "result.json", fold=0, config=config)
            return read_result(scored(tmp_path / "first.json", fold=0, config=config))
        raise ValueError("no data here")

    run_grid(grid, tmp_path, run, lambda text: None)
    assert told == [[0, 0, 0], [1, 0, 1]]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"), class_ids=tuple(range(1, 11)), per_class=8, mixed=4)


@pytest.fixture
def line(voc: Path, tmp_path: Path) -> list[str]:
    """A command with a tiny config: two rows and the prototype, fold 0, seeds 0 and 1, four steps a run."""
    config = Config(
        data=DataConfig(
            root=str(voc), image_size=65, min_area=500, holdout=0.4, seed=0, cache_dir=str(tmp_path / "cache"),
            cache_views=2, cache_strong=True,
        ),
        model=ModelConfig(
            backbone="efficientnet_lite0", stride=16, embed_dim=32, heads=4, local_dim=16, tokens_per_label=12
        ),
        train=TrainConfig(
            out=str(tmp_path / "out"), steps=4, batch_size=2, optimizer="adamw", lr=0.001, log_every=1, save_every=2,
            validate_every=4, validate_episodes=4, device="cpu",
        ),
        eval=dataclasses.replace(Config().eval, episodes=12, seeds=(0,)),
    )  # fmt: skip
    save_config(config, tmp_path / "config.yaml")
    grid = written(tmp_path / "grid.yaml", seeds=[0, 1], paper={"more": "about +2*"})
    return ["ablate", "--config", str(tmp_path / "config.yaml"), "--grid", str(grid)]


KILLED = """
import os, sys
import rifenet.training.loop as loop
from rifenet.cli.main import main
real, saved = loop.save_state, []
def save_state(folder, *arguments):
    real(folder, *arguments)
    saved.append(folder)
    if len(saved) == 3:  # the second run, half-way
        os._exit(9)
loop.save_state = save_state
sys.exit(main(sys.argv[1:]))
"""


def _kill(line: list[str]) -> None:
    source = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *line], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 9, done.stderr


def _interrupt(line: list[str]) -> None:
    saved = []

    def save(*arguments: Any) -> None:
        save_state(*arguments)
        saved.append(arguments)
        if len(saved) == 3:  # the second run, half-way
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rifenet.training.loop.save_state", save)
        assert main(line) == 130


def _check_classes(table: dict[str, Any], out: Path) -> None:
    """Each class's figures are those of the runs' own files, seed by seed."""
    ious: dict[tuple[str, int], dict[str, float | None]] = {}
    for source in table["sources"]:
        found = {known["name"]: known["iou"] for known in json.loads((out / source["file"]).read_text())["per_class"]}
        for row in source["rows"]:
            for seed in (0, 1) if source["seed"] is None else (source["seed"],):
                ious[row, seed] = found
    scored = [name for name, iou in ious["plain", 0].items() if iou is not None]
    assert scored == [known["name"] for known in table["classes"]] != []
    for known in table["classes"]:
        plain = [ious["plain", seed][known["name"]] for seed in (0, 1)]
        assert known["baseline"] == plain
        assert list(known["differences"]) == ["more", "prototype"]
        for row, differences in known["differences"].items():
            assert differences == [ious[row, seed][known["name"]] - plain[seed] for seed in (0, 1)]
    # Classes count alike: the mean of their differences is that of the rows.
    means = {row["name"]: row["mean"] for row in table["rows"]}
    over_classes = np.mean([known["differences"]["more"] for known in table["classes"]])
    assert over_classes == pytest.approx(means["more"] - means["plain"])


@pytest.mark.parametrize("stop", [_interrupt, pytest.param(_kill, marks=pytest.mark.slow)])
def test_a_stopped_ablation_goes_on_and_writes_the_table_of_an_unbroken_one(
    stop: Callable[[list[str]], None],
    line: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop(line)
    capsys.readouterr()
    out = tmp_path / "out"
    assert len(list(out.glob("runs/*/result.json"))) == 1
    assert len(list(out.glob("runs/*/state.safetensors"))) == 2

    assert main(line) == 0
    said = capsys.readouterr().err
    assert "5 runs for 3 rows, 1 of them finished" in said
    assert "resuming" in said
    table = json.loads((out / "grid.json").read_text())
    assert [(row["name"], row["runs"], row["wanted"]) for row in table["rows"]] == [
        ("plain", 2, 2),
        ("more", 2, 2),
        ("prototype", 2, 2),
    ]
    assert len(list(out.glob("runs/*/result.json"))) == 5
    # Rows with and without the unlabeled branch, and both seeds, shared one cache.
    assert len(list((tmp_path / "cache").glob("*/done.json"))) == 1
    _check_classes(table, out)
    text = (out / "grid.md").read_text()
    assert "| more |" in text
    assert "## Classes" in text
    assert "about +2*" in text

    again = tmp_path / "again"
    assert main([*line, "--train.out", str(again)]) == 0
    whole = json.loads((again / "grid.json").read_text())
    assert whole["rows"] == table["rows"]

    # Finished runs are skipped: nothing is trained, and nothing scored.
    monkeypatch.setattr("rifenet.cli.ablate.train_and_score", None)
    assert main(line) == 0
    assert (out / "grid.md").read_text() == text
    assert main([*line, "--train.lr", "0.002"]) == 1
    assert "go on with train.lr = 0.001, but got 0.002. Give another --train.out" in capsys.readouterr().err
    assert main([*line, "--eval.episodes", "24"]) == 1
    assert "eval.episodes = 12, but got 24" in capsys.readouterr().err


def test_a_failing_row_is_reported_and_the_others_go_on(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"plain": {"train.unlabeled": 0}, "broken": {"train.unlabeled": 0, "model.pretrained": False}}
    written(tmp_path / "grid.yaml", rows=rows)
    assert main(line) == 1
    error = capsys.readouterr().err
    assert "Expected every run to finish, but 1 failed: fold0-seed0-" in error
    assert "ValueError: Expected model.pretrained for training" in error
    text = (tmp_path / "out" / "grid.md").read_text()
    assert "failed, ValueError: Expected model.pretrained for training" in text
    table = json.loads((tmp_path / "out" / "grid.json").read_text())
    assert [row["runs"] for row in table["rows"]] == [1, 0, 1]
    # What is done stays done; what failed is tried again.
    assert main(line) == 1
    assert "run 1 of 1: broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "protocol", "own"),
    [
        ("coco", "pfenet", (5000, (0, 1, 2, 3, 4), 65)),
        ("coco", "hsnet", (1000, (0,), 400)),
        ("pascal", "pfenet", (1000, (0, 1, 2, 3, 4), 65)),
    ],
)
def test_runs_are_scored_by_the_protocols_own_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, protocol: str, own: tuple[Any, ...]
) -> None:
    given = []

    def evaluate(model: Any, index: Any, config: Config, **options: Any) -> dict[str, Any]:
        given.append(config)
        return {}

    monkeypatch.setattr("rifenet.evaluation.protocol.evaluate", evaluate)
    monkeypatch.setattr("rifenet.data.sources.open_dataset", lambda *arguments, **options: None)
    config = Config(
        data=DataConfig(dataset=dataset, image_size=65),
        model=ModelConfig(kind="prototype", backbone="resnet18", width=0.25, pretrained=False),
        eval=EvalConfig(protocol=protocol),
    )
    train_and_score(config)
    rules = given[0].eval
    assert (rules.episodes, rules.seeds, given[0].data.image_size) == own


def test_a_result_goes_on_where_its_rules_are_the_protocols_own_in_other_words(tmp_path: Path) -> None:
    job = plan(read_grid(written(tmp_path / "grid.yaml"), Config()), tmp_path)[0]
    own = {"protocol": "pfenet", "episodes": 1000, "seeds": [0, 1, 2, 3, 4], "absent_as_zero": False}
    config = {"data": {"root": "photos", "image_size": 473}, "eval": own}  # older than eval.image_size
    scored(job.folder / "result.json", config=config)
    assert stored_result(job) is not None
    for change, sentence in (
        ({"eval": {**own, "seeds": [0]}}, r"eval\.seeds = \[0\]"),
        ({"data": {"root": "photos", "image_size": 400}}, r"eval\.image_size = 400, but got 473"),
    ):
        scored(job.folder / "result.json", config={**config, **change})
        with pytest.raises(ValueError, match=sentence):
            stored_result(job)


def test_several_devices_are_refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--train.devices", "2"]) == 1
    assert "Start the command once for each device" in capsys.readouterr().err
    assert main([*line, "--folds", "0,x"]) == 2
