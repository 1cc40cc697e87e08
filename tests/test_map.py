"""CONTRIBUTING.md's map of the repository: what it names exists, and it names every room of the package."""

from __future__ import annotations

import re

import pytest
from docs_blocks import ROOT, blocks

PACKAGE = ROOT / "src" / "rifenet"
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = r"[\w.]+(?:/[\w.]+)*/?"


def paths(text: str) -> list[str]:
    """Paths that a map names: those that begin a line, below the folder that they are indented under, and in texts."""
    found, folders = [], [(-1, "")]
    for line in text.splitlines():
        indent, names, said = re.fullmatch(rf"( *)({NAME}(?:, {NAME})*)(?:  +(.*))?", line).groups()  # type: ignore[union-attr]
        while folders[-1][0] >= len(indent):
            folders.pop()
        folder = folders[-1][1]
        found += [folder + name for name in names.split(", ")]
        if names.endswith("/"):
            folders.append((len(indent), folder + names))
            folder += names
        found += [folder + name for name in re.findall(r"(?<![\w`.])(\w+(?:\.py|/))(?!\w)", said or "")]
    return found


def test_the_map_is_of_this_repository() -> None:
    (tree,) = (block.text for block in blocks(PAGE) if block.language == "")
    named = paths(tree)
    assert len(named) > 80
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir()} - {"py.typed", "__pycache__/"}
    assert {path for path in named if re.fullmatch(r"src/rifenet/[^/]+/?", path)} == {
        f"src/rifenet/{room}" for room in rooms
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "src/\n  a.py   x\n  b/   c.py has y\n    d.py, e.py   z\nf/",
            "src/ src/a.py src/b/ src/b/c.py src/b/d.py src/b/e.py f/",
        ),
        ("a/   of result.json, and `b.py`; g/ holds h", "a/ a/g/"),
    ],
)
def test_names_are_read(text: str, named: str) -> None:
    assert paths(text) == named.split()
