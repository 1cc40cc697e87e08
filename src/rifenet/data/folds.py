"""Class names and folds: a fold splits the classes into novel (test only) and base (training only).

Class ids start at 1, as in the masks; 0 is background and 255 is ignored. `Folds` lists each fold's novel class ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Folds = tuple[tuple[int, ...], ...]

VOC_CLASSES: tuple[str, ...] = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def contiguous_folds(n_classes: int, k: int = 4) -> Folds:
    """Splits class ids 1..n_classes, in order, into k folds with sizes that differ by at most one."""
    if n_classes < 1 or k < 1:
        raise ValueError(f"Expected at least one class and one fold, but got {n_classes} classes and {k} folds.")
    k = min(k, n_classes)
    bounds = [fold * n_classes // k for fold in range(k + 1)]
    return tuple(tuple(range(low + 1, high + 1)) for low, high in pairwise(bounds))


def interleaved_folds(n_classes: int, k: int = 4) -> Folds:
    """Deals class ids 1..n_classes to k folds in turn: fold i has i+1, i+1+k, ... (the usual COCO-20i)."""
    if n_classes < 1 or k < 1:
        raise ValueError(f"Expected at least one class and one fold, but got {n_classes} classes and {k} folds.")
    return tuple(tuple(range(fold + 1, n_classes + 1, k)) for fold in range(min(k, n_classes)))


PASCAL_FOLDS: Folds = contiguous_folds(len(VOC_CLASSES))


def novel_classes(fold: int, folds: Sequence[tuple[int, ...]] = PASCAL_FOLDS) -> tuple[int, ...]:
    """Novel class ids of `fold`. Raises ValueError for an unknown fold."""
    if not 0 <= fold < len(folds):
        raise ValueError(f"Expected a fold between 0 and {len(folds) - 1}, but got {fold}.")
    return folds[fold]


def base_classes(
    fold: int, folds: Sequence[tuple[int, ...]] = PASCAL_FOLDS, n_classes: int = len(VOC_CLASSES)
) -> tuple[int, ...]:
    """Base class ids of `fold`: all of 1..n_classes except its novel ones, including classes of no fold."""
    novel = novel_classes(fold, folds)
    return tuple(class_id for class_id in range(1, n_classes + 1) if class_id not in novel)
