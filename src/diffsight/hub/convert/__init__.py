"""Converters of the authors' checkpoints into diffsight models, with a report of every key."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.sources import read_tensors
from diffsight.errors import InputError
from diffsight.formats.tensors import is_dense
from diffsight.hub.convert.evp import convert_evp_depth, convert_evp_referring
from diffsight.hub.convert.layout import IncompleteError
from diffsight.hub.convert.vpd import (
    convert_vpd_depth,
    convert_vpd_referring,
    convert_vpd_segmentation,
)
from diffsight.model import DenseModel

__all__ = [
    "CONVERTERS",
    "Converter",
    "IncompleteError",
    "convert_evp_depth",
    "convert_evp_referring",
    "convert_vpd_depth",
    "convert_vpd_referring",
    "convert_vpd_segmentation",
    "read_original",
]

Converter = Callable[..., tuple[DenseModel, KeyReport]]
"""Builds our model around the tensors of an original state dict; options are keywords."""

CONVERTERS: Mapping[str, Converter] = {
    "evp-depth": convert_evp_depth,
    "evp-referring": convert_evp_referring,
    "vpd-depth": convert_vpd_depth,
    "vpd-referring": convert_vpd_referring,
    "vpd-segmentation": convert_vpd_segmentation,
}


def read_original(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state dict inside an original checkpoint, and the reasons why others are dropped.

    The state dict is the file itself, or under ``model`` or ``state_dict``; ``module.`` is removed
    from its names.

    Raises:
        InputError: if the file cannot be read safely, holds no tensors, or gives an entry twice
            with different values.
    """
    container: Any = read_tensors(Path(path))
    dropped: dict[str, str] = {}
    for wrapper in ("model", "state_dict"):
        if isinstance(container, Mapping) and isinstance(container.get(wrapper), Mapping):
            beside = f"beside {wrapper}, which holds the weights"
            dropped |= {str(key): beside for key in container if key != wrapper}
            container = container[wrapper]
    if not isinstance(container, Mapping):
        raise InputError(f"{path}: holds a {type(container).__name__}, not a state dict")
    tensors: dict[str, Tensor] = {}
    for key, value in container.items():
        name = str(key).removeprefix("module.")
        if not is_dense(value):
            dropped[str(key)] = f"not a tensor: {type(value).__name__}"
        elif name not in tensors:
            tensors[name] = value
        elif _same(tensors[name], value):
            dropped[f"module.{name}"] = f"equals {name}"
        else:
            raise InputError(
                f"{path}: {name} and module.{name} are not equal: remove the wrong one"
            )
    if not tensors:
        raise InputError(f"{path}: no tensors in it: is it a checkpoint?")
    return tensors, dropped


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
