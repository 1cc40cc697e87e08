"""`Segmenter`: learns classes from a few annotated photos and segments all of them at once in others.

K shots of a class · B photos at once · C classes · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.engines import Engine
from rifenet.formats.label_files import Label
from rifenet.formats.pictures import Source
from rifenet.segmenting.adaptation import adapted
from rifenet.segmenting.pseudo_labels import COUNT
from rifenet.segmenting.queries import confidence, counted, segment_lazily, total_of
from rifenet.segmenting.result import Options, Result
from rifenet.segmenting.shots import PseudoShot, Shots, prepare_shot
from rifenet.segmenting.storage import LearnedClass, read_classes, save_classes, try_out

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

    @property
    def learned(self) -> tuple[LearnedClass, ...]:
        """What is known of each class, in the order of `classes`: to be read, not changed."""
        return tuple(self._classes.values())

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
        label: Label | None = None,
    ) -> None:
        """Learns a class, or adds shots to a known one (all its shots are then encoded together again).

        Args:
            name: what to call it.
            images: K photos: paths, PIL images or [H,W,3] arrays.
            masks: their masks [H,W]: 0 is background, 255 is ignored, anything else marks the class. Cut-outs (RGBA),
                colour masks, and JSON of COCO, LabelMe and Label Studio do, too: `rifenet.formats.label_files`.
            replace: these shots take the place of those that a known class has; it keeps its number.
            white_is_object: 255 marks the class too; a mask of 0 and 255 only needs no such word.
            label: name, number or colour (#rrggbb) of the class in label files that hold several.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a picture cannot be read, a mask marks nothing, has another size than its photo or no such
                label, there are more than 20 shots, or the class came from a file and so has no photos to add to.
        """
        known = None if replace else self._classes.get(name)
        if not name or not isinstance(name, str):
            raise ValueError(f"Expected a name for the class, but got {name!r}.")
        if isinstance(images, str | PathLike | Image.Image) or isinstance(masks, str | PathLike | Image.Image):
            raise ValueError("Expected lists of images and masks, but got one. Write images=[...], masks=[...].")
        if not len(images) == len(masks) > 0:
            raise ValueError(f"Expected a mask for each of 1 to 20 images, but got {len(images)} and {len(masks)}.")
        before = None if known is None else known.annotated()
        total = len(images) + (known.shots if known else 0)
        if total > MAX_SHOTS:
            raise ValueError(f"Expected at most {MAX_SHOTS} shots of a class, but {name!r} would have {total}.")
        if name not in self._classes:
            self._check_room([name])
        options: dict[str, Any] = {"label": label, "white_is_object": white_is_object}
        shots = [prepare_shot(name, *pair, self.engine.size, **options) for pair in zip(images, masks, strict=True)]
        inputs = Shots(*(np.concatenate(part) for part in zip(*shots, strict=True)))
        self._keep(name, inputs if before is None else before.followed_by(inputs))

    def replace_shot(self, name: str, index: int, image: Source, mask: Source, *, label: Label | None = None) -> None:
        """Exchanges one shot of a class, counted from 0 in the order learned. Raises as `learn` and `forget_shot`."""
        inputs = self._shot_of(name, index)
        self._keep(name, inputs.with_other(index, prepare_shot(name, image, mask, self.engine.size, label=label)))

    def forget_shot(self, name: str, index: int) -> None:
        """Removes one shot of a class, counted from 0 in the order learned.

        Raises ValueError where there is no such class or shot, where it is the only one, or where the class came from a
        file, which holds no photos.
        """
        inputs = self._shot_of(name, index)
        if len(inputs.images) == 1:
            raise ValueError(f"Expected {name!r} to keep a shot, but this is its only one. Forget the class.")
        self._keep(name, inputs.without(index))

    def forget(self, name: str) -> None:
        """Removes a class; later classes move down one number. Raises ValueError for a name that is not learned."""
        self._known(name)
        del self._classes[name]

    def adapt(
        self,
        photos: Iterable[Source],
        *,
        count: int = COUNT,
        on_error: Callable[[Source, Exception], None] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> dict[str, tuple[PseudoShot, ...]]:
        """Learns each class again, with the photos that show it most surely as further shots (`segmenting.adaptation`).

        They need no masks: the class's own are taken, without their doubtful pixels and those that another class takes.
        What was annotated stays what `shots` counts; a call begins from that alone, and so does `learn`, which forgets
        what that class adopted. After another class was learned, adapt again: a look-alike is then told apart.

        Args:
            photos: paths, PIL images or [H,W,3] arrays, read one by one; best those that are to be segmented. Annotated
                ones among them, and photos that come twice, are passed over, if they are the same to the pixel.
            count: photos to adopt at most for a class; with the annotated ones no more than 20.
            on_error: as in `segment_many`.
            on_progress: as in `segment_many`.

        Returns:
            The adopted photos of each class, the surest first.

        Raises:
            FileNotFoundError, ValueError: a photo cannot be read, and there is no `on_error`.
            ValueError: nothing has been learned, a class came from a file and so has no photos, or `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"Expected count to be at least 1, but got {count}.")
        if isinstance(photos, str | PathLike | Image.Image | np.ndarray):
            raise ValueError("Expected a list of photos, but got one. Write adapt([...]).")
        if not self._classes:
            raise ValueError("Expected at least one learned class, but there is none. Call learn() first.")
        known = adapted(self.engine, self.learned, photos, count, MAX_SHOTS, on_error, on_progress)
        self._classes = {each.name: each for each in known}
        return {each.name: each.adopted for each in known}

    def segment(
        self, query: Source, *, keep_absent: bool = False, tiles: bool | str = "auto", refine: bool = False
    ) -> Result:
        """Segments one photo: a path, a PIL image or an [H,W,3] array; options as in `segment_many`.

        Raises FileNotFoundError, or ValueError for a photo that cannot be read or where nothing has been learned.
        """
        return next(self.segment_many([query], keep_absent=keep_absent, tiles=tiles, refine=refine))

    def segment_many(
        self,
        queries: Iterable[Source],
        *,
        batch_size: int = 8,
        keep_absent: bool = False,
        tiles: bool | str = "auto",
        refine: bool = False,
        on_error: Callable[[Source, Exception], None] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> Iterator[Result]:
        """Segments photos lazily, in order, by the classes known now.

        Args:
            queries: paths, PIL images or [H,W,3] arrays.
            batch_size: how many at a time at most; large photos are taken fewer at a time.
            keep_absent: keep classes judged absent in the masks.
            tiles: look at a photo a second time, in overlapping tiles (`rifenet.segmenting.tiles`): True, False, or
                "auto" where its longer side is at least three times the network's. Takes several times as long.
            refine: make the masks follow the photos' edges (`rifenet.segmenting.refine`).
            on_error: takes a photo that cannot be read, and the rest goes on; without it that photo's error is raised,
                after the results of those before it.
            on_progress: told before each result how many there are, and how many photos in all where that is known.

        Raises:
            ValueError: nothing has been learned, or an option has another value.
        """
        if not self._classes:
            raise ValueError("Expected at least one learned class, but there is none. Call learn() first.")
        if batch_size < 1:
            raise ValueError(f"Expected batch_size to be at least 1, but got {batch_size}.")
        if tiles not in (True, False, "auto"):
            raise ValueError(f"Expected tiles to be True, False or 'auto', but got {tiles!r}.")
        options = Options(keep_absent, tiles, refine)
        results = segment_lazily(self.engine, list(self._classes.values()), queries, batch_size, options, on_error)
        return results if on_progress is None else counted(results, total_of(queries), on_progress)

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
        try_out(loaded, self.engine, fspath(path))
        self._classes.update((known.name, known) for known in loaded)

    def _known(self, name: str) -> LearnedClass:
        if name not in self._classes:
            raise ValueError(f"Expected a learned class ({', '.join(self.classes) or 'none yet'}), but got {name!r}.")
        return self._classes[name]

    def _shot_of(self, name: str, index: int) -> Shots:
        """All shots of a class that has one at `index`."""
        inputs = self._known(name).annotated()
        if not 0 <= index < len(inputs.images):
            raise ValueError(f"Expected a shot of {name!r}, 0 to {len(inputs.images) - 1}, but got {index}.")
        return inputs

    def _keep(self, name: str, inputs: Shots) -> None:
        self._classes[name] = LearnedClass(name, len(inputs.images), self.engine.encode_support(*inputs), inputs)

    def _check_room(self, new: Sequence[str]) -> None:
        if len(self._classes) + len(new) > MAX_CLASSES:
            raise ValueError(f"Expected at most {MAX_CLASSES} classes, the numbers of a mask. Forget some first.")

    def confidence(self, margins: NDArray[np.float32], shift: float = 0.0) -> float:
        """How likely a class is in a photo, from its margins on the photo's pixels, [M], and its `shift`."""
        return confidence(margins, self.engine.calibration, shift)
