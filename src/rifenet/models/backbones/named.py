"""Opens the backbones that are not the program's own: those of transformers, and `module:name`."""

from __future__ import annotations

from rifenet.config import from_outside, is_outside
from rifenet.models.backbones.base import Levels
from rifenet.models.backbones.staged import StagedBackbone, Stages


def stages_of(name: str, *, weights: str = "", pretrained: bool = True) -> Stages:
    """The network called `hf:owner/name`, by the path of a folder, or `module:name`.

    Args:
        name: as in a configuration.
        weights: of a backbone of transformers, another folder that holds it; of a user's own, a file of its weights,
            which `load_backbone_weights` reads later.
        pretrained: read the weights; what `module:name` gives decides that by itself.

    Raises:
        FileNotFoundError, ValueError: as `hf.hf_stages`, and where `module:name` gives no `Stages`.
    """
    if not is_outside(name):
        from rifenet.models.backbones.hf import hf_stages

        return hf_stages(weights or name, pretrained=pretrained)
    stages = from_outside(name, "model.backbone")()
    if not isinstance(stages, Stages):
        raise ValueError(f"Expected {name} to return rifenet.models.Stages, but it gave {type(stages).__name__}.")
    return stages


def staged_backbone(
    name: str,
    stages: Stages,
    *,
    stride: int = 8,
    low: tuple[int, ...] = (),
    mid: tuple[int, ...] = (),
    high: tuple[int, ...] = (),
    fine: int = 0,
) -> StagedBackbone:
    """The frozen backbone over `stages`; see `build_backbone` for the options.

    Raises ValueError for stages that it lacks, or for another stride than the side of its equal patches.
    """
    own = stages.stride(stride)
    levels = stages.levels(Levels(tuple(low), tuple(mid), tuple(high), fine), own)
    return StagedBackbone(name, stages, stride=own, levels=levels)
