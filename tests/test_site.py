"""The site's navigation, its hooks, and the checker of its built pages; `make docs` builds it, nothing here does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from docs_blocks import ROOT

STYLE = "<style>p{background:url(%s)}</style>"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, checker = script("site_hooks"), script("check_site")


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml without making the objects that its tags name."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)


def leaves(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [leaf for each in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(each)]


def test_every_page_is_in_the_navigation_once() -> None:
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(leaves(SETTINGS["nav"])) == sorted([*pages, "../CHANGELOG.md", "../CONTRIBUTING.md"])


def test_nothing_that_fetches_is_switched_on() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert not {"repo_url", "edit_uri"} & SETTINGS.keys()  # the theme asks the forge for stars
    assert "offline" not in SETTINGS["plugins"]  # it loads a script from elsewhere
    assert not re.search(r"https?://", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_links_that_leave_docs_lead_to_copies() -> None:
    text = (
        "See [`rifenet.training.losses.dice`](../src/rifenet/training/losses.py), [data](data.md#coco),"
        " [log](../CHANGELOG.md#x).\n"
    )
    source = ROOT / "src" / "rifenet" / "training" / "losses.py"
    line = next(
        number
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith("def dice(")
    )
    assert hooks.prose(text, "faq.md") == (
        "See [`rifenet.training.losses.dice`]"
        f"(source/src/rifenet/training/losses.py.md#__codelineno-0-{line}), [data](data.md#coco),"
        " [log](changelog.md#x).\n"
    )
    assert hooks.prose("[results](docs/results.md) [site](https://a.example/)", "contributing.md") == (
        "[results](results.md) [site](https://a.example/)"
    )


def test_links_inside_code_stay() -> None:
    text = "```\n[x](../src/rifenet/training/losses.py)\n```\n"
    assert hooks.outside(text, "docs/faq.md") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Words:\n- one\n- two\n", "Words:\n\n- one\n- two\n"),
        ("Words:\n1. one\n", "Words:\n\n1. one\n"),
        ("- one\n- two\n", "- one\n- two\n"),
        ("| a |\n- one\n", "| a |\n- one\n"),
        ("- one\n  more\n- two\n", "- one\n  more\n- two\n"),
    ],
)
def test_a_list_after_its_paragraph_is_one(text: str, wanted: str) -> None:
    assert hooks.prose(text, "faq.md") == wanted


def site(folder: Path, **pages: str) -> Path:
    (folder / "a").mkdir()
    (folder / "there.png").touch()
    (folder / "a" / "b.html").write_text('<h1 id="top">B</h1>')
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return folder


GOOD = """<link rel="canonical" href="https://a.example/"><link rel="icon" href="there.png"><img src="data:x">
<h2 id="one">1</h2> <a name="two">2</a> <a href="#two">2</a> <a href="a/b.html#top">b</a> <a href="https://a.example">c</a>
<a href="mailto:a@a.example">m</a> <style>p{background:url(there.png)}</style> <img srcset="there.png 2x">"""


def test_a_good_site_passes(tmp_path: Path) -> None:
    assert checker.problems(site(tmp_path, index=GOOD)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "another host"),
        ('<img src="//cdn.example/x.png">', "another host"),
        ('<link rel="stylesheet" href="https://fonts.example/css">', "another host"),
        ('<link rel="preconnect" href="https://fonts.example" crossorigin>', "another host"),
        ('<img srcset="there.png 1x, https://cdn.example/x.png 2x">', "another host"),
        ('<svg><image href="https://cdn.example/x.png"/></svg>', "another host"),
        ('<p style="background: url(https://cdn.example/x.png)">', "another host"),
        (STYLE % "'https://cdn.example/x.woff'", "another host"),
        ("<style>@import 'https://cdn.example/x.css';</style>", "another host"),
        ('<iframe src="https://video.example/"></iframe>', "another host"),
        ('<img src="gone.png">', "not there"),
        ('<a href="gone.html">x</a>', "not there"),
        ('<a href="/index.html">x</a>', "not there"),
        ('<a href="#gone">x</a>', "no such anchor"),
        ('<a href="a/b.html#gone">x</a>', "no such anchor"),
        ('<a href="javascript:x()">x</a>', "no scheme"),
    ],
)
def test_a_bad_page_is_found(text: str, complaint: str, tmp_path: Path) -> None:
    (wrong,) = checker.problems(site(tmp_path, index=text))
    assert wrong.startswith("index.html: ")
    assert complaint in wrong


def test_a_bad_style_sheet_is_found(tmp_path: Path) -> None:
    (site(tmp_path, index=GOOD) / "x.css").write_text("@font-face{src:url(https://fonts.example/x.woff2)}")
    (wrong,) = checker.problems(tmp_path)
    assert wrong == "x.css: loads https://fonts.example/x.woff2 from another host"


def test_no_site_is_no_good_site(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make docs"):
        checker.problems(tmp_path)
