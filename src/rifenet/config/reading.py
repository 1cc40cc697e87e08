"""Checks values from files against the field types of a dataclass."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

LARGEST = 10**9
"""Largest whole number in a configuration, above the steps of any training and the size of any picture."""
LARGEST_FLOAT = 1e300
"""Nothing that a number is multiplied with makes it infinite."""
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def checked(cls: type, values: Any, where: str) -> dict[str, Any]:
    """`values` as arguments of the dataclass `cls`; converts lists to tuples, and whole numbers to floats if needed.

    Raises ValueError, naming `where` and the field, for an unknown name and for a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"Expected {where} to hold names and values, but got {shown(values)}.")
    kinds = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls)]
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise ValueError(
            f"Expected only known names in {where}, but got {', '.join(unknown)}. Known: {', '.join(known)}."
        )
    return {name: _as(kinds[name], value, f"{where}: {name}") for name, value in values.items()}


def _as(kind: Any, value: Any, where: str) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if typing.get_origin(option) is tuple:
            item = typing.get_args(option)[0]
            if isinstance(value, list | tuple) and all(_fits(item, each) for each in value):
                return tuple(value)
        elif dataclasses.is_dataclass(option) or _fits(option, value):
            return float(value) if option is float else value
    expected = " or ".join(_described(option) for option in options)
    raise ValueError(f"Expected {where} to be {expected}, but got {shown(value)}.")


def _fits(kind: Any, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= LARGEST_FLOAT
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    return type(value) is kind


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list, each {_NAMES[typing.get_args(kind)[0]]}"
    return _NAMES.get(kind, "names and values")


def shown(value: Any) -> str:
    """A value as text for a message, cut to 60 characters."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
