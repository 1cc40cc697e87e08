"""Pictures that say where each of their pixels came from."""

from __future__ import annotations

import numpy as np


def coordinates(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: red is the column, green the row; sides up to 256."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns, rows, np.full_like(rows, 99)], axis=2).astype(np.uint8)


def grid_labels(height: int, width: int, cell: int = 20) -> np.ndarray:
    """Label of the cell x cell block that a pixel lies in: 1 + column block + 13 * row block."""
    rows, columns = np.mgrid[0:height, 0:width] // cell
    return (1 + columns + 13 * rows).astype(np.uint8)


def assert_same_place(pixels: np.ndarray, labels: np.ndarray, valid: np.ndarray, tolerance: float) -> None:
    """The coordinates that a pixel shows lie in the block that its label names."""
    block_row, block_column = np.divmod(labels[valid].astype(int) - 1, 13)
    for shown, block in ((pixels[0][valid] * 255, block_column), (pixels[1][valid] * 255, block_row)):
        assert (shown > 20 * block - tolerance).all()
        assert (shown < 20 * block + 20 + tolerance).all()
