"""Fast variants of what other files say plainly, and where an operation is about to run."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether an operation on `x` runs now, on a CPU: what is faster there need not fit a graph or another device."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())
