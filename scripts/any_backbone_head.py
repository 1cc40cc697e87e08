"""Makes the head that fits any backbone from the evidence head of the bundled model, without training.

    python scripts/any_backbone_head.py src/rifenet/weights/any_backbone.safetensors

The evidence head reads similarities of three stages in a fixed order, the network's assistance, and features of the
backbone for its edges. Here the weights of the three stages are added up and read the mean over all stages; their
largest and least values, and the photo's own features at the edges, have weights of zero; the assistance is left out.
All other weights stay as they are. `docs/lab/any_backbone.md` tells why further training was not kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from rifenet.models.beyond.any_backbone import POOLED
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.build import build_model
from rifenet.models.files.checkpoint import save_model
from rifenet.models.files.hub import load_model
from rifenet.models.files.over_backbone import STRIDE, reference_photos

KEPT = ("classes_trained_on", "classes_never_seen", "dataset", "images_trained_on", "image_size")
VIEWS = 4
"""Views of each support. The head was measured with these; the bundled model has had two since."""


def pooled_weights(weights: Tensor, first: int, maps: int) -> Tensor:
    """Filters [C,inputs,1,1] changed to read maps pooled over the stages: mean, largest, least, all together.

    From input `first` on, `weights` read `maps` maps of each of three stages, and as many of all together.
    """
    stages = [weights[:, first + maps * number : first + maps * (number + 1)] for number in range(POOLED)]
    changed = weights.clone()
    nothing = torch.zeros_like(stages[0])
    changed[:, first : first + POOLED * maps] = torch.cat([sum(stages[:3], nothing), nothing, nothing, stages[3]], 1)
    return changed


def main() -> None:
    """Writes the file, and prints its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    bundled = load_model("default")
    options = {name: getattr(bundled.config, name) for name in ("backbone", "evidence_dim", "max_evidence_keys")}
    options["mask_threshold"] = bundled.config.mask_threshold
    model = build_model(kind="any_backbone", stride=STRIDE, support_views=VIEWS, **options)
    assert isinstance(model, AnyBackboneNetwork)
    model.refer(*reference_photos(bundled.metadata["image_size"] // 2))
    model.evidence.load_state_dict(head_weights(bundled.evidence.state_dict(), model.evidence.state_dict()))  # type: ignore[union-attr]
    facts = {name: bundled.metadata[name] for name in KEPT if name in bundled.metadata}
    made_from = {"name": bundled.metadata["name"], "hash": bundled.hash}
    save_model(model, out, {"name": "any-backbone", "made_from": made_from, **facts})
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def head_weights(old: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the new head, from those of the evidence head and those of a new head that has its reference."""
    dim = old["estimate.weight"].shape[1]
    kept = {name: value for name, value in old.items() if name in fresh and value.shape == fresh[name].shape}
    edges = old["decoder.last.0.convolution.weight"].clone()
    edges[:, dim // 2 :] = 0
    changed = {
        "enter.convolution.weight": pooled_weights(old["enter.convolution.weight"], 0, 5),
        "enter_own.convolution.weight": pooled_weights(old["enter_own.convolution.weight"], dim, 2),
        "decoder.last.0.convolution.weight": edges,
        "decoder.reduce.convolution.weight": torch.zeros_like(fresh["decoder.reduce.convolution.weight"]),
    }
    return {**fresh, **kept, **changed}


if __name__ == "__main__":
    main()
