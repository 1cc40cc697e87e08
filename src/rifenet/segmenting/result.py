"""`Result`: one segmented photo as arrays, pictures and files.

Each class gives two logits; its score is their softmax. A class claims a pixel where its score is above the model's
mask threshold. Where several classes claim a pixel, the largest sum wins: the class's margin at the pixel plus the
log-odds of its calibrated confidence. A class judged absent gets no pixel, unless `keep_absent` is set.

    C classes · H W the photo's own size · S side of the square network input
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import Placement, restored_columns
from rifenet.drawing import notebook, visualize
from rifenet.files import write_bytes
from rifenet.formats.object_files import rows_of
from rifenet.formats.outputs import DEFAULT, encoded
from rifenet.formats.pages import stem_of
from rifenet.formats.replaced import say_replaced
from rifenet.metrics import log_odds
from rifenet.segmenting.instances import Instance, ObjectShape, holes, instances, specks
from rifenet.segmenting.margins import probabilities
from rifenet.segmenting.quality import expected_iou
from rifenet.segmenting.refine import refined_margins, strips_of

PRESENT = 0.5  # least confidence of a class that is judged present


class Options(NamedTuple):
    """Options of `Segmenter.segment_many`."""

    keep_absent: bool
    tiles: bool | str
    refine: bool | str
    clean: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One segmented photo. It computes full-size maps on first use, so that many results take little memory."""

    image: NDArray[np.uint8]
    """The photo, [H,W,3]."""
    classes: tuple[str, ...]
    """Names of the learned classes; value i in the mask is the i-th, counted from 1."""
    confidence: dict[str, float]
    """Confidence that the photo shows each class, in [0,1]."""
    calibrated: bool
    """Whether confidences are calibrated probabilities; if not, they are `metrics.presence_statistic`, which only ranks
    photos."""
    keep_absent: bool
    """Whether classes judged absent stay in the mask."""
    source: str
    """Path of the photo, or the name of a page (`scan.tif#3`); empty for a picture from memory."""
    model: dict[str, str]
    """Name, hash and weights_hash of the model."""
    margins: NDArray[np.float32]
    """Margins of each class (`segmenting.margins`), [C,S,S], or [C,2S,2S] after a second pass in tiles."""
    threshold: float
    """Score above which a pixel is in a class's mask, in (0,1)."""
    placement: Placement
    """Where the photo lies in `margins`."""
    refine: tuple[bool, ...] = ()
    """Whether each class's full-size map follows the photo's edges; empty: none does."""
    signs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each class, the signs that `quality` is taken from (`segmenting.quality`)."""
    clean: bool = False
    """Whether small holes of the mask are filled and its specks removed (`segmenting.instances`)."""
    shapes: Mapping[str, Sequence[ObjectShape]] = field(default_factory=dict)
    """Shapes of the objects in each class's shots, by which `instances` tells objects apart."""
    least_confidence: float = PRESENT
    """Least confidence of a class that is judged present, where confidences are calibrated."""

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        seen = ", ".join(f"{name} {self.confidence[name]:.2f}" for name, there in self.present.items() if there)
        return f"<Result of {self.source or 'a picture in memory'}, {width} x {height}: {seen or 'no class'}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the overlay, and a row for each class."""
        pixels, total = Image.fromarray(self.mask).histogram(), self.mask.size
        rows = [
            (class_id, (name, f"{self.confidence[name]:.2f}", share if self.present[name] else "absent"))
            for class_id, name in enumerate(self.classes, 1)
            for share in (f"{100 * pixels[class_id] / total:.1f} %",)
        ]
        return notebook.card(repr(self), [self.overlay()], ("class", "confidence", "of the photo"), rows)

    def _repr_png_(self) -> bytes:
        """The overlay, for notebooks without HTML."""
        return notebook.png(self.overlay())

    @cached_property
    def quality(self) -> dict[str, float]:
        """Expected IoU of each class's own mask with the true one, in [0,1], if the photo shows the class."""
        return {name: expected_iou(signs) for name, signs in self.signs.items()}

    @cached_property
    def present(self) -> dict[str, bool]:
        """Whether each class is judged present: by its confidence, or, without a calibration, if it claims a pixel."""
        if self.calibrated:
            return {name: confidence >= self.least_confidence for name, confidence in self.confidence.items()}
        return {name: bool((self._map(index) > 0).any()) for index, name in enumerate(self.classes)}

    def shown(self, name: str) -> bool:
        """Whether the class may have pixels in the mask."""
        return self.keep_absent or self.present[name]

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float32]]:
        """Score of each class, [H,W] in [0,1]: the softmax of its two logits, for absent classes too."""
        maps = ((name, self._map(index)) for index, name in enumerate(self.classes))
        return {name: probabilities(values, self.threshold) for name, values in maps}

    def alone(self, name: str) -> NDArray[np.bool_]:
        """The pixels that the class claims, [H,W] bool, regardless of other classes and for an absent class too."""
        return self._map(self.classes.index(name)) > 0

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Class of each pixel, [H,W]: 0 background, i the i-th learned class; ties go to the lower number."""
        mask = np.empty(self.image.shape[:2], np.uint8)
        shown = {index: self._parts(index) for index, name in enumerate(self.classes) if self.shown(name)}
        if not shown:
            mask[:] = 0
        for parts in zip(*shown.values(), strict=True):
            margins = {index: part for index, (_, part) in zip(shown, parts, strict=True)}
            place, first = parts[0]
            mask[place] = self.winners(first.shape, margins.__getitem__)
        return self._cleaned(mask) if self.clean else mask

    def _cleaned(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask with the specks of all classes given to the background, and then small holes filled."""
        named = list(enumerate(self.classes, 1))
        for class_id, name in named:
            mask[specks(mask == class_id, self.shapes.get(name, ()))] = 0
        for class_id, name in named:
            mask[holes(mask == class_id, self.shapes.get(name, ())) & (mask == 0)] = class_id
        return mask

    def winners(self, shape: tuple[int, ...], margins_of: Callable[[int], NDArray[np.float32]]) -> NDArray[np.uint8]:
        """Class of each pixel of a map, [h,w], with values as in `mask`.

        `margins_of(i)` gives the margins [h,w] of class i, counted from 0.
        """
        mask = np.zeros(shape, np.uint8)
        # Scores near 1 round to 1 and tie; their margins still differ.
        best = np.full(mask.shape, -np.inf, np.float32)
        for class_id, name in enumerate(self.classes, 1):
            if self.shown(name):
                margin = margins_of(class_id - 1)
                rank = margin + self._log_odds(name)
                wins = (margin > 0) & (rank > best)
                mask[wins], best[wins] = class_id, rank[wins]
        return mask

    def _log_odds(self, name: str) -> np.float32:
        """Log-odds that the photo shows the class; 0 without a calibration."""
        if not self.calibrated:
            return np.float32(0)
        return np.float32(log_odds(min(max(self.confidence[name], 1e-4), 1 - 1e-4)))

    def _map(self, index: int) -> NDArray[np.float32]:
        """Margins of a class at full size, [H,W]."""
        full = np.empty(self.image.shape[:2], np.float32)
        for place, part in self._parts(index):
            full[place] = part
        return full

    def _parts(self, index: int) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
        """The map of a class in parts, with the place of each, which is the same for all classes."""
        height, width = self.placement.scaled_height, self.placement.scaled_width
        own = self.margins[index][:height, :width]
        if not any(self.refine):
            for columns, part in restored_columns(own, self.placement):
                yield np.s_[:, columns], part
        elif self.refine[index]:
            for rows, part in refined_margins(self.image, own):
                yield np.s_[rows, :], part
        else:  # in the strips of the refined classes
            whole = np.concatenate([part for _, part in restored_columns(own, self.placement)], 1)
            for rows in strips_of(*whole.shape):
                yield np.s_[rows, :], whole[rows]

    def instances(self, name: str) -> list[Instance]:
        """The objects of a class in the mask, the largest first; touching ones apart (`segmenting.instances`).

        Raises ValueError for an unknown class, and where scikit-image (`rifenet[instances]`) is not installed.
        """
        if name not in self.classes:
            raise ValueError(f"Expected a class of the result ({', '.join(self.classes)}), but got {name!r}.")
        if name not in self._objects:
            index, known = self.classes.index(name), self.shapes.get(name, ())
            inside = self.mask == index + 1
            if not known:
                warnings.warn(
                    f"{name!r} came from a file of an earlier version, which does not tell what its objects look like,"
                    " so objects that touch count as one. Learn it from its photos, and save it again.",
                    stacklevel=2,
                )
            self._objects[name] = []
            if inside.any():
                # Margins before they follow the photo's edges: those have a valley at every edge within an object.
                coarse = replace(self, refine=())._map(index)
                self._objects[name] += instances(inside, self.scores[name], known, coarse)
        return list(self._objects[name])

    @cached_property
    def _objects(self) -> dict[str, list[Instance]]:
        return {}

    def table(self) -> list[dict[str, Any]]:
        """A row for each object, class by class, for a data frame or a CSV file.

        The columns: `class`; `instance`, counted from 1 within the class; `area` in pixels and `share` of the photo;
        `centroid_x`, `centroid_y`, and the box `x`, `y`, `width`, `height`, in pixels from the top left corner; `score`
        of the object; `confidence` that the photo shows the class; `quality` of the class's mask. Raises as
        `instances` does.
        """
        return rows_of(self, self.quality)

    def overlay(self, *, objects: bool = False) -> Image.Image:
        """The photo with the mask tinted and outlined on it.

        With `objects` each object has a colour of its own, whatever its class; raises as `instances` does.
        """
        if not objects:
            return visualize.overlay(self.image, self.mask)
        labels = np.zeros(self.mask.shape, np.int32)
        for number, each in enumerate((each for name in self.classes for each in self.instances(name)), 1):
            labels[each.place][each.part] = number
        return visualize.overlay(self.image, visualize.neighbours_apart(labels))

    def to_dict(self, *, objects: bool = False) -> dict[str, Any]:
        """The photo, the model, and each class's presence, confidence and pixels, ready for JSON.

        With `objects` also each class's number of `objects`; raises as `instances` does.
        """
        pixels = Image.fromarray(self.mask).histogram()
        return {
            "query": self.source,
            "height": self.mask.shape[0],
            "width": self.mask.shape[1],
            "model": self.model,
            "calibrated": self.calibrated,
            "keep_absent": self.keep_absent,
            "classes": [
                {
                    "id": class_id,
                    "name": name,
                    "present": self.present[name],
                    "confidence": round(self.confidence[name], 4),
                    **({"quality": round(self.quality[name], 4)} if name in self.quality else {}),
                    "pixels": pixels[class_id],
                    **({"objects": len(self.instances(name))} if objects else {}),
                }
                for class_id, name in enumerate(self.classes, 1)
            ],
        }

    def save(
        self,
        folder: str | PathLike[str],
        name: str | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        formats: Sequence[str] = DEFAULT,
        objects: bool = False,
    ) -> dict[str, Path]:
        """Writes the files of `formats` and, last, `NAME.json`. A failed write leaves no partial file.

        Args:
            folder: created if missing.
            name: None takes the photo's file name, or "query", and warns where another photo's results are replaced.
            facts: further entries for the JSON.
            formats: `index` (`NAME_mask.png`, with a palette), `binary` (a black-and-white PNG for each class),
                `overlay` (JPEG), `coco` (JSON), `labelme` (JSON of polygons), `cutout` (the photo, transparent
                elsewhere), `csv` (`table`), `geojson` (in pixel coordinates), `yolo` (polygons), `cvat` (XML) and
                `cvat_masks` (a PNG in the classes' colours; with `objects` also one of the objects).
            objects: tell objects apart (`instances`) in all formats but `index`, `binary` and `cutout`; `csv` always
                does.

        Returns:
            The paths by name: `mask`, `binary:CLASS`, the other formats by their own names, and `json`.

        Raises ValueError for an unknown format and as `instances` does, OSError on a full disk.
        """
        stem, place = name or stem_of(self.source) or "query", Path(folder)
        made = encoded(self, stem, formats, place, objects=objects)
        paths = {key: place / file for key, (file, _) in made.items()}
        files = {key: file for key, (file, _) in made.items()}
        text = json.dumps({**self.to_dict(objects=objects), "files": files, **(facts or {})}, indent=1)
        paths["json"] = place / f"{stem}.json"
        if name is None:
            say_replaced(paths.values(), paths["json"], self.source)
        for file, content in made.values():
            write_bytes(place / file, content)
        write_bytes(paths["json"], f"{text}\n".encode())
        return paths
