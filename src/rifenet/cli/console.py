"""Output on the terminal, for all commands: progress bars, JSON, notes and warnings."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from rifenet.formats.remarks import heard

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


def progress_bar(*, auto_refresh: bool = True) -> Progress:
    """A bar on stderr, removed at the end; disabled if stderr is no terminal.

    Without `auto_refresh` no thread redraws the bar: it moves only when it is advanced.
    """
    from rich.console import Console
    from rich.progress import Progress

    from rifenet.drawing.progress import columns

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return Progress(*columns(), console=console, transient=True, disable=hidden, auto_refresh=auto_refresh)


def progress(items: Iterable[Item], total: int, label: str, *, auto_refresh: bool = True) -> Iterator[Item]:
    """Yields the items, and advances a `progress_bar` after each."""
    with progress_bar(auto_refresh=auto_refresh) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            del item  # an item may be a large photo, and the next is made while this name would keep it
            bar.update(task, advance=1, refresh=not auto_refresh)


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout, in plain ASCII, which every console and program can read."""
    print(json.dumps(value, indent=1))


def note(text: str) -> None:
    """Prints a line for the user on stderr; stdout is for results."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def noted_remarks() -> Iterator[None]:
    """Prints each remark on a file once, as one line; Pillow's own warning of large photos is none for users."""
    from PIL.Image import DecompressionBombWarning

    with warnings.catch_warnings(), heard(lambda about, sentence: note(f"warning: {about}: {sentence}")):
        warnings.simplefilter("ignore", DecompressionBombWarning)
        yield


@contextlib.contextmanager
def noted_warnings(leads: bool) -> Iterator[None]:
    """Prints each different UserWarning as one plain line, on the leading rank only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(item.message) for item in caught if item.category is UserWarning) if leads else ():
        note(f"warning: {text}")
