"""Loads the annotated photos that ship with the program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """An annotated photo. `support`: the demo learns its classes from this photo; it segments the others."""

    image: Path
    mask: Path
    classes: tuple[str, ...]
    support: bool


def load_examples() -> tuple[list[str], list[Example]]:
    """Names of the classes (mask value i + 1 is name i) and the photos, from `examples/examples.json`."""
    root = Path(str(files("rifenet") / "examples"))
    table = json.loads((root / "examples.json").read_text(encoding="utf-8"))
    photos = [
        Example(root / photo["image"], root / photo["mask"], tuple(photo["classes"]), photo["support"])
        for photo in table["photos"]
    ]
    return table["classes"], photos
