"""Rendered scenes with known answers: class i is a square of colour i, and the model under test sees colours only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset

COLOURS = np.array(
    [(20, 20, 20), (230, 40, 40), (40, 230, 40), (40, 40, 230), (230, 230, 40), (230, 40, 230), (40, 230, 230)],
    dtype=np.uint8,
)
CLASSES = ("apple", "leaf", "plum", "lemon", "heather")
FOLDS = "0: [leaf, lemon, heather]\n1: [apple, plum]\n"
NOVEL = (2, 4, 5)
SIDE = 64
SQUARE = 20


class Scene(NamedTuple):
    """Squares of 20 px: (class id, top, left, annotated); one not annotated is a mistake that the model must make."""

    squares: tuple[tuple[int, int, int, bool], ...]
    height: int = SIDE
    width: int = SIDE
    ignored_row: int | None = None


def write_dataset(root: Path, scenes: dict[str, Scene], classes: tuple[str, ...] = CLASSES, folds: str = FOLDS) -> Path:
    """A custom dataset of PNGs in `root`."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name, scene in scenes.items():
        image = np.broadcast_to(COLOURS[0], (scene.height, scene.width, 3)).copy()
        mask = np.zeros((scene.height, scene.width), np.uint8)
        for class_id, top, left, annotated in scene.squares:
            area = np.s_[top : top + SQUARE, left : left + SQUARE]
            image[area] = COLOURS[class_id]
            if annotated:
                mask[area] = class_id
        if scene.ignored_row is not None:
            mask[scene.ignored_row] = 255
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    (root / "folds.yaml").write_text(folds)
    return root


def mixed_scenes() -> dict[str, Scene]:
    """A fold of three novel classes with IoUs 1, 1/2 and 1/3; one image holds two of them.

    leaf (2): only what is annotated. lemon (4): one more square that nobody annotated. heather (5): two more of them.
    """
    scenes = {}
    for i in range(4):
        at = 2 * i
        scenes[f"leaf{i}"] = Scene(((2, at, 4, True), (1, 40, 40, True)))
        scenes[f"lemon{i}"] = Scene(((4, at, 2, True), (4, 40, 40, False)))
        scenes[f"heather{i}"] = Scene(((5, at, 2, True), (5, 30, 2, False), (5, 30, 40, False)))
        scenes[f"plum{i}"] = Scene(((3, at, 10, True), (1, 30, 30, True)))
    scenes["both"] = Scene(((2, 0, 0, True), (4, 0, 40, True), (4, 40, 40, False)))
    return scenes


def open_scenes(root: Path) -> ImageIndex:
    return open_dataset("custom", root, progress=False)


class ColourContext(NamedTuple):
    colour: Tensor  # [B,3]


class ColourModel(nn.Module):
    """Finds the pixels whose colour is close to that of the supports' foreground.

    `stride` > 1 looks at a coarser grid whose corners are the image's. It records what it was asked and run under.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(30.0))
        self.dropout = nn.Dropout(0.9)
        self.stride = stride
        self.queries = 0
        self.supports = 0
        self.inference: set[bool] = set()
        self.modes: set[bool] = set()

    def encode_support(self, images: Tensor, masks: Tensor, valid: Tensor | None = None) -> ColourContext:
        self.supports += 1
        weights = (masks == 1).float()[:, :, None]
        return ColourContext((images * weights).sum((1, 3, 4)) / weights.sum((1, 3, 4)))

    def encode_query(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        self.queries += 1
        self.inference.add(torch.is_inference_mode_enabled())
        self.modes.add(self.training)
        if self.stride == 1:
            return images
        size = tuple((side - 1) // self.stride + 1 for side in images.shape[-2:])
        return F.interpolate(images, size, mode="bilinear", align_corners=True)

    def decode(self, features: Tensor, context: ColourContext) -> Tensor:
        distance = (features - context.colour[:, :, None, None]).abs().amax(1, keepdim=True)
        score = self.dropout(self.scale * (0.2 - distance))
        return torch.cat([torch.zeros_like(score), score], 1)
