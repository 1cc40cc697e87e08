"""Backbones of transformers: the library's own features, read where the grid stands; files, names and refusals."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_folders import DEVIATION, KINDS, MEAN, write_backbone, write_hub, write_preprocessor
from torch import Tensor, nn

from rifenet.config import ModelConfig
from rifenet.models import build_model
from rifenet.models.backbones import Features
from rifenet.models.backbones.base import CPU_IMAGES
from rifenet.models.backbones.hf import hf_stages
from rifenet.models.backbones.named import staged_backbone
from rifenet.models.backbones.staged import StagedBackbone, Stages
from rifenet.models.baseline import Prototype
from rifenet.models.files.checkpoint import backbone_file, backbone_hash, read_model, save_model
from rifenet.models.files.hub import load_model

PATCHES = {"dinov2": 14, "dinov2_with_registers": 14, "dinov3_vit": 16, "beit": 16}
SIZES = ((57, 57), (64, 64), (113, 161), (75, 101))
SMALL: dict[str, Any] = {"embed_dim": 16, "heads": 2, "layers": 1, "local_dim": 8, "aux": False}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("backbones")
    return {kind: (root / kind, write_backbone(root / kind, kind)) for kind in KINDS}


def opened(folder: Path, **options: Any) -> StagedBackbone:
    return staged_backbone(str(folder), hf_stages(str(folder)), **options)


def as_the_library_sees(images: Tensor, stride: int, cell: int) -> Tensor:
    """Normalised images at multiples of the stride plus 1, with half a patch of repeated pixels around them."""
    mean, deviation = (np.array(values).reshape(3, 1, 1) for values in (MEAN, DEVIATION))
    normalized = (images.double().numpy() - mean) / deviation
    if cell == 1:
        return torch.from_numpy(normalized).float()
    sides = [round((side - 1) / stride) * stride + 1 for side in images.shape[-2:]]
    for axis, side in zip((2, 3), sides, strict=True):
        places = np.linspace(0, normalized.shape[axis] - 1, side)
        before = np.clip(np.floor(places).astype(int), 0, normalized.shape[axis] - 2)
        share = (places - before).reshape((-1,) + (1,) * (3 - axis))
        first, second = (np.take(normalized, before + step, axis) for step in (0, 1))
        normalized = first * (1 - share) + second * share
    borders = [(stride // 2, -(stride // 2 + side) % cell) for side in sides]
    return torch.from_numpy(np.pad(normalized, ((0, 0), (0, 0), *borders), mode="edge")).float()


def read_by_loops(maps: np.ndarray, stride: int, own: int, patches: bool, grid: tuple[int, int]) -> Any:
    """Bilinear values of a map [C,h,w] of stride `own` at the places of a grid of `stride`, place by place."""
    out = np.zeros((len(maps), *grid))
    for i in range(grid[0]):
        for j in range(grid[1]):
            weights = []
            for place, length in zip((i, j), maps.shape[1:], strict=True):
                # The middle of patch n of `own` pixels is pixel n * own + own / 2 - 1 / 2 of the picture, in which the
                # grid's first feature stands at stride / 2 - 1 / 2.
                pixel = place * stride + (stride / 2 - 0.5 if patches else 0)
                at = (pixel - own / 2 + 0.5) / own if patches else pixel / own
                at = min(max(at, 0), length - 1)
                before = min(int(at), length - 2) if length > 1 else 0
                weights.append({before: 1 - (at - before), min(before + 1, length - 1): at - before})
            for row, vertical in weights[0].items():
                for column, horizontal in weights[1].items():
                    out[:, i, j] += vertical * horizontal * maps[:, row, column]
    return out


@pytest.mark.parametrize("size", SIZES, ids=str)
@each_kind
def test_features_are_those_of_transformers(
    folders: dict[str, tuple[Path, Any]], kind: str, size: tuple[int, int]
) -> None:
    folder, model = folders[kind]
    backbone = opened(folder)
    images = torch.rand(2, 3, *size)
    cell = 1 if kind == "resnet" else PATCHES.get(kind, 32)
    with torch.no_grad():
        expected = model(as_the_library_sees(images, PATCHES.get(kind, 8), cell)).feature_maps
        normalized = (images - backbone.mean) / backbone.deviation
        found = backbone.network(backbone.shown(normalized))
    assert len(found) == len(expected) == 4
    for own, theirs in zip(found, expected, strict=True):
        assert own.shape == theirs.shape
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)
    assert all(maps.std() > 1e-3 for maps in found)

    if kind == "resnet" and any((side - 1) % 8 for side in size):
        return  # the grid then has other steps than the stride
    for stage, maps in zip(backbone.used_stages, backbone.stages(images), strict=True):
        whole = expected[stage - 1][0].double().numpy()
        own = PATCHES.get(kind, 2 ** (stage + 1))
        by_hand = read_by_loops(whole, backbone.stride, own, kind != "resnet", backbone.grid(*size))
        torch.testing.assert_close(maps[0].double(), torch.from_numpy(by_hand), rtol=1e-4, atol=1e-4)
        if kind in PATCHES:
            assert torch.equal(maps[0], found[stage - 1][0]), "the library's features are left as they are"


@each_kind
def test_the_picture_is_the_photo_where_its_side_suits(folders: dict[str, tuple[Path, Any]], kind: str) -> None:
    backbone = opened(folders[kind][0])
    if kind == "resnet":
        return
    side, half = 10 * backbone.stride + 1, backbone.stride // 2
    images = torch.rand(1, 3, side, side)
    shown = backbone.shown(images)
    assert torch.equal(shown[..., half : half + side, half : half + side], images)
    assert torch.equal(shown[..., :half, half], images[..., :1, 0].expand(1, 3, half))


def test_two_places_are_read_at_both_ends(folders: dict[str, tuple[Path, Any]]) -> None:
    backbone = opened(folders["resnet"][0])
    rows = backbone._reading(3, 16, 2, 32, torch.zeros(1))
    assert torch.equal(rows, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    assert torch.equal(backbone._reading(3, 16, 1, 0, torch.zeros(1)), torch.tensor([[1.0, 0, 0]]))


@each_kind
def test_strides_and_default_stages(folders: dict[str, tuple[Path, Any]], kind: str) -> None:
    backbone = opened(folders[kind][0])
    if kind in PATCHES:
        assert backbone.stride == PATCHES[kind]
        assert backbone.levels[:3] == ((2,), (2, 3), (4,))  # of four layers: a third, two thirds, the last
        assert backbone.grid(449, 321) == (448 // backbone.stride + 1, round(320 / backbone.stride) + 1)
    else:
        assert backbone.facts.strides == (4, 8, 16, 32)
        assert backbone.levels[:3] == ((2,), (2, 3), (4,))  # the paper's
        assert opened(folders[kind][0], stride=16).levels[:3] == ((3,), (3, 4), (4,))
    assert backbone.facts.patches == (kind != "resnet")


@each_kind
def test_stays_frozen_whatever_training_does(folders: dict[str, tuple[Path, Any]], kind: str) -> None:
    backbone = opened(folders[kind][0], fine=1)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    expected = backbone(images)
    whole = nn.ModuleDict({"backbone": backbone, "head": nn.BatchNorm2d(3)})
    whole.train()
    whole.requires_grad_(True)
    features = backbone(images.requires_grad_(True))
    assert isinstance(features, Features)
    assert not any(module.training for module in backbone.modules())
    assert not any(level.requires_grad for level in features)
    assert all(torch.equal(level, same) for level, same in zip(features, expected, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@each_kind
def test_a_batch_equals_its_single_images(folders: dict[str, tuple[Path, Any]], kind: str) -> None:
    backbone = opened(folders[kind][0], fine=1)
    images = torch.rand(CPU_IMAGES + 1, 3, 49, 70)
    batch = backbone(images)
    for i, image in enumerate(images):
        for level, single in zip(batch, backbone(image[None]), strict=True):
            torch.testing.assert_close(level[i : i + 1], single, rtol=1e-4, atol=1e-4)


def test_a_feature_says_what_is_in_the_middle_of_its_patch() -> None:
    """Of an image that is its own coordinates, each feature is the coordinate of its place, to half a pixel."""

    class Means(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return nn.functional.avg_pool2d(images, 14), nn.functional.avg_pool2d(images, 28)

    stages = Stages(network=Means(), channels=(3, 3), strides=(14, 28), mean=(0, 0, 0), deviation=(1, 1, 1))
    for side in (448, 449, 473):
        backbone = staged_backbone("means", stages, stride=14, low=(1,), mid=(1,), high=(2,), fine=1)
        low, _, high, fine = backbone(torch.arange(side, dtype=torch.float32).expand(1, 3, side, side))
        count = round((side - 1) / 14) + 1
        assert backbone.grid(side, side) == (count, count)
        expected = torch.linspace(0, side - 1, count)
        for level, border in ((low, 1), (high, 3), (fine, 1)):
            difference = (level[0, 0, 0] - expected).abs()
            assert difference[border:-border].max() <= 0.51, side
            assert difference.max() <= 14


def test_equal_patches_have_their_own_stride(folders: dict[str, tuple[Path, Any]]) -> None:
    assert opened(folders["dinov2"][0], stride=14).stride == 14
    with pytest.raises(ValueError, match=r"Expected model\.stride 14, .* but got 16"):
        opened(folders["dinov2"][0], stride=16)
    with pytest.raises(ValueError, match="distinct stages"):
        opened(folders["dinov2"][0], high=(5,))


def test_the_preprocessor_says_how_images_are_normalised(tmp_path: Path) -> None:
    write_backbone(tmp_path, "convnextv2")
    seen = []
    for changes in (
        {},
        {"rescale_factor": 2 / 255},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_flip_channel_order": True},
    ):
        write_preprocessor(tmp_path, **changes)
        backbone = opened(tmp_path)
        backbone.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        backbone(torch.full((1, 3, 32, 32), 0.6) + torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1))
    mean, deviation, pixel = (torch.tensor(values) for values in (MEAN, DEVIATION, (0.6, 0.7, 0.8)))
    expected = [
        (pixel - mean) / deviation,
        (2 * pixel - mean) / deviation,
        (255 * pixel - mean) / deviation,
        pixel,
        (pixel.flip(0) - mean) / deviation,
    ]
    for images, values in zip(seen, expected, strict=True):
        torch.testing.assert_close(images[0, :, 0, 0], values, rtol=1e-4, atol=1e-4)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    with pytest.raises(ValueError, match="image_mean and image_std of three channels"):
        opened(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected preprocessor_config\.json"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", ["swin", "dinov2", "beit", "resnet"])
def test_a_published_file_of_the_whole_model_will_do(tmp_path: Path, kind: str) -> None:
    """Published files hold a model with a classifier: other prefixes, and none of the norms that AutoBackbone adds."""
    import transformers
    from hf_folders import small_config

    heads = {"swin": "Swin", "dinov2": "Dinov2", "beit": "Beit", "resnet": "ResNet"}
    torch.manual_seed(1)
    published = getattr(transformers, f"{heads[kind]}ForImageClassification")(small_config(kind)).eval()
    published.save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    backbone = opened(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    normalized = backbone.shown((images - backbone.mean) / backbone.deviation)
    with torch.no_grad():
        inner = getattr(published, published.base_model_prefix)
        # AutoBackbone cuts a Swin's small maps into windows, too, which the classifier does not.
        options = {"always_partition": True} if kind == "swin" else {}
        hidden = inner(normalized, output_hidden_states=True, **options)
        last = backbone.network(normalized)[-1]
    if kind == "swin":
        expected = nn.functional.layer_norm(hidden.hidden_states[-1], (64,))
    elif kind == "dinov2":
        expected = published.dinov2.layernorm(hidden.hidden_states[-1])[:, 1:]
    elif kind == "beit":
        expected = hidden.hidden_states[-1][:, 1:]
    else:
        expected = hidden.last_hidden_state.flatten(2).transpose(1, 2)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


def test_accelerating_copies_only_what_it_can_fold(folders: dict[str, tuple[Path, Any]]) -> None:
    convnext, resnet = (opened(folders[kind][0]) for kind in ("convnextv2", "resnet"))
    images = torch.rand(1, 3, 64, 64)
    plain = resnet(images)
    for backbone in (convnext, resnet):
        backbone.accelerate()
    assert convnext._folded is None
    assert resnet._folded is not None
    assert not [module for module in resnet._folded.modules() if isinstance(module, nn.BatchNorm2d)]
    for level, expected in zip(resnet(images), plain, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


# Names and files.


def test_the_hub_is_read_from_its_cache_at_the_named_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write_hub(tmp_path, "somebody/dinov2-tiny", "dinov2", commit="a" * 40, seed=1)
    write_hub(tmp_path, "somebody/dinov2-tiny", "dinov2", commit="b" * 40, seed=2)  # what `main` is now
    first, newest = (build_model(backbone=f"hf:somebody/dinov2-tiny{at}", **SMALL) for at in ("@" + "a" * 40, ""))
    assert first.config.backbone == f"hf:somebody/dinov2-tiny@{'a' * 40}"
    assert newest.config.backbone == f"hf:somebody/dinov2-tiny@{'b' * 40}", (
        "a model names the commit that it was made of"
    )
    assert backbone_hash(first) != backbone_hash(newest)
    assert backbone_hash(build_model(first.config)) == backbone_hash(first)
    read_from = backbone_file(first.config)
    assert read_from is not None
    assert read_from["name"] == first.config.backbone
    with pytest.raises(FileNotFoundError, match="Could not fetch the backbone hf:somebody/other"):
        build_model(backbone="hf:somebody/other", **SMALL)
    with pytest.raises(ValueError, match="Expected hf:owner/name"):
        build_model(backbone="hf:dinov2", **SMALL)


def test_a_run_names_its_folder_in_full_and_notices_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(tmp_path / "here", "dinov2", seed=1)
    write_backbone(tmp_path / "other", "dinov2", seed=2)
    monkeypatch.chdir(tmp_path)
    model = build_model(backbone="./here", **SMALL)
    assert model.config.backbone == str(tmp_path / "here")
    save_model(model, tmp_path / "model.safetensors", {"image_size": 56})
    monkeypatch.chdir(tmp_path / "other")
    again = read_model(tmp_path / "model.safetensors")
    assert backbone_hash(again) == backbone_hash(model)
    with pytest.raises(ValueError, match="Expected the backbone"):
        read_model(tmp_path / "model.safetensors", weights=str(tmp_path / "other"))
    (tmp_path / "here").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="Expected a backbone of transformers in the folder"):
        read_model(tmp_path / "model.safetensors")
    moved = read_model(tmp_path / "model.safetensors", weights=str(tmp_path / "moved"))
    images = torch.rand(1, 3, 56, 56)
    assert torch.equal(moved.backbone(images).high, again.backbone(images).high)


@pytest.mark.parametrize("kind", ["dinov3_vit", "swin"])
def test_a_file_for_shipping_needs_no_folder(tmp_path: Path, kind: str) -> None:
    write_backbone(tmp_path / "folder", kind)
    model = build_model(backbone=str(tmp_path / "folder"), evidence=True, evidence_dim=32, **SMALL).eval()
    save_model(model, tmp_path / "model.safetensors", {"image_size": 64}, with_backbone=True)
    for file in (tmp_path / "folder").iterdir():
        file.unlink()
    again = read_model(tmp_path / "model.safetensors")
    assert again.config.backbone == "./folder", "nothing of this machine's paths is in the file"
    assert str(tmp_path).encode() not in (tmp_path / "model.safetensors").read_bytes()
    images = torch.rand(1, 3, 64, 96)
    for level, expected in zip(again.backbone(images), model.backbone(images), strict=True):
        scale = expected.abs().max()
        assert (level / scale - expected / scale).abs().max() < 0.01  # the file holds float16


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    model = write_backbone(tmp_path, "dinov2")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\*\.safetensors"):
        opened(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_backbone(tmp_path, "dinov2")
    state = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.2.mlp.fc1.weight"
    save_file(
        {key: value for key, value in state.items() if key != name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=f"{name} is missing"):
        opened(tmp_path)
    save_file({**state, name: torch.zeros(3, 3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} has another shape"):
        opened(tmp_path)


def test_other_architectures_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A plain ViT, as MAE's, has no AutoBackbone."""
    write_preprocessor(tmp_path)
    for kind in ("vit", "vit_mae"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match=f"dinov2, .*swin.* is {kind}"):
            opened(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}))
    (tmp_path / "code.py").write_text("raise SystemExit('the code of a repository ran')")
    with pytest.raises(ValueError, match="to be a model of transformers"):
        opened(tmp_path)


def test_options_of_other_backbones_are_refused(folders: dict[str, tuple[Path, Any]]) -> None:
    with pytest.raises(ValueError, match="only the ResNets of this program"):
        build_model(backbone=str(folders["swin"][0]), stem="deep", **SMALL)
    with pytest.raises(ValueError, match="hf:owner/name"):
        ModelConfig(backbone="dinov2")
    with pytest.raises(ValueError, match=r"model\.head with model\.kind rifenet only"):
        ModelConfig(kind="prototype", head="my_code:Head")
    with pytest.raises(ValueError, match="empty or module:name"):
        ModelConfig(head="WideHead")


def test_the_prototype_compares_the_last_layer(folders: dict[str, tuple[Path, Any]]) -> None:
    model = load_model(f"prototype:{folders['dinov2'][0]}")
    assert isinstance(model, Prototype)
    assert model.backbone.used_stages == (4,)
    assert model.metadata == {"name": "prototype dinov2", "image_size": 477}  # 34 steps of 14 px, plus 1


def test_transformers_needs_no_torchvision(folders: dict[str, tuple[Path, Any]]) -> None:
    code = (
        "import sys\n"
        "from rifenet.models.backbones.hf import hf_stages\n"
        "hf_stages(sys.argv[1])\n"
        "assert not {'torchvision', 'timm'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folders["dinov2"][0])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_copy_is_a_copy(folders: dict[str, tuple[Path, Any]]) -> None:
    backbone = opened(folders["dinov2"][0])
    twin = copy.deepcopy(backbone)
    images = torch.rand(1, 3, 56, 56)
    assert torch.equal(twin(images).high, backbone(images).high)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(backbone.parameters()))


def test_without_the_extra_the_command_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"rifenet\[hf\]"):
        build_model(backbone=os.sep + "somewhere", **SMALL)
