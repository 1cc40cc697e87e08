"""Meta-training: the loop, its optimisers, resumable state, logs, and the cache of frozen features."""

from __future__ import annotations

from rifenet.training.loop import NonFiniteLoss, train

__all__ = ["NonFiniteLoss", "train"]
