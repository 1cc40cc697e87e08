"""`rifenet export`: writes a model as three ONNX graphs and a card, after a check against torch."""

from __future__ import annotations

from rifenet.export.folder import export

__all__ = ["export"]
