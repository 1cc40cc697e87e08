"""What is to be said of a result's figures, and the marks that figures bear for it in every table."""

from __future__ import annotations

from typing import Any, NamedTuple

from rifenet.evaluation.leakage import (
    PHOTOS_WORDS,
    classes_seen,
    names_unchecked,
    photos_trained_on,
    seen_words,
    training_unknown,
)

MARKS = "†‡§"
"""Trained on, absent, skipped; in the order in which a figure bears them."""


class Reservation(NamedTuple):
    """One thing to be said of all figures of a result."""

    mark: str
    """The figures' mark; empty where a sentence below the table is enough."""
    sentence: str


def reservations(result: dict[str, Any]) -> list[Reservation]:
    """What is to be said of a result, of older files, too."""
    found = []
    if seen := classes_seen(result):
        found.append(Reservation("†", f"the model was trained on {seen_words(seen)}."))
    if photos_trained_on(result):
        found.append(Reservation("†", f"the model's {PHOTOS_WORDS}."))
    if training_unknown(result):
        found.append(Reservation("", "what it was trained on is not recorded, perhaps these classes."))
    if names := names_unchecked(result):
        found.append(Reservation("", f"unchecked, since no table of class names has them: {', '.join(names)}."))
    if skipped := result.get("skipped"):
        found.append(Reservation("§", f"{len(skipped)} episodes were skipped: an image could not be read."))
    if absent := result["absent_classes"]:
        outcome = "counted as 0" if result["protocol"]["absent_as_zero"] else "left out of the mean"
        found.append(Reservation("‡", f"no episode of {', '.join(absent)}, {outcome}."))
    return found


def marks(*results: dict[str, Any]) -> str:
    """The marks of a figure: each that a result behind it bears."""
    borne = {reservation.mark for result in results for reservation in reservations(result)}
    return "".join(mark for mark in MARKS if mark in borne)


def class_marks(result: dict[str, Any], name: str) -> str:
    """The marks of one class's IoU: those that are about this class."""
    borne = {
        "†": name in classes_seen(result) or photos_trained_on(result),
        "§": any(skipped.get("class") == name for skipped in result.get("skipped", ())),
    }
    return "".join(mark for mark in MARKS if borne.get(mark))
