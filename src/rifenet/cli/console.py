"""What commands share on the terminal."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def progress_bar(*, auto_refresh: bool = True) -> Progress:
    """A bar on stderr that vanishes at the end; it is disabled where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=auto_refresh)


def progress(items: Iterable[Item], total: int, label: str, *, auto_refresh: bool = True) -> Iterator[Item]:
    """The items, while a bar on stderr moves with them; there is none where stderr is no terminal.

    Without `auto_refresh` the bar moves between items only, and nothing runs during one.
    """
    with progress_bar(auto_refresh=auto_refresh) as bar:
        yield from bar.track(items, total=total, description=label)


def print_json(value: Any) -> None:
    """One JSON document on stdout, plain ASCII, so that any console and any program reads it."""
    print(json.dumps(value, indent=1))


def note(text: str) -> None:
    """A line for the user on stderr, so that stdout stays for results."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def noted_warnings(leads: bool) -> Iterator[None]:
    """Turns warnings for the user into one plain line each on the leading rank."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(item.message) for item in caught if item.category is UserWarning) if leads else ():
        note(f"warning: {text}")
