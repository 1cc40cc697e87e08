from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import NOVEL, ColourModel, Scene, mixed_scenes, open_scenes, write_dataset
from lightning_fabric import Fabric
from torch import Tensor

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.episodes import load_episode, load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, evaluation_episodes
from rifenet.data.transforms import place
from rifenet.evaluation import scoring
from rifenet.evaluation.protocol import evaluate, score_episodes
from rifenet.evaluation.provenance import git_commit
from rifenet.evaluation.result_file import names_hash, unpack_counts
from rifenet.evaluation.settings import setting_title
from rifenet.evaluation.supports import Cache
from rifenet.formats.pictures import binary_mask
from rifenet.models import build_model

SAME = ("scores", "per_class", "per_seed", "absent_classes", "episodes_hash", "episode_counts")


def config(*, fold: int = 0, shots: int = 1, image_size: int = 64, min_area: int = 100, **rules: Any) -> Config:
    data = DataConfig(dataset="custom", fold=fold, shots=shots, image_size=image_size, min_area=min_area)
    return Config(data=data, eval=EvalConfig(**{"episodes": 30, "seeds": (0, 1), **rules}))


def listed(index: ImageIndex, episodes: int, shots: int = 1) -> list[Episode]:
    return evaluation_episodes(index, NOVEL, shots=shots, seed=0, episodes=episodes, min_area=100)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in SAME}


@pytest.mark.parametrize("episodes", [1, 7, 14, 31])
def test_exactly_n_episodes_for_each_seed(index: ImageIndex, episodes: int) -> None:
    done: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rules = config(episodes=episodes, some_classes=True)
        result = evaluate(ColourModel(), index, rules, progress=done.append)
    assert sum(done) == 2 * episodes
    assert unpack_counts(result).counts.shape == (2, episodes, 2, 2)
    for seed in range(2):
        assert sum(row["episodes"][seed] for row in result["per_class"]) == episodes


def test_class_k_is_reported_in_its_own_row(index: ImageIndex) -> None:
    result = evaluate(ColourModel(), index, config())
    rows = {(row["id"], row["name"]): row["iou"] for row in result["per_class"]}
    assert rows == {(2, "leaf"): 1.0, (4, "lemon"): 0.5, (5, "heather"): pytest.approx(1 / 3)}
    assert result["scores"]["miou"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_fb_iou_sums_over_all_episodes(index: ImageIndex) -> None:
    episodes = listed(index, 30)
    wrong = {2: 0, 4: 400, 5: 800}  # pixels of the squares that nobody annotated
    foreground = 400 * 30 / sum(400 + wrong[episode.class_id] for episode in episodes)
    background = sum(4096 - 400 - wrong[episode.class_id] for episode in episodes) / (30 * (4096 - 400))
    run = evaluate(ColourModel(), index, config(seeds=(0,)))["per_seed"][0]
    assert run["fb_iou"] == pytest.approx((foreground + background) / 2)


def test_ignored_pixels_count_nowhere_and_all_others_do(tmp_path: Path) -> None:
    # The row of 255 cuts through the annotated square and through the one that is not.
    scene = Scene(((2, 10, 4, True), (2, 10, 40, False)), height=48, width=80, ignored_row=12)
    index = open_scenes(write_dataset(tmp_path / "scenes", {"a": scene, "b": scene}))
    counts = score_episodes(ColourModel(), index, [Episode(2, 0, (1,))], 80)[0]
    assert counts.tolist() == [[47 * 80 - 760, 47 * 80 - 380], [380, 760]]


SIZES = pytest.mark.parametrize(("height", "width"), [(64, 64), (120, 90), (75, 131), (375, 500), (200, 47)])


@SIZES
@pytest.mark.parametrize("image_size", [57, 64, 101, 320])
def test_no_offset_between_prediction_and_mask(tmp_path: Path, height: int, width: int, image_size: int) -> None:
    scene = Scene(((2, height // 2 - 4, width // 2 - 12, True),), height, width)
    index = open_scenes(write_dataset(tmp_path / "scenes", {"a": scene, "b": scene}))
    arrays = load_episode(index, Episode(2, 0, (1,)), image_size)
    item = {name: torch.from_numpy(array)[None] for name, array in arrays.items() if isinstance(array, np.ndarray)}
    model = ColourModel().eval()
    with torch.inference_mode():
        features = model.encode_query(item["query_images"])
        logits = model.decode(features, model.encode_support(item["support_images"], item["support_masks"]))
    mask = scoring.predicted_mask(logits, arrays["placement"])
    assert mask.shape == (height, width)
    found = np.argwhere(mask).mean(0) - np.argwhere(binary_mask(load_pair(index, 0)[1], 2)).mean(0)
    # Half a pixel of the coarser of the two grids.
    assert np.abs(found).max() < 0.5 * max(1, max(height, width) / image_size)


@SIZES
@pytest.mark.parametrize("image_size", [57, 97, 321, 473])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_offset_on_the_feature_grid(height: int, width: int, image_size: int, axis: int) -> None:
    # Stride 8 and a side of 8k + 1: grid point g looks at network pixel 8g. Its logit is that pixel's coordinate in the
    # original image minus an edge, so the mask must begin at the first pixel past that edge.
    placement = place(height, width, image_size)
    side = (height, width)[axis]
    scale = side / (placement.scaled_height, placement.scaled_width)[axis]
    grid = 8 * torch.arange((image_size - 1) // 8 + 1)
    for edge in (0.4 * side + 0.25, 0.6 * side + 0.75):
        ramp = ((grid + 0.5) * scale - 0.5 - edge).float()
        foreground = ramp[:, None].expand(-1, len(grid)) if axis == 0 else ramp.expand(len(grid), -1)
        logits = torch.stack([torch.zeros_like(foreground), foreground])[None]
        mask = scoring.predicted_mask(logits, placement)
        wanted = np.arange(side) > edge
        lines = mask if axis == 1 else mask.T
        assert mask.shape == (height, width)
        assert (lines == lines[0]).all()
        assert abs(int(lines[0].sum()) - int(wanted.sum())) <= (0 if scale <= 1 else 1)


@pytest.fixture(scope="module", params=["colour", "prototype", "rifenet"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(4)
    if request.param == "colour":
        return ColourModel(stride=8)
    small = {"backbone": "resnet18", "width": 0.25, "pretrained": False, "embed_dim": 32, "tokens_per_label": 20}
    return build_model(kind=request.param, **small)


def test_no_setting_of_the_machine_changes_a_digit(index: ImageIndex, model: Any) -> None:
    rules: dict[str, Any] = {"image_size": 65, "shots": 2, "episodes": 10}
    reference = figures(evaluate(model, index, config(**rules)))
    assert any(0 < row["iou"] < 1 for row in reference["per_class"])
    for change in ({}, {"batch_size": 8}, {"workers": 2}):
        assert figures(evaluate(model, index, config(**rules, **change))) == reference, change
    with threads(3):
        assert figures(evaluate(model, index, config(**rules, batch_size=3, workers=2))) == reference
        assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="Starts its second rank by fork; test_cli.py does it by torchrun.")
def test_two_ranks_change_no_digit(index: ImageIndex, model: Any) -> None:
    rules = config(image_size=65, shots=2, episodes=7)
    alone = evaluate(model, index, rules)

    def run(fabric: Fabric) -> tuple[dict[str, Any], int]:
        done: list[int] = []
        return evaluate(model, index, rules, fabric=fabric, progress=done.append), sum(done)

    together, share = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(run)
    assert together["environment"]["ranks"] == 2
    assert share == 7  # of 14: the other rank did the rest
    assert figures(together) == figures(alone)


def test_a_part_of_the_episodes_scores_as_in_the_whole(index: ImageIndex, model: Any) -> None:
    episodes = listed(index, 12)
    whole = score_episodes(model, index, episodes, 65)
    assert (score_episodes(model, index, episodes[5:9], 65) == whole[5:9]).all()
    assert (score_episodes(model, index, episodes[::-1], 65) == whole[::-1]).all()


def test_no_randomness_no_graph_and_the_mode_comes_back(index: ImageIndex) -> None:
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    model = ColourModel().train()
    evaluate(model, index, config(workers=1))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.training
    assert model.dropout.training
    assert model.modes == {False}
    assert model.inference == {True}
    evaluate(model.eval(), index, config())
    assert not model.training


def test_the_mode_comes_back_after_an_error_too(index: ImageIndex) -> None:
    class Broken(ColourModel):
        def decode(self, features: Tensor, context: Tensor) -> Tensor:
            return super().decode(features, context) / 0

    model = Broken().train()
    with threads(3):
        with pytest.raises(ValueError, match="finite logits"):
            evaluate(model, index, config(episodes=300))
        assert torch.get_num_threads() == 3
    assert model.training
    assert model.queries <= 6  # the other threads do not go on to the end


def test_each_query_and_each_support_set_is_encoded_once(index: ImageIndex) -> None:
    model = ColourModel()
    episodes = [episode for seed in range(3) for episode in evaluation_episodes(index, NOVEL, shots=1, seed=seed,
                episodes=28, min_area=100)]  # fmt: skip
    score_episodes(model, index, episodes, 64)
    # One image shows two novel classes, and is encoded once for both.
    assert len({(episode.class_id, episode.query) for episode in episodes}) == 14
    assert model.queries == len({episode.query for episode in episodes}) == 13
    assert model.supports == len({(episode.class_id, episode.supports) for episode in episodes}) < len(episodes)


def test_context_cache_stays_within_its_limit_and_changes_nothing(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(limit=100)
    for key in range(4):
        cache.put(key, (torch.zeros(5), torch.zeros(5)))  # 40 bytes each
        cache.get(0)
    assert [cache.get(key) is not None for key in range(4)] == [True, False, False, True]
    expected = score_episodes(ColourModel(), index, listed(index, 28), 64)
    monkeypatch.setattr(scoring, "CACHE_BYTES", 0)
    uncached = ColourModel()
    assert (score_episodes(uncached, index, listed(index, 28), 64) == expected).all()
    assert uncached.supports == 28


def test_absent_class_is_named_and_left_out_or_counted_as_zero(tmp_path: Path) -> None:
    scenes = {name: scene for name, scene in mixed_scenes().items() if name not in ("heather1", "heather2", "heather3")}
    index = open_scenes(write_dataset(tmp_path / "scenes", scenes))
    with pytest.warns(UserWarning, match="No episode of heather: left out of the mean") as caught:
        result = evaluate(ColourModel(), index, config())
    assert len(caught) == 1
    assert result["absent_classes"] == ["heather"]
    absent = result["per_class"][2]
    assert (absent["name"], absent["iou"], absent["episodes"]) == ("heather", None, [0, 0])
    assert result["scores"]["miou"]["mean"] == pytest.approx((1 + 1 / 2) / 2)
    with pytest.warns(UserWarning, match="No episode of heather: counted as 0"):
        result = evaluate(ColourModel(), index, config(absent_as_zero=True))
    assert result["scores"]["miou"]["mean"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert result["scores"]["miou"]["interval_bootstrap"] == pytest.approx((1 / 2, 1 / 2))


def test_unusable_requests_are_refused_in_a_sentence(index: ImageIndex) -> None:
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        evaluate(ColourModel(), index, config(fold=2))
    with pytest.raises(ValueError, match="different seeds, but got 0, 1, 0"):
        evaluate(ColourModel(), index, config(seeds=(0, 1, 0)))
    with pytest.raises(ValueError, match="at least 2 images"):
        evaluate(ColourModel(), index, config(min_area=5000))


def test_model_trained_on_a_novel_class_is_named(index: ImageIndex) -> None:
    model = ColourModel()
    model.metadata = {"name": "leaker", "classes_trained_on": ["apple", "lemon"], "exclude_novel": False}
    with pytest.warns(UserWarning, match="trained on lemon") as caught:
        result = evaluate(model, index, config())
    told = [str(one.message) for one in caught]
    assert told[0] == "The model was trained on lemon: these are not novel for it."
    assert told[1].startswith("No table of class names has leaf, heather: whether the model was trained on")
    assert result["novel_classes_seen"] == ["lemon"]
    assert result["seen_as"] == {"lemon": ["lemon"]}
    assert result["names_unchecked"] == ["leaf", "heather"]
    assert result["model"]["name"] == "leaker"
    assert result["model"]["exclude_novel"] is None  # of another fold, whatever it was
    assert evaluate(ColourModel(), index, config(), name="mine")["model"]["name"] == "mine"


def test_model_trained_on_a_novel_class_by_another_name_is_named(tmp_path: Path) -> None:
    """A model of couch, tv, potted plant, dining table and motorcycle has seen five of VOC under other names."""
    novel = ("sofa", "tvmonitor", "pottedplant", "diningtable", "motorbike", "sheep")
    scenes = {
        f"{name}{i}": Scene(((number, 4 * i, 4, True),)) for number, name in enumerate(novel, 1) for i in range(2)
    }
    folds = f"0: [{', '.join(novel)}]\n"
    index = open_scenes(write_dataset(tmp_path / "scenes", scenes, (*novel, "kite"), folds))
    model = ColourModel()
    trained = ["couch", "tv", "potted plant", "dining table", "motorcycle", "bear"]
    model.metadata = {"classes_trained_on": trained}
    with pytest.warns(UserWarning, match=r"trained on sofa \(as couch\), tvmonitor \(as tv\), pottedplant") as caught:
        result = evaluate(model, index, config())
    assert len(caught) == 1  # every name is in the table
    assert result["novel_classes_seen"] == list(novel[:5])
    assert result["seen_as"] == {name: [seen] for name, seen in zip(novel, trained[:5], strict=False)}
    assert result["names_unchecked"] == []
    model.metadata = {"classes_trained_on": ["bear"]}
    assert evaluate(model, index, config())["novel_classes_seen"] == []


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"exclude_novel": False}, False),
        ({"fold": 1}, None),
        ({"dataset": "pascal"}, None),
        ({"novel_classes": ["leaf", "lemon"]}, None),
        ({"classes_hash": "of another list"}, None),
        ({"classes_trained_on": ["apple", "lemons"]}, None),  # lemon, in the plural
        ({"novel_classes": None}, None),  # an older model, of which a custom dataset alone says too little
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_filter_of_training_is_told_only_of_its_own_fold(
    index: ImageIndex, change: dict[str, Any], kept: bool | None
) -> None:
    model = ColourModel()
    own = {"dataset": "custom", "fold": 0, "classes_trained_on": ["apple", "plum"], "exclude_novel": True}
    own |= {"novel_classes": ["heather", "leaf", "lemon"], "classes_hash": names_hash(index.class_names)}
    model.metadata = {name: value for name, value in {**own, **change}.items() if value is not None}
    assert evaluate(model, index, config())["model"]["exclude_novel"] is kept


def test_an_n_that_leaves_out_classes_is_refused_or_confirmed(index: ImageIndex) -> None:
    """14 queries in list order: both (leaf, lemon), 4 heather, 4 leaf, 4 lemon; heather comes third."""
    with pytest.raises(ValueError, match=r"2 leave out 1: heather\. The fold has 14 queries: give --episodes 14, or"):
        evaluate(ColourModel(), index, config(episodes=2))
    with pytest.warns(UserWarning, match="No episode of heather"):
        result = evaluate(ColourModel(), index, config(episodes=2, some_classes=True))
    assert result["absent_classes"] == ["heather"]
    assert setting_title(result).endswith(", pfenet, 1-shot, without 1 of 3 classes")
    whole = evaluate(ColourModel(), index, config(episodes=3))
    assert setting_title(whole).endswith(", pfenet, 1-shot")
    assert setting_title(whole, {**result, "fold": 1}).endswith(", without 1 of 6 classes")  # of all folds together


def test_a_small_query_counts_by_the_published_rule_and_not_by_class_area(tmp_path: Path) -> None:
    """Of lemon's two squares a model finds one too many; beside a leaf of 400 px, a lemon of 20 px is asked for."""
    scenes = {**mixed_scenes(), "small": Scene(((2, 10, 4, True), (4, 62, 40, True)))}  # two rows of lemon
    index = open_scenes(write_dataset(tmp_path / "scenes", scenes))
    (small,) = [position for position, record in enumerate(index.records) if record.name == "small"]
    assert index.records[small].areas == {2: 400, 4: 40}
    for class_area, lemons, name in ((False, 6, "pfenet"), (True, 5, "pfenet by class area")):
        result = evaluate(ColourModel(), index, config(episodes=16, class_area=class_area))
        assert {row["name"]: (row["queries"], row["images"]) for row in result["per_class"]} == {
            "leaf": (6, 6),
            "lemon": (lemons, lemons),
            "heather": (4, 4),
        }
        assert f", {name}, 1-shot" in setting_title(result)
        assert result["protocol"].get("class_area") is (None if class_area else False)
        assert any("one class of the fold in it, drawn at random" in words for words in result["deviations"])
        assert any(words.startswith("area of the class:") for words in result["deviations"]) is class_area


@pytest.mark.parametrize("protocol", ["pfenet", "hsnet"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_deviations_of_a_dataset_stand_in_its_results_only(index: ImageIndex, protocol: str) -> None:
    own = {"pascal": {"test pairs"} if protocol == "hsnet" else set(), "coco": {"overlaps"}, "custom": set()}
    for dataset, names in own.items():
        rules = config(protocol=protocol, some_classes=True)
        result = evaluate(ColourModel(), dataclasses.replace(index, dataset=dataset), rules)
        found = {words.partition(":")[0] for words in result["deviations"]}
        assert found & {"test pairs", "overlaps", "absent class"} == names


def test_result_holds_what_the_protocol_asks_for(index: ImageIndex, tmp_path: Path) -> None:
    model = build_model(kind="prototype", backbone="resnet18", width=0.25, pretrained=False)
    model.hash = "abc"
    result = evaluate(model, index, config(image_size=65, shots=2))
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    lines = page[page.index("## 6. The result file") : page.index("## 7.")].splitlines()
    named = {name for line in lines if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == {*result, "presence"}, "the page has every field"
    assert result["protocol"].keys() >= {"name", "min_area", "absent_as_zero", "query_order", "resize", "scored_at"}
    assert (result["protocol"]["name"], result["protocol"]["min_area"]) == ("pfenet", 100)
    assert result["dataset"]["hash"] == index.hash
    assert result["dataset"]["images"] == 17
    assert (result["fold"], result["shots"], result["seeds"], result["episodes"]) == (0, 2, [0, 1], 30)
    assert result["model"]["checkpoint_hash"] == "abc"
    assert result["config"]["model"]["backbone"] == "resnet18"
    assert result["config"]["data"]["image_size"] == 65
    machine = result["environment"]
    assert machine["torch"] == torch.__version__
    assert machine["rifenet"]
    assert machine["device"] == "cpu"
    assert "git_commit" in machine
    assert result["model"]["exclude_novel"] is None  # nothing was trained
    assert [run["seed"] for run in result["per_seed"]] == [0, 1]
    assert all(len(row["per_seed"]) == 2 for row in result["per_class"])
    assert result["seconds"] > 0
    assert result["episodes_per_second"] == pytest.approx(60 / result["seconds"], rel=0.01)
    assert result["peak_memory_mib"]["process"] > 10
    assert str(tmp_path) not in json.dumps(result, allow_nan=False)


def test_commit_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text("1")
    untracked.write_text("1")
    assert git_commit(tracked) is None
    git("init", "-q")
    git("add", "tracked.py")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert git_commit(tracked) == head
    assert git_commit(untracked) is None
    tracked.write_text("2")
    assert git_commit(tracked) == f"{head}-dirty"
