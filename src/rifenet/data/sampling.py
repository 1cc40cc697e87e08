"""Draws the images of each episode.

Each choice is a SHA-256 hash of (purpose, seed, position, ...), so an episode depends only on its seed and position.
Machine and number of workers, batch size and ranks do not change it, and a run can resume at any step. Training draws
episodes with replacement. Evaluation takes the (image, class) pairs in list order, so its queries are not random; only
`hsnet` draws one of a class's images on the datasets of `CLASS_DRAWS`. The published codes of `pfenet` go through the
images in list order and draw one class of each.

Images cut from one photo, such as the objects of PACO-Part, never meet in an episode as query and support.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rifenet.config import CLASS_DRAWS, PROTOCOLS
from rifenet.data.index import ImageIndex


@dataclass(frozen=True)
class Episode:
    """One class, and the record indices of its query, its K supports and its U unlabeled images."""

    class_id: int
    query: int
    supports: tuple[int, ...]
    unlabeled: tuple[int, ...] = ()


def _draw(n: int, *key: object) -> int:
    """A uniform number in 0..n-1, determined by `key`."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % n


Photos = Sequence[tuple[int, ...]]
"""Record indices, those cut from one photo together."""


def by_photo(index: ImageIndex, images: Iterable[int]) -> Photos:
    """The images, those cut from one photo together, in the order of their first."""
    photos: dict[Path, list[int]] = {}
    for image in images:
        photos.setdefault(index.records[image].image_path, []).append(image)
    return [tuple(found) for found in photos.values()]


def _draw_others(photos: Photos, n: int, taken: Collection[int], *key: object) -> tuple[int, ...]:
    """Draws `n` images of different photos, none of which has an image in `taken`; there must be that many."""
    drawn: list[int] = []
    attempt = 0
    while len(drawn) < n:
        photo = photos[_draw(len(photos), *key, attempt)]
        if not any(image in drawn or image in taken for image in photo):
            drawn.append(photo[0] if len(photo) == 1 else photo[_draw(len(photo), *key, attempt, "object")])
        attempt += 1
    return tuple(drawn)


class EpisodePool:
    """The source of training episodes: the classes with enough images, and their images.

    Attributes:
        images: record indices of each usable class.
        pairs: (record index, class id) of the usable classes, in list order.
        left_out: (class name, reason) of the classes with fewer than K + 1 images. `least_shots` lowers that bound to
            `least_shots` + 1; a class with fewer than K + 1 images then repeats supports.
        borrowing: names of classes with fewer than K + 1 + U images; their unlabeled images come from the whole index.

    Raises ValueError if no class is usable, or if the index has too few images for U.
    """

    def __init__(
        self,
        index: ImageIndex,
        class_ids: Sequence[int],
        *,
        shots: int,
        least_shots: int | None = None,
        unlabeled: int = 0,
        min_area: int = 2048,
        unlabeled_source: str = "class",
        sampling: str = "image",
    ) -> None:
        self.index, self.shots, self.unlabeled, self.sampling = index, shots, unlabeled, sampling
        least = shots if least_shots is None else least_shots
        self.images, self.left_out = usable_classes(index, class_ids, least, min_area)
        if not self.images:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left_out) or "no class was given"
            raise ValueError(
                f"Expected a class with at least {least + 1} images to draw episodes from, but got none ({reasons})."
            )
        if len(index) < shots + 1 + unlabeled:
            raise ValueError(
                f"Expected at least {shots + 1 + unlabeled} images, but got {len(index)}. Lower shots or unlabeled."
            )
        self.pairs = index.pairs(self.images, min_area)
        self._photos = {class_id: by_photo(index, images) for class_id, images in self.images.items()}
        everything = by_photo(index, range(len(index)))
        short = [class_id for class_id, photos in self._photos.items() if len(photos) < shots + 1 + unlabeled]
        self.borrowing = tuple(index.class_name(class_id) for class_id in short)
        self._unlabeled_photos = {
            class_id: everything if unlabeled_source == "any" or class_id in short else photos
            for class_id, photos in self._photos.items()
        }

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of the usable classes."""
        return tuple(self.images)

    @property
    def queried(self) -> int:
        """Number of images that can be a query: those that show a usable class large enough."""
        return len({image for image, _ in self.pairs})

    def episode(self, seed: int, i: int) -> Episode:
        """Training episode `i`, a pure function of (pool, seed, i): workers, batch size and ranks do not change it."""
        if self.sampling == "image":
            query, class_id = self.pairs[_draw(len(self.pairs), "train", seed, i, "query")]
        else:
            class_id = self._draw_class(seed, i)
            query = self.images[class_id][_draw(len(self.images[class_id]), "train", seed, i, "query")]
        different = min(self.shots, len(self._photos[class_id]) - 1)
        drawn = _draw_others(self._photos[class_id], different, (query,), "train", seed, i, "support")
        supports = tuple(drawn[shot % different] for shot in range(self.shots))
        others = self._unlabeled_photos[class_id]
        unlabeled = _draw_others(others, self.unlabeled, (query, *supports), "train", seed, i, "unlabeled")
        return Episode(class_id, query, supports, unlabeled)

    def _draw_class(self, seed: int, i: int) -> int:
        # Integer weights, so that all machines draw the same.
        uniform = self.sampling == "class"
        weights = [1 if uniform else math.isqrt(len(images) * 10**6) for images in self.images.values()]
        drawn = _draw(sum(weights), "train", seed, i, "class")
        return self.classes[bisect.bisect_right(list(itertools.accumulate(weights)), drawn)]

    def episode_files(self, seed: int, i: int) -> list[str]:
        """Image files of training episode `i`, for messages: query, supports, unlabeled."""
        episode = self.episode(seed, i)
        images = (episode.query, *episode.supports, *episode.unlabeled)
        return [str(self.index.records[image].image_path) for image in images]


def usable_classes(
    index: ImageIndex, class_ids: Sequence[int], shots: int, min_area: int
) -> tuple[dict[int, list[int]], tuple[tuple[str, str], ...]]:
    """Record indices of each class with images of at least K + 1 photos, and (name, reason) of each other class."""
    images, left_out = {}, []
    for class_id in sorted(class_ids):
        found = index.images_of(class_id, min_area)
        photos = len(by_photo(index, found))
        if photos > shots:
            images[class_id] = found
        else:
            reason = f"{photos} images of at least {min_area} px, {shots + 1} needed for {shots} shot"
            left_out.append((index.class_name(class_id), reason))
    return images, tuple(left_out)


def evaluation_episodes(
    index: ImageIndex,
    class_ids: Sequence[int],
    *,
    shots: int,
    seed: int,
    episodes: int,
    min_area: int = 2048,
    protocol: str = "pfenet",
    class_area: bool = False,
    unlabeled: int = 0,
) -> list[Episode]:
    """Exactly `episodes` episodes of a protocol, each a pure function of (index, classes, shots, seed, position).

    Queries are those of `queries`, in list order, repeated as needed; `hsnet` on the datasets of `CLASS_DRAWS` draws a
    class, uniform or in turn, then one of its images. Supports are drawn uniformly from the other photos of the class,
    with at least `min_area` pixels of it (pfenet) or one (hsnet). Then `unlabeled` more of these are drawn, or as many
    as the class has left; this does not change queries and supports.

    A class with fewer than K + 1 images is left out and named in a UserWarning. Raises ValueError if none remains.
    """
    pairs = queries(index, class_ids, shots, min_area, protocol, class_area)
    images, left_out = usable_classes(index, class_ids, shots, _least_area(protocol, min_area))
    if left_out:
        named = "; ".join(f"{name} ({reason})" for name, reason in left_out)
        warnings.warn(f"Classes left out of the evaluation: {named}.", stacklevel=2)
    purpose = "evaluate" if protocol == "pfenet" else protocol
    photos = {class_id: by_photo(index, found) for class_id, found in images.items()}
    usable = sorted(images)
    draws = CLASS_DRAWS.get(index.dataset) if protocol == "hsnet" else None
    result = []
    for i in range(episodes):
        query, class_id = pairs[i % len(pairs)]
        if draws is not None:
            turn = i % len(usable) if draws == "turn" else _draw(len(usable), purpose, seed, i, "class")
            class_id = usable[turn]
            photo = photos[class_id][_draw(len(photos[class_id]), purpose, seed, i, "query")]
            query = photo[0] if len(photo) == 1 else photo[_draw(len(photo), purpose, seed, i, "query", "object")]
        supports = _draw_others(photos[class_id], shots, (query,), purpose, seed, i)
        shown = any(query in photo for photo in photos[class_id])
        more = min(unlabeled, len(photos[class_id]) - shown - shots) if unlabeled else 0
        others = _draw_others(photos[class_id], more, (query, *supports), purpose, seed, i, "unlabeled")
        result.append(Episode(class_id, query, supports, others))
    return result


def queries(
    index: ImageIndex,
    class_ids: Sequence[int],
    shots: int,
    min_area: int = 2048,
    protocol: str = "pfenet",
    class_area: bool = False,
) -> list[tuple[int, int]]:
    """(record index, class id) of the queries of a fold's classes, in list order, without classes of too few images.

    pfenet, as published: an image in which some class of the fold has at least `min_area` pixels, and each class of the
    fold in it, of any size. With `class_area`, the class itself must have that many.
    hsnet: every image with a pixel of the class.

    Raises ValueError for an unknown protocol, or if no class has K + 1 images.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Expected protocol to be one of {', '.join(PROTOCOLS)}, but got {protocol!r}.")
    least = _least_area(protocol, min_area)
    images, left_out = usable_classes(index, class_ids, shots, least)
    if not images:
        named = "; ".join(f"{name} ({reason})" for name, reason in left_out)
        raise ValueError(f"Expected a class with at least {shots + 1} images to evaluate, but got none: {named}.")
    if class_area:
        return index.pairs(images, least)
    admitted = {image for image, _ in index.pairs(class_ids, least)}
    return [pair for pair in index.pairs(images) if pair[0] in admitted]


def _least_area(protocol: str, min_area: int) -> int:
    return min_area if PROTOCOLS[protocol].filters_by_area else 1


def absent_query(index: ImageIndex, class_id: int, seed: int, i: int) -> int:
    """Index of a record that does not show `class_id`; (seed, i) draws another class, uniform, then one of its images.

    Raises ValueError if every image shows the class, or may show it unmarked.
    """
    without: dict[int, list[int]] = {}
    for position, record in enumerate(index.records):
        if record.shows(class_id) is False:
            for other in record.areas:
                without.setdefault(other, []).append(position)
    if not without:
        raise ValueError(
            f"Expected an image without {index.class_name(class_id)}, but every one shows it or may show it unmarked."
        )
    classes = sorted(without)
    images = without[classes[_draw(len(classes), "absent", seed, i, "class")]]
    return images[_draw(len(images), "absent", seed, i, "image")]


def sometimes_absent(index: ImageIndex, class_id: int) -> bool:
    """Whether `absent_query` finds an image without the class."""
    return any(record.areas and record.shows(class_id) is False for record in index.records)


def episodes_to_json(index: ImageIndex, episodes: Sequence[Episode]) -> str:
    """JSON text of an episode list, with names of images and classes, so that other programs can use the same list."""
    names = [record.name for record in index.records]
    rows = [
        {
            "class": index.class_name(episode.class_id),
            "query": names[episode.query],
            "supports": [names[image] for image in episode.supports],
            "unlabeled": [names[image] for image in episode.unlabeled],
        }
        for episode in episodes
    ]
    return json.dumps({"format": 1, "index": index.hash, "episodes": rows}, indent=1)


def episodes_from_json(index: ImageIndex, text: str) -> list[Episode]:
    """Inverse of `episodes_to_json`, for any index with these images. Raises ValueError for unknown names or format."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict) or content.get("format") != 1:
        raise ValueError("Expected an episode list of format 1, as `episodes_to_json` writes it.")
    position = {record.name: i for i, record in enumerate(index.records)}
    try:
        return [
            Episode(
                index.class_id(row["class"]),
                position[row["query"]],
                tuple(position[name] for name in row["supports"]),
                tuple(position[name] for name in row.get("unlabeled", ())),
            )
            for row in content["episodes"]
        ]
    except KeyError as error:
        raise ValueError(f"Expected episodes over images of this dataset, but {error} is missing.") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(
            "Expected each episode to name its class, its query and a list of supports, but one does not."
        ) from error


def split_holdout(index: ImageIndex, share: float, seed: int) -> tuple[ImageIndex, ImageIndex]:
    """(training, held-out) images. A hash of its name assigns an image, so adding others never changes its side.

    An image called `NAME~...` is a part of the picture `NAME` and goes to the same side.
    """

    def held_out(name: str) -> bool:
        return _draw(10**9, "holdout", seed, name.partition("~")[0]) < share * 10**9

    held = {record.name for record in index.records if held_out(record.name)}
    train = index.with_records(record for record in index.records if record.name not in held)
    return train, index.with_records(record for record in index.records if record.name in held)
