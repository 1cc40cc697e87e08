"""Which classes of a set the bundled model was trained on, by any name: told by hand from its list of 57 classes."""

from __future__ import annotations

from typing import Any

import pytest

from rifenet.data.folds import VOC_CLASSES, novel_classes
from rifenet.evaluation.leakage import classes_seen, names_unchecked, photos_trained_on, seen_words
from rifenet.models.files.hub import load_model

NEW = {0: {"aeroplane"}, 1: {"bus"}, 2: {"dog"}, 3: set()}  # of each fold of VOC's names, `coseg`'s too
OTHER_NAMES = {
    "diningtable": ("dining table",),
    "motorbike": ("motorcycle",),
    "pottedplant": ("potted plant",),
    "sofa": ("couch",),
    "tvmonitor": ("tv",),
}
ICOSEG = {
    **dict.fromkeys(("athlete", "gymnast", "kendo", "liverpool player", "monk", "red sox player"), ("person",)),
    **dict.fromkeys(("red-shirt soccer player", "white-shirt soccer player", "skater", "speed skater"), ("person",)),
    "elephant": ("elephant",),
    "goose": ("bird",),
    "sports car": ("car",),
}
ICOSEG_NEW = (
    *("airplane", "brown bear", "cheetah", "christ the redeemer", "helicopter", "hot air balloon", "kite", "panda"),
    *("pyramid", "statue of liberty", "stonehenge", "taj mahal", "windmill"),
)


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return load_model("default").metadata


def result(metadata: dict[str, Any], *names: str) -> dict[str, Any]:
    return {"per_class": [{"name": name} for name in names], "model": {"metadata": metadata}}


@pytest.mark.parametrize("fold", range(4))
def test_every_trained_class_of_cosegs_folds_is_named(metadata: dict[str, Any], fold: int) -> None:
    names = [VOC_CLASSES[class_id - 1] for class_id in novel_classes(fold)]
    seen = classes_seen(result(metadata, *names))
    assert seen == {name: OTHER_NAMES.get(name, (name,)) for name in names if name not in NEW[fold]}
    assert names_unchecked(result(metadata, *names)) == []
    if fold == 3:
        assert seen_words(seen).startswith("pottedplant (as potted plant), sheep, sofa (as couch), train")


def test_every_trained_class_of_icoseg_is_named(metadata: dict[str, Any]) -> None:
    names = (*ICOSEG_NEW, *ICOSEG)
    assert classes_seen(result(metadata, *names)) == ICOSEG
    assert names_unchecked(result(metadata, *names)) == []


def test_parts_of_a_trained_person_are_new(metadata: dict[str, Any]) -> None:
    assert classes_seen(result(metadata, "hair", "skin", "shoes", "hat", "scarf", "jeans", "bag")) == {
        "bag": ("backpack", "handbag")
    }


def test_without_a_list_of_trained_classes_nothing_is_said() -> None:
    assert classes_seen(result({}, "sofa", "blowhole")) == {}
    assert names_unchecked(result({}, "sofa", "blowhole")) == []


@pytest.mark.parametrize(
    ("trained", "dataset", "seen"),
    [
        ({"dataset": "coco"}, {"name": "pascal"}, ("truck",)),  # VOC calls pickup trucks cars
        ({"dataset": "coco"}, {"name": "coco"}, None),  # COCO tells them apart
        ({"dataset": "custom"}, {"name": "custom"}, ("truck",)),  # two sets of one's own, perhaps
        ({"classes_hash": "a"}, {"name": "custom", "classes_hash": "a"}, None),
        ({"classes_hash": "a"}, {"name": "custom", "classes_hash": "b"}, ("truck",)),
    ],
)
def test_trucks_may_be_cars_of_another_list(
    trained: dict[str, Any], dataset: dict[str, Any], seen: tuple[str, ...] | None
) -> None:
    metadata = {"classes_trained_on": ["truck", "bus"], **trained}
    found = classes_seen({**result(metadata, "car", "bicycle"), "dataset": dataset})
    assert found == ({} if seen is None else {"car": seen})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),
        ({"exclude_novel": True}, False),
        ({"exclude_novel": None}, False),  # not recorded
        ({"list": "train.txt"}, False),
        ({"dataset": "coco"}, False),
        ({"classes_hash": "another's"}, False),
    ],
)
def test_photos_of_one_list_that_training_kept_are_told(change: dict[str, Any], told: bool) -> None:
    trained = {"dataset": "custom", "list": "all images", "classes_hash": "ours", "exclude_novel": False, **change}
    dataset = {"name": "custom", "list": "all images", "classes_hash": "ours"}
    assert photos_trained_on({**result(trained, "cup"), "dataset": dataset}) is told
