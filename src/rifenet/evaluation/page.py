"""A report of `rifenet report`, from its Markdown, as one self-contained HTML page in the look of the rest.

Only what our own reports use: headings, paragraphs, tables, lists, pictures, links, code. Pictures are put inside.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from rifenet.visualize import STYLE

_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
_MORE = (
    ".plot svg{max-width:100%;height:auto;border-radius:6px}main>img{margin:8px 0 16px}h2{display:block}"
    "tbody tr:last-child td{font-weight:400;background:none}"
)


def page(markdown: str, folder: Path) -> str:
    """HTML of `markdown`, whose pictures lie at paths relative to `folder`.

    Raises FileNotFoundError for a picture that is not there, and ValueError for one that is no SVG, JPEG or PNG.
    """
    lines = markdown.splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ")), "Report")
    body = "\n".join(_blocks(lines, folder))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{_MORE}</style></head><body><main>\n{body}\n"
        "</main></body></html>\n"
    )


def _blocks(lines: list[str], folder: Path) -> Iterator[str]:
    start = 0
    while start < len(lines):
        kind, end = _kind(lines[start]), start + 1
        while end < len(lines) and kind in ("table", "list", "text") and _kind(lines[end]) == kind:
            end += 1
        yield _block(kind, lines[start:end], folder)
        start = end


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    if line.startswith("#"):
        return "heading"
    if _IMAGE.fullmatch(line.strip()):
        return "image"
    return {"|": "table", "-": "list"}.get(line[0], "text")


def _block(kind: str, lines: list[str], folder: Path) -> str:
    if kind == "heading":
        marks, _, text = lines[0].partition(" ")
        return f"<h{len(marks)}>{_inline(text)}</h{len(marks)}>"
    if kind == "image":
        return _picture(lines[0].strip(), folder)
    if kind == "table":
        return _table(lines)
    if kind == "list":
        return "<ul>" + "".join(f"<li>{_inline(line[1:].strip())}</li>" for line in lines) + "</ul>"
    return f"<p>{_inline(' '.join(lines))}</p>" if kind == "text" else ""


def _table(lines: list[str]) -> str:
    rows = [[cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows[2:])
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _picture(line: str, folder: Path) -> str:
    found = _IMAGE.fullmatch(line)
    assert found
    text, address = found.groups()
    path = folder / unquote(address)
    if path.suffix == ".svg":
        return f'<div class=plot role="img" aria-label="{html.escape(text)}">{path.read_text(encoding="utf-8")}</div>'
    if path.suffix not in _TYPES:
        raise ValueError(f"Expected a picture as SVG, JPEG or PNG, but got {path}. Convert it.")
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(text)}" src="data:{_TYPES[path.suffix]};base64,{data}">'


def _inline(text: str) -> str:
    """Links to files beside the report lose their address, which a page that is sent on could not follow."""
    escaped = html.escape(text, quote=False)
    escaped = _CODE.sub(r"<code>\1</code>", escaped)
    escaped = _BOLD.sub(r"<strong>\1</strong>", escaped)
    return _LINK.sub(lambda found: f'<span title="{html.escape(found[2])}">{found[1]}</span>', escaped)
