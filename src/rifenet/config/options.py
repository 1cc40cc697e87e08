"""Metadata of an option, kept in its dataclass field: how a run or a trained model depends on the option."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """How a run or a trained model depends on an option."""

    free: bool = False
    """The option does not change what a run computes."""
    whether: bool = False
    """A run depends on whether the option is set, not on its value; a grid writes `on` or `off`."""
    unnamed: Any = None
    """Value that a run's name leaves out; None: the default."""
    read_with: tuple[str, ...] = ()
    """Dotted names of other options. A run reads this option only if all of them are on."""
    answers: bool = True
    """Another value may change a trained model's masks. False: only training reads the option, or it names a source of
    weights."""
    test: bool = False
    """No weight depends on the option, so a trained model may run with another value."""


def about(**facts: Any) -> dict[str, About]:
    """`metadata` for a dataclass field: an `About` with these facts."""
    return {"about": About(**facts)}


def about_option(option: dataclasses.Field[Any]) -> About:
    """The `About` of a field; without one the default, by which every run depends on the option."""
    said: About = option.metadata.get("about", About())
    return said


def free_options(section: type) -> set[str]:
    """Names of a section's options that do not change what a run computes."""
    return {option.name for option in dataclasses.fields(section) if about_option(option).free}


def behaviour(config: Any) -> dict[str, Any]:
    """Options, by name, that may change a model's masks and differ from their defaults.

    Without the defaults, a new option that is off by default does not change the hash of existing models.
    """
    fields = sorted(dataclasses.fields(config), key=lambda option: option.name)
    values = {
        option.name: (getattr(config, option.name), option.default) for option in fields if about_option(option).answers
    }
    return {name: value for name, (value, default) in values.items() if value != default}
