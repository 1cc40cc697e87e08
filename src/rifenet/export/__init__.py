"""`rifenet export`: a model as three ONNX graphs and a card, checked against torch before they count."""

from __future__ import annotations

from rifenet.export.folder import export

__all__ = ["export"]
