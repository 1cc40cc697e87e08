"""Quantises the backbone of a graph to 8 bits: statically, per channel, with ranges from real photos.

Only the backbone's convolutions, and the sums and activations between them, leave float32. Similarity, prior, attention
and head keep it, because they depend on small differences between features. The first convolutions keep it too:
rounding their few channels, whose ranges differ widely, made more than half of the error and saved no time
(docs/export.md). ReLU6 costs nothing: the 8-bit range of its output ends at the same limits. Both encoders see the same
photos, so that supports and queries are rounded alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from rifenet.data.transforms import resize_and_pad
from rifenet.examples.samples import load_examples
from rifenet.export.graphs import BACKBONE, VALID, quiet
from rifenet.formats.pictures import load_image

OPERATORS = ["Conv", "Add", "Relu", "Clip", "MaxPool"]
EXACT = 6
"""Number of convolutions, from the first on, that stay float32."""
MAX_PHOTOS = 64
"""Largest number of calibration photos; more of them hardly change the ranges."""


def quantize_graphs(
    graphs: dict[str, onnx.ModelProto], size: int, photos: Sequence[Path] = ()
) -> dict[str, onnx.ModelProto]:
    """The same graphs with 8-bit backbones.

    Args:
        graphs: from `build_graphs`.
        size: side of the square network input, pixels.
        photos: photos that set the ranges, evenly chosen down to `MAX_PHOTOS`; empty takes the bundled ones.

    Raises ValueError for a photo that cannot be read.
    """
    photos = list(photos) or [example.image for example in load_examples()[1]]
    chosen = [photos[i * len(photos) // MAX_PHOTOS] for i in range(MAX_PHOTOS)] if len(photos) > MAX_PHOTOS else photos
    return {
        "encode_support": quantize(graphs["encode_support"], _inputs(chosen, size, True)),
        "encode_query": quantize(graphs["encode_query"], _inputs(chosen, size, False)),
        "decode": graphs["decode"],
    }


def quantize(graph: onnx.ModelProto, inputs: Iterator[dict[str, NDArray[Any]]]) -> onnx.ModelProto:
    """`graph` with its backbone in 8 bits; runs on `inputs` set the ranges.

    Raises ValueError for a backbone of fewer convolutions than stay exact, as one of attention.
    """
    backbone = [node for node in graph.graph.node if node.name.startswith(BACKBONE)]
    convolutions = [node.name for node in backbone if node.op_type == "Conv"]
    if len(convolutions) <= EXACT:
        raise ValueError(
            f"Expected a backbone of more than {EXACT} convolutions for 8 bits, but this one has {len(convolutions)}. "
            "Backbones of attention have no 8 bits here. Leave --int8 out."
        )
    exact = convolutions[:EXACT]
    read = {value.name for value in graph.graph.input}  # the baseline reads no valid mask
    with quiet(""), tempfile.TemporaryDirectory(prefix="rifenet-int8-") as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, source)
        quantize_static(
            source,
            target,
            _Reader({name: each[name] for name in read & each.keys()} for each in inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            nodes_to_quantize=[node.name for node in backbone if node.name not in exact],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(target)


def _inputs(photos: Sequence[Path], size: int, support: bool) -> Iterator[dict[str, NDArray[Any]]]:
    middle = np.zeros((1, 1, size, size), np.uint8)
    middle[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    for photo in photos:
        image, valid, _ = resize_and_pad(load_image(photo), size)
        query = {"images": image[None], VALID: valid[None]}
        yield {**{name: array[None] for name, array in query.items()}, "masks": middle} if support else query


class _Reader(CalibrationDataReader):
    def __init__(self, inputs: Iterator[dict[str, NDArray[Any]]]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.inputs, None)
