"""Blocks of convolutional layers, and the initialisation of convolutions."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can be trained on a single value per channel.

    A small image alone in its batch has only one pixel at the coarsest level of a network. One
    value has no variance, so it is normalised with the running statistics, and does not change
    them.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised maps."""
        if self.training and input[:, 0].numel() == 1:
            statistics = self.running_mean, self.running_var
            return functional.batch_norm(input, *statistics, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def start_convolutions(module: nn.Module, draw: Callable[[Tensor], Any]) -> None:
    """Initialise all convolutions in a module.

    Args:
        module: module with the convolutions.
        draw: initialises a weight in place, such as a function of ``nn.init``. Biases become 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def conv_block(channels: int, width: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalisation and ReLU.

    Args:
        channels: channels of the input.
        width: channels of the output.
        kernel: size of the kernel.
        stride: stride; 1 keeps the size of the map.
    """
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(width), nn.ReLU(inplace=True))


def fcn_head(channels: int, outputs: int, width: int = 256, dropout: float = 0.1) -> nn.Sequential:
    """Return a head of two convolutions with dropout between them (Long et al., 2015).

    Args:
        channels: channels of the input.
        outputs: channels of the output.
        width: channels between the convolutions.
        dropout: probability of hiding a channel.
    """
    last = nn.Conv2d(width, outputs, 1)
    return nn.Sequential(conv_block(channels, width), nn.Dropout2d(dropout), last)
