"""Fold tables against the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data.test_class_names import COCO

from rifenet.data.folds import (
    PASCAL_FOLDS,
    VOC_CLASSES,
    Folds,
    base_classes,
    contiguous_folds,
    interleaved_folds,
    novel_classes,
)
from rifenet.data.index import ImageIndex, ImageRecord

PUBLISHED = {
    0: ("aeroplane", "bicycle", "bird", "boat", "bottle"),
    1: ("bus", "car", "cat", "chair", "cow"),
    2: ("diningtable", "dog", "horse", "motorbike", "person"),
    3: ("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
}


@pytest.mark.parametrize("fold", range(4))
def test_pascal_folds_are_the_published_ones(fold: int) -> None:
    assert novel_classes(fold) == tuple(range(5 * fold + 1, 5 * fold + 6))
    assert tuple(VOC_CLASSES[class_id - 1] for class_id in novel_classes(fold)) == PUBLISHED[fold]


@pytest.mark.parametrize("fold", range(4))
def test_base_and_novel_part_the_classes(fold: int) -> None:
    novel, base = novel_classes(fold), base_classes(fold)
    assert not set(novel) & set(base)
    assert sorted(novel + base) == list(range(1, 21))


def test_every_class_is_novel_once() -> None:
    assert sorted(class_id for fold in PASCAL_FOLDS for class_id in fold) == list(range(1, 21))


@pytest.mark.parametrize(
    ("n_classes", "expected"),
    [
        (8, ((1, 2), (3, 4), (5, 6), (7, 8))),
        (6, ((1,), (2, 3), (4,), (5, 6))),
        (3, ((1,), (2,), (3,))),
        (1, ((1,),)),
    ],
)
def test_contiguous_folds(n_classes: int, expected: tuple[tuple[int, ...], ...]) -> None:
    assert contiguous_folds(n_classes) == expected


@pytest.mark.parametrize(
    ("n_classes", "expected"),
    [
        (8, ((1, 5), (2, 6), (3, 7), (4, 8))),
        (6, ((1, 5), (2, 6), (3,), (4,))),
        (3, ((1,), (2,), (3,))),
    ],
)
def test_interleaved_folds(n_classes: int, expected: tuple[tuple[int, ...], ...]) -> None:
    assert interleaved_folds(n_classes) == expected
    assert [len(fold) for fold in interleaved_folds(80)] == [20] * 4


def test_classes_of_no_fold_are_base() -> None:
    assert base_classes(0, ((2,),), 4) == (1, 3, 4)


@pytest.mark.parametrize("fold", [-1, 4])
def test_no_such_fold(fold: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 3, but got {fold}"):
        novel_classes(fold)


def test_no_classes() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        contiguous_folds(0)
    with pytest.raises(ValueError, match="at least one class"):
        interleaved_folds(0)


def named(classes: tuple[str, ...], folds: Folds, *shown: tuple[int, ...], **options: Any) -> ImageIndex:
    """An index of images that show these classes, without any file."""
    records = tuple(
        ImageRecord(f"{i}", Path(f"{i}.jpg"), Path(f"{i}.png"), 9, 9, dict.fromkeys(ids, 9))
        for i, ids in enumerate(shown)
    )
    return ImageIndex(records, classes, folds, Path(), "custom", "all images", **options)


def test_a_novel_class_is_held_back_under_every_name() -> None:
    classes = ("sofa", "couch", "person", "skater", "shoes", "kite", "armchair")
    index = named(classes, ((1,), (4,)), (1,), (2, 6), (3,), (4, 6), (5,), (6,), (7,))
    assert index.held_back(0) == (1, 2)  # an armchair is a chair, no sofa
    assert index.base_classes(0) == (3, 4, 5, 6, 7)
    assert [record.name for record in index.without_classes(index.held_back(0)).records] == ["2", "3", "4", "5", "6"]
    assert index.held_back(1) == (4, 3)  # a skater is a person; shoes are part of one, not one
    assert index.base_classes(1) == (1, 2, 5, 6, 7)
    published = named(classes, ((1,), (4,)), (1,), trainable=(2, 3))
    assert published.held_back(0) == (1,)
    assert published.base_classes(0) == (2, 3)


def test_published_folds_hold_back_their_novel_classes_alone() -> None:
    for classes, folds in ((VOC_CLASSES, PASCAL_FOLDS), (COCO, interleaved_folds(80)), (COCO, contiguous_folds(80))):
        index = named(tuple(classes), folds, (1,))
        for fold in range(4):
            assert index.held_back(fold) == index.novel_classes(fold)
            assert set(index.base_classes(fold)) == set(range(1, len(classes) + 1)) - set(folds[fold])
