"""Without the other program, one sentence says what to install; importing the integrations needs none of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rifenet.config import MissingExtra
from rifenet.integrations import cvat, fiftyone
from rifenet.integrations.napari import dock


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("cvat_sdk", lambda: cvat.create(7), "cvat"),
        ("napari", dock.make_widget, "napari"),
        ("fiftyone", lambda: fiftyone.learn_from([], "truth"), "fiftyone"),  # type: ignore[arg-type]
    ],
)
def test_a_missing_program_is_named(package: str, call: Callable[[], Any], extra: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(MissingExtra) as caught:
        call()
    assert str(caught.value) == (
        f"Expected the package {package}, but it is not installed. Run: pip install 'rifenet[{extra}]'"
    )


def test_the_integrations_load_neither_torch_nor_the_programs() -> None:
    names = ["cvat", "fiftyone", "napari", "napari.dock", "napari.slices"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module('rifenet.integrations.' + name)\n"
        "print(sorted({'torch', 'cvat_sdk', 'napari', 'qtpy', 'fiftyone'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
