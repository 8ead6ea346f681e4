"""Computations that mixed precision must not touch."""

import torch
from torch import Tensor


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which operations on the tensor's device keep their precision.

    The meta device, on which passes are only counted, has no mixed precision to turn off.
    """
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)
