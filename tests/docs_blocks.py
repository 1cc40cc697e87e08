"""The pages of the documentation and their fenced blocks, for the tests that check them and those that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "shell", "console", "")

FENCE = re.compile(r"^(?:<!-- not run: ([^\n]*?) -->\n)?```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    text: str
    not_run: str = ""
    """Why no test runs it: from a comment `<!-- not run: needs ... -->` in the line above."""
    line: int = 0


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(found[2], found[3], found[1] or "", text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
