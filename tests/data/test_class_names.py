"""Class names by meaning: hand-made pairs, the whole sets, and a second reading of the table."""

from __future__ import annotations

import importlib
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rifenet.data.class_names import (
    canonical,
    is_known,
    name_table,
    related,
    same_class,
    seen_classes,
    seen_in_training,
    unchecked,
)
from rifenet.data.folds import VOC_CLASSES

TABLE = Path(__file__).parents[2] / "src" / "rifenet" / "data" / "lists" / "class_names.toml"
COCO_OF_VOC = (
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)
COCO = [
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic_light"),
    *("fire_hydrant", "stop_sign", "parking_meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports_ball", "kite", "baseball_bat", "baseball_glove", "skateboard", "surfboard"),
    *("tennis_racket", "bottle", "wine_glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot_dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted_plant", "bed", "dining_table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell_phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
    *("teddy_bear", "hair_drier", "toothbrush"),
]


def test_each_voc_class_is_one_class_of_coco() -> None:
    assert [canonical(name) for name in VOC_CLASSES] == list(COCO_OF_VOC)
    for voc, coco in itertools.product(VOC_CLASSES, COCO):
        assert same_class(voc, coco) == (COCO_OF_VOC[VOC_CLASSES.index(voc)] == coco.replace("_", " ")), (voc, coco)


@pytest.mark.parametrize("names", [VOC_CLASSES, COCO])
def test_a_sets_own_classes_are_checked_and_unrelated(names: Sequence[str]) -> None:
    assert unchecked(names) == ()
    assert [pair for pair in itertools.combinations(names, 2) if related(*pair)] == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("aeroplane", "Airplane"),
        ("sofa", "couch"),
        ("tvmonitor", "tv"),
        ("pottedplant", "potted_plant"),
        ("diningtable", "dining-table"),
        ("motorbike", "motorcycle"),
        ("doughnut", "donut"),
        ("television receiver", "tvmonitor"),  # ADE20K
        ("minibike", "moped"),
        ("train_(railroad_vehicle)", "train"),  # LVIS
        ("fireplug", "fire hydrant"),
        ("wineglass", "wine glass"),
        ("mouse_(computer_equipment)", "mouse"),
        ("cellular_telephone", "cell phone"),
        ("panda", "giant_panda"),
        ("hot-air_balloon", "hot air balloon"),
        ("cristo_redentor", "christ the redeemer"),  # FSS-1000
        ("doublebus", "double-decker bus"),
        ("people", "person"),
        ("cats", "cat"),
        ("benches", "bench"),
        ("teddies", "teddy bear"),
        ("knives", "knife"),
        ("women", "person"),
        ("children", "person"),
        ("kid", "person"),
        ("tractor", "tractor_(farm_equipment)"),  # LVIS
        ("Bodenfliese", "boden-fliese"),  # in no table: spelling alone
    ],
)
def test_the_same_class(name: str, other: str) -> None:
    assert same_class(name, other)
    assert same_class(other, name)
    assert canonical(name) == canonical(other) or not is_known(name)
    assert seen_in_training(name, ["zebra", other]) == (other,)


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("athlete", "person"),
        ("skater", "person"),
        ("kendo", "person"),
        ("speed skater", "person"),  # a kind of a kind
        ("brown bear", "bear"),
        ("panda", "bear"),
        ("grizzly", "bear"),
        ("goose", "bird"),
        ("sports car", "car"),
        ("van", "car"),
        ("armchair", "chair"),
        ("crt_screen", "tvmonitor"),
        ("fighter_jet", "aeroplane"),
        ("jeans", "apparel"),
        ("stop sign", "signboard"),
        ("cyclist", "person"),
        ("tennis player", "athlete"),
        ("aeroplane", "vehicle"),
        ("motorbike", "two-wheeler"),
        ("police cruiser", "vehicle"),  # a kind of a kind of a kind
        ("sofa", "furniture"),
        ("horse", "mammal"),
        ("ladybug", "insect"),
        ("banana", "fruit"),
        ("bell pepper", "vegetable"),
    ],
)
def test_a_kind_was_seen_with_the_whole_and_the_other_way_round(kind: str, of: str) -> None:
    assert not same_class(kind, of)
    assert seen_in_training(kind, [of, "toothbrush"]) == (of,)
    assert seen_in_training(of, [kind]) == (kind,)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *((part, "person") for part in ("hair", "skin", "shoes", "jeans", "hat", "dress", "sandals")),
        ("baseball glove", "glove"),
        ("baseball bat", "bat"),
        ("hot dog", "dog"),
        ("teddy bear", "bear"),
        ("hot air balloon", "balloon"),
        ("toaster", "toothbrush"),
        ("cheetah", "cat"),  # VOC: domestic cats
        ("helicopter", "airplane"),
        ("hang glider", "aeroplane"),
        ("windmill", "windowpane"),
        ("glasses", "glass"),
        ("skater", "gymnast"),
        ("truck", "car"),  # COCO tells them apart
        ("dining table", "desk"),
        ("bird", "mammal"),
        ("tomato", "fruit"),
    ],
)
def test_other_classes_are_new(name: str, other: str) -> None:
    assert not related(name, other)
    assert seen_in_training(name, [other]) == ()


def test_a_model_of_coco_has_seen_five_voc_classes_of_other_names() -> None:
    trained = ["couch", "tv", "potted plant", "dining table", "motorcycle"]
    seen = seen_classes(VOC_CLASSES, trained)
    assert seen == {
        "diningtable": ("dining table",),
        "motorbike": ("motorcycle",),
        "pottedplant": ("potted plant",),
        "sofa": ("couch",),
        "tvmonitor": ("tv",),
    }


def test_another_list_may_give_a_name_to_things_that_this_one_tells_apart() -> None:
    """VOC has no trucks, and calls pickup trucks and vans cars; what is nearer comes first."""
    assert seen_classes(["car", "truck", "bus"], ["truck"], one_list=False) == {"car": ("truck",), "truck": ("truck",)}
    assert seen_in_training("truck", ["zebra", "car"], one_list=False) == ("car",)
    assert seen_in_training("car", ["truck", "taxi"], one_list=False) == ("taxi",)
    assert seen_in_training("diningtable", ["desk", "coffee_table"], one_list=False) == ("desk", "coffee_table")
    assert seen_in_training("pickup truck", ["car"]) == ("car",), "whatever the list"


def test_names_that_nobody_compared_are_unchecked() -> None:
    names = ["sofa", "Blowhole", "f20_20_B", "hair", "polyps"]
    assert unchecked(names) == ("Blowhole", "f20_20_B", "polyps")
    assert canonical("F20_20 B") == "f20 20 b"


def test_a_union_numbers_each_class_once_whatever_its_name_in_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TABLE.parents[4] / "scripts"))
    make_union = importlib.import_module("make_union")
    classes = [name.replace("_", " ") for name in COCO]
    numbers = [make_union.same_classes(name, classes) for name in VOC_CLASSES]
    assert numbers == [[classes.index(name) + 1] for name in COCO_OF_VOC]
    assert make_union.same_classes("hair", classes) == []


def read_slowly(content: Mapping[str, Mapping[str, Sequence[str]]]) -> set[tuple[str, str]]:
    """All related pairs of the table's names, by repeated passes over its lines instead of a walk."""

    def plain(name: str) -> str:
        letters = re.sub(r"[^a-z0-9]", "", name.lower())
        return next((re.sub(r"[^a-z0-9]", "", one.lower()) for one, others in synonyms if letters in others), letters)

    synonyms = [
        (one, {re.sub(r"[^a-z0-9]", "", other.lower()) for other in (one, *others)})
        for one, others in content["same"].items()
    ]
    below = {(plain(kind), plain(name)) for name, kinds in content["kinds"].items() for kind in kinds}
    while more := {(low, high) for low, middle in below for other, high in below if other == middle} - below:
        below |= more
    beside = {(plain(name), plain(other)) for name, others in content["overlaps"].items() for other in others}
    return {pair for one, other in below | beside for pair in ((one, other), (other, one))}


def test_the_table_is_read_whole() -> None:
    content = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    table = name_table(content)
    pairs = {(name, other) for name, others in table.related.items() for other in others}
    assert pairs == read_slowly(content)
    across = {(name, other) for name, others in table.across.items() for other in others}
    assert across == {
        pair
        for one, others in (("car", ("truck",)), ("diningtable", ("coffeetable", "desk")))
        for other in others
        for pair in ((one, other), (other, one))
    }
    assert not across & pairs
    alone = [name for names in content["alone"].values() for name in names]
    assert [name for name in alone if table.related[re.sub(r"[\W_]", "", name.lower())]] == []


def test_a_table_that_contradicts_itself_is_refused() -> None:
    empty: dict[str, dict[str, list[str]]] = {"same": {}, "kinds": {}, "overlaps": {}, "alone": {}}
    with pytest.raises(ValueError, match="'Sofa' is of 'couch', too"):
        name_table({**empty, "same": {"couch": ["sofa"], "settee": ["Sofa"]}})
    with pytest.raises(ValueError, match="no class to be a kind of itself, but 'a' is"):
        name_table({**empty, "kinds": {"a": ["b"], "b": ["c"], "c": ["a"]}})
