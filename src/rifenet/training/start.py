"""Starting from a trained model instead of from random weights (`train.start`)."""

from __future__ import annotations

from typing import Any

from rifenet.config import ANY_BACKBONE, ModelConfig, from_dict
from rifenet.models import RiFeNet
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.files.checkpoint import (
    backbone_hash,
    model_hash,
    read_file,
    shared_name,
    state_hash,
    trained_state,
)
from rifenet.models.files.hub import locate
from rifenet.models.files.over_backbone import OWN_TENSORS

NOT_SHIPPED = "auxiliary."  # the head that only training uses; it starts random where a file lacks it


def start_from(name: str, model: RiFeNet) -> dict[str, Any]:
    """Gives `model` the trained weights of the model called `name`; `model` keeps its own frozen backbone.

    Options that no weight depends on (dropout, caps, size of the input) may differ.

    Args:
        name: `default`, a run folder, a `.safetensors` file or `hf:owner/name`.
        model: the model to train, with its backbone loaded.

    Returns:
        `name` and `hash` of the model called `name`, and what its file says of its training, for the new model's
        metadata: `classes_trained_on`, `images_trained_on`, `exclude_novel` and `novel_classes`, None where it does not
        say.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the file is damaged, or its backbone or any trained tensor does not fit `model`.
    """
    header, state = read_file(locate(name))
    config: ModelConfig = from_dict(ModelConfig, header["config"], f"the header of {name}")
    metadata = header["metadata"]
    fits_any = isinstance(model, AnyBackboneNetwork)
    if config.kind != model.config.kind or config.kind not in ("rifenet", ANY_BACKBONE):
        raise ValueError(
            f"Expected a trained model of the run's model.kind for train.start, but {name} is a {config.kind}."
        )
    if not fits_any and shared_name(config.backbone) != shared_name(model.config.backbone):
        raise ValueError(
            f"Expected the model of train.start to have the run's backbone, {model.config.backbone}, but {name} has "
            f"{config.backbone}. Set model.backbone, or start from another model."
        )
    own = trained_state(model)
    given = {key: value.float() for key, value in state.items() if not key.startswith("backbone.")}
    if fits_any:  # the reference of this backbone stays
        given |= {key: own[key] for key in OWN_TENSORS}
    wanted = [key for key in own if key in given or not key.startswith(NOT_SHIPPED)]
    odd = [key for key in wanted if key not in given or given[key].shape != own[key].shape]
    odd += [key for key in given if key not in own and not key.startswith(NOT_SHIPPED)]
    if odd:
        raise ValueError(
            f"Expected train.start to have the tensors of the run's model section, but these of {name} differ: "
            f"{', '.join(odd[:3])}{' ...' if odd[3:] else ''}. Set the model section as in its config (rifenet info)."
        )
    if not fits_any and header["backbone_hash"] != backbone_hash(model):
        raise ValueError(
            f"Expected the model of train.start to have the run's backbone weights ({backbone_hash(model)}), but "
            f"{name} was trained on others ({header['backbone_hash']}). Set model.weights to that backbone's file."
        )
    model.load_state_dict({**model.state_dict(), **{key: given[key] for key in wanted}})
    return {
        "name": metadata.get("name", name),
        "hash": model_hash(state_hash(state), config, metadata),
        "classes_trained_on": metadata.get("classes_trained_on"),
        "images_trained_on": _images(metadata),
        "exclude_novel": metadata.get("exclude_novel"),
        "novel_classes": metadata.get("novel_classes", metadata.get("classes_never_seen")),
    }


def _images(metadata: dict[str, Any]) -> int | None:
    """How many images trained a model, those of its own start model included; None where its file does not say."""
    own: int | None = metadata.get("images_trained_on")
    if own is None or "started_from" not in metadata:
        return own
    before: int | None = metadata.get("images_trained_on_before")
    return None if before is None else own + before
