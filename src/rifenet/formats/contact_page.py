"""A contact sheet of segmented photos: one HTML file of small pictures, which sorts and enlarges them.

Links lead from each picture to its files.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from rifenet.drawing import visualize
from rifenet.files import write_atomically

THUMBNAIL = 360


def write_page(path: Path, records: Iterable[Mapping[str, Any]], *, title: str) -> None:
    """Writes the page. Raises OSError on a full disk.

    `records` come from `Result.to_dict` and are read one at a time. Each has an `overlay` among its `files`, in the
    folder of the page; the small pictures are in the page, and the links lead to the files.
    """

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="backslashreplace") as out:  # of names that are not UTF-8
            out.write(visualize.page_head(title, _STYLE) + f"<h1>{html.escape(title)}</h1>")
            for number, record in enumerate(records):
                if number == 0:
                    out.write(_legend(record) + _tools(record) + "<div class=sheet>")
                out.write(_card(record, number, path.parent))
            out.write(f"</div>{_LARGE}</main><script>{_SCRIPT}</script></body></html>\n")

    write_atomically(path, write)


def _legend(record: Mapping[str, Any]) -> str:
    spans = (f"<span>{visualize.swatch(each['id'])}{html.escape(each['name'])}</span>" for each in record["classes"])
    return f"<div class=legend>{''.join(spans)}</div>"


def _tools(record: Mapping[str, Any]) -> str:
    """The order to choose, and what the numbers mean."""
    judged = "quality" in record["classes"][0]
    first = "quality" if judged else "confidence"
    choices = {"given": "as given", "name": "name", "sure": f"lowest {first} first", "share": "largest share first"}
    if "objects" in record["classes"][0]:
        choices["objects"] = "most objects first"
    options = "".join(f"<option value={value}>{text}</option>" for value, text in choices.items())
    meaning = "Quality is the IoU that the mask is expected to have. " if judged else ""
    return (
        f"<p class=tools><label>Order <select id=order>{options}</select></label>"
        f"<span>{meaning}Confidence is how likely the photo shows the class at all. Percentages are shares of the"
        " photo. Click a picture to enlarge it.</span></p>"
    )


def _card(record: Mapping[str, Any], number: int, folder: Path) -> str:
    with Image.open(folder / record["files"]["overlay"]) as picture:
        picture.draft("RGB", (THUMBNAIL, THUMBNAIL))
        small = picture.convert("RGB")
    found = [each for each in record["classes"] if each["present"]]
    total = record["height"] * record["width"]
    facts = {
        "given": number,
        "sure": min((each.get("quality") or each["confidence"] for each in found), default=1.0),
        "share": sum(each["pixels"] for each in found) / total,
        "objects": sum(each.get("objects", 0) for each in found),
    }
    name = html.escape(Path(record["query"]).name or "a picture in memory")
    lines = "".join(f"<li>{_line(each, total)}</li>" for each in found) or "<li>none of the classes</li>"
    files = {**record["files"], "json": record["json"]} if "json" in record else record["files"]
    links = " ".join(f'<a href="{quote(file)}">{html.escape(kind)}</a>' for kind, file in files.items())
    data = " ".join(f"data-{key}={value:.6g}" for key, value in facts.items())
    return (
        f'<figure {data} data-name="{name}">'
        f'<a class=zoom href="{quote(record["files"]["overlay"])}">{visualize.inlined(small, THUMBNAIL, name)}</a>'
        f"<figcaption><b>{name}</b><ul>{lines}</ul><span>{links}</span></figcaption></figure>"
    )


def _line(found: Mapping[str, Any], total: int) -> str:
    """A class in one photo: quality where the record has it, confidence, share of the photo, objects."""
    share = 100 * found["pixels"] / total
    parts = [f"quality {found['quality']:.2f}"] if found.get("quality") is not None else []
    parts += [f"confidence {found['confidence']:.2f}", f"{share:.1f} %" if share >= 0.05 else f"{found['pixels']} px"]
    if "objects" in found:
        parts.append(f"{found['objects']} object{'s' if found['objects'] != 1 else ''}")
    return f"{visualize.swatch(found['id'])}{html.escape(found['name'])}: {', '.join(parts)}"


_LARGE = (
    "<dialog id=large aria-label='Enlarged picture'><img alt=''><p><button type=button id=before>Previous</button>"
    "<span></span><button type=button id=after>Next</button><button type=button id=close>Close</button></p></dialog>"
)
_STYLE = """
.tools{display:flex;flex-wrap:wrap;gap:8px 24px;align-items:baseline;color:var(--soft);font-size:14px}
select,button{font:inherit;color:var(--ink);background:var(--tint)}
select,button{border:1px solid var(--line);border-radius:6px;padding:4px 10px}
figcaption{overflow-wrap:anywhere}figcaption b{color:var(--ink)}
figcaption ul{list-style:none;margin:2px 0;padding:0}figcaption li{display:flex;align-items:baseline}
figcaption .swatch{width:10px;height:10px;margin-right:6px}
figcaption span{display:flex;flex-wrap:wrap;gap:2px 10px}a{color:inherit}a.zoom{cursor:zoom-in}
dialog{background:var(--page);color:var(--ink);border:1px solid var(--line)}
dialog{border-radius:8px;padding:12px;max-width:96vw}
dialog::backdrop{background:rgba(0,0,0,.7)}
dialog img{max-width:92vw;max-height:calc(94vh - 90px);margin:0 auto}
dialog p{display:flex;gap:12px;align-items:center;justify-content:space-between;margin:10px 0 0}
dialog span{flex:1;min-width:0;overflow-wrap:anywhere;text-align:center}
""".replace("\n", "")
_SCRIPT = """
"use strict";
const sheet = document.querySelector(".sheet"), order = document.getElementById("order");
const large = document.getElementById("large");
let shown = null;
const compare = {
  given: (a, b) => a.dataset.given - b.dataset.given,
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  sure: (a, b) => a.dataset.sure - b.dataset.sure,
  share: (a, b) => b.dataset.share - a.dataset.share,
  objects: (a, b) => b.dataset.objects - a.dataset.objects,
};
const sort = () => sheet?.append(...[...sheet.children].sort(compare[order.value]));
order?.addEventListener("change", sort);
if (order && order.value !== "given") sort(); // a browser that goes back keeps the choice
function show(figure) {
  if (!figure) return;
  shown = figure;
  const picture = large.querySelector("img"), small = figure.querySelector("img");
  picture.onerror = () => { picture.onerror = null; picture.src = small.src; }; // the files lie elsewhere now
  picture.src = figure.querySelector("a.zoom").href;
  picture.alt = large.querySelector("span").textContent = figure.dataset.name;
  if (!large.open) large.showModal();
}
sheet?.addEventListener("click", (event) => {
  const link = event.target.closest("a.zoom");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link.closest("figure"));
});
document.getElementById("before").addEventListener("click", () => show(shown.previousElementSibling));
document.getElementById("after").addEventListener("click", () => show(shown.nextElementSibling));
document.getElementById("close").addEventListener("click", () => large.close());
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(shown.previousElementSibling);
  if (event.key === "ArrowRight") show(shown.nextElementSibling);
});
"""
