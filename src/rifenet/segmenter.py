"""`Segmenter`: learns classes from a few annotated photos and segments all of them at once in others.

K shots of a class · B photos at once · C classes · S side of the square network input
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import IGNORE, Source, load_image, load_mask, resize_and_pad, resize_mask
from rifenet.engines import Engine
from rifenet.metrics import presence_statistic
from rifenet.result import Result, sigmoid
from rifenet.storage import LearnedClass, Shots, read_classes, save_classes

MAX_SHOTS = 20
MAX_CLASSES = 254  # a mask has one byte a pixel: 0 is the background and 255 means ignore


class Segmenter:
    """Learned classes over one model. `Segmenter.from_pretrained()` makes one; any `Engine` will do.

    `learn`, `forget` and `load_classes` do all they say, or raise and leave the classes as they were.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._classes: dict[str, LearnedClass] = {}

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """A segmenter that has learned nothing yet.

        Args:
            model: None or `default` for the bundled model, a run folder, a `.safetensors` file, `hf:owner/name`, or a
                folder from `rifenet export`, which needs no torch.
            device: auto, cpu, cuda, cuda:N or mps.
            threads: CPU threads (torch: of the whole process); None leaves the library's choice.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: the file is no model, or this machine lacks the device or the library that runs it.
        """
        from rifenet.engines.load import load_engine

        return cls(load_engine("default" if model is None else model, device, threads))

    @property
    def classes(self) -> list[str]:
        """Names of the learned classes, in the order of their numbers in a mask."""
        return list(self._classes)

    @property
    def shots(self) -> dict[str, int]:
        """Number of annotated photos of each class."""
        return {name: known.shots for name, known in self._classes.items()}

    def memory(self) -> int:
        """Bytes that the learned classes take, their photos included."""
        return sum(known.memory() for known in self._classes.values())

    def learn(
        self,
        name: str,
        images: Sequence[Source],
        masks: Sequence[Source],
        *,
        replace: bool = False,
        white_is_object: bool = False,
    ) -> None:
        """Learns a class, or adds shots to a known one (all its shots are then encoded together again).

        Args:
            name: what to call it.
            images: K photos: paths, PIL images or [H,W,3] arrays.
            masks: their masks [H,W]: 0 is background, 255 is ignored, anything else marks the class.
            replace: these shots take the place of those that a known class has; it keeps its number.
            white_is_object: 255 marks the class too, for black-and-white masks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a picture cannot be read, a mask marks nothing or has another size than its photo, there are
                more than 20 shots, or the class came from a file and so has no photos to add shots to.
        """
        known = self._classes.get(name)
        if not name or not isinstance(name, str):
            raise ValueError(f"Expected a name for the class, but got {name!r}.")
        if isinstance(images, str | PathLike | Image.Image) or isinstance(masks, str | PathLike | Image.Image):
            raise ValueError(
                "Expected lists of images and masks, but got one of them. Write images=[...], masks=[...]."
            )
        if not len(images) == len(masks) > 0:
            raise ValueError(f"Expected a mask for each of 1 to 20 images, but got {len(images)} and {len(masks)}.")
        if replace:
            known = None
        if known is not None and known.inputs is None:
            raise ValueError(
                f"Expected photos of {name!r} to add shots to, but it was loaded from a file, which holds none."
                " Forget it and learn it from all its photos."
            )
        total = len(images) + (known.shots if known else 0)
        if total > MAX_SHOTS:
            raise ValueError(f"Expected at most {MAX_SHOTS} shots of a class, but {name!r} would have {total}.")
        if name not in self._classes:
            self._check_room([name])
        pairs = zip(images, masks, strict=True)
        shots = [_prepare_shot(name, *pair, self.engine.size, white_is_object) for pair in pairs]
        inputs = Shots(*(np.stack(part) for part in zip(*shots, strict=True)))
        if known is not None and known.inputs is not None:
            inputs = known.inputs.followed_by(inputs)
        self._classes[name] = LearnedClass(name, total, self.engine.encode_support(*inputs), inputs)

    def forget(self, name: str) -> None:
        """Removes a class; later classes move down one number. Raises ValueError for a name that is not learned."""
        if name not in self._classes:
            raise ValueError(f"Expected a learned class ({', '.join(self.classes) or 'none yet'}), but got {name!r}.")
        del self._classes[name]

    def segment(self, query: Source, *, keep_absent: bool = False) -> Result:
        """Segments one photo: a path, a PIL image or an [H,W,3] array.

        `keep_absent` keeps classes judged absent in the mask. Raises FileNotFoundError, or ValueError for a photo that
        cannot be read or where nothing has been learned.
        """
        return next(self.segment_many([query], keep_absent=keep_absent))

    def segment_many(
        self,
        queries: Iterable[Source],
        *,
        batch_size: int = 8,
        keep_absent: bool = False,
        on_error: Callable[[Source, Exception], None] | None = None,
    ) -> Iterator[Result]:
        """Segments photos lazily, in order, `batch_size` at a time, by the classes known now.

        `on_error` takes a photo that cannot be read, and the rest goes on; without it that photo's error is raised,
        after the results of those before it. Raises ValueError where nothing has been learned.
        """
        if not self._classes:
            raise ValueError("Expected at least one learned class, but there is none. Call learn() first.")
        if batch_size < 1:
            raise ValueError(f"Expected batch_size to be at least 1, but got {batch_size}.")
        return self._segment_lazily(queries, list(self._classes.values()), batch_size, keep_absent, on_error)

    def save_classes(self, path: str | PathLike[str]) -> None:
        """Writes the learned classes, without the photos, to a `.safetensors` file. Raises OSError on a full disk."""
        save_classes(Path(path), list(self._classes.values()), self.engine)

    def load_classes(self, path: str | PathLike[str]) -> None:
        """Adds the classes of a file from `save_classes`.

        Raises FileNotFoundError, or ValueError for a file that is damaged, of another model or version, or that holds a
        class which is learned already.
        """
        loaded = read_classes(Path(path), self.engine)
        if again := [known.name for known in loaded if known.name in self._classes]:
            raise ValueError(
                f"Expected only new classes in {fspath(path)}, but {', '.join(again)} is learned. Forget it first."
            )
        self._check_room([known.name for known in loaded])
        self._try_out(loaded, fspath(path))
        self._classes.update((known.name, known) for known in loaded)

    def _check_room(self, new: Sequence[str]) -> None:
        if len(self._classes) + len(new) > MAX_CLASSES:
            raise ValueError(f"Expected at most {MAX_CLASSES} classes, the numbers of a mask. Forget some first.")

    def _try_out(self, classes: Sequence[LearnedClass], path: str) -> None:
        """Segments a grey picture by each class, so that a class which loads is one which works."""
        size = self.engine.size
        features = self.engine.encode_query(
            np.full((1, 3, size, size), 0.5, np.float32), np.ones((1, size, size), bool)
        )
        for known in classes:
            try:
                works = np.isfinite(self.engine.decode(features, known.context)).all()
            except Exception as error:  # whatever a library raises over names, shapes or types
                raise ValueError(
                    f"Expected classes that {self.engine.name} can use, but {path} fails: {error}"
                ) from error
            if not works:
                raise ValueError(f"Expected numbers for {known.name!r}, but {path} gives none. Learn it again.")

    def _segment_lazily(
        self,
        queries: Iterable[Source],
        classes: list[LearnedClass],
        batch_size: int,
        keep_absent: bool,
        on_error: Callable[[Source, Exception], None] | None,
    ) -> Iterator[Result]:
        batch: list[tuple[str, NDArray[np.uint8]]] = []
        for query in queries:
            try:
                batch.append((fspath(query) if isinstance(query, str | PathLike) else "", load_image(query)))
            except (ValueError, OSError) as error:
                yield from self._segment_batch(batch, classes, keep_absent)
                batch = []
                if on_error is None:
                    raise
                on_error(query, error)
            if len(batch) == batch_size:
                yield from self._segment_batch(batch, classes, keep_absent)
                batch = []
        yield from self._segment_batch(batch, classes, keep_absent)

    def _segment_batch(
        self, batch: list[tuple[str, NDArray[np.uint8]]], classes: list[LearnedClass], keep_absent: bool
    ) -> Iterator[Result]:
        if not batch:
            return
        images, valid, placements = zip(*(resize_and_pad(image, self.engine.size) for _, image in batch), strict=True)
        features = self.engine.encode_query(np.stack(images), np.stack(valid))
        logits = [self.engine.decode(features, known.context) for known in classes]
        differences = np.stack([pair[:, 1] - pair[:, 0] for pair in logits], axis=1)  # [B,C,S,S]
        names = tuple(known.name for known in classes)
        for (source, image), own, real, placement in zip(batch, differences, valid, placements, strict=True):
            confidence = {name: self._confidence(maps[real]) for name, maps in zip(names, own, strict=True)}
            yield Result(
                image=image,
                classes=names,
                confidence=confidence,
                calibrated=self.engine.calibration is not None,
                keep_absent=keep_absent,
                source=source,
                model={"name": self.engine.name, "hash": self.engine.hash},
                differences=own,
                placement=placement,
            )

    def _confidence(self, differences: NDArray[np.float32]) -> float:
        statistic = presence_statistic(sigmoid(differences))
        calibration = self.engine.calibration
        if calibration is None:
            return statistic
        return 0.5 + 0.5 * math.tanh((calibration["a"] * statistic + calibration["b"]) / 2)


def _prepare_shot(
    name: str, image: Source, mask: Source, size: int, white_is_object: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Network input, binary mask and valid mask of one annotated photo."""
    shot = f"a shot of {name!r} ({image if isinstance(image, str | PathLike) else 'a picture in memory'})"
    photo, labels = load_image(image), load_mask(mask)
    if photo.shape[:2] != labels.shape:
        raise ValueError(
            f"Expected a mask as large as its photo, {photo.shape[1]} x {photo.shape[0]} as shown upright, but that of"
            f" {shot} is {labels.shape[1]} x {labels.shape[0]} (width x height)."
        )
    binary = (labels > 0).astype(np.uint8)
    if not white_is_object:
        binary[labels == IGNORE] = IGNORE
    if not (binary == 1).any():
        white = (
            " Its 255 means ignore; where white should mark the object, use white_is_object." if labels.any() else ""
        )
        raise ValueError(f"Expected the mask of {shot} to mark at least one pixel, but it marks none.{white}")
    pixels, valid, placement = resize_and_pad(photo, size)
    return pixels, resize_mask(binary, placement), valid
