"""The header of a model's file, read without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rifenet.config import shown
from rifenet.files import parse_json

FORMAT = 1
HEADER = "rifenet"
LARGEST_SIDE = 8192
"""Of a network's input, in pixels: features of a larger one fill the memory of any machine."""


def parse_header(path: Path, text: str | None) -> dict[str, Any]:
    """What the header `text` of the file at `path` says: `config`, `backbone_hash` and `metadata`.

    Raises ValueError for no header, for that of another program, and for values that would fail later, far from here.
    """
    if text is None:
        raise ValueError(f"Expected a rifenet model, but {path} has no rifenet header. Give a file written by rifenet.")
    header = parse_json(text, f"the header of {path}")
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise ValueError(f"Expected model format {FORMAT}, but {path} has {shown(found)}. Update rifenet.")
    for name, kind in (("config", dict), ("metadata", dict), ("backbone_hash", str)):
        if not isinstance(header.get(name), kind):
            raise ValueError(
                f"Expected the header of {path} to have {name} as rifenet writes it, but got"
                f" {shown(header.get(name))}. Fetch the file again."
            )
    _check_metadata(path, header["metadata"])
    return dict(header)


def _check_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Raises ValueError where what a model says of itself would fail later, far from the file."""
    size, calibration = metadata.get("image_size"), metadata.get("calibration")
    if size is not None and (type(size) is not int or not 32 <= size <= LARGEST_SIDE):
        raise ValueError(f"Expected image_size in {path} to be 32 to {LARGEST_SIDE} px, but got {shown(size)}.")
    if calibration is not None and not (
        isinstance(calibration, dict)
        and all(type(calibration.get(name)) in (int, float) for name in ("a", "b"))
        and all(math.isfinite(calibration[name]) for name in ("a", "b"))
    ):
        raise ValueError(f"Expected calibration in {path} to have the numbers a and b, but got {shown(calibration)}.")
