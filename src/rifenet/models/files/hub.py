"""Finds and loads models by name: `default` (bundled), a run folder, a `.safetensors` file, or `hf:owner/name`.

`prototype:BACKBONE` is the training-free baseline over any backbone that `model.backbone` takes, and
`any-backbone:BACKBONE` the bundled head that fits any backbone.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from rifenet.config import needs

if TYPE_CHECKING:
    from rifenet.models import Prototype, RiFeNet

PROTOTYPE = "prototype:"
"""Begins the name of a training-free prototype; the name of its backbone follows."""
ANY_BACKBONE = "any-backbone:"
"""Begins the name of the bundled head that fits any backbone; the name of its backbone follows."""
MODEL_FILE = "model.safetensors"
"""The model in a run folder, and in a repository of Hugging Face."""


def bundled_model() -> Path:
    """The file of the model that ships with the program."""
    return Path(str(files("rifenet") / "weights" / "default.safetensors"))


def locate(name: str | Path = "default") -> Path:
    """The file that `name` stands for.

    Raises FileNotFoundError, which lists the valid kinds of name, or ValueError for a wrong `hf:` name.
    """
    name = str(name)
    if name == "default":
        return bundled_model()
    if name.startswith("hf:"):
        return _from_hugging_face(name.removeprefix("hf:"))
    path = Path(name)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a model at {path}, but there is none. Give 'default', a run folder, a .safetensors file, "
            "an export folder or hf:owner/name."
        )
    return path


def load_model(name: str | Path = "default", device: str = "cpu", weights: str = "") -> RiFeNet | Prototype:
    """The model called `name`, in eval mode on `device`.

    It has `.metadata` (saved with it), `.hash` (identifies the model) and `.weights_hash`. `weights` names the file of
    the frozen backbone (of a backbone of transformers, the folder) if it is another than the name or the file says.
    """
    from rifenet.models.files.checkpoint import read_model  # imports torch, which the functions above do without

    if is_over_backbone(name):
        from rifenet.models.files.over_backbone import head_over, prototype_over

        kind, _, backbone = str(name).partition(":")
        return (prototype_over if f"{kind}:" == PROTOTYPE else head_over)(backbone, weights).to(device)
    model: RiFeNet | Prototype = read_model(locate(name), weights).to(device)
    return model


def is_over_backbone(name: str | Path) -> bool:
    """Whether `name` stands for a training-free prototype, or for the head that fits any backbone, over a backbone."""
    return str(name).startswith((PROTOTYPE, ANY_BACKBONE))


def _from_hugging_face(repository: str) -> Path:
    if repository.count("/") != 1:
        raise ValueError(f"Expected hf:owner/name, but got hf:{repository}.")
    with needs("rifenet[hub]"):
        from huggingface_hub import hf_hub_download
    try:
        return Path(hf_hub_download(repository, MODEL_FILE))
    except Exception as error:  # the library raises many kinds: no network, no such repository, no such file
        raise FileNotFoundError(f"Could not fetch {MODEL_FILE} of hf:{repository}: {error}") from error
