"""Training on rendered VOC folders and on real photos: recipe, resuming, ranks, selection, failure."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rendered import make_voc
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_disk import tiny_disk

from rifenet import load_model
from rifenet.cli.main import main
from rifenet.config import Config, DataConfig, ModelConfig, TrainConfig, from_dict, load_config, save_config, to_dict
from rifenet.data.sources import open_dataset
from rifenet.models import build_model
from rifenet.models.backbones import imagenet_weights
from rifenet.models.files.checkpoint import read_model, save_model, trained_state
from rifenet.training import NonFiniteLoss, loop, train
from rifenet.training.optim import build_optimizers, learning_rates
from rifenet.training.selection import LEAST_AUROC
from rifenet.training.split import base_split, with_steps
from rifenet.training.state import LOCK_FILE, STATE_FILE, claimed


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"), class_ids=tuple(range(1, 11)), per_class=8, mixed=4)


def _config(voc: Path, out: Path, **changes: Any) -> Config:
    sections: dict[str, dict[str, Any]] = {
        "data": {"root": str(voc), "image_size": 65, "fold": 0, "min_area": 500, "holdout": 0.4, "workers": 0},
        "model": {
            "backbone": "efficientnet_lite0",
            "stride": 16,
            "embed_dim": 32,
            "heads": 4,
            "local_dim": 16,
            "tokens_per_label": 12,
        },
        "train": {
            "out": str(out),
            "steps": 10,
            "batch_size": 2,
            "lr": 0.01,
            "log_every": 1,
            "save_every": 3,
            "validate_every": 5,
            "validate_episodes": 4,
            "unlabeled": 1,
            "device": "cpu",
        },
    }
    for name, value in changes.items():
        section, field = name.split("__")
        sections[section][field] = value
    return from_dict(Config, sections)


def _lines(folder: Path, name: str = "loss") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if name in line]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__optimizer": "adamw", "train__warmup": 3, "train__pseudo_labels": "mutual"},
        {"data__cache_dir": "cache", "data__shots": 2},
        {"data__cache_dir": "cache", "data__shots": 3, "train__mixed_shots": True, "train__average": 0.9},
        {"data__cache_dir": "cache", "data__worlds": 0.5, "train__unlabeled": 0, "train__precision": "bf16-mixed"},
    ],
    ids=["paper", "adamw, mutual", "cached features", "mixed shots, averaged weights", "worlds"],
)
def test_ten_steps_equal_five_resumed_five(voc: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    if "data__cache_dir" in changes:
        changes = {**changes, "data__cache_dir": str(tmp_path / "cache")}
    whole, parts = (_config(voc, tmp_path / name, **changes) for name in ("whole", "parts"))
    train(whole)
    train(parts, stop_at=5)
    assert json.loads((tmp_path / "parts" / "state.json").read_text())["progress"]["step"] == 5
    train(parts)
    for file in (STATE_FILE, "model.safetensors"):
        first, second = load_file(tmp_path / "whole" / file), load_file(tmp_path / "parts" / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), file
    assert [line["loss"] for line in _lines(tmp_path / "whole")] == [
        line["loss"] for line in _lines(tmp_path / "parts")
    ]
    assert len(_lines(tmp_path / "parts")) == 10


def test_an_epoch_counts_the_photos_that_can_be_a_query(voc: Path, tmp_path: Path) -> None:
    """As the published codes admit them: some base class has the smallest area. A photo of small objects counts not."""
    base = set(range(6, 11))  # of the fold's 20 classes those that the set shows
    masks = [np.asarray(Image.open(path)) for path in sorted((voc / "SegmentationClassAug").glob("*.png"))]
    for least in (500, 2500, 5000):
        shown = [{label for label in np.unique(mask).tolist() if label not in (0, 255)} for mask in masks]
        large = [
            any((mask == label).sum() >= least for label in labels) and labels <= base
            for mask, labels in zip(masks, shown, strict=True)
        ]
        config = _config(voc, tmp_path, data__min_area=least, data__holdout=0.0, train__epochs=3, train__steps=0)
        pool = base_split(config, open_dataset("pascal", str(voc), progress=False)).pool
        assert pool.queried == sum(large)
        assert with_steps(config, pool.queried).train.steps == 3 * (sum(large) // 2)
    assert 0 < sum(large) < sum(labels <= base for labels in shown), "some photos show small objects only"


def test_the_average_is_kept_and_the_weights_go_on_without_it(voc: Path, tmp_path: Path) -> None:
    """The kept model holds the running average of the weights of all steps; training itself is as without."""
    plain, averaged = (
        _config(voc, tmp_path / name, train__average=decay, train__validate_every=6, train__steps=6)
        for name, decay in (("plain", 0.0), ("averaged", 0.8))
    )
    torch.manual_seed(plain.train.seed)
    followed = {name: value.double() for name, value in trained_state(build_model(plain.model)).items()}
    for step in range(1, 7):
        train(plain, stop_at=step)
        weights = load_file(tmp_path / "plain" / STATE_FILE)
        for name, before in followed.items():
            followed[name] = before + max(0.2, 9 / (9 + step)) * (weights[f"model.{name}"] - before)
    train(averaged)
    whole, other = (load_file(tmp_path / name / STATE_FILE) for name in ("plain", "averaged"))
    assert all(torch.equal(value, other[name]) for name, value in whole.items())
    kept, last = (load_file(tmp_path / name / "model.safetensors") for name in ("averaged", "plain"))
    for name, value in followed.items():
        torch.testing.assert_close(kept[name].double(), value, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(value, last[name], atol=1e-4) for name, value in kept.items())


def test_mixed_shots_train_with_every_number_of_supports(voc: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[int] = []
    inner = loop.loss_terms

    def watched(wrapped: Any, model: Any, batch: dict[str, torch.Tensor], settings: Any) -> Any:
        assert len({batch[name].shape[1] for name in batch if name.startswith("support_")}) == 1
        seen.append(batch["support_images"].shape[1])
        return inner(wrapped, model, batch, settings)

    monkeypatch.setattr(loop, "loss_terms", watched)
    config = _config(voc, tmp_path / "run", data__shots=3, train__mixed_shots=True, train__steps=14)
    train(config)
    assert set(seen) == {1, 2, 3}
    index = open_dataset("pascal", voc, progress=False)
    assert {len(episode.supports) for episode in base_split(config, index).heldout_episodes} == {1}


def test_a_finished_run_holds_everything_and_is_not_repeated(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    progress = train(config)
    folder = tmp_path / "run"
    names = {"config.yaml", "model.safetensors", "state.safetensors", "state.json", "metrics.jsonl", "card.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert load_config(folder / "config.yaml") == config
    assert progress["step"] == 10
    assert 0 <= progress["best_miou"] <= 1
    model = read_model(folder / "model.safetensors")
    assert model.metadata["classes_trained_on"]
    assert not set(model.metadata["classes_trained_on"]) & {"aeroplane", "bicycle", "bird", "boat", "bottle"}
    before = (folder / "metrics.jsonl").read_text()
    assert train(config) == progress
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_state_older_than_an_option_goes_on_with_its_default(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=2)
    path = tmp_path / "run" / STATE_FILE
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
    del header["config"]["data"]["cache_strong"]
    save_file(load_file(path), path, {"state": json.dumps(header)})
    with pytest.raises(ValueError, match=r"go on with data\.cache_strong = False, but got True"):
        train(_config(voc, tmp_path / "run", data__cache_strong=True))
    assert train(config, stop_at=3)["step"] == 3


def test_one_held_out_slice_for_all_seeds_where_it_has_its_own(voc: Path, tmp_path: Path) -> None:
    index = open_dataset("pascal", voc, progress=False)

    def held(seed: int, **data: int) -> set[str]:
        split = base_split(_config(voc, tmp_path, train__seed=seed, **data), index)
        return {record.name for record in split.heldout.records}

    assert held(0) != held(1)
    assert held(0, data__seed=1) == held(7, data__seed=1) == held(1)


def test_skipped_classes_have_no_episode_but_keep_their_photos(voc: Path, tmp_path: Path) -> None:
    index = open_dataset("pascal", voc, progress=False)
    whole, less = (
        base_split(_config(voc, tmp_path, data__skip_classes=names), index) for names in ([], ["cat", "cow"])
    )
    assert less.pool.index.hash == whole.pool.index.hash
    left = [index.class_name(class_id) for class_id in whole.pool.classes]
    assert {"cat", "cow"} <= set(left)
    assert [index.class_name(class_id) for class_id in less.pool.classes] == [
        name for name in left if name not in ("cat", "cow")
    ]
    skipped = {index.class_id(name) for name in ("cat", "cow")}
    assert not skipped & {episode.class_id for episode in less.heldout_episodes}
    with pytest.raises(ValueError, match="a known class, but got 'gnu'"):
        base_split(_config(voc, tmp_path, data__skip_classes=["gnu"]), index)


@pytest.mark.parametrize(
    "strong", [{"train__unlabeled": 1}, {"train__unlabeled": 0, "data__cache_strong": True}], ids=str
)
def test_worlds_are_refused_for_the_unlabeled_branch(voc: Path, tmp_path: Path, strong: dict[str, Any]) -> None:
    config = _config(voc, tmp_path / "run", data__cache_dir=str(tmp_path / "cache"), data__worlds=0.5, **strong)
    with pytest.raises(ValueError, match=r"data\.worlds to be 0 with the unlabeled branch"):
        train(config)


def test_logged_rates_are_the_true_ones(voc: Path, tmp_path: Path) -> None:
    for optimizer, warmup in (("paper", 0), ("adamw", 2)):
        config = _config(voc, tmp_path / optimizer, train__optimizer=optimizer, train__steps=4, train__warmup=warmup)
        train(config)
        settings = config.train
        logged = [line["lr"] for line in _lines(tmp_path / optimizer)]
        assert logged == [learning_rates(settings, step) for step in range(4)]
    assert learning_rates(TrainConfig(steps=100), 0) == [0.075, 1e-4]
    assert learning_rates(TrainConfig(steps=100), 50)[0] == pytest.approx(0.075 * 0.5**0.9)


def test_rates_reach_the_weights(voc: Path, tmp_path: Path) -> None:
    """One step of plain SGD moves a weight by rate times clipped gradient: twice the rate, twice as far."""
    moved = []
    for rate in (0.01, 0.02):
        config = _config(voc, tmp_path / str(rate), train__lr=rate, train__weight_decay=0.0, train__momentum=0.0)
        train(config, stop_at=1)
        moved.append(load_file(tmp_path / str(rate) / STATE_FILE)["model.head.classify.weight"])
    config = _config(voc, tmp_path / "start", train__lr=1e-12, train__weight_decay=0.0)
    train(config, stop_at=1)
    start = load_file(tmp_path / "start" / STATE_FILE)["model.head.classify.weight"]
    torch.testing.assert_close(moved[1] - start, 2 * (moved[0] - start), rtol=1e-3, atol=1e-7)


def test_a_step_trains_what_it_should_and_not_the_backbone(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=1)
    state = load_file(tmp_path / "run" / STATE_FILE)
    assert not any(name.startswith("model.backbone.") for name in state)
    torch.manual_seed(config.train.seed)
    start = trained_state(build_model(config.model))
    for name, value in start.items():
        assert not torch.equal(state[f"model.{name}"], value), name


def test_training_sees_base_classes_only(voc: Path) -> None:
    config = _config(voc, Path("unused"))
    index = open_dataset("pascal", voc)
    split = base_split(config, index)
    novel = set(index.novel_classes(0))
    for part in (split.pool.index, split.heldout):
        assert not any(novel & set(record.areas) for record in part.records)
    training, heldout = ({r.name for r in part.records} for part in (split.pool.index, split.heldout))
    assert training
    assert heldout
    assert not training & heldout
    assert not novel & {episode.class_id for episode in split.heldout_episodes}
    assert len(split.heldout_episodes) == 4
    for episode in split.heldout_episodes:
        assert episode.query not in episode.supports
        assert episode.class_id in split.heldout_classes


def test_a_non_finite_loss_stops_names_itself_and_keeps_the_last_state(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run", train__lr=1e20, train__save_every=1, train__clip=1e9)
    with pytest.raises(NonFiniteLoss, match=r"(query|aux|self|gradient) is not finite at step [1-9].*2007_\d{6}\.jpg"):
        train(config)
    kept = json.loads((tmp_path / "run" / "state.json").read_text())["progress"]["step"]
    assert kept == len(_lines(tmp_path / "run"))
    state = load_file(tmp_path / "run" / STATE_FILE)
    assert all(torch.isfinite(value).all() for value in state.values())


def test_another_config_is_refused(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=2)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, beta=0.25))
    with pytest.raises(ValueError, match=r"train\.beta = 0\.5, but got 0\.25"):
        train(other)
    moved = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=2))
    train(moved, stop_at=3)


def test_a_damaged_state_is_refused_with_a_sentence(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=2)
    file = tmp_path / "run" / STATE_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        train(config)


def test_the_prototype_cannot_be_trained(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a model\.kind that trains, such as rifenet, but got prototype"):
        train(_config(voc, tmp_path, model__kind="prototype"))


def test_without_auxiliary_weight_there_is_no_auxiliary_head(voc: Path, tmp_path: Path) -> None:
    train(_config(voc, tmp_path / "run", train__w_aux=0.0, train__unlabeled=0), stop_at=1)
    state = load_file(tmp_path / "run" / STATE_FILE)
    assert not any("auxiliary" in name for name in state)
    assert set(_lines(tmp_path / "run")[0]) >= {"loss", "query"}
    assert not {"aux", "self"} & set(_lines(tmp_path / "run")[0])


TWO_RANKS = """
import atexit
import sys
from pathlib import Path
import torch
# What is registered first runs last: by then the program has to have ended the group.
atexit.register(lambda: print(f"group left at exit: {torch.distributed.is_initialized()}"))
from rifenet.config import load_config
from rifenet.training import train
train(load_config(sys.argv[1]))
"""


def test_two_ranks_give_the_loss_of_one(voc: Path, tmp_path: Path) -> None:
    """torchrun with two CPU processes, dropout and random token counts off, the same total batch."""
    fixed = {
        "model__proj_dropout": 0.0,
        "model__dropout": 0.0,
        "model__head_dropout": 0.0,
        "model__random_tokens": False,
        "train__batch_size": 4,
        "train__steps": 4,
        "train__threads": 1,
    }
    train(_config(voc, tmp_path / "one", **fixed))
    save_config(_config(voc, tmp_path / "two", **fixed), tmp_path / "two.yaml")
    (tmp_path / "run.py").write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "run.py"), str(tmp_path / "two.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    # Where a process aborts, its reason stands at the front, before what torchrun says of it.
    assert done.returncode == 0, f"{done.stderr[:2000]}\n[...]\n{done.stderr[-2000:]}"
    assert done.stdout.count("group left at exit: False") == 2, done.stdout
    for one, two in zip(_lines(tmp_path / "one"), _lines(tmp_path / "two"), strict=True):
        for term in ("loss", "query", "aux", "self"):
            assert two[term] == pytest.approx(one[term], abs=1e-4), (one["step"], term)
    one, two = (_lines(tmp_path / name, "heldout_miou") for name in ("one", "two"))
    assert [line["heldout_miou"] for line in two] == pytest.approx([line["heldout_miou"] for line in one], abs=0.02)


def test_config_round_trip_and_unknown_names(tmp_path: Path) -> None:
    config = Config(data=DataConfig(fold=2), model=ModelConfig(mid=(3, 5, 6)), train=TrainConfig(beta=0.25))
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert from_dict(Config, to_dict(config)) == config
    (tmp_path / "bad.yaml").write_text("train: {learning_rate: 1}\n")
    with pytest.raises(ValueError, match="learning_rate"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_model_files(voc: Path, tmp_path: Path) -> None:
    """A run's file, a shipped file and their differences; damaged and foreign files are refused."""
    train(_config(voc, tmp_path / "run", train__steps=1))
    run_file = tmp_path / "run" / "model.safetensors"
    model = read_model(run_file)
    shipped_file = tmp_path / "shipped.safetensors"
    save_model(model, shipped_file, {"name": "shipped"}, with_backbone=True)
    shipped = read_model(shipped_file)
    assert shipped.metadata == {"name": "shipped"}
    assert shipped.hash != model.hash
    assert not any(name.startswith("auxiliary") for name in shipped.state_dict())
    images, masks = torch.rand(1, 2, 3, 65, 65), torch.zeros(1, 2, 65, 65, dtype=torch.uint8)
    masks[:, :, 16:48, 16:48] = 1
    with torch.inference_mode():
        ours, theirs = (m.decode(m.encode_query(images[0]), m.encode_support(images, masks)) for m in (model, shipped))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)  # float16 weights
    data = shipped_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        read_model(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no rifenet header"):
        read_model(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "none.safetensors")


def test_a_run_stopped_while_it_finishes_is_finished_later(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run", train__steps=2)
    train(config)
    card = tmp_path / "run" / "card.md"
    card.unlink()
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    train(config)
    assert "presence on heldout base" in card.read_text(encoding="utf-8")
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before
    facts = read_model(tmp_path / "run" / "model.safetensors").metadata
    assert ("calibration" in facts) == (facts["presence_on_heldout_base"]["auroc"] >= LEAST_AUROC)


def test_validation_does_not_touch_the_training(voc: Path, tmp_path: Path) -> None:
    for name, every in (("often", 1), ("never", 1000)):
        train(_config(voc, tmp_path / name, train__validate_every=every), stop_at=4)
    often, never = (load_file(tmp_path / name / STATE_FILE) for name in ("often", "never"))
    assert all(torch.equal(often[name], never[name]) for name in often)


def test_other_images_or_features_are_refused_on_resume(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=1)
    cached = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_dir=str(tmp_path / "cache")))
    with pytest.raises(ValueError, match="same cached"):
        train(cached)
    other = make_voc(tmp_path / "other", class_ids=tuple(range(1, 11)), per_class=7, mixed=4)
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(other)))
    with pytest.raises(ValueError, match="same images"):
        train(moved)


def test_another_backbone_or_number_of_ranks_is_refused_on_resume(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=1)
    weights = Path(imagenet_weights("efficientnet_lite0"))
    state = torch.load(weights, weights_only=True)
    name = next(name for name, value in state.items() if value.dim() == 4)
    torch.save({**state, name: state[name] * 1.01}, tmp_path / "other.pth")
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=str(tmp_path / "other.pth")))
    with pytest.raises(ValueError, match=r"model\.weights|same backbone"):
        train(changed)
    _change_progress(tmp_path / "run" / STATE_FILE, backbone="0123456789abcdef")
    with pytest.raises(ValueError, match="same backbone"):
        train(config)
    _change_progress(tmp_path / "run" / STATE_FILE, backbone=None, ranks=2)
    with pytest.raises(ValueError, match="same ranks, but 2 became 1"):
        train(config)
    _change_progress(tmp_path / "run" / STATE_FILE, ranks=None, classes=["dog"])
    with pytest.raises(ValueError, match="same classes"):
        train(config)
    _change_progress(tmp_path / "run" / STATE_FILE, classes=None)  # as versions before wrote it
    assert train(config, stop_at=2)["step"] == 2


def _change_progress(path: Path, **entries: Any) -> None:
    """Gives entries of a state's progress another value, or takes them out (None)."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for name, value in entries.items():
        header["progress"].pop(name, None)
        if value is not None:
            header["progress"][name] = value
    save_file(tensors, path, {"state": json.dumps(header)})


def test_two_trainings_do_not_share_a_folder(voc: Path, tmp_path: Path) -> None:
    config = _config(voc, tmp_path / "run")
    with claimed(tmp_path / "run"), pytest.raises(ValueError, match="another training writes there"):
        train(config)
    assert train(config, stop_at=1)["step"] == 1
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_damaged_lines_of_the_log_are_dropped_with_a_word(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(voc, tmp_path / "run")
    train(config, stop_at=2)
    log = tmp_path / "run" / "metrics.jsonl"
    whole = log.read_text().splitlines()
    log.write_text("\n".join([whole[0], "{damaged}", "[1]", '{"step": "x"}', whole[1], '{"step": 2, "lo']) + "\n")
    capsys.readouterr()
    train(config, stop_at=3)
    assert "dropped 4 damaged lines" in " ".join(capsys.readouterr().err.split())
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_a_run_without_held_out_images_can_be_evaluated(voc: Path, tmp_path: Path) -> None:
    train(_config(voc, tmp_path / "run", data__holdout=0.0, train__steps=2))
    model = load_model(tmp_path / "run")
    assert model.metadata["heldout_base_miou"] is None
    assert "NaN" not in (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
    assert "NaN" not in (tmp_path / "run" / "state.json").read_text(encoding="utf-8")
    line = ["evaluate", "--model", str(tmp_path / "run"), "--dataset", "pascal", "--root", str(voc), "--fold", "0"]
    out = tmp_path / "result.json"
    few = ["--episodes", "4", "--some-classes", "--seeds", "0", "--min-area", "500"]
    assert main([*line, *few, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["model"]["metadata"]["heldout_base_miou"] is None


def test_a_full_disk_leaves_the_last_good_state(voc: Path, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=12_000) as disk:
        config = _config(voc, disk.folder / "run", train__save_every=1, train__validate_every=1000)
        train(config, stop_at=2)
        before = (disk.folder / "run" / STATE_FILE).read_bytes()
        disk.fill()
        with pytest.raises(OSError, match=r"No space|too large|File too large"):
            train(config, stop_at=3)
        disk.release()
        assert (disk.folder / "run" / STATE_FILE).read_bytes() == before
        assert not list((disk.folder / "run").glob(".*.tmp"))
        assert train(config, stop_at=3)["step"] == 3


def test_the_command_trains_from_a_file_and_overrides(voc: Path, tmp_path: Path) -> None:
    save_config(_config(voc, tmp_path / "run"), tmp_path / "config.yaml")
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--train.steps", "1", "--model.mid", "[3,5,6]"]
    assert main(command) == 0
    assert load_config(tmp_path / "run" / "config.yaml").model.mid == (3, 5, 6)
    assert main([*command, "--train.beta", "-1"]) != 0
    assert main(["train", "--train.no_such_field", "1"]) == 2


@pytest.mark.parametrize("optimizer", ["paper", "adamw"])
def test_decay_spares_biases(optimizer: str) -> None:
    model = build_model(backbone="efficientnet_lite0", pretrained=False, stride=16, embed_dim=32)
    built = build_optimizers(model, TrainConfig(optimizer=optimizer))
    groups = [group for optimizer_ in built for group in optimizer_.param_groups]
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert decay.keys() == {id(parameter) for parameter in trained.values()}
    for name, parameter in trained.items():
        if name.startswith("activation.") or optimizer == "adamw":
            assert decay[id(parameter)] == (0.0 if name.endswith("bias") else 1e-2), name
        else:
            assert decay[id(parameter)] == 1e-4, name
