"""Every example photo that ships: readable, small, matching its mask, with the classes it claims and attribution."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rifenet.examples.samples import load_examples
from rifenet.formats.pictures import load_image, load_mask

CLASSES, EXAMPLES = load_examples()
ROOT = EXAMPLES[0].image.parents[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.image.stem)
def test_photo_and_mask_fit(example: object) -> None:
    image, mask = load_image(example.image), load_mask(example.mask)  # type: ignore[attr-defined]
    assert image.shape[:2] == mask.shape
    assert 300 <= max(mask.shape) <= 480
    found = [CLASSES[value - 1] for value in np.unique(mask) if value not in (0, 255)]
    assert found == list(example.classes)  # type: ignore[attr-defined]
    assert all((mask == CLASSES.index(name) + 1).sum() >= 1000 for name in found)


def test_there_are_enough_to_learn_from_and_to_score() -> None:
    assert 20 <= len(EXAMPLES) <= 40
    for name in CLASSES:
        shown = [example.support for example in EXAMPLES if name in example.classes]
        assert shown.count(True) >= 2
        assert shown.count(False) >= 3
    assert {"cat", "sheep", "cow"}.isdisjoint(CLASSES)


def test_nothing_else_ships_and_all_is_small() -> None:
    listed = {path for example in EXAMPLES for path in (example.image, example.mask)}
    there = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == listed | {ROOT / "examples.json", ROOT / "ATTRIBUTION.md"}
    assert sum(path.stat().st_size for path in there) < 2_500_000


def test_no_photo_is_shipped_twice() -> None:
    small = [load_image(example.image)[::40, ::40].tobytes() for example in EXAMPLES]
    assert len(set(small)) == len(small)


def test_every_photo_is_attributed() -> None:
    text = (ROOT / "ATTRIBUTION.md").read_text(encoding="utf-8")
    sources = dict(re.findall(r"\[(\d+)\]\((http://images\.cocodataset\.org/\w+2017/\d{12}\.jpg)\)", text))
    assert {f"{int(number):012d}": url.rsplit("/")[-1] for number, url in sources.items()} == {
        example.image.stem: example.image.name for example in EXAMPLES
    }
    assert "creativecommons.org/licenses/by/4.0" in text
    assert "cocodataset.org/#termsofuse" in text
