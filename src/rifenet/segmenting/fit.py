"""`Fit`: what learning chose for a class (`segmenting.fitting` chooses it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.segmenting.pixels import PixelClassifier


@dataclass(frozen=True)
class Fit:
    """What learning chose for a class."""

    tiles: bool
    """Photos are segmented in tiles as well, where `tiles="auto"`."""
    refine: bool
    """Masks follow the photo's edges, where `refine="auto"`."""
    threshold: float
    """Foreground probability above which a pixel is in the class's mask, in (0,1)."""
    blend: float
    """Weight of the class's pixel classifier: its log-odds, times this, are added to the network's."""
    quality: float
    """Mean IoU of the choice on the class's own annotated photos, each kept aside in turn, in [0,1]."""
    notes: tuple[str, ...] = ()
    """What was tried and what it gave, in words."""
    shots: int = 1
    """Number of annotated photos that it was chosen on."""
    shift: float = 0.0
    """Added to the log-odds of the class's confidence, so that photos given as showing none of it count so."""
    share: float = 0.0
    """Median share of those photos that the class covers, in [0,1]."""
    pixels: PixelClassifier | None = field(default=None, repr=False, compare=False)
    """The pixel classifier; None where it does not count."""
    look: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """Unit-length mean of the network's high features over the shots' background and over the class, [2,D]; None if the
    network gives none."""

    def __str__(self) -> str:
        words = [
            "tiles" if self.tiles else "whole photo",
            "edges refined" if self.refine else "edges as they are",
            f"threshold {self.threshold:.2f}",
            f"pixel classifier {self.blend:g}",
            f"IoU {100 * self.quality:.0f}% on its own shots",
        ]
        return ", ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, ready for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("pixels", "look")}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, by name."""
        own = {} if self.pixels is None else self.pixels._asdict()
        return own if self.look is None else {**own, "look": self.look}

    @classmethod
    def restored(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fit:
        """The fit of `to_dict` and `arrays`. Raises TypeError or KeyError for other names."""
        own = dict(arrays)
        look = own.pop("look", None)
        pixels = PixelClassifier(**own) if own else None
        return cls(**{**values, "notes": tuple(values["notes"])}, pixels=pixels, look=look)
