"""ResNet-18/34/50/101 dilated to stride 8 or 16 (He et al. 2016; method.md 3).

Module names are torchvision's, with PSPNet's for the deep stem, so that published state dicts load as they are.
Where a stride is removed, the convolution that carried it keeps the previous dilation, and later convolutions are twice
as dilated. With the stride on `conv2` this is torchvision's rule. In every variant, the dilated network then equals the
undilated one at each position that the undilated one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor, nn

from rifenet.models.backbones.base import Backbone, Levels, Normalization

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
BASIC = ("resnet18", "resnet34")
NORMALIZATIONS = {
    "imagenet": Normalization(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)),
    "caffe": Normalization(mean=(104 / 255, 117 / 255, 123 / 255), deviation=(1 / 255,) * 3, bgr=True),
}


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps positions: padding equal to the dilation."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1 projection of the identity path, for blocks that change the channels; all blocks with a stride do."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first carries the stride and has `dilation_in`, the second has `dilation`."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, *, stride: int, dilation_in: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride, dilation_in)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, 1, dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu1, self.relu = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, planes, stride) if inputs != planes else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w] -> [B, planes, h / stride, w / stride]`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; `stride_on` names the one that carries the stride."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, *, stride: int, dilation_in: int, dilation: int, stride_on: str
    ) -> None:
        super().__init__()
        outputs = planes * self.expansion
        strides = (stride, 1) if stride_on == "conv1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, planes, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, strides[1], dilation if stride_on == "conv1" else dilation_in)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.relu = (nn.ReLU(inplace=True) for _ in range(3))
        self.downsample = shortcut(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w] -> [B, 4 * planes, h / stride, w / stride]`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class ResNet(Backbone):
    """Frozen ResNet; stages 1 to 4 are `layer1` to `layer4`, built up to the last one used.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        stride: 8 or 16.
        dilate: dilate the stages past `stride`; if not, they keep their stride and their features are resized.
        stem: plain (7x7), deep (PSPNet's three 3x3 of 64, 64, 128 channels) or caffe (7x7, max-pool without padding).
        stride_on: bottleneck convolution that carries the stride, conv1 or conv2; basic blocks have it on conv1.
        width: multiplier of the stages' channels; the stem keeps its own.
        normalization: imagenet, or caffe (BGR 0..255 minus 104, 117, 123).
        levels: stages of low, mid and high; empty ones take 2, (2, 3) and 4.
    """

    def __init__(
        self,
        name: str,
        *,
        stride: int,
        dilate: bool,
        stem: str,
        stride_on: str,
        width: float,
        normalization: str,
        levels: Levels,
    ) -> None:
        base = int(64 * width)
        if base < 1:
            raise ValueError(f"Expected width to leave at least 1 of 64 channels, but got {width}.")
        block: Callable[..., nn.Module] = BasicBlock if name in BASIC else partial(Bottleneck, stride_on=stride_on)
        expansion = BasicBlock.expansion if name in BASIC else Bottleneck.expansion
        super().__init__(
            name,
            stride=stride,
            levels=Levels(levels.low or (2,), levels.mid or (2, 3), levels.high or (4,), levels.fine),
            stage_channels=[base * 2**i * expansion for i in range(4)],
            normalization=NORMALIZATIONS[normalization],
        )
        self.stem = stem
        self.relu = nn.ReLU(inplace=True)
        if stem == "deep":
            self.conv1 = conv3x3(3, 64, stride=2)
            self.conv2, self.bn2 = conv3x3(64, 64), nn.BatchNorm2d(64)
            self.conv3, self.bn3 = conv3x3(64, 128), nn.BatchNorm2d(128)
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        # Caffe pools in ceil mode. After a ReLU, zeros at the far side give the same result, and an export can trace
        # them.
        self.maxpool = (
            nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
            if stem == "caffe"
            else nn.MaxPool2d(3, 2, padding=1)
        )

        inputs, reached, dilation_in = 128 if stem == "deep" else 64, 4, 1
        for stage in range(1, self.used_stages[-1] + 1):
            planes = base * 2 ** (stage - 1)
            first = 1 if stage == 1 else 2
            removed = dilate and reached * first > stride
            dilation = dilation_in * first if removed else dilation_in
            if removed:
                first = 1
            blocks = [block(inputs, planes, stride=first, dilation_in=dilation_in, dilation=dilation)]
            inputs = planes * expansion
            for _ in range(1, BLOCKS[name][stage - 1]):
                blocks.append(block(inputs, planes, stride=1, dilation_in=dilation, dilation=dilation))
            for added in blocks:  # for random weights: all branches of a stage have the scale of one
                last_norm = [layer for layer in added.children() if isinstance(layer, nn.BatchNorm2d)][-1]
                nn.init.constant_(last_norm.weight, len(blocks) ** -0.5)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            reached, dilation_in = reached * first, dilation
        self._freeze()

    def _run(self, normalized: Tensor) -> Iterator[Tensor]:
        x = self.relu(self.bn1(self.conv1(normalized)))
        if self.stem == "deep":
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        x = self.maxpool(x)
        for stage in range(1, self.used_stages[-1] + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            yield x

    def _side(self, pixels: int) -> int:
        if self.stem != "caffe":
            return super()._side(pixels)
        pooled = -(-pixels // 2) // 2  # windows of 3 without padding: one for every 2 rows, none for the odd one
        return -(-pooled // (self.stride // 4))

    def norms(self) -> Iterator[tuple[str, str]]:
        """`bn2` follows `conv2`, and so on; in a shortcut, layer 1 follows layer 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                parent, _, own = name.rpartition(".")
                convolution = own.replace("bn", "conv") if own.startswith("bn") else "0"
                yield name, f"{parent}.{convolution}" if parent else convolution

    def activations(self) -> Iterator[tuple[str, str]]:
        """`relu` follows each convolution of the stem, and `relu1` the `conv1` of a block, and so on up to the sum."""
        for name, module in self.named_modules():
            parent, _, own = name.rpartition(".")
            if isinstance(module, nn.Conv2d) and not parent:
                yield name, "relu"
            elif isinstance(module, nn.Conv2d):
                relu = own.replace("conv", "relu")
                follows = relu != own and hasattr(self.get_submodule(parent), relu)
                yield name, f"{parent}.{relu}" if follows else ""

    def own_key(self, key: str) -> str | None:
        """Drops the classifier and the stages past the last used one; keeps other names."""
        deeper = tuple(f"layer{stage}." for stage in range(self.used_stages[-1] + 1, 5))
        return None if key.startswith(("fc.", *deeper)) else key
