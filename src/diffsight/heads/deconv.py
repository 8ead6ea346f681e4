"""Transposed convolutions up to the resolution of the image (VPD, depth; SimpleBaseline)."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.heads.base import AbstractHead, require_maps, to_output
from diffsight.ops.layers import start_convolutions
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Pyramid


class DeconvHead(AbstractHead):
    """Enlarges one level to full resolution, and predicts from it.

    Transposed convolutions double the level first, bilinear interpolation doubles it further.

    Args:
        in_channels: channels of the single input level.
        strides: stride of this level, a power of two.
        output: values or classes. Bounded values are ``sigmoid`` times the bound (VPD: the largest
            depth of the data set in metres).
        widths: channels after each transposed convolution.
        width: channels of the full-resolution layers.

    Raises:
        InputError: for several levels, or a stride that is not a power of two or is too small for
            the number of transposed convolutions.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        widths: Sequence[int] = (32, 32, 32),
        width: int = 192,
    ) -> None:
        super().__init__()
        require_maps("DeconvHead", output)
        if len(in_channels) != 1:
            raise InputError(
                f"DeconvHead takes one level, not {len(in_channels)}: put a Merging neck before it"
            )
        doublings = strides[0].bit_length() - 1
        if 2**doublings != strides[0] or doublings < len(widths):
            raise InputError(
                f"DeconvHead doubles {len(widths)} times: stride {strides[0]} must be a power "
                f"of two of at least {2 ** len(widths)}; give fewer widths"
            )
        self.bilinear_doublings = doublings - len(widths)
        self.spec = output
        layers, previous = [], in_channels[0]
        for channels in widths:
            deconv = nn.ConvTranspose2d(previous, channels, 2, stride=2, bias=False)
            layers += [deconv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            previous = channels
        self.deconv = nn.Sequential(*layers)
        self.conv = nn.Sequential(
            nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.output = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, output.channels, 3, padding=1),
        )
        for part in (self.deconv, self.conv, self.output):
            start_convolutions(part, partial(nn.init.normal_, std=0.001))

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the class logits or the values at full resolution (stride 1).

        Args:
            pyramid: pyramid of one level, ``b c h w``.
        """
        return to_output(self.spec, self.output(self.maps(pyramid.features[0])[1]))

    def maps(
        self, x: Float[Tensor, "b c _ _"]
    ) -> tuple[list[Float[Tensor, "b _ _ _"]], Float[Tensor, "b c2 h w"]]:
        """Return the intermediate maps, and the features at full resolution.

        The intermediate maps are those after each transposed convolution and after the first
        bilinear doubling.
        """
        stages = []
        for layer in self.deconv:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                stages.append(x)
        x = self.conv(x)
        for i in range(self.bilinear_doublings):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            if i == 0:
                stages.append(x)
        return stages, x
