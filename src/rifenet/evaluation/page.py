"""Turns the Markdown of `rifenet report` into one self-contained HTML page, styled as the other HTML reports."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rifenet.drawing.visualize import page_head

_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
_STYLE = (
    ".plot svg{max-width:100%;height:auto;border-radius:6px}main>img{margin:8px 0 16px}h2{display:block}"
    "tbody tr:last-child td{font-weight:400;background:none}"
)


def page(markdown: str, folder: Path) -> str:
    """Returns the HTML of `markdown` with its pictures embedded; their paths are relative to `folder`.

    Links become text with the address as a tooltip, because a reader who is sent the page lacks the linked files.

    Raises FileNotFoundError for a missing picture, and ValueError for a picture that is not SVG, JPEG or PNG.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    rules: dict[str, Callable[[Token], str]] = {
        "image": lambda token: _picture(token, folder),
        "link_open": lambda token: f'<span title="{html.escape(str(token.attrs["href"]))}">',
        "link_close": lambda token: "</span>",
        "table_open": lambda token: "<div class=scroll><table>",
        "table_close": lambda token: "</table></div>",
    }
    for name, rule in rules.items():
        parser.add_render_rule(name, _rendering(rule))
    tokens = parser.parse(markdown)
    titles = [inline.content for before, inline in pairwise(tokens) if before.tag == "h1"]
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if [child.type for child in inline.children or ()] == ["image"]:
            before.hidden = after.hidden = True  # a picture on its own needs no <p>
    body = parser.renderer.render(tokens, parser.options, {})
    return f"{page_head(titles[0] if titles else 'Report', _STYLE)}\n{body}</main></body></html>\n"


def _rendering(rule: Callable[[Token], str]) -> Callable[..., str]:
    def render(renderer: object, tokens: Sequence[Token], index: int, *_: object) -> str:
        return rule(tokens[index])

    return render


def _picture(token: Token, folder: Path) -> str:
    path, text = folder / unquote(str(token.attrs["src"])), html.escape(token.content)
    if path.suffix == ".svg":
        return f'<div class=plot role="img" aria-label="{text}">{path.read_text(encoding="utf-8")}</div>'
    if path.suffix not in _TYPES:
        raise ValueError(f"Expected a picture as SVG, JPEG or PNG, but got {path}. Convert it.")
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text}" src="data:{_TYPES[path.suffix]};base64,{data}">'
