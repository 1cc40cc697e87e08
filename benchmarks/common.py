"""Shared code of the benchmarks: arguments, draws of photos of a class, and writing of records.

Draw number i depends only on the seed and i. The record is written after each draw, so a stopped run keeps its draws.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rifenet.data.episodes import load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.evaluation.provenance import git_commit
from rifenet.files import write_text
from rifenet.formats.pictures import binary_mask
from rifenet.metrics import mean_interval
from rifenet.models import Backbone, Features

Values = dict[str, Any]


def parser(doc: str | None, threads: int = 1) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="where the figures are written")
    made.add_argument("--threads", type=int, default=threads)
    return made


def add_model(made: argparse.ArgumentParser) -> None:
    """The arguments of a benchmark that draws photos for one model."""
    made.add_argument("--model", default="default")
    made.add_argument("--seed", type=int, default=0)


def add_draws(made: argparse.ArgumentParser, draws: int) -> None:
    """The arguments of `measure_draws`."""
    add_model(made)
    made.add_argument("--root", required=True, help="a custom dataset")
    made.add_argument("--list-file", default="", help="image names to use")
    made.add_argument("--classes", nargs="+", required=True, help="taken in turns")
    made.add_argument("--draws", type=int, default=draws)
    made.add_argument("--min-area", type=int, default=2048, help="pixels of the class in each of its photos")


class Draw(NamedTuple):
    """A class, its photos in random order (record indices), and the generator for further draws."""

    index: ImageIndex
    class_id: int
    images: list[int]
    rng: random.Random

    def pair(self, image: int, class_id: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A photo [H,W,3] and its mask [H,W] of one class (0, 1, 255), by default the class of the draw."""
        photo, mask = load_pair(self.index, image)
        return photo, binary_mask(mask, *self.index.records[image].values(class_id or self.class_id))


def measure_draws(
    options: argparse.Namespace,
    engine: Any,
    measure: Callable[[Draw], Values],
    summarise: Callable[[Sequence[Values]], Values],
    settings: Values,
) -> None:
    """Measures draw after draw, and writes settings, summary and all draws to `options.out`.

    Args:
        options: those of `add_draws`.
        engine: the model.
        measure: measures one draw and returns its record.
        summarise: summarises all draws so far.
        settings: further settings that the figures depend on.
    """
    index = open_dataset("custom", options.root, list_file=options.list_file, part="val", progress=False)
    draws: list[Values] = []
    for number in range(options.draws):
        name = options.classes[number % len(options.classes)]
        rng = random.Random(f"{options.seed} {number}")
        images = index.images_of(index.class_id(name), options.min_area)
        rng.shuffle(images)
        draws.append({"class": name, **measure(Draw(index, index.class_id(name), images, rng))})
        summary = summarise(draws)
        record = {
            **settings,
            "model": model_record(engine),
            "git_commit": git_commit(),
            "dataset": index.hash,
            "classes": options.classes,
            "seed": options.seed,
            "min_area": options.min_area,
            "summary": summary,
            "draws": draws,
        }
        write_record(options.out, record)
        print(number + 1, name, json.dumps(summary), flush=True)


def model_record(engine: Any) -> Values:
    """Name, hash and input size of the measured model."""
    return {"name": engine.name, "hash": engine.hash, "size": engine.size}


def write_record(path: Path, record: Values) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def difference(own: ArrayLike, base: ArrayLike) -> list[float]:
    """Mean of own - base over draws [M], and its paired 95% bootstrap interval: [mean, low, high], one decimal."""
    gain = np.asarray(own, np.float64) - np.asarray(base, np.float64)
    return [round(float(value), 1) for value in (gain.mean(), *mean_interval(gain))]


@contextmanager
def each_picture_once(backbone: Backbone) -> Iterator[None]:
    """While entered, the backbone caches its features of each picture. The values stay the same."""
    plain, kept = backbone.forward, dict[str, Features]()

    def of(picture: torch.Tensor) -> Features:
        key = picture_key(picture)
        if key not in kept:
            kept[key] = plain(picture)
        return kept[key]

    with forward_by_picture(backbone, of):
        yield


def picture_key(picture: torch.Tensor) -> str:
    """Hash of a picture's pixels."""
    return hashlib.sha256(picture.numpy().tobytes()).hexdigest()


@contextmanager
def forward_by_picture(backbone: Backbone, of: Callable[[torch.Tensor], Features]) -> Iterator[None]:
    """While entered, the backbone's features of pictures are those that `of` gives for each, [1,3,S,S]."""

    def forward(pictures: torch.Tensor) -> Features:
        return Features(*(torch.cat(level) for level in zip(*map(of, pictures.split(1)), strict=True)))

    backbone.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del backbone.forward  # the class's own is visible again


def rewrite_page(page: Path, record: Path, with_table: Callable[[str, Values], str]) -> None:
    """Writes `page` again, as `with_table` makes its text from the text before and the values of `record`."""
    values = json.loads(record.read_text(encoding="utf-8"))
    write_text(page, with_table(page.read_text(encoding="utf-8"), values))
