"""One real episode, learned by heart: the network can express a real mask, and its gradients lead there."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import rifenet
from rifenet.config import TrainConfig
from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.formats.pictures import binary_mask, load_image, load_mask
from rifenet.models import RiFeNet, aligned_resize, build_model
from rifenet.training.features import PackedFeatures
from rifenet.training.loop import loss_terms
from rifenet.training.losses import total
from rifenet.training.optim import build_optimizers, learning_rates, set_learning_rates

EXAMPLES = Path(rifenet.__file__).parent / "examples"
SIZE = 257


def _photo(entry: dict[str, str], class_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels, valid, placement = resize_and_pad(load_image(EXAMPLES / entry["image"]), SIZE)
    mask = binary_mask(resize_mask(load_mask(EXAMPLES / entry["mask"]), placement), class_id)
    return torch.from_numpy(pixels), torch.from_numpy(mask), torch.from_numpy(valid)


def test_one_real_episode_is_learned_in_150_steps() -> None:
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    class_id = listed["classes"].index("dog") + 1
    support, query = (
        _photo(entry, class_id) for entry in [entry for entry in listed["photos"] if "dog" in entry["classes"]][:2]
    )
    torch.manual_seed(0)
    model = build_model(
        backbone="efficientnet_lite0",
        stride=8,
        embed_dim=64,
        tokens_per_label=100,
        random_tokens=False,
        proj_dropout=0.0,
        dropout=0.0,
        head_dropout=0.0,
    )
    assert isinstance(model, RiFeNet)
    model.train()
    batch = {
        "support_masks": support[1][None, None],
        "support_valid": support[2][None, None],
        "query_masks": query[1][None],
        "query_valid": query[2][None],
    }
    # The backbone is frozen, so its features are computed once.
    stages = [model.backbone.stages(photo[0][None]) for photo in (support, query)]
    packed = [torch.cat([stage.flatten(1) for stage in each], 1).half() for each in stages]
    batch |= {"support_images": PackedFeatures(packed[0][:, None]), "query_images": PackedFeatures(packed[1])}
    settings = TrainConfig(optimizer="adamw", lr=2e-3, steps=150, warmup=10)
    optimizers = build_optimizers(model, settings)
    for step in range(settings.steps):
        set_learning_rates(optimizers, learning_rates(settings, step))
        loss = total(loss_terms(model, model, batch, settings), settings.w_aux, settings.beta)
        optimizers[0].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizers[0].step()
    model.eval()
    with torch.inference_mode():
        context = model.encode_support(support[0][None, None], support[1][None, None], support[2][None, None])
        logits = model.decode(model.encode_query(query[0][None], query[2][None]), context)
    found = aligned_resize(logits, (SIZE, SIZE)).argmax(1)[0] == 1
    scored = query[1] != 255
    iou = (found & (query[1] == 1))[scored].sum() / (found | (query[1] == 1))[scored].sum()
    assert iou > 0.95, float(iou)
