"""Projection, classification head and residual block (method.md 4, 8 and 9).

Shapes: B batch, C channels, h w feature size.
"""

from __future__ import annotations

from torch import Tensor, nn


def projection(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """1x1 convolution without bias, ReLU, channel dropout: [B,in,h,w] -> [B,out,h,w] (method.md 4)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.ReLU(inplace=True), nn.Dropout2d(dropout)
    )


class Residual(nn.Module):
    """x + two 3x3 convolutions, each followed by ReLU: [B,C,h,w] -> [B,C,h,w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B,C,h,w] to [B,C,h,w]."""
        return x + self.second(self.first(x).relu_()).relu_()


class Head(nn.Module):
    """3x3 convolution, ReLU, channel dropout, 1x1 convolution to the two logits, background and foreground."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B,C,h,w] to logits [B,2,h,w]."""
        logits: Tensor = self.classify(self.dropout(self.hidden(x).relu_()))
        return logits
