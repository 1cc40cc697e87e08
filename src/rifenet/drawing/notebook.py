"""What a notebook shows of results: pictures and a table as a piece of HTML that needs no style sheet and no file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from rifenet.drawing.visualize import swatch

LARGEST = 640  # pixels of the longer side of a single picture
SMALL = 128  # and of each of several


def card(
    title: str, pictures: Sequence[Image.Image], header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]
) -> str:
    """A title, pictures side by side, and a table: each row has the class's number, then a cell for each heading."""
    side = LARGEST if len(pictures) == 1 else SMALL
    shown = "".join(f'<img alt="" style="margin:0 6px 6px 0" src="{_address(each, side)}">' for each in pictures)
    cell = '<td style="text-align:left">'
    heads = "".join(f'<th style="text-align:left">{html.escape(name)}</th>' for name in header)
    body = "".join(
        f"<tr>{cell}{_mark(number)}{html.escape(str(first))}</td>"
        + "".join(f"{cell}{html.escape(str(each))}</td>" for each in rest)
        + "</tr>"
        for number, (first, *rest) in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div><p>{html.escape(title)}</p>{shown}{table}</div>"


def png(picture: Image.Image) -> bytes:
    """A PNG of the picture, at most `LARGEST` px on a side."""
    return _encoded(picture, LARGEST, "PNG")


def _mark(number: int) -> str:
    """The class's colour as a small square, with the size that `swatch` leaves to a style sheet."""
    size = "display:inline-block;width:12px;height:12px;margin-right:6px;"
    return swatch(number).replace('style="', f'style="{size}')


def _address(picture: Image.Image, side: int) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(_encoded(picture, side, 'JPEG')).decode()}"


def _encoded(picture: Image.Image, side: int, format: str) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format)
    return buffer.getvalue()
