"""The authors' checkpoints become diffsight models, with a report of every key."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.sources import read_tensors
from diffsight.hub.convert.evp import convert_evp_depth, convert_evp_referring
from diffsight.hub.convert.vpd import (
    convert_vpd_depth,
    convert_vpd_referring,
    convert_vpd_segmentation,
)
from diffsight.model import DenseModel
from diffsight.types import InputError

Converter = Callable[..., tuple[DenseModel, KeyReport]]
"""Builds our model around the tensors of an original state dict; options are keywords."""

CONVERTERS: Mapping[str, Converter] = {
    "evp-depth": convert_evp_depth,
    "evp-referring": convert_evp_referring,
    "vpd-depth": convert_vpd_depth,
    "vpd-referring": convert_vpd_referring,
    "vpd-segmentation": convert_vpd_segmentation,
}


def read_original(path: str | Path) -> dict[str, Tensor]:
    """The state dict inside an original checkpoint: plain, or under ``model`` or ``state_dict``;
    ``module.`` goes.

    Raises:
        InputError: if the file cannot be read safely or holds no tensors.
    """
    container: Any = read_tensors(Path(path))
    for wrapper in ("model", "state_dict"):
        if isinstance(container, Mapping) and isinstance(container.get(wrapper), Mapping):
            container = container[wrapper]
    if not isinstance(container, Mapping):
        raise InputError(f"{path}: holds a {type(container).__name__}, not a state dict")
    tensors = {k.removeprefix("module."): v for k, v in container.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f"{path}: no tensors in it: is it a checkpoint?")
    return tensors
