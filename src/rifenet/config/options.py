"""What an option of the configuration says of itself beside its default and its help: metadata of its field."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """How a run depends on an option."""

    free: bool = False
    """It may change without changing what a run computes."""
    whether: bool = False
    """A run depends on whether it is set and not on its value: a grid says `on` or `off`."""
    unnamed: Any = None
    """Value that a run's name leaves out; None: the default."""
    read_with: tuple[str, ...] = ()
    """Dotted names of options: a run looks at this one only where all of them are on."""
    answers: bool = True
    """A trained model may answer otherwise with another value. False: only training reads it, or it says where weights
    come from."""
    test: bool = False
    """No weight depends on it, so a trained model may be used with another value."""


def about(**facts: Any) -> dict[str, About]:
    """The `metadata` of a field, as `About` has it."""
    return {"about": About(**facts)}


def about_option(option: dataclasses.Field[Any]) -> About:
    """What a field says of itself; where it says nothing, every run depends on its value."""
    said: About = option.metadata.get("about", About())
    return said


def free_options(section: type) -> set[str]:
    """Names of a section's options that may change without changing what a run computes."""
    return {option.name for option in dataclasses.fields(section) if about_option(option).free}


def behaviour(config: Any) -> dict[str, Any]:
    """What a model's configuration says of its answers: options with another value than the default, by name.

    Options that are as by default are left out, so that a new option, off by default, leaves every model's hash.
    """
    fields = sorted(dataclasses.fields(config), key=lambda option: option.name)
    values = {
        option.name: (getattr(config, option.name), option.default) for option in fields if about_option(option).answers
    }
    return {name: value for name, (value, default) in values.items() if value != default}
