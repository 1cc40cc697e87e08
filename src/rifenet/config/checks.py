"""Checks of option values, with one wording for all errors."""

from __future__ import annotations


def expect(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises ValueError naming the field, unless `ok`."""
    if not ok:
        raise ValueError(f"Expected {name} to be {expected}, but got {value!r}.")


def one_of(name: str, value: object, options: tuple[str, ...]) -> None:
    """Raises ValueError listing the options, unless `value` is one of them."""
    expect(value in options, name, value, "one of " + ", ".join(options))
