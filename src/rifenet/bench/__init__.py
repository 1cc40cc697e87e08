"""How fast this machine runs a model, and how much memory that takes.

The unit of all times is one plain forward of the frozen backbone on one image: eager torch, contiguous float32, in the
same process and at the same size. Figures in units hold on other machines too.

Everything runs through the product's own objects: totals are calls of `TorchEngine` and `Segmenter`, stages are read
from hooks around the model's modules during such calls. All measurements of a case take turns, round by round, so that
what else the machine does meets them alike. Peak memory is that of a fresh process which does nothing else.
"""

from __future__ import annotations

from rifenet.bench.compare import compare, read
from rifenet.bench.measure import Plan, default_model, run

__all__ = ["Plan", "compare", "default_model", "read", "run"]
