"""Devices and dtypes by the names that Python, recipes and the command line use."""

import textwrap
from typing import get_args

import torch

from diffsight.choices import Dtype
from diffsight.errors import InputError

MAX_REASON = 90  # characters of torch's error message, which lists all kinds of devices


def default_device() -> str:
    """Return the name of the GPU if there is one, otherwise that of the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: torch.device | str | None) -> str:
    """Return the name of a device after a computation on it has succeeded.

    Args:
        name: name of the device, such as ``cpu`` or ``cuda:1``; None: ``default_device``.

    Raises:
        InputError: if nothing can be computed on the device.
    """
    device = str(name or default_device())
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = textwrap.shorten(str(error), MAX_REASON, placeholder=" ...")
        repair = "choose another, such as cpu"
        raise InputError(f"device {device!r} cannot be used ({reason}): {repair}") from None
    return device


def mixed_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the dtype for mixed precision (autocast); None stands for no mixed precision.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``, as a name or as a dtype of torch. For None
            and ``float32`` there is no mixed precision.

    Raises:
        InputError: for another dtype.
    """
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in get_args(Dtype):
        raise InputError(f"unknown dtype {name!r}: choose {', '.join(get_args(Dtype))}")
    return None if name == "float32" else getattr(torch, name)
