"""The `hsnet` protocol: its defaults, squash scoring and vote against slow references, and the field's known traps."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import ColourModel, Scene, mixed_scenes, open_scenes, write_dataset
from evaluation.test_protocol import figures, threads
from lightning_fabric import Fabric
from PIL import Image
from reference import hsnet as slow
from rendered import make_custom, render, save_mask
from torch import Tensor

from rifenet.config import Config, DataConfig, EvalConfig, resolved
from rifenet.data.episodes import EvaluationEpisodes, load_episode
from rifenet.data.index import ImageIndex, read_mask
from rifenet.data.sampling import Episode
from rifenet.data.sources import open_dataset
from rifenet.evaluation.prediction import ScoringRules, majority, predicted_mask
from rifenet.evaluation.protocol import drawn_episodes, evaluate, score_episodes
from rifenet.evaluation.result_file import unpack_counts
from rifenet.models import build_model

HSNET = ScoringRules(squashed=True, original_size=False)
VARIANTS = pytest.mark.parametrize(
    "variant", [{}, {"original_size": True}, {"vote": True}], ids=["", "original", "vote"]
)


def config(*, shots: int = 1, image_size: int = 64, **rules: Any) -> Config:
    rules = {"episodes": 30, "image_size": image_size, **rules}
    return resolved(Config(data=DataConfig(dataset="custom", shots=shots), eval=EvalConfig(protocol="hsnet", **rules)))


class Listener(ColourModel):
    """Keeps what it is given and the logits that it gives; `shift` is added to the foreground's."""

    def __init__(self, stride: int = 1, shift: float = 0.0) -> None:
        super().__init__(stride)
        self.shift = shift
        self.seen: list[tuple[Tensor, ...]] = []
        self.differences: list[np.ndarray] = []

    def encode_support(self, images: Tensor, masks: Tensor, valid: Tensor | None = None) -> Any:
        self.seen.append((images, masks, valid))
        return super().encode_support(images, masks, valid)

    def encode_query(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        self.seen.append((images, valid))
        return super().encode_query(images, valid)

    def decode(self, features: Tensor, context: Any) -> Tensor:
        logits = super().decode(features, context) + torch.tensor([0.0, self.shift])[:, None, None]
        self.differences.append((logits[0, 1] - logits[0, 0]).numpy().copy())
        return logits


def test_the_seeds_depend_on_the_protocol_but_never_replace_the_users() -> None:
    def own(dataset: str = "pascal", size: int = 257, **rules: Any) -> tuple[Any, ...]:
        config = resolved(Config(data=DataConfig(dataset=dataset, image_size=size), eval=EvalConfig(**rules)))
        assert resolved(config) == config
        assert config.eval.image_size == config.data.image_size
        return config.eval.episodes, config.eval.seeds, config.data.image_size, config.data.min_area

    five = (0, 1, 2, 3, 4)
    assert own() == own("custom") == (1000, five, 257, 2048)
    assert own("coco") == (5000, five, 257, 2048)
    assert own(protocol="hsnet") == own("coco", protocol="hsnet") == (1000, (0,), 400, 1)
    for protocol, area in (("pfenet", 2048), ("hsnet", 1)):
        told = own("coco", protocol=protocol, seeds=(7, 8), episodes=30, image_size=97)
        assert told == (30, (7, 8), 97, area)
    # A saved config leaves open what it did not say, so that another protocol's own values can take the place.
    assert (EvalConfig().seeds, EvalConfig().episodes, EvalConfig().image_size) == ((), None, None)


@pytest.mark.parametrize("option", ["vote", "original_size"])
def test_its_options_are_refused_under_the_other_protocol(option: str) -> None:
    with pytest.raises(ValueError, match=f"Expected eval.{option} only with eval.protocol hsnet"):
        EvalConfig(**{option: True})


@VARIANTS
@pytest.mark.parametrize("episodes", [1, 14, 31])
@pytest.mark.filterwarnings("ignore:No episode of")
def test_exactly_n_episodes(index: ImageIndex, episodes: int, variant: dict[str, bool]) -> None:
    done: list[int] = []
    result = evaluate(
        ColourModel(), index, config(episodes=episodes, shots=2, partial=True, **variant), progress=done.append
    )
    assert sum(done) == episodes
    assert unpack_counts(result).counts.shape == (1, episodes, 2, 2)
    assert sum(row["episodes"][0] for row in result["per_class"]) == episodes


@VARIANTS
def test_class_k_is_reported_in_its_own_row(index: ImageIndex, variant: dict[str, bool]) -> None:
    result = evaluate(ColourModel(), index, config(shots=2, **variant))
    rows = {(row["id"], row["name"]): row["iou"] for row in result["per_class"]}
    assert rows == {(2, "leaf"): 1.0, (4, "lemon"): 0.5, (5, "heather"): pytest.approx(1 / 3)}
    # Pairs in list order: leaf and lemon of the image with both, 4 heather, 4 leaf, 4 lemon: 14, and 30 = 14 + 14 + 2.
    counts = {row["name"]: (row["episodes"], row["queries"], row["images"]) for row in result["per_class"]}
    assert counts == {"leaf": ([11], 5, 5), "lemon": ([11], 5, 5), "heather": ([8], 4, 4)}


def test_no_area_filter_whatever_the_config_says(tmp_path: Path) -> None:
    scenes = {**mixed_scenes(), "corner": Scene(((2, 63, 63, True),))}  # one pixel of leaf
    index = open_scenes(write_dataset(tmp_path / "scenes", scenes))
    assert index.records[[record.name for record in index.records].index("corner")].areas == {2: 1}
    result = evaluate(ColourModel(), index, config())
    assert (result["per_class"][0]["images"], result["per_class"][0]["queries"]) == (6, 6)
    assert result["protocol"]["min_area"] == result["config"]["data"]["min_area"] == 1


SIZES = pytest.mark.parametrize(("height", "width"), [(64, 64), (120, 90), (75, 131), (375, 500), (200, 47)])


@SIZES
@pytest.mark.parametrize("stride", [1, 8, 16, 32])
@pytest.mark.parametrize("original_size", [False, True])
def test_scores_are_read_corner_to_corner_as_in_published_code(
    tmp_path: Path, height: int, width: int, stride: int, original_size: bool
) -> None:
    """At hsnet's own 400 px the last feature of a stride lies up to 15 px before the far edge, and is read there."""
    scene = Scene(((2, height - 30, width - 28, True),), height, width)
    index = open_scenes(write_dataset(tmp_path / "scenes", {"a": scene, "b": scene}))
    rules = ScoringRules(squashed=True, original_size=original_size)
    placement = load_episode(index, Episode(2, 0, (1,)), 400, squashed=True)["placement"]
    # What a network of this stride knows: the coordinates under its grid points. Foreground lies past an edge in them.
    known = torch.arange(0, 400, stride) / 399
    last = float(known[-1])
    assert round((1 - last) * 399) == {1: 0, 8: 7, 16: 15, 32: 15}[stride]
    for axis, length in ((0, height), (1, width)):
        edge = 0.85
        ramp = known[:, None].expand(-1, len(known)) if axis == 0 else known.expand(len(known), -1)
        mask = predicted_mask(torch.stack([torch.zeros_like(ramp), ramp - edge])[None], placement, rules)
        lines = mask.T if axis == 0 else mask
        assert mask.shape == ((height, width) if original_size else (400, 400))
        assert (lines == lines[0]).all()
        first = int(np.argmax(lines[0]))
        position = slow.squash_coordinate(first, length, 400) if original_size else first
        assert 0 <= position / 399 - edge / last < (400 / length if original_size and length < 400 else 1.01) / 399


@SIZES
@pytest.mark.parametrize("stride", [1, 8])
def test_no_offset_from_photo_to_counts(tmp_path: Path, height: int, width: int, stride: int) -> None:
    scene = Scene(((2, height - 30, width - 28, True),), height, width)
    index = open_scenes(write_dataset(tmp_path / "scenes", {"a": scene, "b": scene}))
    model = Listener(stride)
    (counts,) = score_episodes(model, index, [Episode(2, 0, (1,))], 400, rules=HSNET)
    prediction = slow.network_scores(model.differences[0], 400) > 0
    top, left = (
        slow.squash_coordinate(value, side, 400) for value, side in ((height - 20.5, height), (width - 18.5, width))
    )
    found = np.argwhere(prediction).mean(0)
    # The middle of the square, within half a step of the coarsest of the three grids.
    assert (np.abs(found - [top, left]) < [0.5 * max(stride, 400 / side, 1) for side in (height, width)]).all()
    assert stride > 1 or counts[1, 0] / counts[1, 1] > 0.93


def test_the_network_sees_the_squashed_picture_and_nothing_else(index: ImageIndex) -> None:
    model = Listener()
    first, *others = index.images_of(2)
    episodes = [Episode(2, first, tuple(others[:2]))]
    score_episodes(model, index, episodes, 60, rules=HSNET)
    arrays = EvaluationEpisodes(index, episodes, 60, squashed=True)[0]
    (query, query_valid), (images, masks, valid) = model.seen
    assert query.shape == (1, 3, 60, 60)
    assert images.shape == (1, 2, 3, 60, 60)
    np.testing.assert_array_equal(query[0], arrays["query_images"])
    np.testing.assert_array_equal(images[0], arrays["support_images"])
    np.testing.assert_array_equal(masks[0], arrays["support_masks"])
    assert query_valid.all()
    assert valid.all()


@pytest.fixture
def photos(tmp_path: Path) -> ImageIndex:
    """Textured photos of two classes with ignored outlines. Their sides are odd, so no two pixels are equally near."""
    root = make_custom(tmp_path / "photos", class_names=("disc", "block"), per_class=1, mixed=0)
    for number, (width, height) in enumerate([(161, 127), (127, 161), (177, 145), (91, 203)]):
        photo, mask = render((1 + number % 2,), number, width=width, height=height)
        Image.fromarray(photo).save(root / "images" / f"odd {number}.png")
        save_mask(mask, root / "masks" / f"odd {number}.png")
    index = open_dataset("custom", root, progress=False)
    return index.with_records(record for record in index.records if record.name.startswith("odd"))


@pytest.mark.parametrize("size", [33, 48, 64, 65])
@pytest.mark.parametrize("stride", [1, 8, 16])
def test_counts_at_network_size_equal_the_reference(photos: ImageIndex, size: int, stride: int) -> None:
    index = photos
    episodes = [Episode(1, 0, (2,)), Episode(2, 3, (1,)), Episode(1, 2, (0,)), Episode(2, 1, (3,))]
    model = Listener(stride, shift=0.0123)  # regular stripes cancel to scores of 0 without it
    counts = score_episodes(model, index, episodes, size, rules=HSNET)
    order = sorted(range(len(episodes)), key=lambda i: (episodes[i].class_id, episodes[i].query))
    assert len(model.differences) == len(episodes)
    for position, difference in zip(order, model.differences, strict=True):
        episode = episodes[position]
        scores = slow.network_scores(difference, size)
        assert np.abs(scores).min() > 1e-5  # nothing hangs on the last bit
        mask = read_mask(index.records[episode.query].mask_path)
        assert counts[position].tolist() == slow.counts_at_network_size(scores > 0, mask, episode.class_id)
        assert stride == 16 or counts[position].min() > 0


def test_the_vote_equals_the_reference() -> None:
    rng = np.random.default_rng(0)
    for shots in (1, 2, 3, 4, 5, 10):
        for density in (0.0, 0.02, 0.5):
            masks = (rng.random((shots, 6, 7)) < density).astype(np.uint8)
            np.testing.assert_array_equal(majority(masks), slow.vote(masks))
    assert majority([np.zeros((2, 2), np.uint8)] * 3).dtype == np.uint8


@pytest.mark.parametrize("original_size", [False, True])
def test_voting_is_each_shot_alone_and_then_the_rule(index: ImageIndex, original_size: bool) -> None:
    rules = ScoringRules(squashed=True, original_size=original_size, vote=True)
    torch.manual_seed(2)
    model = build_model(kind="prototype", backbone="resnet18", width=0.25, pretrained=False).eval()
    episodes = drawn_episodes(index, config(shots=3, episodes=6))[0]
    counts = score_episodes(model, index, episodes, 65, rules=rules)
    differ = 0
    for episode, found in zip(episodes, counts, strict=True):
        masks = [
            _alone(model, index, Episode(episode.class_id, episode.query, (shot,)), rules) for shot in episode.supports
        ]
        differ += any((mask != masks[0]).any() for mask in masks)
        arrays = load_episode(index, episode, 65, squashed=True)
        target = arrays["query_mask_original" if original_size else "query_masks"]
        voted = slow.vote(masks)
        for label in (0, 1):
            assert list(found[label]) == list(slow.intersection_union(voted, target, label))
    assert differ  # else any rule would pass
    assert (score_episodes(model, index, episodes, 65, rules=rules._replace(vote=False)) != counts).any()


def _alone(model: Any, index: ImageIndex, episode: Episode, rules: ScoringRules) -> np.ndarray:
    arrays = load_episode(index, episode, 65, squashed=True)
    one = {name: torch.from_numpy(array)[None] for name, array in arrays.items() if isinstance(array, np.ndarray)}
    with torch.inference_mode():
        context = model.encode_support(one["support_images"], one["support_masks"], one["support_valid"])
        logits = model.decode(model.encode_query(one["query_images"], one["query_valid"]), context)
    return predicted_mask(logits, arrays["placement"], rules)


def test_a_vote_encodes_each_support_once_for_each_class(index: ImageIndex) -> None:
    model = ColourModel()
    episodes = drawn_episodes(index, config(shots=3, episodes=28))[0]
    score_episodes(model, index, episodes, 64, rules=HSNET._replace(vote=True))
    assert model.supports == len({(episode.class_id, shot) for episode in episodes for shot in episode.supports})


def test_a_vote_of_one_shot_is_its_mask(index: ImageIndex) -> None:
    plain, voted = (evaluate(ColourModel(), index, config(vote=vote)) for vote in (False, True))
    assert figures(plain) == figures(voted)
    assert plain["protocol"] == voted["protocol"]  # so that they share a table


def test_the_record_names_every_choice(index: ImageIndex) -> None:
    plain, vote, original, small = (
        evaluate(ColourModel(), index, config(episodes=14, shots=2, **choice))["protocol"]
        for choice in ({}, {"vote": True}, {"original_size": True}, {"image_size": 48})
    )
    assert (plain["name"], plain["min_area"], plain["image_size"]) == ("hsnet", 1, 64)
    assert "no area filter" in plain["min_area_of"]
    assert plain["resize"].startswith("squashed to 64 x 64 px")
    assert plain["network_size"] == 64
    assert plain["scored_at"].startswith("network size, 64 x 64 px")
    assert plain["k_shot"] == "one forward pass over K supports"
    assert {name for name in plain if plain[name] != vote[name]} == {"vote", "k_shot"}
    assert "over the most votes" in vote["k_shot"]
    assert {name for name in plain if plain[name] != original[name]} == {"original_size", "scored_at"}
    assert original["scored_at"].startswith("original size")
    assert {name for name in plain if plain[name] != small[name]} == {
        *("image_size", "network_size", "resize", "scored_at")
    }


@pytest.fixture(scope="module", params=["colour", "rifenet"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(4)
    if request.param == "colour":
        return ColourModel(stride=8)
    small = {"backbone": "resnet18", "width": 0.25, "pretrained": False, "embed_dim": 32, "tokens_per_label": 20}
    return build_model(kind=request.param, **small)


RULES = pytest.mark.parametrize("rules", [HSNET, HSNET._replace(original_size=True), HSNET._replace(vote=True)])


@RULES
def test_no_setting_of_the_machine_changes_a_digit(index: ImageIndex, model: Any, rules: ScoringRules) -> None:
    episodes = drawn_episodes(index, config(shots=2, episodes=8))[0]
    reference = score_episodes(model, index, episodes, 60, rules=rules)
    assert (reference[:, 1, 0] < reference[:, 1, 1]).any()
    for change in ({"batch_size": 3}, {"workers": 2}):
        assert (score_episodes(model, index, episodes, 60, rules=rules, **change) == reference).all(), change
    with threads(3):
        assert (score_episodes(model, index, episodes, 60, rules=rules, batch_size=2) == reference).all()
    assert (score_episodes(model, index, episodes[::-1], 60, rules=rules) == reference[::-1]).all()


@RULES
@pytest.mark.skipif(sys.platform != "linux", reason="Starts its second rank by fork.")
def test_two_ranks_change_no_digit(index: ImageIndex, model: Any, rules: ScoringRules) -> None:
    episodes = drawn_episodes(index, config(shots=2, episodes=7))[0]
    alone = score_episodes(model, index, episodes, 60, rules=rules)
    done: list[int] = []

    def run(fabric: Fabric) -> tuple[np.ndarray, int]:
        return score_episodes(model, index, episodes, 60, rules=rules, fabric=fabric, progress=done.append), sum(done)

    together, share = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(run)
    assert share == 3  # of 7: the other rank did the rest
    assert (together == alone).all()


@VARIANTS
def test_no_randomness_no_graph_and_the_mode_comes_back(index: ImageIndex, variant: dict[str, bool]) -> None:
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    model = ColourModel().train()
    evaluate(model, index, config(shots=2, **variant))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.training
    assert model.modes == {False}
    assert model.inference == {True}
