"""Hooks of mkdocs that make the pages of docs/ work both on a forge and on the site.

On the site, a link that leaves docs/ (`../src/rifenet/training/losses.py`) leads to a copy of that file under
`source/`, at the line that defines the name in the link's text. `../CHANGELOG.md` and `../CONTRIBUTING.md` in the
navigation become pages. A list may follow its paragraph without an empty line, as on a forge.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\(([^)\s]+)\)")
PROSE_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "sh"}


def on_config(config: Any) -> Any:
    """Replaces files of the repository's root in the navigation by the names of their pages on the site."""
    config.nav = _renamed(config.nav)
    return config


def _renamed(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_renamed(each) for each in entry]
    if isinstance(entry, dict):
        return {title: _renamed(each) for title, each in entry.items()}
    return PROSE_PAGES.get(entry.removeprefix("../"), entry)


def on_files(files: Files, config: Any) -> Files:
    """Adds pages for linked files outside docs/."""
    from mkdocs.structure.files import File

    for name, page in PROSE_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        origin = origin_of(file.src_uri)
        linked |= {path for _, path, _ in outside(file.content_string, origin)} - PROSE_PAGES.keys()
    for path in sorted(linked):
        if (ROOT / path).is_file():  # mkdocs reports links to missing files
            files.append(File.generated(config, f"source/{path}.md", content=source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Returns the page with links for the site, and an empty line before each list."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [prose(markdown[end : fence.start()], here), fence.group()]
        end = fence.end()
    return "".join([*parts, prose(markdown[end:], here)])


def prose(text: str, here: str) -> str:
    """Converts `text`, without fenced blocks, of the page `here` (a path below docs/) to the site's form."""
    for link, path, target in outside(text, origin_of(here)):
        text = text.replace(link, link.replace(f"]({target})", f"]({site_link(link, path, target, here)})"))
    return re.sub(r"^(?![-*] |\d+\. |\s|\||$)(.+)\n(?=(?:[-*]|1\.) )", r"\1\n\n", text, flags=re.MULTILINE)


def origin_of(src_uri: str) -> str:
    """The path in the repository of the file behind the page `src_uri`."""
    made_of = {page: name for name, page in PROSE_PAGES.items()}
    return made_of.get(src_uri, f"docs/{src_uri}")


def outside(text: str, origin: str) -> list[tuple[str, str, str]]:
    """Links of the file `origin` that do not stay within docs/, as (link, path in the repository, target)."""
    found = {}
    for link in LINK.finditer(FENCE.sub("", text)):
        target = link[2]
        if re.match(r"\w+:|#", target):
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target.partition("#")[0]))
        if not path.startswith("docs/") or not origin.startswith("docs/"):
            found[link.group()] = (link.group(), path, target)
    return list(found.values())


def site_link(link: str, path: str, target: str, here: str) -> str:
    """Target of `link` on the site, relative to the page `here`."""
    anchor = target.partition("#")[2]
    if path.startswith("docs/"):
        page = path.removeprefix("docs/")
    elif path in PROSE_PAGES:
        page = PROSE_PAGES[path]
    else:
        page = f"source/{path}.md"
        label = re.sub(r"[`*]", "", link[1 : link.index("](")])
        anchor = anchor or line_anchor(path, label.rpartition(".")[2])
    relative = os.path.relpath(page, posixpath.dirname(here) or ".").replace(os.sep, "/")
    return f"{relative}#{anchor}" if anchor else relative


def line_anchor(path: str, name: str) -> str:
    """Anchor of the line that defines `name` on the page of a Python file; empty where no line does."""
    if not path.endswith(".py") or not (ROOT / path).is_file():
        return ""
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if re.match(rf"\s*(?:def|class) {re.escape(name)}\b", line):
            return f"__codelineno-0-{number}"
    return ""


def source_page(path: str) -> str:
    """A page that shows a file of the repository with numbered lines; search leaves it out."""
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(Path(path).suffix, "text")
    return (
        f'---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n~~~~~~ {{ .{language} linenums="1" }}\n'
        f"{text.rstrip()}\n~~~~~~\n"
    )
