"""`Result`: what a segmented photo says, as arrays, pictures and files.

How classes meet: each class gives two logits, and its score is the softmax of its own two. A class claims a pixel where
its score is above the model's mask threshold. Where several classes claim a pixel, the one wins whose log-odds in the
pixel and of being in the photo at all (its calibrated confidence) are largest together. A class judged absent gets no
pixel unless asked to stay.

    C classes · H W the photo's own size · S side of the square network input
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import Placement, restore
from rifenet.drawing import visualize
from rifenet.files import write_bytes
from rifenet.formats.outputs import DEFAULT, encoded
from rifenet.metrics import log_odds
from rifenet.segmenting.margins import probabilities
from rifenet.segmenting.refine import refined

_NEARLY_1 = np.float32(1 - 1e-6)
PRESENT = 0.5  # a class is judged present from this confidence on


class Options(NamedTuple):
    """How photos are segmented, as `Segmenter.segment_many` says."""

    keep_absent: bool
    tiles: bool | str
    refine: bool


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One segmented photo. Full-size maps are made when first asked for, so that many results stay small."""

    image: NDArray[np.uint8]
    """The photo, [H,W,3]."""
    classes: tuple[str, ...]
    """Learned classes; class i of the mask is the i-th, from 1."""
    confidence: dict[str, float]
    """How likely each class is in the photo at all, in [0,1]."""
    calibrated: bool
    """Whether confidences are measured shares; if not, `metrics.presence_statistic`, which only ranks photos."""
    keep_absent: bool
    """Whether classes judged absent stay in the mask."""
    source: str
    """Path of the photo, empty where it came from memory."""
    model: dict[str, str]
    """Name, hash and weights_hash of the model."""
    margins: NDArray[np.float32]
    """How far each class is above the threshold (`segmenting.margins`), [C,S,S]: at network size, or of the canvas of
    tiles."""
    threshold: float
    """Score from which on a pixel is in a class's mask, in (0,1)."""
    placement: Placement
    """Where the photo lies in these."""
    refine: bool = False
    """Whether maps at full size follow the photo's edges."""

    def __repr__(self) -> str:
        seen = ", ".join(name for name, present in self.present.items() if present) or "no class"
        return f"<Result {self.source or 'of a picture in memory'}: {seen}>"

    @cached_property
    def present(self) -> dict[str, bool]:
        """Whether each class is judged to be in the photo; without a calibration, whether it takes any pixel at all."""
        if self.calibrated:
            return {name: confidence >= PRESENT for name, confidence in self.confidence.items()}
        return {name: bool((self._map(index) > 0).any()) for index, name in enumerate(self.classes)}

    def shown(self, name: str) -> bool:
        """Whether the class may have pixels in the mask."""
        return self.keep_absent or self.present[name]

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float32]]:
        """Score of each class, [H,W] in [0,1]: the softmax of its own two logits, whether or not it is present."""
        maps = ((name, self._map(index)) for index, name in enumerate(self.classes))
        return {name: probabilities(values, self.threshold) for name, values in maps}

    def alone(self, name: str) -> NDArray[np.bool_]:
        """Where the class claims the pixels, [H,W], whatever the other classes say and whether or not it is present."""
        return self._map(self.classes.index(name)) > 0

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Classes of the pixels, [H,W]: 0 background, i the i-th learned class; ties go to the lower number."""
        return self.winners(self.image.shape[:2], self._map)

    def winners(self, shape: tuple[int, ...], margins_of: Callable[[int], NDArray[np.float32]]) -> NDArray[np.uint8]:
        """Who takes each pixel of a map, [h,w] as `mask` has it, by the margins [h,w] of each class."""
        mask = np.zeros(shape, np.uint8)
        # Margins order the classes as scores do, without rounding to 1.
        best = np.full(mask.shape, -np.inf, np.float32)
        for class_id, name in enumerate(self.classes, 1):
            if self.shown(name):
                margin = margins_of(class_id - 1)
                rank = margin + self._log_odds(name)
                wins = (margin > 0) & (rank > best)
                mask[wins], best[wins] = class_id, rank[wins]
        return mask

    def _log_odds(self, name: str) -> np.float32:
        """Of the class being in the photo; 0 where confidence is no probability."""
        if not self.calibrated:
            return np.float32(0)
        return np.float32(log_odds(min(max(self.confidence[name], 1e-4), 1 - 1e-4)))

    def _map(self, index: int) -> NDArray[np.float32]:
        """Margins of a class at full size, [H,W]."""
        own = self.margins[index]
        if not self.refine:
            return restore(own, self.placement)
        height, width = self.placement.scaled_height, self.placement.scaled_width
        signed = refined(self.image, np.tanh(own[:height, :width] / 2))
        return 2 * np.arctanh(signed.clip(-_NEARLY_1, _NEARLY_1))

    def overlay(self) -> Image.Image:
        """The photo with the mask tinted and outlined on it."""
        return visualize.overlay(self.image, self.mask)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON can hold them."""
        pixels = np.bincount(self.mask.ravel(), minlength=len(self.classes) + 1)
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
                    "pixels": int(pixels[class_id]),
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
    ) -> dict[str, Path]:
        """Writes the files of the formats and, last, `NAME.json`; each is complete or not there.

        Args:
            folder: made where missing.
            name: None takes the photo's file name, or "query".
            facts: further entries for the JSON.
            formats: `index` (`NAME_mask.png`, with a palette), `binary` (a black-and-white PNG for each class),
                `overlay` (JPEG), `coco` (JSON), `labelme` (JSON of polygons), `cutout` (the photo, transparent
                elsewhere).

        Returns:
            The paths: `mask`, `binary:CLASS`, `overlay`, `coco`, `labelme`, `cutout`, as chosen, and `json`. Raises
            ValueError for another format, OSError where the disk is full.
        """
        stem, place = name or Path(self.source).stem or "query", Path(folder)
        made = encoded(self, stem, formats, place)
        paths = {key: place / file for key, (file, _) in made.items()}
        files = {key: file for key, (file, _) in made.items()}
        text = json.dumps({**self.to_dict(), "files": files, **(facts or {})}, indent=1)
        for file, content in made.values():
            write_bytes(place / file, content)
        paths["json"] = place / f"{stem}.json"
        write_bytes(paths["json"], f"{text}\n".encode())
        return paths
