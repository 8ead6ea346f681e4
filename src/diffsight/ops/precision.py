"""Computations that mixed precision must not touch, and how products of 32-bit numbers are made."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

FIRST_WITH_TF32 = (8, 0)  # compute capability: Ampere


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which operations on the tensor's device keep their precision.

    The meta device, on which passes are only counted, has no mixed precision to turn off.
    """
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def has_tf32(device: torch.device) -> bool:
    """Whether the device multiplies 32-bit numbers faster after rounding them to TF32."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_WITH_TF32


def training_products(device: torch.device) -> AbstractContextManager[None]:
    """Return a context for training in 32 bit: TF32 (10 bits) where the GPU has it."""
    return float32_products(tf32=has_tf32(device))


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """A context in which a GPU multiplies 32-bit numbers in TF32, or in full 32 bit.

    PyTorch's own default is TF32 for convolutions and 32 bit for everything else. A CPU always
    computes in 32 bit here.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set(("high" if tf32 else "highest"), tf32)
    try:
        yield
    finally:
        _set(*before)


def _set(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
