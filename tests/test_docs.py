"""The README and docs say nothing that the program does not know: names, links, tests, commands, config fields."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from docs_blocks import PAGES, ROOT, SHELL, blocks, name_of, prose

from rifenet.cli.main import main
from rifenet.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig, from_dict

SECTIONS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "eval": EvalConfig}

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
SUFFIXES = r"(?:json|md|py|safetensors|txt|yaml)"
DOTTED = re.compile(rf"(?<![\w/.-])rifenet(?!\.{SUFFIXES}\b)(?:\.[A-Za-z_]\w*)+")
OWN_FILE = re.compile(r"(?<![\w/])(?:tests/[\w/]+\.py|configs/[\w/]+\.yaml)")
SETTING = re.compile(rf"(--)?(data|model|train|eval)\.(?!{SUFFIXES}$)([a-z_]+)(?:(?(1)[= ]|: ?)(.+))?")
_SECTION = r"\d+(?:-\d+)?"
_GAP = r"[\s#]+"  # a comment goes on behind the next line's #
CITED = re.compile(
    rf"\b(method|protocols)\.md(?:{_GAP}sections?)?{_GAP}({_SECTION}(?:(?:,| and){_GAP}{_SECTION})*)"
    rf"(?:,{_GAP}rows?{_GAP}(\d+(?: and \d+)*))?"
)
WRITTEN = {"card.md", "report.md", "GRID.md", "NAME.md", "ATTRIBUTION.md"}
"""What the program writes or ships, and so may name without a page in docs."""
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:rifenet |make |torchrun .*-m rifenet |\S*python3? .*-m rifenet )")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def resolve(name: str) -> Any:
    """What a dotted name stands for. Raises ImportError or AttributeError."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        return found
    raise ImportError(name)


def names(text: str) -> list[str]:
    """Dotted names anywhere on a page, and what its Python blocks import."""
    found = DOTTED.findall(text)
    for block in blocks(text):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rifenet":
                    found += [f"{node.module}.{alias.name}" for alias in node.names]
    return list(dict.fromkeys(found))


def wrong_names(text: str) -> list[str]:
    wrong = []
    for name in names(text):
        try:
            resolve(name)
        except (ImportError, AttributeError) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def wrong_links(text: str, folder: Path) -> list[str]:
    """Links to nothing, to a test or name that is not in the file, and named tests or configs that are not there."""
    wrong = [f"{name}: no such file" for name in OWN_FILE.findall(text) if not (ROOT / name).is_file()]
    for label, target in LINK.findall(prose(text)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else None
        if path is not None and not path.exists():
            wrong.append(f"{target}: no such file")
            continue
        content = text if path is None else ""
        if path is not None and path.suffix in (".md", ".py"):
            content = path.read_text(encoding="utf-8")
        if anchor and anchor not in map(slug, re.findall(r"^#+ (.+)$", prose(content), re.MULTILINE)):
            wrong.append(f"{target}: no such heading")
        label = label.strip("`")
        if label.startswith("test_") and f"def {label}(" not in content:
            wrong.append(f"{target}: no test {label}")
        if DOTTED.fullmatch(label) and path != Path(inspect.getsourcefile(inspect.unwrap(resolve(label))) or ""):
            wrong.append(f"{target}: {label} is not in this file")
    return wrong


def sections(page: str) -> set[int]:
    """Numbers of the numbered headings of a page in docs."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return {int(number) for number in re.findall(r"^## (\d+)\. ", prose(text), re.MULTILINE)}


def disagreements() -> set[int]:
    """Numbers of the rows to which method.md, section 12, sends its readers."""
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    table = text.partition("## Where paper and published code disagree")[2].partition("\n## ")[0]
    return {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def wrong_sections(text: str) -> list[str]:
    """Citations of method.md or protocols.md, as in comments, that name a section or row that is not there."""
    wrong = []
    for found in CITED.finditer(text):
        page, numbers, rows = found.groups()
        cited: set[int] = set()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            cited |= set(range(int(first), int(last or first) + 1))
        named = set(map(int, re.findall(r"\d+", rows or "")))
        has_rows = page == "method" and 12 in cited
        if not cited <= sections(page) or (named and not (has_rows and named <= disagreements())):
            wrong.append(" ".join(found[0].split()))
    return wrong


def command_lines(text: str) -> Iterator[str]:
    """Lines of shell blocks that run this program or make; in a console block, those after a prompt."""
    for block in blocks(text):
        if block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                prompt, command = re.fullmatch(r"\s*(\$ )?(.*)", line).groups()  # type: ignore[union-attr]
                if COMMAND.match(f"{command} ") and (prompt or block.language != "console"):
                    yield command


class Parsed(BaseException):
    """Ends a command once its arguments are read; not an Exception, which the dispatcher would turn into a message."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command reads its arguments with its own parser and stops there."""
    monkeypatch.chdir(ROOT)  # --config is read from here
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        read = parser.parse_args

        def parse_args(self: Any, *args: Any, read: Any = read, **options: Any) -> None:
            values = read(self, *args, **options)
            if isinstance(self, jsonargparse.ArgumentParser):
                from_dict(Config, {name: values[name].as_dict() for name in SECTIONS})  # refuses wrong values
            raise Parsed

        monkeypatch.setattr(parser, "parse_args", parse_args)


def accepts(line: str) -> bool:
    """Whether the program's own parsers (or the Makefile) know every part of a command line; needs `only_parse`."""
    line = re.sub(r"(^|\s)#.*", "", line)  # within a word, as in scan.tif#3, it begins no comment
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            if not _accepts(command):
                return False
            command = []
        else:
            command.append(word)
    return True


def _accepts(words: list[str]) -> bool:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["make"]:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return set(word for word in words[1:] if "=" not in word) <= set(targets)
    if "rifenet" not in words:
        return True
    arguments = words[words.index("rifenet") + 1 :]
    try:
        code = main(arguments)
    except Parsed:
        return True
    return code == 0 and bool({"-h", "--help", "--version", "--print_config"} & set(arguments))


def wrong_settings(text: str) -> list[str]:
    """Config fields in `code` and in YAML blocks that do not exist, or values that they refuse."""
    trees: list[dict[str, Any]] = []
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        if found := SETTING.fullmatch(code):
            _, section, field, value = found.groups()
            trees.append({section: {field: ... if value is None else yaml.safe_load(value)}})
    for block in blocks(text):
        content = yaml.safe_load(block.text) if block.language in ("yaml", "yml") else None
        if isinstance(content, dict) and any(isinstance(key, str) for key in content):  # folds have numbers
            trees.append(content)
    wrong = []
    for tree in trees:
        unknown = [
            f"{section}.{field}"
            for section, fields in tree.items()
            for field in fields
            if section not in SECTIONS or field not in {item.name for item in dataclasses.fields(SECTIONS[section])}
        ]
        wrong += unknown
        given = {name: {key: value for key, value in part.items() if value is not ...} for name, part in tree.items()}
        if not unknown:
            try:
                from_dict(Config, given)
            except (TypeError, ValueError) as error:
                wrong.append(str(error))
    return wrong


def test_the_pages_are_there_and_hold_something_to_check() -> None:
    texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    assert {"README.md", "paper_map.md", "data.md", "training.md"} <= texts.keys()
    assert len(names(texts["paper_map.md"])) > 30
    assert len(LINK.findall(texts["paper_map.md"])) > 60
    assert {line.split()[1] for line in command_lines(texts["training.md"]) if line.startswith("rifenet")} == {
        "train",
        "evaluate",
        "report",
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_imports(page: Path) -> None:
    assert wrong_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_test_exists(page: Path) -> None:
    assert wrong_links(page.read_text(encoding="utf-8"), page.parent) == []


def test_every_cited_section_exists() -> None:
    assert sections("method") == set(range(1, 14))
    assert sections("protocols") == set(range(1, 8))
    assert disagreements() == set(range(1, 15))
    code = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    files = [path for path in [*code, *PAGES, ROOT / "CONTRIBUTING.md"] if path != Path(__file__)]
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in files}
    assert sum(len(CITED.findall(text)) for text in texts.values()) > 50
    assert {name: wrong for name, text in texts.items() if (wrong := wrong_sections(text))} == {}


def test_every_page_that_the_code_names_exists() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert set(re.findall(r"\w+\.md\b", text)) - WRITTEN <= {page.name for page in PAGES}
    assert [name for name in re.findall(r"docs/[\w/]+\.md\b", text) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
@pytest.mark.usefixtures("only_parse")
def test_every_command_parses(page: Path) -> None:
    lines = list(command_lines(page.read_text(encoding="utf-8")))
    assert [line for line in lines if not accepts(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_config_field_exists(page: Path) -> None:
    assert wrong_settings(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`rifenet.models.prior.prior_masks`", "prior_masks"),
        ("see rifenet.nothing.", "nothing"),
        ("```python\nfrom rifenet.models import build_network\n```", "build_network"),
    ],
)
def test_unknown_names_are_found(text: str, complaint: str) -> None:
    (wrong,) = wrong_names(text)
    assert complaint in wrong


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[x](nothing.md)", "no such file"),
        ("[x](#not-a-heading)", "no such heading"),
        ("[x](docs/data.md#the-feature-cash)", "no such heading"),
        ("[test_nothing](tests/test_docs.py)", "no test test_nothing"),
        ("[`rifenet.training.losses.dice`](src/rifenet/metrics.py)", "not in this file"),
        ("tests/test_nothing.py", "no such file"),
        ("`configs/nothing.yaml`", "no such file"),
    ],
)
def test_dead_links_are_found(text: str, complaint: str) -> None:
    (wrong,) = wrong_links(text, ROOT)
    assert complaint in wrong


@pytest.mark.parametrize(
    "citation",
    [
        "method.md 14",
        "method.md 9-14",
        "method.md 5 and 77",
        "method.md section 0",
        "method.md sections 5, 88 and 9",
        "method.md\n# 99",
        "method.md 12, row 15",
        "method.md 12, rows 9 and 15",
        "method.md 11, row 3",
        "protocols.md 8",
    ],
)
def test_citations_of_nothing_are_found(citation: str) -> None:
    assert wrong_sections(f"A part ({citation}).") == [" ".join(citation.split())]


def test_right_citations_pass() -> None:
    text = "method.md 11 and 12, row 4; method.md 2-9; method.md section 8, steps 1 and 99; protocols.md 4: 0.5"
    assert len(CITED.findall(text)) == 4
    assert wrong_sections(text) == []


@pytest.mark.parametrize(
    "line",
    [
        "rifenet fly",
        "rifenet demo --nothing",
        "rifenet data index --root x",
        "rifenet evaluate --dataset pascal --root x --fold one",
        "rifenet train --data.nothing 1",
        "rifenet train --config configs/nothing.yaml",
        "rifenet train --model.guide other",
        "torchrun --nproc-per-node 2 -m rifenet train --train.nothing 1",
        "rifenet demo --out x && rifenet info --nothing",
        "make nothing",
    ],
)
@pytest.mark.usefixtures("only_parse")
def test_wrong_commands_are_found(line: str) -> None:
    assert list(command_lines(f"```sh\n{line}\n```")) == [line]
    assert not accepts(line)


@pytest.mark.parametrize(
    "line",
    ["rifenet --version", "rifenet train --help", "OMP_NUM_THREADS=1 rifenet demo --out x > log.txt", "make test"],
)
@pytest.mark.usefixtures("only_parse")
def test_right_commands_pass(line: str) -> None:
    assert list(command_lines(f"```console\n$ {line}\n```")) == [line]
    assert accepts(line)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`train.learning_rate`", "train.learning_rate"),
        ("`--model.guide other`", "model.guide"),
        ("`model.stride: 7`", "model.stride"),
        ("```yaml\ntrain: {rate: 1}\n```", "train.rate"),
        ("```yaml\ntraining: {lr: 1}\n```", "training.lr"),
    ],
)
def test_unknown_fields_are_found(text: str, complaint: str) -> None:
    (wrong,) = wrong_settings(text)
    assert complaint in wrong
