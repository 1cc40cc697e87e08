"""Compares class names by what they mean: sofa is couch, an athlete is a person (protocols.md 1).

`lists/class_names.toml` holds the names that were compared, and says by which rule. Two names that differ only in case,
blanks, hyphens, underscores and brackets are one name, in the table or not.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

PARTS = ("kinds", "overlaps", "across")
"""Sections of the table that link names."""


class NameTable(NamedTuple):
    """The table, by key (`_key`): the spelling of a name without anything but letters and digits."""

    canonical: Mapping[str, str]
    """Key of each name in the table -> key of the one name for its class."""
    spelled: Mapping[str, str]
    """Key of a class's one name -> how the table writes it."""
    related: Mapping[str, frozenset[str]]
    """Key of a class's one name -> those of all classes that one thing may also belong to, itself not among them."""
    across: Mapping[str, frozenset[str]]
    """The same, of classes that a set which has both tells apart: only another set may give the one to the other."""


def canonical(name: str) -> str:
    """The one name of the class that `name` means: "couch" for "Sofa"; COCO's name where COCO has the class.

    A name that is not in the table is returned in lower case, with blanks for underscores and hyphens.
    """
    found = _found(name)
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold())) if found is None else _table().spelled[found]


def is_known(name: str) -> bool:
    """Whether the table has the name, so that its relation to all other names in it is known."""
    return _found(name) is not None


def same_class(name: str, other: str) -> bool:
    """Whether two names mean exactly one class."""
    return _class_key(name) == _class_key(other)


def related(name: str, other: str) -> bool:
    """Whether one thing can belong to both classes: they are the same, one is a kind of the other, or they overlap."""
    mine, theirs = _class_key(name), _class_key(other)
    return mine == theirs or theirs in _table().related.get(mine, ())


def seen_in_training(name: str, trained: Collection[str], *, one_list: bool = True) -> tuple[str, ...]:
    """Those of the names `trained` that make `name` no new class: the same, a kind of it, what it is a kind of, ...

    `one_list`: all names come from one set, whose annotators told its classes apart. Else a class that another set does
    not tell apart from `name` makes it no new one, either, where nothing nearer does: VOC's car has some of COCO's
    trucks.
    """
    near = tuple(other for other in trained if related(name, other))
    if near or one_list:
        return near
    across = _table().across.get(_class_key(name), ())
    return tuple(other for other in trained if _class_key(other) in across)


def seen_classes(
    names: Iterable[str], trained: Collection[str], *, one_list: bool = True
) -> dict[str, tuple[str, ...]]:
    """Each of `names` that was seen in training, with its `seen_in_training`."""
    return {name: seen for name in names if (seen := seen_in_training(name, trained, one_list=one_list))}


def unchecked(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that the table lacks: other spellings of them were never looked for."""
    return tuple(name for name in names if not is_known(name))


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _found(name: str) -> str | None:
    """Key of the class of a name, or of the singular of a regular plural; None where the table has neither."""
    key, known = _key(name), _table().canonical
    forms = [key, key.removesuffix("s"), key.removesuffix("es"), re.sub("ies$", "y", key)]
    return next((known[form] for form in forms if form in known), None)


def _class_key(name: str) -> str:
    return _found(name) or _key(name)


@cache
def _table() -> NameTable:
    text = (files("rifenet.data") / "lists" / "class_names.toml").read_text(encoding="utf-8")
    return name_table(tomllib.loads(text))


def name_table(content: Mapping[str, Mapping[str, Sequence[str]]]) -> NameTable:
    """The table of a file's sections same, kinds, overlaps, across and alone.

    Raises ValueError for a name that stands for two classes, or a class that is a kind of itself.
    """
    known: dict[str, str] = {}
    spelled: dict[str, str] = {}

    def add(name: str, key: str) -> None:
        if known.setdefault(_key(name), key) != key:
            raise ValueError(f"Expected each class name once, but {name!r} is of {spelled[known[_key(name)]]!r}, too.")

    for name, others in content["same"].items():
        spelled[_key(name)] = name
        for other in (name, *others):
            add(other, _key(name))
    parts = [[name, *others] for part in PARTS for name, others in content.get(part, {}).items()]
    for name in itertools.chain(*parts, *content["alone"].values()):
        if _key(name) not in known:
            spelled[_key(name)] = name
            add(name, _key(name))
    kinds, overlaps, across = (
        {known[_key(name)]: {known[_key(other)] for other in others} for name, others in content.get(part, {}).items()}
        for part in PARTS
    )
    related = {key: _kinds_of(key, kinds, spelled) | overlaps.get(key, set()) for key in spelled}
    return NameTable(known, spelled, _both_ways(related), _both_ways(across))


def _both_ways(links: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    """The links and their inverses."""
    found: dict[str, set[str]] = {key: set() for key in links}
    for key, others in links.items():
        for other in others:
            found[key].add(other)
            found.setdefault(other, set()).add(key)
    return {key: frozenset(others) for key, others in found.items()}


def _kinds_of(key: str, kinds: Mapping[str, set[str]], spelled: Mapping[str, str]) -> set[str]:
    """Keys of all kinds of a class, and of the kinds of these."""
    found: set[str] = set()
    todo = [key]
    while todo:
        new = kinds.get(todo.pop(), set()) - found
        found |= new
        todo += new
    if key in found:
        raise ValueError(f"Expected no class to be a kind of itself, but {spelled[key]!r} is.")
    return found
