"""The annotated photos that ship with the program (`rifenet/examples`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """An annotated photo that ships with the program."""

    image: Path
    mask: Path
    classes: tuple[str, ...]
    support: bool


def load_examples() -> tuple[list[str], list[Example]]:
    """Class names (id i + 1 of the masks is name i) and the photos, from `examples/examples.json`."""
    root = Path(str(files("rifenet") / "examples"))
    table = json.loads((root / "examples.json").read_text(encoding="utf-8"))
    photos = [
        Example(root / photo["image"], root / photo["mask"], tuple(photo["classes"]), photo["support"])
        for photo in table["photos"]
    ]
    return table["classes"], photos
