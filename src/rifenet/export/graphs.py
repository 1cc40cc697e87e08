"""The three methods of a model as ONNX graphs with free batch, shots and image size.

Over a backbone that is not the program's own, the images have the size that the model sees: positions of patches are
computed from it.

Letters: B batch, K shots, H W image size.

`torch.export` traces the code with symbols in place of sizes. It cannot trace two steps of the backbones that depend on
a size. The export replaces them in a copy of the model. A run on one small picture tells which stages to resize to the
grid. The ONNX attribute `auto_pad` does TensorFlow's SAME padding of strided convolutions.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import onnx
import torch
import torch.fx.experimental._config as exporter_config
from torch import Tensor, nn

from rifenet.models import Backbone, Features, Prototype, RiFeNet, aligned_resize
from rifenet.models.backbones.base import OF_PHOTO
from rifenet.models.backbones.efficientnet_lite import SameConv2d
from rifenet.models.backbones.photo_edges import photo_edges
from rifenet.models.backbones.staged import StagedBackbone
from rifenet.models.beyond.evidence_network import EvidenceNetwork
from rifenet.models.beyond.support_views import viewed_features
from rifenet.models.structures import Tensors
from rifenet.segmenting.segmenter import MAX_SHOTS

OPSET = 20
BACKBONE = "backbone."
"""Prefix of the names of the backbone's nodes; no other node has it."""
VALID = "image_valid"
_PROBE = 97  # pixels; small, and stages of different strides have different grids at this side
_EXAMPLE = (2, 3, 161, 145)  # B, K, H, W while tracing; torch would make a 0 or 1 a constant


class Fields(NamedTuple):
    """Names of the tensors that the encoders hand to `decode`, in order."""

    context: tuple[str, ...]
    features: tuple[str, ...]


class _Backbone(nn.Module):
    """`Backbone.forward` and `stages` without branches on the image's size."""

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        with torch.no_grad():
            shapes = [stage.shape[-2:] for stage in inner._run(torch.zeros(1, 3, _PROBE, _PROBE))]
        grid = inner.grid(_PROBE, _PROBE)
        self.on_grid = [stage for stage in inner.used_stages if shapes[stage - 1] == grid]
        if not self.on_grid:
            raise ValueError(
                f"Expected a used stage of {inner.name} at stride {inner.stride}, but stages {inner.used_stages} all"
                " have another stride. Name a stage of that stride in model.low, mid or high."
            )
        self.inner = inner
        _replace_same_padding(inner)

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `Backbone.stages`."""
        inner = self.inner
        found = list(inner._run(((images.flip(1) if inner._bgr else images) - inner.mean) / inner.deviation))
        grid = found[self.on_grid[0] - 1].shape[-2:]
        kept = [
            found[stage - 1] if stage in self.on_grid else aligned_resize(found[stage - 1], (grid[0], grid[1]))
            for stage in inner.used_stages
        ]
        if inner.levels.fine == OF_PHOTO:
            return (*kept, photo_edges(images))
        return (*kept, *([found[inner.levels.fine - 1]] if inner.levels.fine else []))

    def forward(self, images: Tensor) -> Features:
        """As `Backbone.forward`, with any leading dimensions."""
        flat = self.inner.assemble(self.stages(images.flatten(0, -4)))
        return Features(*(level.unflatten(0, images.shape[:-3]) for level in flat))


class _FixedBackbone(nn.Module):
    """`StagedBackbone.forward` and `stages` for images of one size, without folded layers."""

    def __init__(self, inner: StagedBackbone) -> None:
        super().__init__()
        self.inner = StagedBackbone(inner.name, inner.stages_again(), stride=inner.stride, levels=inner.levels)

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `Backbone.stages`."""
        return self.inner._stages(images)

    def forward(self, images: Tensor) -> Features:
        """As `Backbone.forward`, with any leading dimensions."""
        flat = self.inner.assemble(self.stages(images.flatten(0, -4)))
        return Features(*(level.unflatten(0, images.shape[:-3]) for level in flat))


class _SamePadded(nn.Conv2d):
    """Replaces a `SameConv2d`."""


def _replace_same_padding(module: nn.Module) -> None:
    """Gives every SAME convolution its padding for odd sides; `_clean` makes strided ones fit any side."""
    for name, child in module.named_children():
        if not isinstance(child, SameConv2d):
            _replace_same_padding(child)
            continue
        (kernel, _), (dilation, _) = child.kernel_size, child.dilation
        plain = _SamePadded(
            child.in_channels,
            child.out_channels,
            kernel,
            child.stride[0],
            padding=(kernel - 1) * dilation // 2,
            dilation=dilation,
            groups=child.groups,
            bias=False,
        )
        plain.weight = child.weight
        setattr(module, name, plain)


class _EncodeSupport(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def context(self, images: Tensor, masks: Tensor, valid: Tensor) -> Tensors:
        context: Tensors
        if isinstance(self.model, Prototype):
            context = self.model.encode_support(images, masks, valid)
        else:
            shots = images, masks, valid
            views = viewed_features(self.model.backbone, *shots, self.model.config, at_once=True)
            context = self.model.encode_support(*views)
        return context

    def forward(self, images: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.context(images, masks, valid))


class _EncodeQuery(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def features(self, images: Tensor, valid: Tensor) -> Tensors:
        features: Tensors
        if isinstance(self.model, Prototype):
            features = self.model.encode_query(images, valid)
        elif isinstance(self.model, EvidenceNetwork):
            # Without affinity: a graph's input cannot have its side h*w, a product of two free sizes.
            features = self.model._query(self.model.backbone(images), valid, affinity=False)
        else:
            features = self.model.encode_query(self.model.backbone(images), valid)
        return features

    def forward(self, images: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.features(images, valid))


class _Decode(nn.Module):
    def __init__(self, model: Any, fields: Fields) -> None:
        super().__init__()
        self.model = model
        self.fields = fields

    def forward(self, features: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        seen = self.model.features_type(**dict(zip(self.fields.features, features, strict=True)))
        learned = self.model.context_type(**dict(zip(self.fields.context, context, strict=True)))
        logits: Tensor = self.model.decode(seen, learned)
        return logits


def build_graphs(model: RiFeNet | Prototype, size: int = 0) -> tuple[dict[str, onnx.ModelProto], Fields]:
    """The graphs `encode_support`, `encode_query` and `decode`, and the names of the tensors between them.

    `size` is the side of the images in pixels, which matters over a `StagedBackbone` alone.

    Inputs are the arguments of the model's methods: masks as uint8, valid masks as bool and required. Outputs are the
    fields of the methods' results. `decode` takes the fields of both, with as many queries as contexts. The names of
    the backbone's nodes start with `backbone.`. `model` itself does not change.

    Raises ValueError for a backbone without a used stage on the feature grid, for a head whose layers depend on the
    size of its input, and for the head over any backbone, which torch.export takes with a fixed number of photos only.
    """
    if model.config.kind in ("pfenet", "hsnet", "any_backbone"):
        raise ValueError(
            f"Expected a model of kind rifenet, cyctr or prototype to export, but got {model.config.kind}."
        )
    model = copy.deepcopy(model).cpu().eval()
    batch, shots, height, width = _EXAMPLE
    fixed = isinstance(model.backbone, StagedBackbone)
    if fixed:
        height = width = size
    model.backbone = (_FixedBackbone if fixed else _Backbone)(model.backbone)  # type: ignore[assignment,arg-type]
    images = torch.rand(batch, shots, 3, height, width, generator=torch.Generator().manual_seed(0))
    masks = (images[:, :, 0] > 0.5).to(torch.uint8)
    valid = torch.ones(batch, shots, height, width, dtype=torch.bool)
    support, query = _EncodeSupport(model), _EncodeQuery(model)
    with torch.no_grad():
        learned, seen = support.context(images, masks, valid), query.features(images[:, 0], valid[:, 0])
    fields = Fields(tuple(learned.named()), tuple(seen.named()))
    context, features = tuple(learned), tuple(seen)
    decode = _Decode(model, fields)
    free = torch.export.Dim
    sizes = {
        "batch": free("batch", min=1, max=1024),
        "shots": free("shots", min=1, max=MAX_SHOTS),
        "height": None if fixed else free("height", min=32, max=8192),
        "width": None if fixed else free("width", min=32, max=8192),
    }
    views = free("learned", min=1, max=MAX_SHOTS * model.config.support_views)  # all views of all shots
    of_images = [sizes["batch"], None, sizes["height"], sizes["width"]]
    of_support = [sizes["batch"], sizes["shots"], None, sizes["height"], sizes["width"]]
    of_masks, of_valid = of_support[:2] + of_support[3:], of_images[:1] + of_images[2:]  # without the colours
    graphs = {
        "encode_support": _export(
            support,
            (images, masks, valid),
            _axes(of_support, of_masks, of_masks),
            ["images", "masks", VALID],
            fields[0],
        ),
        "encode_query": _export(
            query, (images[:, 0], valid[:, 0]), _axes(of_images, of_valid), ["images", VALID], fields[1]
        ),
        "decode": _export(
            decode,
            (features, context),
            tuple(
                tuple(_axes_of_fields(names, sizes | {"shots": views})) for names in (fields.features, fields.context)
            ),
            [*fields.features, *fields.context],
            ("logits",),
        ),
    }
    return graphs, fields


def _axes(*inputs: list[Any]) -> tuple[dict[int, Any], ...]:
    return tuple({axis: size for axis, size in enumerate(sizes) if size is not None} for sizes in inputs)


def _axes_of_fields(names: tuple[str, ...], sizes: dict[str, Any]) -> Iterator[dict[int, Any]]:
    """Free axes of each field. B and K are those of the images; `structures.py` explains the other sizes."""
    free = {
        name: torch.export.Dim(name, min=3, max=2**20) for name in ("h", "w", "f", "g", "tokens", "keys", "evidence")
    }
    grid = {2: free["h"], 3: free["w"]}
    axes = {
        **dict.fromkeys(("local", "projected", "high", "features"), grid),
        "fine": {2: free["f"], 3: free["g"]},
        "valid": {1: free["h"], 2: free["w"]},
        **{name: {1: free["tokens"]} for name in ("tokens", "token_labels", "token_valid")},
        **{name: {1: sizes["shots"], 2: free["keys"]} for name in ("prior_keys", "prior_valid")},
        "evidence_keys": {1: free["evidence"]},
        "evidence_weights": {2: free["evidence"]},
    }
    for name in names:
        yield {0: sizes["batch"], **axes.get(name, {})}


def _export(
    module: nn.Module, arguments: tuple[Any, ...], axes: tuple[Any, ...], inputs: list[str], outputs: tuple[str, ...]
) -> onnx.ModelProto:
    with quiet("torch.onnx"), exporter_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        # A call of its own: torch.onnx.export would fall back to fixed sizes where free ones fail.
        # On a grid of fixed size, the tracer cannot see that K times the grid holds the slots to fill; it need not.
        fixed = any(isinstance(part, _FixedBackbone) for part in module.modules())
        traced = torch.export.export(
            module.eval(), arguments, dynamic_shapes=axes, prefer_deferred_runtime_asserts_over_guards=fixed
        )
        program = torch.onnx.export(
            traced,
            dynamic_shapes=axes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns the program where it is given no file"
    graph: onnx.ModelProto = program.model_proto
    _clean(graph, same=any(isinstance(part, _SamePadded) for part in module.modules()))
    return graph


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silences warnings, and the logger `name` below ERROR, which reports steps and unused packages."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _clean(graph: onnx.ModelProto, same: bool) -> None:
    """Names the backbone's nodes; drops inputs that no node reads, and stack traces, which would reveal local paths.

    `same` gives the backbone's strided convolutions SAME padding.
    """
    read = {name for node in graph.graph.node for name in node.input}
    for value in [value for value in graph.graph.input if value.name not in read]:
        graph.graph.input.remove(value)
    for number, node in enumerate(graph.graph.node):
        scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
        node.name = f"{BACKBONE if 'model.backbone' in scopes else ''}{node.op_type}_{number}"
        del node.metadata_props[:]
        if same and node.op_type == "Conv" and node.name.startswith(BACKBONE):
            _pad_same(node)
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
    del graph.metadata_props[:], graph.graph.metadata_props[:]


def _pad_same(node: onnx.NodeProto) -> None:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "strides" not in attributes or set(attributes["strides"].ints) == {1}:
        return  # at stride 1 the padding is the same at any size
    for name in ("pads", "auto_pad"):
        if name in attributes:
            node.attribute.remove(attributes[name])
    node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
