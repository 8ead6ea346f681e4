"""Contexts that set the precision of computations: mixed precision off, TF32 on or off."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

FIRST_WITH_TF32 = (8, 0)  # compute capability of the first GPUs with TF32 (Ampere)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context without mixed precision on the device of a tensor.

    For a tensor on the meta device it is one for the CPU, because autocast does not know ``meta``.
    An exported graph never runs in mixed precision, and needs no context.
    """
    if torch.compiler.is_exporting():
        return nullcontext()
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def has_tf32(device: torch.device) -> bool:
    """Return whether the device has TF32, which rounds 32-bit numbers for faster products."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_WITH_TF32


def training_products(device: torch.device) -> AbstractContextManager[None]:
    """Return a context for training in 32 bit; products use TF32 (10-bit mantissa) if possible."""
    return float32_products(tf32=has_tf32(device))


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Return a context in which a GPU multiplies 32-bit numbers in TF32 or in full 32 bit.

    PyTorch's default is TF32 for convolutions and 32 bit for other products. A CPU computes in 32
    bit in both cases.
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
