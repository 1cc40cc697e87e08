"""Episode lists: pure, complete and as the protocol says. Most run on an index without files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rendered import make_voc, save_mask

from rifenet.data.folds import contiguous_folds
from rifenet.data.index import ImageIndex, ImageRecord
from rifenet.data.sampling import (
    EpisodePool,
    episodes_from_json,
    episodes_to_json,
    evaluation_episodes,
    queries,
    split_holdout,
)
from rifenet.data.sources import open_dataset

CLASSES = ("ant", "bee", "cow", "dog", "emu", "fox")


def make_index(*areas: dict[int, int]) -> ImageIndex:
    """An index of images that show these areas, without any file."""
    records = tuple(
        ImageRecord(f"photo{i}", Path(f"photo{i}.jpg"), Path(f"photo{i}.png"), 100, 100, shown)
        for i, shown in enumerate(areas)
    )
    return ImageIndex(records, CLASSES, contiguous_folds(len(CLASSES)), Path(), "custom", "all images")


@pytest.fixture
def index() -> ImageIndex:
    """60 images: ant 20, bee 20 (half of them small), cow 10, dog 4, emu 1, fox none; some show two classes."""
    shown = [{1: 3000} for _ in range(20)] + [{2: 3000 if i % 2 else 100} for i in range(20)]
    shown += [{3: 2048, 1: 50} for _ in range(10)] + [{4: 5000, 3: 4000} for _ in range(4)] + [{5: 9999}]
    return make_index(*shown, *({} for _ in range(5)))


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("sampling", ["image", "class"])
def test_training_episodes_keep_the_rules(index: ImageIndex, shots: int, sampling: str) -> None:
    pool = EpisodePool(index, (1, 2, 3, 4), shots=shots, unlabeled=2, sampling=sampling)
    for i in range(500):
        episode = pool.episode(3, i)
        assert episode == pool.episode(3, i)
        labelled = (episode.query, *episode.supports)
        assert len(episode.supports) == len(set(episode.supports)) == shots
        assert len(set(labelled)) == shots + 1
        assert all(index.records[image].areas[episode.class_id] >= 2048 for image in labelled)
        assert len(set(episode.unlabeled)) == 2
        assert not set(episode.unlabeled) & set(labelled)
        if index.class_name(episode.class_id) not in pool.borrowing:
            assert all(index.records[image].areas[episode.class_id] >= 2048 for image in episode.unlabeled)


def test_training_draws_from_everything_about_evenly(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1, 2, 3, 4), shots=1, sampling="image")
    assert len(pool.pairs) == 20 + 10 + 14 + 4
    queries = Counter((e.query, e.class_id) for e in (pool.episode(0, i) for i in range(4800)))
    assert set(queries) == set(pool.pairs)
    assert 60 < min(queries.values()) <= max(queries.values()) < 145  # 100 each, 4 standard deviations
    by_class = EpisodePool(index, (1, 2, 3, 4), shots=1, sampling="class")
    classes = Counter(by_class.episode(0, i).class_id for i in range(4000))
    assert all(880 < classes[class_id] < 1120 for class_id in (1, 2, 3, 4))


def test_classes_are_drawn_by_the_root_of_their_photos(index: ImageIndex) -> None:
    """Each draw again, by thousandths of the roots of 20, 10, 14 and 4 photos: all machines must draw the same."""
    pool = EpisodePool(index, (1, 2, 3, 4), shots=1, sampling="root")
    borders = np.cumsum([4472, 3162, 3741, 2000])
    for i in range(300):
        digest = hashlib.sha256(f"train:7:{i}:class".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") % int(borders[-1])
        assert pool.episode(7, i).class_id == 1 + int((borders <= drawn).sum())


def test_other_seeds_and_positions_are_other_episodes(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1, 2, 3), shots=1, unlabeled=2)
    lists = [[pool.episode(seed, i) for i in range(40)] for seed in (0, 1, 10)]
    assert len({tuple(episodes) for episodes in lists}) == 3
    assert len(set(lists[0])) > 30


def test_unlabeled_sources(index: ImageIndex) -> None:
    """Of the class by default; of the whole base set on request, or where the class has fewer than K + 1 + U."""
    own = EpisodePool(index, (1, 4), shots=1, unlabeled=3)
    assert own.borrowing == ("dog",)
    drawn = {1: set(), 4: set()}
    for i in range(600):
        episode = own.episode(0, i)
        drawn[episode.class_id] |= set(episode.unlabeled)
    assert drawn[1] == set(own.images[1])
    assert drawn[4] == set(range(len(index)))
    every = EpisodePool(index, (1,), shots=1, unlabeled=2, unlabeled_source="any")
    assert {image for i in range(600) for image in every.episode(0, i).unlabeled} == set(range(len(index)))
    assert every.borrowing == ()


def test_classes_left_out_are_named(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1, 4, 5, 6), shots=4, unlabeled=0)
    assert pool.classes == (1,)
    assert dict(pool.left_out).keys() == {"dog", "emu", "fox"}
    assert dict(pool.left_out)["dog"] == "4 images of at least 2048 px, 5 needed for 4 shot"
    with pytest.raises(
        ValueError, match=r"at least 2 images to draw episodes from, but got none .emu: 1 images.*fox: 0"
    ):
        EpisodePool(index, (5, 6), shots=1)
    with pytest.raises(ValueError, match="no class was given"):
        EpisodePool(index, (), shots=1)


def test_a_class_with_few_images_repeats_supports_where_that_is_allowed(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1, 4, 5), shots=5, least_shots=1, sampling="class")
    assert [index.class_name(class_id) for class_id in pool.classes] == ["ant", "dog"]
    assert dict(pool.left_out) == {"emu": "1 images of at least 2048 px, 2 needed for 1 shot"}
    strict = EpisodePool(index, (1,), shots=5, sampling="class")
    for i in range(60):
        episode = pool.episode(0, i)
        assert len(episode.supports) == 5
        assert episode.query not in episode.supports
        if index.class_name(episode.class_id) == "dog":  # 4 images
            assert sorted(episode.supports[:3]) == sorted(set(pool.images[4]) - {episode.query})
            assert episode.supports[3:] == episode.supports[:2]
        else:
            assert len(set(episode.supports)) == 5
    assert all(len(set(strict.episode(0, i).supports)) == 5 for i in range(20))


def test_too_few_images_for_the_unlabeled_ones() -> None:
    small = make_index({1: 3000}, {1: 3000}, {1: 3000})
    with pytest.raises(ValueError, match="at least 4 images, but got 3"):
        EpisodePool(small, (1,), shots=1, unlabeled=2)
    episode = EpisodePool(small, (1,), shots=1, unlabeled=1).episode(0, 0)
    assert sorted((episode.query, *episode.supports, *episode.unlabeled)) == [0, 1, 2]


def test_episode_files(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1,), shots=2, unlabeled=1)
    episode = pool.episode(0, 9)
    expected = [f"photo{image}.jpg" for image in (episode.query, *episode.supports, *episode.unlabeled)]
    assert pool.episode_files(0, 9) == expected


@pytest.mark.parametrize("class_area", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("count", [1, 44, 45, 1000])
def test_evaluation_goes_through_the_pairs_in_list_order(
    index: ImageIndex, shots: int, count: int, class_area: bool
) -> None:
    """By the published rule the ten cows of 2,048 px admit their ants of 50 px, and the small bees stay out."""
    classes = (1, 2, 3, 4) if shots == 1 else (1, 2, 3)
    pairs = []
    for position, record in enumerate(index.records):
        areas = {class_id: area for class_id, area in sorted(record.areas.items()) if class_id in classes}
        enough = [class_id for class_id, area in areas.items() if area >= 2048]
        pairs += [(position, class_id) for class_id in (enough if class_area else areas if enough else ())]
    assert len(pairs) - len(index.pairs(classes, 2048)) == (0 if class_area else 10)
    episodes = evaluation_episodes(index, classes, shots=shots, seed=0, episodes=count, class_area=class_area)
    assert len(episodes) == count
    for i, episode in enumerate(episodes):
        assert (episode.query, episode.class_id) == pairs[i % len(pairs)]
        assert len(set(episode.supports)) == shots
        assert episode.query not in episode.supports
        assert all(index.records[image].areas[episode.class_id] >= 2048 for image in episode.supports)
        assert episode.unlabeled == ()


def test_evaluation_supports_depend_on_seed_and_position_only(index: ImageIndex) -> None:
    long = evaluation_episodes(index, (1, 2), shots=2, seed=5, episodes=90)
    short = evaluation_episodes(index, (2, 1), shots=2, seed=5, episodes=7)
    other = evaluation_episodes(index, (1, 2), shots=2, seed=6, episodes=90)
    assert long[:7] == short
    assert [e.query for e in long] == [e.query for e in other]
    assert long != other
    assert long[0].supports != long[30].supports or long[1].supports != long[31].supports  # the next round draws anew


def test_the_published_area_rule_on_hand_made_images() -> None:
    """Whole fold in view: an image counts by its largest class, even one of too few images; supports by their own."""
    index = make_index(
        {1: 2048, 2: 1},  # 0: both are asked for
        {1: 2047, 2: 2047},  # 1: none is large enough
        {1: 9000, 4: 9000},  # 2: 4 is of another fold
        {2: 2048},  # 3
        {2: 2048, 1: 0},  # 4: ant only as a crowd, of which no pixel is left
        {3: 5000, 1: 7},  # 5: cow has too few images to be asked for, but admits the ant
        {4: 5000, 1: 7},  # 6: a class of another fold admits nothing
    )
    with pytest.warns(UserWarning, match=r"Classes left out of the evaluation: cow \(1 images"):
        episodes = evaluation_episodes(index, (1, 2, 3), shots=1, seed=0, episodes=6)
    asked = [(0, 1), (0, 2), (2, 1), (3, 2), (4, 2), (5, 1)]
    assert [(episode.query, episode.class_id) for episode in episodes] == asked
    assert queries(index, (1, 2, 3), 1) == asked
    assert queries(index, (1, 2, 3), 1, class_area=True) == [(0, 1), (2, 1), (3, 2), (4, 2)]
    for episode in episodes:
        (support,) = episode.supports
        assert support != episode.query
        assert support in {1: (0, 2), 2: (3, 4)}[episode.class_id]


def test_unlabeled_images_are_as_many_as_a_small_query_leaves() -> None:
    index = make_index({1: 3000}, {1: 3000}, {1: 3000}, {1: 5, 2: 4000}, {2: 4000})
    last = evaluation_episodes(index, (1, 2), shots=1, seed=0, episodes=6, unlabeled=9)[3]
    assert (last.query, last.class_id) == (3, 1)
    assert sorted((*last.supports, *last.unlabeled)) == [0, 1, 2]


def test_the_lists_are_the_same_on_every_machine(index: ImageIndex) -> None:
    """Golden digest: episodes must not change with the version of Python, numpy or this program."""
    pool = EpisodePool(index, (1, 2, 3, 4), shots=3, unlabeled=2)
    lists = [
        evaluation_episodes(index, (1, 2, 3), shots=5, seed=1, episodes=50, class_area=True),
        [pool.episode(7, i) for i in range(50)],
    ]
    digest = hashlib.sha256("".join(episodes_to_json(index, episodes) for episodes in lists).encode()).hexdigest()
    assert digest == "f848f5eca28ba83750ab9a547d3a6ff54760ba93863294d43ebf8e4271fa75dd"


def test_the_lists_of_the_published_rule_are_the_same_on_every_machine(index: ImageIndex) -> None:
    """Golden digest, as above."""
    text = episodes_to_json(index, evaluation_episodes(index, (1, 2, 3), shots=5, seed=1, episodes=60))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "0245ff13e8b56b6917124682242064106331954282a2bebf704dc35eb4540335"
    )


def test_evaluation_names_the_classes_it_leaves_out(index: ImageIndex) -> None:
    with pytest.warns(UserWarning, match=r"emu \(1 images of at least 2048 px, 2 needed for 1 shot\); fox \(0 images"):
        episodes = evaluation_episodes(index, (1, 5, 6), shots=1, seed=0, episodes=30)
    assert {episode.class_id for episode in episodes} == {1}
    with pytest.raises(ValueError, match="at least 3 images to evaluate, but got none: emu"):
        evaluation_episodes(index, (5,), shots=2, seed=0, episodes=1)
    with pytest.raises(ValueError, match="one of pfenet, hsnet, but got 'other'"):
        evaluation_episodes(index, (1,), shots=1, seed=0, episodes=1, protocol="other")


def test_the_area_filter(index: ImageIndex) -> None:
    queries = {e.query for e in evaluation_episodes(index, (2,), shots=1, seed=0, episodes=100)}
    assert len(queries) == 10
    with_small = {e.query for e in evaluation_episodes(index, (2,), shots=1, seed=0, episodes=100, min_area=100)}
    assert len(with_small) == 20


def test_hsnet_goes_through_all_pairs_in_list_order_whatever_their_area(index: ImageIndex) -> None:
    pairs = index.pairs((1, 2, 3, 4), 1)
    assert len(pairs) == 20 + 20 + 10 + 10 + 4 + 4  # also the ten small bees, and the ten ants of 50 px beside a cow
    episodes = evaluation_episodes(index, (1, 2, 3, 4), shots=3, seed=0, episodes=150, min_area=2048, protocol="hsnet")
    assert len(episodes) == 150
    assert [(episode.query, episode.class_id) for episode in episodes] == [pairs[i % len(pairs)] for i in range(150)]
    for episode in episodes:
        assert len({episode.query, *episode.supports}) == 4
        assert all(episode.class_id in index.records[image].areas for image in episode.supports)
    drawn = Counter(image for episode in episodes if episode.class_id == 2 for image in episode.supports)
    assert any(index.records[image].areas[2] == 100 for image in drawn)


def coco(index: ImageIndex) -> ImageIndex:
    return dataclasses.replace(index, dataset="coco")


def test_hsnet_on_coco_draws_the_class_then_the_image(index: ImageIndex) -> None:
    episodes = evaluation_episodes(coco(index), (1, 3, 4), shots=2, seed=0, episodes=3000, protocol="hsnet")
    classes = Counter(episode.class_id for episode in episodes)
    # Uniform over classes of 30, 14 and 4 images: 1,000 each, give or take four standard deviations of 26.
    assert all(abs(classes[class_id] - 1000) < 105 for class_id in (1, 3, 4))
    for class_id, images in ((1, 30), (4, 4)):
        own = [episode for episode in episodes if episode.class_id == class_id]
        for drawn, each in ((Counter(e.query for e in own), 1), (Counter(i for e in own for i in e.supports), 2)):
            assert set(drawn) == set(index.images_of(class_id))
            expected = each * len(own) / images
            assert all(abs(count - expected) < 4.5 * expected**0.5 for count in drawn.values())
    assert all(len({episode.query, *episode.supports}) == 3 for episode in episodes)


@pytest.mark.parametrize("make", [lambda index: index, coco], ids=["pairs", "coco"])
def test_hsnet_episodes_depend_on_seed_and_position_only(index: ImageIndex, make) -> None:
    drawn = partial(evaluation_episodes, make(index), shots=2, protocol="hsnet")
    long = drawn((1, 2, 3), seed=5, episodes=90)
    assert drawn((3, 2, 1), seed=5, episodes=7) == long[:7]
    assert drawn((1, 2, 3), seed=6, episodes=90) != long
    assert drawn((1, 2, 3), seed=5, episodes=90, min_area=9) == long


def test_hsnet_lists_are_the_same_on_every_machine(index: ImageIndex) -> None:
    """Golden digest, as above."""
    lists = [
        evaluation_episodes(made, (1, 2, 3), shots=2, seed=3, episodes=50, protocol="hsnet")
        for made in (index, coco(index))
    ]
    digest = hashlib.sha256("".join(episodes_to_json(index, episodes) for episodes in lists).encode()).hexdigest()
    assert digest == "d6cf550747084ceab0ad40a8959cfc5a3c6a2a87d9a412e920353d0a1ef3d31b"


@pytest.mark.filterwarnings("ignore:Classes left out")
def test_hsnet_pairs_are_counted_on_the_masks(tmp_path: Path) -> None:
    """hsnet has no area filter: an image counts for a class with any pixel of it, but not by "ignore"."""
    root = make_voc(tmp_path, class_ids=(1, 2, 6, 7), per_class=3, mixed=3)
    masks = sorted((root / "SegmentationClassAug").glob("*.png"))
    for path, change in zip(masks, ("one pixel", "all ignored", "kept", "kept"), strict=False):
        mask = np.array(Image.open(path))
        if change == "one pixel":
            mask[0, 0] = 6
        elif change == "all ignored":
            mask[mask > 0] = 255
        save_mask(mask, path)
    index = open_dataset("pascal", root, progress=False)
    for fold in (0, 1):
        novel = index.novel_classes(fold)
        expected = []
        for path in masks:
            values = {int(value) for row in np.array(Image.open(path)) for value in row}
            expected += [(path.stem, class_id) for class_id in novel if class_id in values]
        episodes = evaluation_episodes(index, novel, shots=1, seed=0, episodes=len(expected) + 1, protocol="hsnet")
        listed = [(index.records[episode.query].name, episode.class_id) for episode in episodes]
        assert listed == [*expected, expected[0]]
        assert len(expected) == 9  # fold 0: 5 + 5 - 1 all ignored; fold 1: 4 + 4 + 1 of one pixel


def test_json_goes_by_names(index: ImageIndex) -> None:
    pool = EpisodePool(index, (1, 2), shots=2, unlabeled=2)
    episodes = [pool.episode(0, i) for i in range(20)]
    text = episodes_to_json(index, episodes)
    assert episodes_from_json(index, text) == episodes
    backwards = index.with_records(reversed(index.records))
    again = episodes_from_json(backwards, text)
    assert [backwards.records[e.query].name for e in again] == [index.records[e.query].name for e in episodes]
    assert json.loads(episodes_to_json(backwards, again))["episodes"] == json.loads(text)["episodes"]


def test_json_of_another_dataset_or_format(index: ImageIndex) -> None:
    text = episodes_to_json(index, evaluation_episodes(index, (1,), shots=1, seed=0, episodes=3))
    with pytest.raises(ValueError, match="'photo0' is missing"):
        episodes_from_json(index.with_records(index.records[1:]), text)
    with pytest.raises(ValueError, match=r"'wasp'\. Known: ant"):
        episodes_from_json(index, text.replace('"ant"', '"wasp"'))
    for rows in ("[1]", '["ab"]', "7", '[{"class": "ant", "query": "photo0", "supports": null}]'):
        with pytest.raises(ValueError, match=r"name its class, its query and a list of supports"):
            episodes_from_json(index, f'{{"format": 1, "episodes": {rows}}}')
    for other in ("[]", '{"format": 2, "episodes": []}', "no json"):
        with pytest.raises(ValueError, match="format 1"):
            episodes_from_json(index, other)


def test_holdout(index: ImageIndex) -> None:
    train, held = split_holdout(index, 0.25, 0)
    names = [{record.name for record in part.records} for part in (train, held)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {record.name for record in index.records}
    assert 5 <= len(held) <= 27
    assert [len(part) for part in split_holdout(index, 0.0, 0)] == [60, 0]
    assert split_holdout(index, 0.25, 1)[1] != held
    # An image's side is its own: it stays where it is when other images come or go.
    fewer = split_holdout(index.with_records(index.records[::2]), 0.25, 0)[1]
    assert {record.name for record in fewer.records} == {record.name for record in index.records[::2]} & names[1]


def test_novel_classes_never_meet_training(voc_root: Path) -> None:
    index = open_dataset("pascal", voc_root, progress=False)
    for fold in range(4):
        novel = index.novel_classes(fold)
        pool = EpisodePool(index.without_classes(novel), index.base_classes(fold), shots=1, unlabeled=2)
        assert not set(pool.classes) & set(novel)
        assert not any(record.areas.keys() & set(novel) for record in pool.index.records)
