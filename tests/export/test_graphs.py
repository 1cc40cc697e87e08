"""What the graphs are made of: padding, names, single files, and the two model kinds."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_model import write_smallest_model, write_tiny_model
from torch import nn

from rifenet import load_model
from rifenet.engines.onnx import GRAPHS, OnnxEngine
from rifenet.engines.torch import TorchEngine
from rifenet.export.check import compare
from rifenet.export.folder import write_unchecked
from rifenet.export.graphs import _Backbone, _export, _replace_same_padding, build_graphs
from rifenet.models.backbones.efficientnet_lite import SameConv2d
from rifenet.models.build import build_model


class Stem(nn.Module):
    """Strided and dilated SAME convolutions under the name that marks a backbone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.backbone = nn.Sequential(
            SameConv2d(3, 8, 3, stride=2),
            SameConv2d(8, 8, 5, stride=2, groups=8),
            SameConv2d(8, 4, 3, dilation=2),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.backbone(images)
        return features


def test_same_padding_at_any_size() -> None:
    module = Stem()
    plain = copy.deepcopy(module)
    _replace_same_padding(plain)
    free = torch.export.Dim
    axes = ({2: free("height", min=32, max=999), 3: free("width", min=32, max=999)},)
    graph = _export(plain, (torch.rand(1, 3, 45, 60),), axes, ["images"], ("features",))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((45, 60), (64, 64), (65, 65), (66, 67), (47, 48)):
        images = torch.rand(1, 3, height, width)
        with torch.no_grad():
            expected = module(images).numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (71, 90)])
def test_the_backbones_features_are_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    # The strided paddings that only the graph has right are of odd sides here.
    model = load_model(write_smallest_model(tmp_path / "smallest.safetensors"))
    images = torch.rand(2, 3, *size)
    expected = model.backbone(images)
    for found, level in zip(_Backbone(model.backbone)(images), expected, strict=True):
        torch.testing.assert_close(found, level)


def test_each_graph_is_one_checked_file_without_traces(exported: tuple[Path, Path]) -> None:
    folder = exported[1]
    assert {path.name for path in folder.iterdir()} == {"rifenet.json", *(f"{name}.onnx" for name in GRAPHS)}
    for name in GRAPHS:
        graph = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        onnx.checker.check_model(graph, full_check=True)
        data = (folder / f"{name}.onnx").read_bytes()
        assert str(Path(torch.__file__).parent).encode() not in data
        assert b"stack_trace" not in data
        marked = [node.name.startswith("backbone.") for node in graph.graph.node]
        assert any(marked) == (name != "decode")
        assert not all(marked)


def test_encoding_a_query_computes_nothing_that_decoding_computes_again(exported: tuple[Path, Path]) -> None:
    """The affinity is the only product of matrices in `QueryFeatures`, and cannot leave a graph."""
    products = {name: 0 for name in ("encode_query", "decode")}
    for name in products:
        graph = onnx.load(exported[1] / f"{name}.onnx").graph
        products[name] = sum(node.op_type == "MatMul" for node in graph.node)
    assert load_model(exported[0]).evidence is not None
    assert products["encode_query"] == 0
    assert products["decode"] > 0


@pytest.mark.parametrize("options", [{}, {"stem": "caffe", "stride_on": "conv1"}], ids=["plain", "caffe"])
def test_the_baseline_exports_too(tmp_path: Path, options: dict[str, object]) -> None:
    model = write_smallest_model(tmp_path / "prototype.safetensors", kind="prototype", **options)
    engine = TorchEngine.load(model, device="cpu")
    write_unchecked(engine, tmp_path / "folder")
    agreement = compare(engine, OnnxEngine(tmp_path / "folder"))
    assert agreement.logit_difference < 1e-4
    assert agreement.mask_iou > 0.999
    write_unchecked(engine, tmp_path / "int8", int8=True)
    assert compare(engine, OnnxEngine(tmp_path / "int8")).mask_iou > 0.8  # random weights


@pytest.mark.parametrize("kind", ["pfenet", "hsnet", "any_backbone"])
def test_a_head_that_cannot_be_exported_is_refused(kind: str) -> None:
    model = build_model(kind=kind, backbone="resnet18", stride=16, pretrained=False)
    with pytest.raises(ValueError, match=f"but got {kind}"):
        build_graphs(model, 97)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"use_local": False, "use_global": False},
        {"layers": 0},
        {"cross_attention": False},
        {"self_attention": False, "cycle": False, "local_refine": False},
        {"evidence": False, "stem": "caffe", "stride_on": "conv1", "backbone": "resnet50"},
        {"deep_stages": "resize"},
        {"stem": "deep", "normalization": "caffe"},
    ],
    ids=str,
)
def test_every_variant_exports(tmp_path: Path, options: dict[str, object]) -> None:
    engine = TorchEngine.load(write_smallest_model(tmp_path / "variant.safetensors", **options), device="cpu")
    write_unchecked(engine, tmp_path / "folder")
    assert compare(engine, OnnxEngine(tmp_path / "folder")).logit_difference < 1e-3


@pytest.mark.slow
def test_an_efficientnet_exports(tmp_path: Path) -> None:
    engine = TorchEngine.load(write_tiny_model(tmp_path / "tiny.safetensors", size=90), device="cpu")
    write_unchecked(engine, tmp_path / "folder")
    assert compare(engine, OnnxEngine(tmp_path / "folder")).logit_difference < 1e-3
