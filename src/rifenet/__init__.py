"""Few-shot segmentation with RiFeNet: learn a class from a few annotated photos, segment it in any other.

    from rifenet import Segmenter

    segmenter = Segmenter.from_pretrained()
    segmenter.learn("dog", images=["a.jpg"], masks=["a.png"])
    segmenter.segment("query.jpg").save("out/")

Importing the package loads neither torch nor numpy. Each name imports its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rifenet.models.files.hub import load_model
    from rifenet.segmenting.segmenter import Segmenter

__version__ = "0.1.0"
IGNORE = 255
"""Value of the pixels of a mask that no metric, loss or learned class counts."""
__all__ = ["IGNORE", "Segmenter", "__version__", "load_model"]

_HOMES = {"Segmenter": "rifenet.segmenting.segmenter", "load_model": "rifenet.models.files.hub"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rifenet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
