"""Checks a built site: all links and anchors within it exist, and no page loads anything from another host.

    python scripts/check_site.py site

Prints each problem, and exits with 1 where there is any. Links may lead to other hosts; these are not followed.
"""

from __future__ import annotations

import posixpath
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADED |= {"embed": "src", "object": "data", "link": "href", "image": "href", "use": "href"}
NOT_LOADED = {"canonical", "next", "prev", "edit", "author", "license"}  # kinds of <link> that a browser only notes
CSS_URL = re.compile(r"""@import\s+['"]([^'"]+)['"]|url\(\s*['"]?([^'")]+)['"]?\s*\)""")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


class Page(HTMLParser):
    """The anchors and links of a page, and the files that a browser loads to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self._styling = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Records the anchors, links and loads of one element."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self._styling = tag == "style"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (target := given.get(LOADED.get(tag, ""))) and not (NOT_LOADED & set(given.get("rel", "").split())):
            self.loads.append(target)
        for part in given.get("srcset", "").split(","):
            self.loads += part.split()[:1]
        self.loads += css_loads(given.get("style", ""))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        """Ends a style sheet inside the page."""
        self._styling = False

    def handle_data(self, data: str) -> None:
        """Reads a style sheet inside the page."""
        if self._styling:
            self.loads += css_loads(data)


def css_loads(text: str) -> list[str]:
    """Addresses that a style sheet loads."""
    return [one or other for one, other in CSS_URL.findall(text)]


def problems(site: Path) -> list[str]:
    """A sentence for each problem below `site`; raises FileNotFoundError where there is no page."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    if not pages:
        raise FileNotFoundError(f"Expected a built site in {site}, but it holds no page. Run `make docs`.")
    found = []
    for name, page in sorted(pages.items()):
        root = name == "404.html"  # served under any address, so its links start at the root
        found += [f"{name}: {wrong}" for link in page.links if (wrong := _wrong_link(link, name, pages, site, root))]
        found += [f"{name}: {wrong}" for load in page.loads if (wrong := _wrong_load(load, name, site, root))]
    for sheet in sorted(site.rglob("*.css")):
        name = sheet.relative_to(site).as_posix()
        loads = css_loads(sheet.read_text(encoding="utf-8"))
        found += [f"{name}: {wrong}" for load in loads if (wrong := _wrong_load(load, name, site, False))]
    return found


def _wrong_load(target: str, name: str, site: Path, root: bool) -> str:
    if target.startswith(("data:", "#")):
        return ""
    if ELSEWHERE.match(target):
        return f"loads {target} from another host"
    path = _path(target, name, root)
    return "" if (site / path).is_file() else f"loads {target}, which is not there"


def _wrong_link(target: str, name: str, pages: dict[str, Page], site: Path, root: bool) -> str:
    if ELSEWHERE.match(target):
        scheme = target.partition(":")[0].lower()
        return "" if scheme in ("http", "https", "mailto") else f"links to {target}, of no scheme that a reader can use"
    path = _path(target, name, root)
    if not (site / path).exists():
        return f"links to {target}, which is not there"
    anchor = unquote(target.partition("#")[2])
    if anchor and path in pages and anchor not in pages[path].ids:
        return f"links to {target}, but {path} has no such anchor"
    return ""


def _path(target: str, name: str, root: bool) -> str:
    """The file below the site that `target` names on the page `name`."""
    bare = unquote(re.split("[?#]", target)[0])
    if not bare:
        return name
    if bare.startswith("/"):
        return posixpath.normpath(bare.lstrip("/") or ".") if root else f"{bare}: not below the site"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), bare))
    return path if path != "." else "index.html"


def main() -> int:
    """Exit status: 0 without a problem, else 1."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    found = problems(site)
    print("\n".join(found) or f"{site}: all links and anchors lead somewhere, and nothing is loaded from another host.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
