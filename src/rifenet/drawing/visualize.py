"""Draws masks for people: overlays, strips, contact sheets, and a report as one HTML file.

A class has the same colour everywhere, from Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rifenet import IGNORE

OKABE_ITO = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((213, 94, 0), (0, 114, 178), (204, 121, 167)),
)
_STRIP = 2**20  # pixels
_IGNORED = (160, 160, 160)
_HEAT = np.array([(13, 8, 48), (0, 68, 118), (94, 106, 112), (190, 165, 88), (255, 234, 130)], np.float64)
"""Dark blue to light yellow with rising lightness, which works for all kinds of colour vision and in grey."""


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of class 1, 2, ...: the seven colours of the palette, then darker and lighter versions of them."""
    step, index = divmod(class_id - 1, len(OKABE_ITO))
    target, share = ((0, 0.0), (0, 0.4), (255, 0.45), (0, 0.65), (255, 0.7))[step % 5]
    red, green, blue = (round(level + (target - level) * share) for level in OKABE_ITO[index])
    return red, green, blue


def mask_image(mask: NDArray[np.uint8]) -> Image.Image:
    """Palette picture of a mask [H,W]: its values are the class ids, its palette the colours of the classes."""
    picture = Image.fromarray(mask)
    colours = [(0, 0, 0), *(class_colour(class_id) for class_id in range(1, IGNORE)), (255, 255, 255)]
    picture.putpalette([level for colour in colours for level in colour])
    return picture


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, opacity: float = 0.5) -> Image.Image:
    """The photo [H,W,3] with each class of the mask [H,W] tinted and outlined, and ignored pixels (255) in grey."""
    table = np.array([(0, 0, 0), *(class_colour(i) for i in range(1, IGNORE)), _IGNORED], np.uint8)
    height, width = mask.shape
    line = max(1, round(max(mask.shape) / 400))
    weight = round(256 * opacity)
    picture = Image.new("RGB", (width, height))
    # In integers, only where there is something, and some rows at a time: a large photo would need gigabytes.
    step = max(line, _STRIP // width)
    for top in range(0, height, step):
        above = max(0, top - line)
        outline = _edges(mask[above : top + step + line], line)[top - above :][:step]
        labels, painted = mask[top : top + step], image[top : top + step].copy()
        inside = labels != 0
        tint = table[labels[inside]].astype(np.uint16)
        painted[inside] = (painted[inside].astype(np.uint16) * (256 - weight) + tint * weight) >> 8
        painted[outline] = table[labels[outline]]
        picture.paste(Image.fromarray(painted), (0, top))
    return picture


def neighbours_apart(labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """A map [H,W] of objects (0: none) with few numbers, so that each touching pair gets two colours of the palette."""
    touching: dict[int, set[int]] = {int(label): set() for label in np.unique(labels[labels > 0])}
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        for a, b in set(zip(one[meet].tolist(), other[meet].tolist(), strict=True)):
            touching[a].add(b)
            touching[b].add(a)
    numbers = np.zeros(int(labels.max(initial=0)) + 1, np.uint8)
    for place, (label, beside) in enumerate(touching.items()):
        taken = {int(numbers[each]) for each in beside}
        turned = [(place + step) % len(OKABE_ITO) + 1 for step in range(len(OKABE_ITO))]
        numbers[label] = next(each for each in (*turned, *range(len(OKABE_ITO) + 1, IGNORE)) if each not in taken)
    return numbers[labels]


def heat(values: NDArray[np.floating]) -> Image.Image:
    """A map [H,W] of values in [0,1], such as a prior or a confidence, as colours from dark blue to light yellow."""
    places = np.linspace(0, 1, len(_HEAT))
    levels = [np.interp(values, places, channel) for channel in _HEAT.T]
    return Image.fromarray(np.stack(levels, -1).round().astype(np.uint8))


def _edges(mask: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Outlines: pixels of a class at most `width` from another label; ignored pixels have no outline."""
    border = np.zeros(mask.shape, bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            ahead, behind = ([slice(None)] * 2 for _ in range(2))
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            change = mask[tuple(ahead)] != mask[tuple(behind)]
            border[tuple(ahead)] |= change
            border[tuple(behind)] |= change
    return border & (mask != 0) & (mask != IGNORE)


def strip(panels: Sequence[Image.Image], captions: Sequence[str], *, height: int = 220) -> Image.Image:
    """Panels of one height side by side, each under its caption, e.g. support | query | prediction | truth."""
    if len(panels) != len(captions) or not panels:
        raise ValueError(f"Expected a caption for each panel, but got {len(panels)} panels, {len(captions)} captions.")
    font, gap = ImageFont.load_default(14), 6
    scaled = [
        panel.convert("RGB").resize((max(1, round(panel.width * height / panel.height)), height)) for panel in panels
    ]
    widths = [
        max(panel.width, round(font.getlength(caption)) + gap) for panel, caption in zip(scaled, captions, strict=True)
    ]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(panels) + 1), height + 22 + gap), "white")
    pen, left = ImageDraw.Draw(sheet), gap
    for panel, caption, width in zip(scaled, captions, widths, strict=True):
        pen.text((left, 3), caption, fill="black", font=font)
        sheet.paste(panel, (left, 22))
        left += width + gap
    return sheet


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 1, gap: int = 8) -> Image.Image:
    """Pictures, such as strips, in rows of `columns` on a white sheet; each cell is as large as the largest picture."""
    if not pictures or columns < 1:
        raise ValueError(f"Expected at least one picture and one column, but got {len(pictures)} and {columns}.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = (max(getattr(picture, side) for picture in pictures) + gap for side in ("width", "height"))
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (gap + index % columns * width, gap + index // columns * height))
    return sheet


@dataclass(frozen=True)
class Figure:
    """A picture of a report, with the line below it."""

    picture: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading with the colour of class `class_id`, a column of figures, and rows beside it."""

    heading: str
    columns: Sequence[str]
    """Headings: first of the column `aside`, then of each column of `rows`."""
    aside: Sequence[Figure]
    """Figures of the left column, e.g. the supports."""
    rows: Sequence[Sequence[Figure]]
    """Rows of figures to its right, e.g. query, prediction, truth; each row has one figure fewer than `columns`."""
    text: str = ""
    class_id: int | None = None


@dataclass(frozen=True)
class Report:
    """Content of a report page. All text is plain text, not HTML."""

    title: str
    lead: str
    header: Sequence[str]
    """Column names of the table."""
    table: Sequence[Sequence[str]]
    """Rows of the table: a name, then numbers."""
    legend: Sequence[str] = ()
    """Names of class 1, 2, ..., shown with their colours."""
    notes: Sequence[str] = ()
    sections: Sequence[Section] = field(default=())
    footer: str = ""


def render(report: Report, *, width: int = 300) -> str:
    """The report as one self-contained HTML page, with pictures at most `width` px wide and 3/4 of that high."""
    text = html.escape
    head = "".join(f"<th>{text(name)}</th>" for name in report.header)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in report.table)
    notes = "".join(f"<li>{text(note)}</li>" for note in report.notes)
    legend = "".join(f"<span>{swatch(index)}{text(name)}</span>" for index, name in enumerate(report.legend, 1))
    sections = "".join(_section(section, width) for section in report.sections)
    return (
        f"{page_head(report.title)}<h1>{text(report.title)}</h1><p class=lead>{text(report.lead)}</p>"
        f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<div class=legend>{legend}</div><ul class=notes>{notes}</ul>{sections}"
        f"<footer>{text(report.footer)}</footer></main></body></html>\n"
    )


def page_head(title: str, style: str = "") -> str:
    """The start of a page, up to its content; the caller ends it with `</main></body></html>`. `style`: more CSS."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body><main>"
    )


def _section(section: Section, width: int) -> str:
    mark = "" if section.class_id is None else swatch(section.class_id)
    heads = [f"<div class=head>{html.escape(name)}</div>" for name in section.columns]
    aside = "".join(figure(each, width) for each in section.aside)
    cells = "".join(figure(each, width) for row in section.rows for each in row)
    beside = len(heads) - 1
    style = f"--side:minmax(0,1fr) minmax(0,{beside}fr);--columns:{beside}"
    return (
        f"<section><h2>{mark}{html.escape(section.heading)}</h2><p>{html.escape(section.text)}</p>"
        f'<div class=side style="{style}"><div class=grid>{heads[0]}{aside}</div>'
        f"<div class='grid rows'>{''.join(heads[1:])}{cells}</div></div></section>"
    )


def swatch(class_id: int) -> str:
    """A small square in the class's colour, as HTML."""
    return f'<span class=swatch style="background:rgb{class_colour(class_id)}"></span>'


def figure(shown: Figure, width: int) -> str:
    """HTML of a picture with its caption, at most `width` px wide and 3/4 of that high; contains the picture."""
    caption = html.escape(shown.caption)
    label = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{inlined(shown.picture, width, caption)}{label}</figure>"


def inlined(picture: Image.Image, width: int, text: str) -> str:
    """An `img` that contains the picture, at most `width` px wide and 3/4 of that high; `text` is its alternative."""
    small = picture.convert("RGB")
    small.thumbnail((width, width * 3 // 4))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img width={small.width} height={small.height} alt="{text}" src="data:image/jpeg;base64,{data}">'


STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#dde2e7;--page:#fff;--tint:#f5f7f9}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a2abb4;--line:#363d45;--page:#15181c;--tint:#1e2329}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink)}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 12px}
h2{font-size:20px;margin:48px 0 8px;padding-top:24px;border-top:1px solid var(--line);display:flex;align-items:center}
p{margin:0 0 16px}.lead{font-size:18px;color:var(--soft);max-width:72ch}
.swatch{width:18px;height:18px;border-radius:4px;margin-right:10px;flex:none}
.legend{display:flex;flex-wrap:wrap;gap:8px 20px;margin:16px 0}.legend span{display:flex;align-items:center}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:8px 0 16px}
th,td{padding:8px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-size:13px;font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
tbody tr:last-child td{font-weight:600;border-bottom:0;background:var(--tint)}
.notes{color:var(--soft);font-size:14px;padding-left:20px;max-width:90ch}
.side{display:grid;grid-template-columns:var(--side);gap:28px;align-items:start}
.grid{display:grid;gap:12px;align-items:start}.rows{grid-template-columns:repeat(var(--columns),minmax(0,1fr))}
.head{font-size:13px;font-weight:600;color:var(--soft)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:20px 16px;align-items:start}
figure{margin:0}img{display:block;max-width:100%;height:auto;border-radius:6px;background:var(--tint)}
figcaption{font-size:13px;color:var(--soft);margin-top:4px;font-variant-numeric:tabular-nums}
@media(max-width:640px){.side{grid-template-columns:1fr}}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--line);font-size:13px;color:var(--soft)}
""".replace("\n", "")
