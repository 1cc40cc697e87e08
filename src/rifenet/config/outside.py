"""Code from outside the package that an option names as `module:name`: a backbone, a head or a loss of the user's own.

An option of a command or a config is the user's own word, so its module is imported. A model's file may come from
anybody. The code that it names is imported only if the program has imported it already, or if the variable
RIFENET_MODULES lists its module.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

ALLOWED = "RIFENET_MODULES"
"""Environment variable: modules, separated by commas, that a model's file may name."""

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_outside(name: str) -> bool:
    """Whether `name` is written as `module:name`."""
    return _NAME.fullmatch(name) is not None and not name.startswith("hf:")


def from_outside(name: str, option: str) -> Any:
    """What `module:name` stands for; the module may also be a file of the current folder.

    Args:
        name: the value of the option.
        option: dotted name of the option, for messages.

    Raises:
        ValueError: `name` is written otherwise, or the module lacks the name.
        FileNotFoundError: there is no such module.
    """
    if not is_outside(name):
        raise ValueError(f"Expected {option} as module:name, such as my_code:Small, but got {name!r}.")
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file there hides no installed package
    importlib.invalidate_caches()  # the file may be younger than Python's list of the folder
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise FileNotFoundError(
            f"Expected the module {module}, which {option} names, in {os.getcwd()} or installed, but there is none."
        ) from error
    if not hasattr(imported, attribute):
        raise ValueError(f"Expected {module} to define {attribute}, which {option} names, but it does not.")
    return getattr(imported, attribute)


def expect_allowed(name: str, file: object) -> None:
    """Raises ValueError where `file`, a model's, names code that nobody has allowed to be imported."""
    module = name.partition(":")[0]
    allowed = [word.strip() for word in os.environ.get(ALLOWED, "").split(",")]
    if is_outside(name) and module not in sys.modules and module not in allowed:
        raise ValueError(
            f"Expected leave to import {module}, whose {name.partition(':')[2]} {file} is made with: its code would"
            f" run here. If you know it, set {ALLOWED}={module} and run the command again."
        )
