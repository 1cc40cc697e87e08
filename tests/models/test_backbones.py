"""Backbones against undilated references: geometry, dilation, padding, normalisation, frozenness."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.backbones import efficientnet_lite_stages, resnet_stages, same_conv_by_hand
from torch import Tensor, nn

from rifenet.config import BACKBONES, ModelConfig
from rifenet.models.backbones import Backbone, Features, build_backbone
from rifenet.models.backbones.base import CPU_IMAGES
from rifenet.models.backbones.efficientnet_lite import SCALES, SameConv2d
from rifenet.models.backbones.folding import fold_norms
from rifenet.models.backbones.resnet import BLOCKS, NORMALIZATIONS

THIN = 1 / 16  # width: 4 channels, so that real depth stays fast
LITE_BLOCKS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
LITE_CHANNELS = {
    "efficientnet_lite0": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet_lite1": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet_lite2": (16, 24, 48, 88, 120, 208, 352),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18-8": {"name": "resnet18", "width": THIN},
    "resnet50-8-deep": {"name": "resnet50", "width": THIN, "stem": "deep"},
    "resnet50-16-caffe": {"name": "resnet50", "width": THIN, "stem": "caffe", "stride": 16, "stride_on": "conv1"},
    "resnet34-8-resize": {"name": "resnet34", "width": THIN, "deep_stages": "resize"},
    "lite0-8": {"name": "efficientnet_lite0"},
    "lite0-16-resize": {"name": "efficientnet_lite0", "stride": 16, "deep_stages": "resize"},
}
each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def filled(seed: int = 0, **options: Any) -> Backbone:
    """A backbone whose batch norms are not the identity, so that a misplaced one shows."""
    torch.manual_seed(seed)
    backbone = build_backbone(**options)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.2)
            module.weight.data.mul_(torch.empty_like(module.weight).uniform_(0.5, 1.5))
    return backbone


def published_key(key: str) -> str:
    """EfficientNet-Lite's published files lead names of modules with an underscore."""
    *modules, leaf = key.split(".")
    return ".".join([part if part.isdigit() else f"_{part}" for part in modules] + [leaf])


def reference_stages(backbone: Backbone, images: Tensor, **options: str) -> list[Tensor]:
    state = {key: value.double() for key, value in backbone.state_dict().items()}
    if backbone.name in LITE_BLOCKS:
        state = {published_key(key): value for key, value in state.items()}
        return list(efficientnet_lite_stages(state, (images * 255 - 127) / 128, LITE_BLOCKS[backbone.name]))
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[..., None, None]
    return list(resnet_stages(state, (images - mean) / deviation, **options))


@each_variant
@pytest.mark.parametrize(
    "size", [(32, 32), (33, 47), (40, 36), (65, 100), (128, 71), (161, 161), (200, 321), (473, 353)], ids=str
)
def test_features_lie_on_the_grid_at_any_size(options: dict[str, Any], size: tuple[int, int]) -> None:
    backbone = build_backbone(**options)
    low, mid, high, _ = features = backbone(torch.rand(1, 3, *size))
    assert isinstance(features, Features)
    assert {tuple(level.shape[2:]) for level in features} == {backbone.grid(*size)}
    channels = (backbone.low_channels, backbone.mid_channels, backbone.high_channels)
    assert (low.shape[1], mid.shape[1], high.shape[1]) == channels
    stride = options.get("stride", 8)
    slack = 1 if options.get("stem") == "caffe" else 0  # its pooling has no padding
    assert all(0 <= -(-n // stride) - g <= slack for n, g in zip(size, backbone.grid(*size), strict=True))
    assert all(level.dtype == torch.float32 and level.isfinite().all() for level in features)


def test_grids_of_the_usual_sizes() -> None:
    assert build_backbone("resnet18", width=THIN).grid(473, 473) == (60, 60)
    assert build_backbone("efficientnet_lite0").grid(321, 473) == (41, 60)
    assert build_backbone("efficientnet_lite0", stride=16).grid(321, 320) == (21, 20)
    assert build_backbone("resnet18", width=THIN, stem="caffe").grid(473, 321) == (59, 40)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("stem", "stride_on"), [("plain", "conv2"), ("deep", "conv2"), ("caffe", "conv1")])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(97, 128), (100, 77)], ids=str)
def test_dilated_resnet_equals_the_undilated_one_where_that_one_looks(
    name: str, stem: str, stride_on: str, stride: int, size: tuple[int, int]
) -> None:
    levels = {"low": (2,), "mid": (2, 3), "high": (4,)}
    backbone = filled(name=name, width=THIN, stem=stem, stride_on=stride_on, stride=stride, **levels).double()
    images = torch.rand(2, 3, *size).double()
    expected = reference_stages(backbone, images, stem=stem, stride_on=stride_on)
    for stage, dense in zip((2, 3, 4), backbone.stages(images), strict=True):
        own = 2 ** (stage + 1)
        if own < stride:
            continue  # finer than the grid and resized
        step = own // stride
        torch.testing.assert_close(dense[..., ::step, ::step], expected[stage - 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(97, 64), (83, 66)], ids=str)
def test_dilated_lite_equals_the_undilated_one_where_that_one_looks(
    name: str, stride: int, size: tuple[int, int]
) -> None:
    backbone = filled(name=name, stride=stride, low=(3,), mid=(4, 5), high=(6, 7)).double()
    images = torch.rand(1, 3, *size).double()
    expected = reference_stages(backbone, images)
    for stage, dense in zip((3, 4, 5, 6, 7), backbone.stages(images), strict=True):
        own = {3: 8, 4: 16, 5: 16, 6: 32, 7: 32}[stage]
        if own < stride:
            continue
        # SAME starts a stride at the second position of an even side, at the first of an odd one.
        first, reached, sides = [0, 0], stride, [-(-n // stride) for n in size]
        while reached < own:
            first = [start + reached // stride * (side % 2 == 0) for start, side in zip(first, sides, strict=True)]
            reached, sides = reached * 2, [-(-side // 2) for side in sides]
        step = own // stride
        picked = dense[..., first[0] :: step, first[1] :: step]
        torch.testing.assert_close(picked, expected[stage - 1], rtol=1e-4, atol=1e-4)


def test_undilated_stages_are_the_reference_resized() -> None:
    for options in ({"name": "resnet18", "width": THIN, "high": (4,)}, {"name": "efficientnet_lite1", "high": (7,)}):
        backbone = filled(stride=16, deep_stages="resize", low=(1,), mid=(2,), **options).double()
        images = torch.rand(1, 3, 97, 120).double()
        plain = {"stem": "plain", "stride_on": "conv2"} if backbone.name == "resnet18" else {}
        stages = dict(zip(backbone.used_stages, backbone.stages(images), strict=True))
        for stage, features in stages.items():
            expected = reference_stages(backbone, images, **plain)[stage - 1]
            expected = nn.functional.interpolate(expected, size=(7, 8), mode="bilinear", align_corners=True)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_first_block_of_a_dilated_stage_keeps_the_previous_dilation() -> None:
    backbone = build_backbone("resnet50", width=THIN)
    dilations = [[block.conv2.dilation[0] for block in backbone.get_submodule(f"layer{i}")] for i in (2, 3, 4)]
    assert dilations == [[1] * 4, [1] + [2] * 5, [2, 4, 4]]
    assert [backbone.get_submodule(f"layer{i}.0.conv2").stride[0] for i in (2, 3, 4)] == [2, 1, 1]
    at16 = build_backbone("resnet50", width=THIN, stride=16)
    assert [block.conv2.dilation[0] for block in at16.get_submodule("layer4")] == [1, 2, 2]


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2, 4]),
)
def test_same_convolution_equals_loops(sides: tuple[int, int], kernel: int, stride: int, dilation: int) -> None:
    conv = SameConv2d(1, 1, kernel, stride=stride, dilation=dilation).double().requires_grad_(False)
    x = torch.randn(1, 1, *sides).double()
    expected = same_conv_by_hand(x[0, 0].numpy(), conv.weight[0, 0].numpy(), stride, dilation)
    np.testing.assert_allclose(conv(x)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "efficientnet_lite0", "stride": 16},
        {"name": "efficientnet_lite0", "stride": 8},
        {"name": "efficientnet_lite0", "stride": 16, "deep_stages": "resize"},
        {"name": "resnet50", "width": THIN},
        {"name": "resnet50", "width": THIN, "stride": 16, "deep_stages": "resize"},
    ],
    ids=str,
)
def test_features_are_aligned_with_the_corners_at_321(options: dict[str, Any]) -> None:
    # With kernels that are their own mirror image, a mirrored photo has mirrored features only if nothing is shifted.
    backbone = filled(low=(2,), mid=(3,), high=(4,), **options).double()
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            parameter.data = (parameter.data + parameter.data.flip(2, 3)) / 2
    images = torch.rand(1, 3, 321, 321).double()
    for straight, mirrored in zip(backbone(images), backbone(images.flip(2, 3)), strict=True):
        torch.testing.assert_close(mirrored.flip(2, 3), straight, rtol=1e-4, atol=1e-4)


@each_variant
def test_stays_frozen_whatever_training_does(options: dict[str, Any]) -> None:
    backbone = filled(**options)
    whole = nn.ModuleDict({"backbone": backbone, "head": nn.BatchNorm2d(3)})
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    expected = backbone(images)

    whole.train()
    backbone.train()
    whole.requires_grad_(True)
    images.requires_grad_(True)
    features = backbone(images)
    assert not any(module.training for module in backbone.modules())
    assert whole["head"].training
    assert not any(level.requires_grad for level in features)
    assert all(torch.equal(level, same) for level, same in zip(features, expected, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@each_variant
def test_a_batch_equals_its_single_images(options: dict[str, Any]) -> None:
    backbone = filled(**options).double()
    images = torch.rand(3, 3, 49, 64).double()
    batch = backbone(images)
    for i in range(3):
        for level, single in zip(batch, backbone(images[i : i + 1]), strict=True):
            torch.testing.assert_close(level[i : i + 1], single, rtol=1e-4, atol=1e-4)


def test_levels_concatenate_their_stages_in_order() -> None:
    backbone = filled(name="efficientnet_lite0", stride=16, low=(2,), mid=(5, 3), high=(3, 5, 6))
    assert (backbone.used_stages, backbone.used_channels) == ((2, 3, 5, 6), (24, 40, 112, 192))
    assert (backbone.low_channels, backbone.mid_channels, backbone.high_channels) == (24, 152, 344)
    images = torch.rand(2, 3, 65, 81)
    stages = backbone.stages(images)
    assert [tuple(stage.shape) for stage in stages] == [(2, c, 5, 6) for c in backbone.used_channels]
    second, third, fifth, sixth = stages
    low, mid, high, fine = backbone(images)
    assert fine.shape[1] == 0
    assert torch.equal(low, second)
    assert torch.equal(mid, torch.cat([fifth, third], 1))
    assert torch.equal(high, torch.cat([third, fifth, sixth], 1))
    assert all(torch.equal(a, b) for a, b in zip(backbone.assemble(stages), (low, mid, high, fine), strict=True))


@pytest.mark.parametrize(("name", "stage"), [("efficientnet_lite0", 2), ("resnet18", 1)])
def test_the_fine_feature_keeps_its_resolution(name: str, stage: int) -> None:
    backbone, plain = (filled(name=name, stride=16, fine=fine) for fine in (stage, 0))
    images = torch.rand(2, 3, 97, 65)
    *levels, fine = backbone(images)
    assert fine.shape == (2, backbone.fine_channels, 25, 17)
    kept = [
        features
        for number, features in enumerate(backbone._run((images - backbone.mean) / backbone.deviation), 1)
        if number == stage
    ]
    assert torch.equal(fine, kept[0])
    assert all(torch.equal(a, b) for a, b in zip(levels, plain(images)[:3], strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.assemble(backbone.stages(images)), (*levels, fine), strict=True)
    )
    with pytest.raises(ValueError, match="Expected fine to be 0 or a stage"):
        build_backbone(name, fine=9)


@pytest.mark.parametrize("name", LITE_CHANNELS)
def test_default_levels_of_lite(name: str) -> None:
    channels = LITE_CHANNELS[name]
    backbone = build_backbone(name)
    assert (backbone.low_channels, backbone.mid_channels, backbone.high_channels) == (
        channels[2],
        channels[2] + channels[4],
        channels[6],
    )


def test_default_levels_of_resnets() -> None:
    for name, factor in (("resnet18", 1), ("resnet50", 4)):
        backbone = build_backbone(name)
        channels = (backbone.low_channels, backbone.mid_channels, backbone.high_channels)
        assert channels == (128 * factor, 384 * factor, 512 * factor)


def test_stages_past_the_last_used_one_are_not_built() -> None:
    lite = build_backbone("efficientnet_lite2", mid=(3,), high=(5,))
    assert len(lite.blocks) == 1 + 3 + 3 + 4 + 4
    resnet = build_backbone("resnet50", width=THIN, high=(3,))
    assert not any(key.startswith("layer4") for key in resnet.state_dict())
    deeper = build_backbone("resnet50", width=THIN, mid=(2, 3), high=(3, 4))
    deeper.load_state_dict(resnet.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(resnet(images).mid, deeper(images).mid)


@pytest.mark.parametrize(
    "options",
    [{"name": "resnet18"}, {"name": "resnet18", "normalization": "caffe"}, {"name": "efficientnet_lite0"}],
    ids=str,
)
def test_own_normalisation(options: dict[str, Any]) -> None:
    backbone = build_backbone(**options)
    seen: list[Tensor] = []
    first = backbone.conv_stem if options["name"].startswith("efficientnet") else backbone.conv1
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 40, 33)
    backbone(images)
    red, green, blue = images.unbind(1)
    if options.get("normalization") == "caffe":
        expected = [blue * 255 - 104, green * 255 - 117, red * 255 - 123]
    elif options["name"] == "resnet18":
        expected = [(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225]
    else:
        expected = [(channel * 255 - 127) / 128 for channel in (red, green, blue)]
    torch.testing.assert_close(seen[0], torch.stack(expected, 1), rtol=1e-5, atol=1e-4)


def test_autocast_leaves_float32() -> None:
    backbone = build_backbone("efficientnet_lite0", stride=16)
    images = torch.rand(1, 3, 65, 65)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images)
    assert {level.dtype for level in features} == {torch.float32}
    for level, exact in zip(features[:3], backbone(images)[:3], strict=True):
        assert torch.cosine_similarity(level.flatten(), exact.flatten(), dim=0) > 0.99


def test_random_weights_follow_the_seed_and_keep_the_scale() -> None:
    images = torch.rand(1, 3, 129, 129)
    for name in ("resnet101", "efficientnet_lite2"):
        torch.manual_seed(5)
        first = build_backbone(name)
        torch.manual_seed(5)
        assert all(torch.equal(a, b) for a, b in zip(first(images), build_backbone(name)(images), strict=True))
        assert all(0.1 < level.std() < 100 for level in first(images)[:3])


def test_the_configuration_lists_the_backbones_and_normalizations_that_there_are() -> None:
    assert (*BLOCKS, *SCALES) == BACKBONES
    for name in NORMALIZATIONS:
        assert ModelConfig(normalization=name).normalization == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet152"}, "Expected model.backbone to be one of resnet18, .*got 'resnet152'"),
        ({"name": "resnet50", "stride": 32}, "Expected model.stride to be 8 or 16, but got 32"),
        ({"name": "resnet50", "deep_stages": "keep"}, "Expected model.deep_stages .*dilate, resize"),
        ({"name": "resnet50", "stem": "7x7"}, "Expected model.stem .*plain, deep, caffe"),
        ({"name": "resnet50", "stride_on": "conv3"}, "Expected model.stride_on .*conv1, conv2"),
        ({"name": "resnet50", "normalization": "none"}, "Expected model.normalization .*imagenet, caffe"),
        ({"name": "resnet50", "width": 0.01}, "Expected width .*got 0.01"),
        (
            {"name": "resnet50", "high": (5,)},
            r"Expected high to be distinct stages of resnet50, 1 to 4, but got \(5,\)",
        ),
        ({"name": "efficientnet_lite0", "mid": (3, 3)}, "Expected mid to be distinct stages"),
        ({"name": "efficientnet_lite0", "low": (0,)}, "Expected low to be distinct stages"),
        ({"name": "efficientnet_lite0", "width": 0.5}, "only ResNets have these options"),
        ({"name": "efficientnet_lite0", "stem": "deep"}, "only ResNets have these options"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(**options)


@pytest.mark.parametrize("images", [torch.rand(3, 64, 64), torch.rand(1, 64, 64, 3), torch.zeros(1, 3, 64, 64).byte()])
def test_wrong_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected float images \[B, 3, H, W\]"):
        build_backbone("resnet18", width=THIN)(images)


# Folding.


@each_variant
def test_folded_batch_norms_change_no_feature(options: dict[str, Any]) -> None:
    backbone = filled(**options, fine=2)
    images = torch.rand(2, 3, 65, 49)
    plain = backbone(images)
    backbone.accelerate()
    for level, expected in zip(backbone(images), plain, strict=True):
        assert level.shape == expected.shape
        scale = expected.abs().max().clamp(min=1)
        assert torch.allclose(level / scale, expected / scale, rtol=0, atol=1e-4)


@each_variant
def test_every_batch_norm_is_folded_and_the_weights_stay(options: dict[str, Any]) -> None:
    backbone = filled(**options)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    twin = copy.deepcopy(backbone)
    fold_norms(twin, backbone.norms())
    assert not [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(list(backbone.norms())) == sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    after = backbone.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@each_variant
def test_fused_convolutions_run_the_activations_that_follow_them(options: dict[str, Any]) -> None:
    """Each convolution is named once. Without fusing, a ReLU sees what its convolution gave; fused, nothing runs it."""
    backbone = filled(**options)
    named = list(backbone.activations())
    convolutions = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(name for name, _ in named) == sorted(convolutions)
    given: dict[tuple[int, int], str] = {}  # the output of each convolution's norm, as long as nothing changes it
    fed: dict[str, set[str]] = {}
    norm_of = {norm: convolution for norm, convolution in backbone.norms()}
    kept = []
    for name, module in backbone.named_modules():
        if name in norm_of:
            convolution = norm_of[name]

            def gave(_: nn.Module, __: Any, out: Tensor, convolution: str = convolution) -> None:
                kept.append(out)
                given[id(out), out._version] = convolution

            module.register_forward_hook(gave)
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False

            def took(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                fed.setdefault(name, set()).add(given.get((id(inputs[0]), inputs[0]._version), "a sum"))

            module.register_forward_pre_hook(took)
    backbone(torch.rand(1, 3, 33, 33))
    fused = {name for _, name in named if name}
    for activation in fused:
        assert fed[activation] == {convolution for convolution, name in named if name == activation}
    assert all("a sum" in fed[name] for name in fed.keys() - fused)  # nothing is left that could be fused


def test_other_weights_or_another_place_end_the_folding() -> None:
    backbone, other = (filled(seed, **VARIANTS["resnet18-8"]) for seed in (0, 1))
    images = torch.rand(1, 3, 33, 33)
    backbone.accelerate()
    backbone.load_state_dict(other.state_dict())
    assert torch.equal(backbone(images).high, other(images).high)
    backbone.accelerate()
    assert backbone.double()(images.double()).high.dtype == torch.float64


def test_images_pass_one_by_one_on_the_cpu_and_come_back_as_a_batch() -> None:
    backbone = filled(**VARIANTS["lite0-8"])
    sizes: list[int] = []
    backbone.conv_stem.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    images = torch.rand(CPU_IMAGES + 1, 3, 33, 33)
    together = backbone(images)
    assert sizes == [CPU_IMAGES, 1]
    alone = [backbone(image[None]) for image in images]
    for position, level in enumerate(together):
        assert torch.allclose(level, torch.cat([features[position] for features in alone]), atol=1e-5)
