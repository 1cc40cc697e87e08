"""Damaged copies of a file: bytes that flip, vanish or come twice, values of JSON and YAML that become others."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

Parse = Callable[[bytes], Any]
Write = Callable[[Any], bytes]

ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    " ",
    "5",
    "\u202e",
    "a" * 5000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    0,
    -1,
    5,
    1e308,
    -0.5,
    2**31,
    10**400,
    math.nan,
    math.inf,
)
"""Values that stand where another type or size was expected."""


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three byte faults, as of a bad disk, a stopped download or a copy through the wrong program."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 200))
        kind = rng.randrange(6)
        if kind == 0:
            data = (
                data[:at]
                + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + length])
                + data[at + length :]
            )
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[:at] + data[max(at - length, 0) : at] + data[at:]
        elif kind == 4:
            data = data[:at] + rng.randbytes(length) + data[at:]
        else:
            number = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF))
            data = data[:at] + struct.pack(rng.choice("<>") + "I", number) + data[at + 4 :]
    return data


def damaged_values(data: bytes, parse: Parse, write: Write, rng: random.Random) -> bytes:
    """One to three values of the tree in `data` replaced, removed, doubled, or nested deep."""
    with _deep_recursion():
        return _damaged_values(data, parse, write, rng)


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Lets this program write values that are nested deeper than what reads them can follow."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


def _damaged_values(data: bytes, parse: Parse, write: Write, rng: random.Random) -> bytes:
    tree = parse(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = _nested(rng.choice((5, 90, 900)))
        elif kind == 2:
            holder[key] = copy.deepcopy(rng.choice(places)[0])
        elif kind == 3 and isinstance(holder, dict):
            holder[rng.choice(("", "name", "x" * 300, str(key).upper()))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return write(tree)


def as_json(tree: Any) -> bytes:
    """The tree as JSON, with NaN and infinity as Python writes them."""
    return json.dumps(tree).encode()


def damaged_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose JSON header has other values, also within metadata that is JSON itself."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    nested = [key for key, value in metadata.items() if value[:1] in ("{", "[")]
    if nested and rng.random() < 0.7:
        key = rng.choice(nested)
        metadata[key] = damaged_values(metadata[key].encode(), json.loads, as_json, rng).decode()
        changed = as_json(header)
    else:
        changed = damaged_values(as_json(header), json.loads, as_json, rng)
    changed += b" " * (-len(changed) % 8)
    return struct.pack("<Q", len(changed)) + changed + data[8 + length :]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or dict with each of its keys, from the root down."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(entries):
            yield node, key
            waiting.append(value)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value
