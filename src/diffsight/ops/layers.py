"""The start of convolutions."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def start_convolutions(module: nn.Module, draw: Callable[[Tensor], Any]) -> None:
    """Draw the weights of all convolutions in a module; their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
