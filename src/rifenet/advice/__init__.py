"""Advice on annotations: which shot makes its class worse, and which photos to annotate next.

from rifenet import Segmenter
from rifenet.advice import advise

found = advise(Segmenter.from_pretrained(), {"dog": [("a.jpg", "a.png"), ("b.jpg", "b.png")]}, ["c.jpg", "d.jpg"])
for shot in found.shots: print(shot.source, shot.reason)
for photo in found.next: print(photo.source, photo.reason)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import length_hint
from os import PathLike, fspath
from typing import Any

from rifenet.advice.photos import PhotoAdvice, describe, looks, ranked
from rifenet.advice.shot_agreement import MARGIN, ShotAdvice, agreement, judged
from rifenet.formats.label_files import Label
from rifenet.formats.pictures import Source
from rifenet.segmenting.segmenter import Segmenter

__all__ = ["MARGIN", "Advice", "PhotoAdvice", "ShotAdvice", "advise"]

SUGGESTED = 5
Watch = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Advice:
    """The result of `advise`."""

    shots: tuple[ShotAdvice, ...]
    """Every annotated photo, class by class in the order of learning."""
    next: tuple[PhotoAdvice, ...]
    """The photos to annotate next, in this order."""
    looked_at: int
    """Number of photos that were read."""
    failed: tuple[tuple[str, str], ...]
    """Photos that could not be read, each with the reason."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers are rounded to four decimals."""
        return {
            "margin": MARGIN,
            "shots": [{**_rounded(shot), "warns": shot.warns} for shot in self.shots],
            "next": [_rounded(photo) for photo in self.next],
            "looked_at": self.looked_at,
            "failed": [{"query": query, "reason": reason} for query, reason in self.failed],
        }


def advise(
    segmenter: Segmenter,
    shots: Mapping[str, Sequence[tuple[Source, Source]]] | None = None,
    queries: Iterable[Source] = (),
    *,
    suggest: int = SUGGESTED,
    white_is_object: bool = False,
    labels: Mapping[str, Label] | None = None,
    on_error: Callable[[Source, Exception], None] | None = None,
    watch: Watch = lambda items, total, label: items,
) -> Advice:
    """Judges annotated photos, and chooses which of `queries` to annotate next.

    Args:
        segmenter: holds the model; its learned classes stay as they are.
        shots: class -> (photo, mask) of each shot, read as in `Segmenter.learn`. None judges the classes that
            `segmenter` has learned, except those from class files, which hold no photos.
        queries: photos without masks, read one by one; any number.
        suggest: the most photos to suggest.
        white_is_object: 255 in masks marks the class, too.
        labels: class -> its label in its mask files, as `label` in `Segmenter.learn`.
        on_error: receives each photo that cannot be read and its error. The photo is skipped and listed in
            `Advice.failed`.
        watch: wraps items for a progress bar: `watch(items, total, label)` yields them. A total of 0 means unknown.

    Raises:
        FileNotFoundError: a shot's file is missing.
        ValueError: no shots, shots that cannot be learned, or `suggest` below 1.
    """
    if suggest < 1:
        raise ValueError(f"Expected suggest to be at least 1, but got {suggest}.")
    names: dict[str, list[str]] = {}
    if shots is not None:
        segmenter = Segmenter(segmenter.engine)
        for name, pairs in shots.items():
            options: dict[str, Any] = {"white_is_object": white_is_object, "label": (labels or {}).get(name)}
            segmenter.learn(name, *([pair[i] for pair in pairs] for i in (0, 1)), **options)
            names[name] = [_name(photo) for photo, _ in pairs]
    engine = segmenter.engine
    classes = [known for known in segmenter.learned if known.inputs is not None]
    if not classes:
        raise ValueError("Expected classes with their photos, but got none. Learn a class from photos first.")
    judgements: list[ShotAdvice] = []
    annotated = []
    for known in watch(classes, len(classes), "judging classes"):
        judgements += judged(known.name, names.get(known.name, [""] * known.shots), agreement(engine, known.inputs))
        annotated += [describe(engine, *each) for each in zip(known.inputs.images, known.inputs.valid, strict=True)]
    failed: list[tuple[str, str]] = []

    def skip(query: Source, error: Exception) -> None:
        failed.append((_name(query), str(error)))
        if on_error is not None:
            on_error(query, error)

    watched = watch(queries, length_hint(queries), "looking at photos")
    found = list(looks(engine, classes, watched, segmenter.confidence, skip))
    return Advice(tuple(judgements), tuple(ranked(found, annotated, suggest)), len(found), tuple(failed))


def _name(source: Source) -> str:
    return fspath(source) if isinstance(source, str | PathLike) else ""


def _rounded(advice: ShotAdvice | PhotoAdvice) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(advice).items()}
