"""`rifenet bench`: measures how fast this machine runs a model, and how much memory that takes.

The unit of all times is one plain forward of the frozen backbone on one image: eager torch, contiguous float32, in the
same process and at the same size. Figures in units carry over to other machines.

All work goes through the product's own objects. Totals time calls of `TorchEngine` and `Segmenter`; hooks around the
model's modules time the stages within such calls. The measurements of a case take turns, round by round, so that other
load on the machine affects all of them alike. Peak memory is that of a fresh process that does nothing else.
"""

from __future__ import annotations

from rifenet.bench.compare import compare, read
from rifenet.bench.measure import Plan, default_model, run

__all__ = ["Plan", "compare", "default_model", "read", "run"]
