"""The networks: RiFeNet and the training-free prototype baseline, with the same three methods.

Importing the package does not import torch; each name imports its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rifenet.models.backbones import Backbone, Features
    from rifenet.models.backbones.staged import Stages
    from rifenet.models.baseline import Prototype
    from rifenet.models.build import build_model
    from rifenet.models.resize import aligned_resize
    from rifenet.models.rifenet import RiFeNet
    from rifenet.models.structures import QueryFeatures, RiFeNetOutput, SupportContext

__all__ = [
    "Backbone",
    "Features",
    "Prototype",
    "QueryFeatures",
    "RiFeNet",
    "RiFeNetOutput",
    "Stages",
    "SupportContext",
    "aligned_resize",
    "build_model",
]

_HOMES = {
    "Backbone": "backbones",
    "Features": "backbones",
    "Stages": "backbones.staged",
    "Prototype": "baseline",
    "build_model": "build",
    "aligned_resize": "resize",
    "RiFeNet": "rifenet",
    "QueryFeatures": "structures",
    "RiFeNetOutput": "structures",
    "SupportContext": "structures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rifenet.models' has no attribute {name!r}")
    return getattr(import_module(f"rifenet.models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
