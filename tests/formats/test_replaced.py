"""Which files of another photo's results are about to be replaced, and what is said of each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rifenet.formats.remarks import collected
from rifenet.formats.replaced import say_replaced


def said(folder: Path, contents: dict[str, Any], source: str = "x/a.jpg") -> list[str]:
    """What is said where the results of `x/a.jpg` are saved as a.json, a_coco.json and a_mask.png."""
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    files = [folder / name for name in ("a_mask.png", "a_coco.json", "a.json", "a_labelme.JSON")]
    with collected() as found:
        say_replaced(files, folder / "a.json", source)
    return [each.replace(f"{folder}{os.sep}", "") for each in found]


ENDING = "and was replaced. Give save() a name for each photo."


@pytest.mark.parametrize(
    ("contents", "remarks"),
    [
        ({}, []),
        ({"a.json": {"query": "x/a.jpg"}}, []),  # the same photo again
        ({"a.json": {"query": "y/a.jpg"}}, [f"result file a.json: It belonged to the results of y/a.jpg {ENDING}"]),
        ({"a.json": {"query": ""}}, [f"result file a.json: It belonged to the results of another picture {ENDING}"]),
        ({"a.json": [1]}, [f"result file a.json: It belonged to another photo's results {ENDING}"]),
        ({"a.json": {"images": []}}, [f"result file a.json: It belonged to another photo's results {ENDING}"]),
        ({"a.json": b"{"}, [f"result file a.json: It belonged to another photo's results {ENDING}"]),
        ({"a_coco.json": {"images": []}}, []),  # COCO of whatever photo
        (
            {"a_coco.json": {"query": "x/a.jpg"}},  # the record of a photo a_coco
            [f"result file a_coco.json: It belonged to the results of x/a.jpg {ENDING}"],
        ),
        (
            {
                "a_mask.png": {"query": "z"},
                "a_coco.json": [],
                "a.json": {"query": "y"},
                "a_labelme.JSON": {"query": "z"},
            },
            [
                f"result file a.json: It belonged to the results of y {ENDING}",
                f"result file a_labelme.JSON: It belonged to the results of z {ENDING}",
            ],
        ),
    ],
)
def test_what_is_said(contents: dict[str, Any], remarks: list[str], tmp_path: Path) -> None:
    assert said(tmp_path, contents) == remarks


def test_a_picture_in_memory_replaces_its_own_kind_alone_in_silence(tmp_path: Path) -> None:
    assert said(tmp_path, {"a.json": {"query": ""}}, source="") == []
    assert len(said(tmp_path, {"a.json": {"query": "y"}}, source="")) == 1
