"""Pretrained backbones on real photos: they know what is in them, and their features carry the prior mask."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import rifenet.models
from rifenet.models.backbones import Backbone, build_backbone, imagenet_weights, load_backbone_weights

EXAMPLES = Path(rifenet.models.__file__).parents[1] / "examples"
CAT, DOG = 8, 12  # VOC ids
IMAGENET = {  # ids of ImageNet's 1,000 that are right
    "cat": range(281, 286),
    "dog": range(151, 269),
    "bear": range(294, 298),
    "pizza": range(963, 964),
    "bus": (654, 779, 874),
}
SIDES = {"efficientnet_lite0": 224, "efficientnet_lite2": 260}  # the sizes of their ImageNet figures


def classifier(name: str) -> Callable[[Tensor], Tensor]:
    """The published classifier: our stage 7, and head, pooling and fully connected layer from the package's file."""
    state = torch.load(imagenet_weights(name), map_location="cpu", weights_only=True)
    backbone = build_backbone(name, stride=16, high=(7,))
    load_backbone_weights(backbone, imagenet_weights(name))
    mean, variance, weight, bias = (state[f"_bn1.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))

    def logits(images: Tensor) -> Tensor:
        features = backbone(images).high
        # Of the dilated map, the positions that the undilated network has: SAME starts at the second of an even side.
        first = [1 - side % 2 for side in features.shape[2:]]
        x = F.conv2d(features[..., first[0] :: 2, first[1] :: 2], state["_conv_head.weight"])
        x = F.relu6(F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)).mean((2, 3))
        return F.linear(x, state["_fc.weight"], state["_fc.bias"])

    return logits


def centre(path: Path, side: int) -> Tensor:
    """ImageNet's test view: the central square with a margin of 32 px on each side together, resized to `side`."""
    image = Image.open(path).convert("RGB")
    edge = round(min(image.size) * side / (side + 32))
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]


def share_in_top5(name: str, photos: list[tuple[Path, str]]) -> float:
    logits = classifier(name)
    found = [
        bool(set(logits(centre(path, SIDES[name]))[0].topk(5).indices.tolist()) & set(IMAGENET[label]))
        for path, label in photos
    ]
    return sum(found) / len(found)


@pytest.mark.skipif(not (EXAMPLES / "examples.json").is_file(), reason="No example photos in this checkout.")
@pytest.mark.parametrize("name", SIDES)
def test_example_photos_are_recognised(name: str) -> None:
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))["photos"]
    photos = [(EXAMPLES / item["image"], item["classes"][0]) for item in listed if item["classes"][0] in IMAGENET]
    assert len(photos) >= 10
    share = share_in_top5(name, photos)
    print(f"{name}: right class in the top 5 on {share:.1%} of {len(photos)} example photos")
    assert share >= 0.85


def voc() -> Path:
    return Path(os.environ["RIFENET_VOC_MINI"])


def voc_ids() -> list[str]:
    return sorted(path.stem for path in (voc() / "SegmentationClassAug").glob("*.png"))


def voc_mask(name: str) -> np.ndarray:
    return np.asarray(Image.open(voc() / "SegmentationClassAug" / f"{name}.png"))


@pytest.mark.data
@pytest.mark.parametrize("name", SIDES)
def test_cats_and_dogs_are_recognised(name: str) -> None:
    photos: list[tuple[Path, str]] = []
    for class_id, label in ((CAT, "cat"), (DOG, "dog")):
        chosen = (i for i in voc_ids() if set(np.unique(voc_mask(i))) - {0, 255} == {class_id})
        photos += [(voc() / "JPEGImages" / f"{i}.jpg", label) for i, _ in zip(chosen, range(20), strict=False)]
    assert len(photos) == 40
    share = share_in_top5(name, photos)
    print(f"{name}: right class in the top 5 on {share:.1%} of 40 cat and dog photos")
    assert share >= 0.85


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def network_view(name: str, class_id: int, size: int = 321) -> tuple[Tensor, Tensor]:
    """Image `[1, 3, size, size]`, squashed, and its class mask `[size, size]` with 255 kept."""
    image = Image.open(voc() / "JPEGImages" / f"{name}.jpg").convert("RGB").resize((size, size))
    mask = np.asarray(Image.fromarray(voc_mask(name)).resize((size, size), Image.Resampling.NEAREST))
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    return pixels, torch.from_numpy(np.where(mask == 255, 255, mask == class_id).astype(np.uint8))


def prior_auc(backbone: Backbone, episodes: list[tuple[int, str, str]]) -> float:
    """Mean over episodes: how well the largest cosine to support foreground ranks query foreground above background."""
    scores = []
    for class_id, query, support in episodes:
        (query_image, query_mask), (support_image, support_mask) = (network_view(i, class_id) for i in (query, support))
        high = F.normalize(backbone(torch.cat([query_image, support_image])).high, dim=1)
        grid = high.shape[2:]
        keys = high[1][:, F.interpolate((support_mask == 1).float()[None, None], grid, mode="area")[0, 0] > 0.5]
        labels = F.interpolate(query_mask.float()[None, None], grid, mode="nearest")[0, 0].flatten().numpy()
        prior = (high[0].flatten(1).T @ keys).amax(1).numpy()
        scores.append(area_under_curve(prior[labels < 255], labels[labels < 255] == 1))
    return float(np.mean(scores))


@pytest.mark.data
@pytest.mark.slow
def test_half_width_resnet_carries_the_prior() -> None:
    path = os.environ.get("RIFENET_HALF_RESNET")
    if not path:
        pytest.skip("Set RIFENET_HALF_RESNET to the half-width ResNet-50 file to run it.")
    generator = np.random.default_rng(0)
    episodes = []
    for class_id in (CAT, DOG):
        areas = {name: np.mean(voc_mask(name) == class_id) for name in voc_ids()[::6]}
        names = [name for name, area in areas.items() if 0.05 < area < 0.6]
        episodes += [(class_id, *generator.choice(names, 2, replace=False)) for _ in range(15)]

    torch.manual_seed(0)
    backbone = build_backbone("resnet50", width=0.5, stem="caffe", stride_on="conv1", normalization="caffe")
    random = prior_auc(backbone, episodes)
    load_backbone_weights(backbone, path)
    trained = prior_auc(backbone, episodes)
    print(f"prior AUC over {len(episodes)} episodes: half-width ResNet-50 {trained:.3f}, random weights {random:.3f}")
    assert trained > random + 0.03
    assert trained > 0.65
