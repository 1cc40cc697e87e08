"""`Segmenter`: learns classes from a few annotated photos and segments all classes at once in other photos.

K shots of a class · B photos at once · C classes · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.drawing import notebook
from rifenet.engines import Engine
from rifenet.formats.contrast import How, checked
from rifenet.formats.geotiff import DRIVERS, SIDE, Scene, contrasted, open_scene
from rifenet.formats.label_files import Label, Marked
from rifenet.formats.paged_files import opened
from rifenet.formats.pages import Page
from rifenet.formats.pictures import Source, load_image
from rifenet.formats.remarks import together
from rifenet.segmenting.adaptation import adapted
from rifenet.segmenting.annotated import annotated
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.fitting import fit_class
from rifenet.segmenting.given import check_pairs, check_several
from rifenet.segmenting.looks import looking_once
from rifenet.segmenting.photo_views import PhotoViews
from rifenet.segmenting.pseudo_labels import COUNT
from rifenet.segmenting.queries import confidence, counted, model_record, segment_lazily, total_of
from rifenet.segmenting.result import Options, Result
from rifenet.segmenting.scenes import write_scene
from rifenet.segmenting.shots import PseudoShot, Shots, prepare_background, prepare_shot
from rifenet.segmenting.steadying import steadied
from rifenet.segmenting.storage import LearnedClass, digest_of, read_classes, save_classes, try_out
from rifenet.segmenting.strokes import complete, read_strokes
from rifenet.segmenting.trials import context_of

MAX_SHOTS = 20
MAX_CLASSES = 254  # a mask has one byte a pixel: 0 is the background and 255 means ignore


class Segmenter:
    """Learned classes of one model. Make one by `Segmenter.from_pretrained()` or from any `Engine`.

    If `learn`, `forget` or `load_classes` raises an error, the classes stay as they were.
    """

    def __init__(self, engine: Engine, views: PhotoViews | None = None) -> None:
        """`views` may be shared by segmenters of one engine, so that together they keep no more."""
        self.engine = engine
        self.views = PhotoViews() if views is None else views
        self._classes: dict[str, LearnedClass] = {}

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """A segmenter without classes.

        Args:
            model: None or `default` for the bundled model, a run folder, a `.safetensors` file, `hf:owner/name`, a
                folder from `rifenet export`, which needs no torch, or `prototype:BACKBONE` for the training-free
                prototype over any backbone, such as `prototype:hf:facebook/dinov2-small`.
            device: auto, cpu, cuda, cuda:N or mps.
            threads: CPU threads (torch: of the whole process); None leaves the library's choice.

        Raises:
            FileNotFoundError: the model does not exist.
            ValueError: the file is no model, or this machine lacks the device or the library that runs it.
        """
        from rifenet.engines.load import load_engine

        return cls(load_engine("default" if model is None else model, device, threads))

    def __repr__(self) -> str:
        counted = (f"{name} ({shots} {'shot' if shots == 1 else 'shots'})" for name, shots in self.shots.items())
        known = ", ".join(counted) or "no class yet"
        return f"<Segmenter of the model {self.engine.name}: {known}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the shots with their masks, and a row for each class."""
        drawn = [each for n, known in enumerate(self.learned, 1) if known.inputs for each in known.inputs.overlays(n)]
        rows = [
            (number, (known.name, str(known.shots), "" if known.inputs else "from a file, which holds no photos"))
            for number, known in enumerate(self.learned, 1)
        ]
        return notebook.card(repr(self), drawn, ("class", "shots", ""), rows)

    @property
    def classes(self) -> list[str]:
        """Names of the learned classes, in the order of their numbers in a mask."""
        return list(self._classes)

    @property
    def shots(self) -> dict[str, int]:
        """Number of annotated photos of each class."""
        return {name: known.shots for name, known in self._classes.items()}

    @property
    def fits(self) -> dict[str, Fit]:
        """What learning chose for each class that it fitted to its shots."""
        return {name: known.fit for name, known in self._classes.items() if known.fit is not None}

    @property
    def learned(self) -> tuple[LearnedClass, ...]:
        """The learned classes in the order of `classes`, to read only."""
        return tuple(self._classes.values())

    def memory(self) -> int:
        """Bytes that the learned classes take, their photos included; `views` are not."""
        return sum(known.memory() for known in self._classes.values())

    def learn(
        self,
        name: str,
        images: Sequence[Source],
        masks: Sequence[Source | Marked],
        *,
        replace: bool = False,
        white_is_object: bool = False,
        label: Label | None = None,
        background: Sequence[Source] = (),
        fit: bool = True,
        window: tuple[float, float] | str | None = None,
        bands: Sequence[int] | None = None,
    ) -> None:
        """Learns a class, or adds shots to a learned one and encodes all its shots together again.

        Args:
            name: what to call it.
            images: K photos: paths, PIL images or [H,W,3] arrays.
            masks: their masks [H,W]: 0 is background, 255 is ignored, anything else marks the class. Cut-outs (RGBA),
            colour masks and JSON of COCO, LabelMe or Label Studio work too (`rifenet.formats.label_files`).
            replace: replace the shots of a learned class, which keeps its number, instead of adding to them.
            white_is_object: 255 marks the class too. A mask that holds only 0 and 255 does not need this option.
            label: name, number or colour (#rrggbb) of the class in label files that hold several.
            background: photos that show none of the class, whole, without masks; best of what is taken for it. The fit
                counts what the class claims in them as wrong, and its confidence is moved so that they count as absent.
            fit: try on the shots themselves what works for the class (`rifenet.segmenting.fitting`); `fits` says what
                was chosen. False keeps the network's own masks, and learning is quicker. The training-free baseline is
                never fitted.
            window: contrast of stacks and other scientific files, as in `segment`. Each annotated page of a stack is a
                shot: `images=["scan.tif"], masks=["labels.tif"]`, or `images=["scan.tif#3"]` for one. Of a scene with a
                vector file of labels (`images=["scene.tif"], masks=["labels.gpkg"]`), windows around them are.
            bands: their bands, as in `segment`.

        Warns (`UserWarning`) where a file could mean two things, and says what it was taken for.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a picture cannot be read; a mask marks nothing, differs from its photo in size or lacks `label`;
                the class would have more than 20 shots; or it came from a file, which holds no photos; `background`
                without a fit, or more than 20 photos with the shots.
        """
        known = None if replace else self._classes.get(name)
        how = checked(window, bands)
        if not name or not isinstance(name, str):
            raise ValueError(f"Expected a name for the class, but got {name!r}.")
        check_pairs(images, masks)
        before = None if known is None else known.annotated()
        pairs = annotated(images, masks, how, name, label)
        total = len(pairs) + (known.shots if known else 0)
        if total > MAX_SHOTS:
            raise ValueError(f"Expected at most {MAX_SHOTS} shots of a class, but {name!r} would have {total}.")
        if name not in self._classes:
            self._check_room([name])
        options: dict[str, Any] = {"label": label, "white_is_object": white_is_object}
        with together():
            shots = [prepare_shot(name, *pair, self.engine.size, **options) for pair in pairs]
        inputs = Shots(*(np.concatenate(part) for part in zip(*shots, strict=True)))
        negatives = None if known is None else known.negatives
        taken = total + (0 if negatives is None else len(negatives.images))
        self._check_background(name, background, fit, MAX_SHOTS - taken)
        for photo in background:
            other = prepare_background(photo, self.engine.size)
            negatives = other if negatives is None else negatives.followed_by(other)
        self._keep(name, inputs if before is None else before.followed_by(inputs), fit, negatives)

    def replace_shot(self, name: str, index: int, image: Source, mask: Source, *, label: Label | None = None) -> None:
        """Replaces one shot of a class, counted from 0 in the order learned. Raises as `learn` and `forget_shot` do."""
        inputs = self._shot_of(name, index)
        shot = prepare_shot(name, image, mask, self.engine.size, label=label)
        self._keep_again(name, inputs.with_other(index, shot))

    def forget_shot(self, name: str, index: int) -> None:
        """Removes one shot of a class, counted from 0 in the order learned.

        Raises ValueError for an unknown class or shot, for the only shot of a class, or for a class from a file.
        """
        inputs = self._shot_of(name, index)
        if len(inputs.images) == 1:
            raise ValueError(f"Expected {name!r} to keep a shot, but this is its only one. Forget the class.")
        self._keep_again(name, inputs.without(index))

    def forget(self, name: str) -> None:
        """Removes a class; later classes move down one number. Raises ValueError for an unknown name."""
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
        """Learns each class again, with the photos of highest confidence as further shots (`segmenting.adaptation`).

        The photos need no masks: each class takes the masks of a first pass, without doubtful pixels and without pixels
        that another class wins. `shots` still counts annotated photos only. `adapt` and `learn` start from the
        annotated photos and drop photos adopted before. After learning another class, call `adapt` again, so that
        look-alikes are told apart.

        Args:
            photos: paths, PIL images or [H,W,3] arrays, read one by one; best the photos to segment. A photo that
                equals an annotated or an earlier one in every pixel is skipped.
            count: largest number of photos that a class adopts; it has at most 20 shots with the annotated ones.
            on_error: as in `segment_many`.
            on_progress: as in `segment_many`.

        Returns:
            The adopted photos of each class, highest confidence first.

        Raises:
            FileNotFoundError, ValueError: a photo cannot be read and `on_error` is None.
            ValueError: no class is learned, a class came from a file, which holds no photos, or `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"Expected count to be at least 1, but got {count}.")
        check_several(photos, "adapt({})")
        if not self._classes:
            raise ValueError("Expected at least one learned class, but there is none. Call learn() first.")
        known = adapted(self.engine, self.learned, photos, count, MAX_SHOTS, on_error, on_progress)
        self._classes = {each.name: each for each in known}
        return {each.name: each.adopted for each in known}

    def complete(
        self,
        image: Source,
        object: Source | None = None,
        background: Source | None = None,
        *,
        start: Source | None = None,
        name: str | None = None,
    ) -> NDArray[np.uint8]:
        """Completes a few strokes to the mask of an object, [H,W]: 1 the object, 0 the rest (`segmenting.strokes`).

        Every marked pixel keeps its mark. Further strokes correct the mask: call it again with all of them and with the
        mask as `start`. For the last photos it keeps what the model saw, so that later calls on them are faster.

        Args:
            image: the photo: a path, a PIL image or an [H,W,3] array.
            object: strokes on the object, [H,W], non-zero where marked.
            background: strokes beside it; all that is outside a loose box, for example.
            start: a mask to correct, [H,W], non-zero on the object. A stroke on the object adds the region that it runs
                through, one beside it takes such a region away, and the rest stays as it is. None, or a mask without
                the object, makes the mask from the strokes alone.
            name: a learned class that the object is of, which then needs no strokes.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a picture cannot be read or differs from the photo in size; nothing is marked; a pixel is marked
                as both; all is background; the class is not learned.
        """
        photo = load_image(image)
        strokes = read_strokes(photo.shape[:2], object, background, start, needed=name is None)
        learned = None if name is None else self._known(name).context
        return complete(self.engine, self.views, photo, strokes, learned)

    @overload
    def segment(
        self,
        query: Image.Image | NDArray[Any] | Page,
        *,
        keep_absent: bool = ...,
        tiles: bool | str = ...,
        refine: bool | str = ...,
        clean: bool = ...,
        window: tuple[float, float] | str | None = ...,
        bands: Sequence[int] | None = ...,
        steady: bool = ...,
    ) -> Result: ...
    @overload
    def segment(
        self,
        query: str | PathLike[str],
        *,
        keep_absent: bool = ...,
        tiles: bool | str = ...,
        refine: bool | str = ...,
        clean: bool = ...,
        window: tuple[float, float] | str | None = ...,
        bands: Sequence[int] | None = ...,
        steady: bool = ...,
    ) -> Any: ...  # a result, or an iterator of results, as the file is
    def segment(
        self,
        query: Source,
        *,
        keep_absent: bool = False,
        tiles: bool | str = "auto",
        refine: bool | str = "auto",
        clean: bool = False,
        window: tuple[float, float] | str | None = None,
        bands: Sequence[int] | None = None,
        steady: bool = True,
    ) -> Result | Iterator[Result]:
        """Segments one photo, or the pages of a file that holds several.

        Args:
            query: a path, a PIL image or an [H,W,3] array. For a stack (TIFF of several pages, OME-Zarr) or a video
                (MP4, MOV, a moving GIF) the answer is an iterator of results, one a page or frame, in order;
                `scan.tif#3` is one page, counted from 0.
            keep_absent: as in `segment_many`.
            tiles: as in `segment_many`.
            refine: as in `segment_many`.
            clean: as in `segment_many`.
            window: of scientific files, the numbers that become black and white, (low, high); "auto" takes percentiles
                of the file. None does so for all but bytes, and leaves plain photos as they are.
            bands: of scientific files, one band for grey or three for red, green and blue, counted from 1. None takes
                the first three, or the first.
            steady: let neighbouring frames of a video weigh in (`rifenet.segmenting.steadying`).

        Raises:
            FileNotFoundError: there is no such photo.
            ValueError: it cannot be read; no class is learned; or it needs `rifenet[tiff]` or `rifenet[video]`, which
                is not installed.
        """
        options: dict[str, Any] = {"keep_absent": keep_absent, "tiles": tiles, "refine": refine, "clean": clean}
        (found,) = opened([query], how := checked(window, bands))
        if found is None and how != How():
            raise ValueError(f"Expected a TIFF or an OME-Zarr folder for window and bands, but got {query!r}.")
        if found is None:
            return next(self.segment_many([query], **options))
        results = self.segment_many(found.pages if found.several else found.chosen(), **options)
        if not found.several:
            return next(results)
        return steadied(results) if steady and found.pages.moving else results

    def segment_scene(
        self,
        scene: str | PathLike[str] | Scene,
        folder: str | PathLike[str],
        name: str | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        formats: Sequence[str] = (),
        window: tuple[float, float] | str | None = None,
        bands: Sequence[int] | None = None,
        side: int = SIDE,
        run: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> dict[str, Path]:
        """Segments a georeferenced picture (GeoTIFF, COG, VRT) of any size in windows that are read from disk.

        Writes `NAME_mask.tif`, a GeoTIFF of the scene's coordinate system and transform (255 where it holds no data),
        the polygons of `formats` in the same coordinates, and `NAME.json`. A class is judged window by window. Until
        all is done, a folder `NAME_rows` keeps each row of windows: the same call goes on where one was stopped.

        Args:
            scene: its path, or a scene that is opened and has its contrast.
            folder: created if missing.
            name: how the names of the files begin; None takes the scene's.
            facts: further entries for the JSON.
            formats: `gpkg` (GeoPackage), `geojson`.
            window: as in `segment`; percentiles are those of the scene.
            bands: as in `segment`; None takes those that the file calls red, green and blue.
            side: pixels of a window, which overlap by 128 on each side. Shots and scenes should have the same.
            run: a text that differs where other classes or options are at work: rows of an earlier call with the same
                are taken as they are. None makes one of the classes' contents and the options.
            on_progress: called after each window with its number, from 1, and their number.
            options: as in `segment_many`.

        Returns:
            The paths by name: `mask`, the formats, and `json`.

        Raises FileNotFoundError, ValueError for what is no scene, unknown formats or options, and where rasterio
        (`rifenet[geo]`) is not installed; OSError on a full disk.
        """
        if wrong := [each for each in formats if each not in DRIVERS]:
            raise ValueError(f"Expected formats of a scene among {', '.join(DRIVERS)}, but got {', '.join(wrong)}.")
        if not isinstance(scene, Scene):
            (scene,) = contrasted([open_scene(scene, side)], checked(window, bands))

        def segment(pages: Iterable[Page]) -> Iterator[Result]:
            return self.segment_many(pages, batch_size=1, **options)

        record = {"model": model_record(self.engine), **(facts or {})}
        stem = name or Path(scene.file).stem
        if run is None:
            run = digest_of(self.learned, {"engine": self.engine.hash, **options})
        return write_scene(scene, segment, self.classes, Path(folder), stem, formats, record, run, on_progress)

    def segment_many(
        self,
        queries: Iterable[Source],
        *,
        batch_size: int = 8,
        keep_absent: bool = False,
        tiles: bool | str = "auto",
        refine: bool | str = "auto",
        clean: bool = False,
        on_error: Callable[[Source, Exception], None] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> Iterator[Result]:
        """Segments photos lazily, in order, by the classes learned so far.

        Args:
            queries: paths, PIL images or [H,W,3] arrays.
            batch_size: largest number of photos at a time; large photos come in smaller batches.
            keep_absent: keep classes judged absent in the masks.
            tiles: segment a photo a second time, in overlapping tiles (`rifenet.segmenting.tiles`): True, False, or
                "auto" for classes whose fit says so, and for photos whose longer side is at least three times the
                network's. Tiles take several times as long.
            refine: make the masks follow the photos' edges (`rifenet.segmenting.refine`): True, False, or "auto" for
                classes whose fit says so.
            clean: fill small holes of the masks and remove specks, both judged by the size of the objects in the shots
                (`rifenet.segmenting.instances`); the mask then needs scikit-image (`rifenet[instances]`).
            on_error: called with a photo that cannot be read and the error, before the next photos. None raises the
                error, after the results of the photos before it.
            on_progress: called before each result with the number of results so far and the total, None if unknown.

        Raises:
            ValueError: no class is learned, or an option has an invalid value.
        """
        if not self._classes:
            raise ValueError("Expected at least one learned class, but there is none. Call learn() first.")
        if batch_size < 1:
            raise ValueError(f"Expected batch_size to be at least 1, but got {batch_size}.")
        check_several(queries, "segment_many({})")
        if tiles not in (True, False, "auto"):
            raise ValueError(f"Expected tiles to be True, False or 'auto', but got {tiles!r}.")
        if refine not in (True, False, "auto"):
            raise ValueError(f"Expected refine to be True, False or 'auto', but got {refine!r}.")
        options = Options(keep_absent, tiles, refine, clean)
        results = segment_lazily(self.engine, list(self._classes.values()), queries, batch_size, options, on_error)
        return results if on_progress is None else counted(results, total_of(queries), on_progress)

    def save_classes(self, path: str | PathLike[str]) -> None:
        """Writes the learned classes, without the photos, to a `.safetensors` file. Raises OSError on a full disk."""
        save_classes(Path(path), list(self._classes.values()), self.engine)

    def load_classes(self, path: str | PathLike[str]) -> None:
        """Adds the classes of a file from `save_classes`.

        Raises FileNotFoundError, or ValueError for a damaged file, for one of another model or version, and for one
        with a class that is learned already.
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
        """All shots of a class. Raises ValueError if `index` is not one of them."""
        inputs = self._known(name).annotated()
        if not 0 <= index < len(inputs.images):
            raise ValueError(f"Expected a shot of {name!r}, 0 to {len(inputs.images) - 1}, but got {index}.")
        return inputs

    def _keep(self, name: str, inputs: Shots, fit: bool, negatives: Shots | None) -> None:
        fits = fit and bool(self.engine.inner_names)
        engine = looking_once(self.engine) if fits or negatives is not None else self.engine
        context = context_of(engine, inputs, negatives)
        found = fit_class(engine, inputs, context, negatives) if fits else None
        shots = len(inputs.images)
        self._classes[name] = LearnedClass(name, shots, context, inputs, fit=found, negatives=negatives)

    def _keep_again(self, name: str, inputs: Shots) -> None:
        """Learns a class from other shots, with a fit if it had one."""
        known = self._classes[name]
        self._keep(name, inputs, known.fit is not None, known.negatives)

    def _check_background(self, name: str, background: Sequence[Source], fit: bool, room: int) -> None:
        check_several(background, "background={}")
        if background and not (fit and self.engine.inner_names):
            reason = "fit=False" if not fit else f"the model {self.engine.name}, which is never fitted"
            raise ValueError(f"Expected a class with a fit to learn from background photos, but got {reason}.")
        if len(background) > room:
            raise ValueError(
                f"Expected at most {room} background photos of {name!r} beside its shots, but got {len(background)}."
            )

    def _check_room(self, new: Sequence[str]) -> None:
        if (total := len(self._classes) + len(new)) > MAX_CLASSES:
            raise ValueError(f"Expected at most {MAX_CLASSES} classes, but got {total}. Forget some first.")

    def confidence(self, margins: NDArray[np.float32], shift: float = 0.0) -> float:
        """Confidence in [0,1] that a photo shows a class, from margins [M] of its pixels and the class's `shift`."""
        return confidence(margins, self.engine.calibration, shift)
