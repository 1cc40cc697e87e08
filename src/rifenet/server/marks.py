"""Strokes of `POST /api/complete`: masks as pictures, or lines as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rifenet.formats.run_lengths import Check, unchecked
from rifenet.server.problem import Problem
from rifenet.server.uploads import is_json, read_marked

MOST_POINTS = 20_000
_SHAPE = 'a list of {"points": [[x, y], ...], "width": w} in pixels of the photo'


def read_marks(
    given: UploadFile | str | None, what: str, size: tuple[int, int], check: Check = unchecked
) -> NDArray[np.uint8] | None:
    """Where strokes mark a photo of `size` (H, W): [H,W], non-zero where marked; None where none are given.

    Args:
        given: a mask as a lossless picture, or the JSON of a list of lines, as a file or a text.
        what: name of the field, for sentences.
        size: of the photo.
        check: called while a picture is decoded.

    Raises Problem: 422 for what is neither.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, str):
        return _drawn(given, what, size)
    if is_json(given):
        return _drawn(given.file.read(), what, size)
    return read_marked(given, check)


def _drawn(text: str | bytes, what: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The lines of a JSON, drawn."""
    try:
        lines = [_line(each) for each in _listed(json.loads(text))]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Problem(422, f"Expected {what} as {_SHAPE}, but got another ({error!r:.80}).") from error
    if sum(len(points) for points, _ in lines) > MOST_POINTS:
        raise Problem(422, f"Expected at most {MOST_POINTS:,} points in {what}, but got more. Send a mask.")
    picture = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(picture)
    for points, width in lines:
        width = min(width, 2.0 * max(size))
        moved = [(x - 0.5, y - 0.5) for x, y in points]  # Pillow's whole numbers are middles of pixels
        if len(moved) > 1:
            pen.line(moved, fill=1, width=max(1, round(width)), joint="curve")
        radius = max(width, 1) / 2
        for x, y in (moved[0], moved[-1]):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(picture)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _line(value: Any) -> tuple[list[tuple[float, float]], float]:
    points = [(float(x), float(y)) for x, y in _listed(value["points"])]
    width = float(value["width"])
    if not points or width <= 0 or not all(abs(each) < 1e6 for point in (*points, (width, 0.0)) for each in point):
        raise ValueError("no points, no width, or a number too large")
    return points, width
