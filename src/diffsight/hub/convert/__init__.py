"""Convert the authors' checkpoints to diffsight models, with a report on every key."""

from collections.abc import Callable, Mapping

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.hub.convert.ddp import convert_ddp_depth, convert_ddp_segmentation
from diffsight.hub.convert.ddp_bev import convert_ddp_bev
from diffsight.hub.convert.evp import convert_evp_depth, convert_evp_referring
from diffsight.hub.convert.layout import IncompleteError
from diffsight.hub.convert.meta_prompts import (
    convert_meta_prompts_depth,
    convert_meta_prompts_segmentation,
)
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
    "convert_ddp_bev",
    "convert_ddp_depth",
    "convert_ddp_segmentation",
    "convert_evp_depth",
    "convert_evp_referring",
    "convert_meta_prompts_depth",
    "convert_meta_prompts_segmentation",
    "convert_vpd_depth",
    "convert_vpd_referring",
    "convert_vpd_segmentation",
]

Converter = Callable[..., tuple[DenseModel, KeyReport]]
"""A function from the state dict of a checkpoint and options to the model and a report."""

CONVERTERS: Mapping[str, Converter] = {
    "ddp-bev": convert_ddp_bev,
    "ddp-depth": convert_ddp_depth,
    "ddp-segmentation": convert_ddp_segmentation,
    "evp-depth": convert_evp_depth,
    "evp-referring": convert_evp_referring,
    "meta-prompts-depth": convert_meta_prompts_depth,
    "meta-prompts-segmentation": convert_meta_prompts_segmentation,
    "vpd-depth": convert_vpd_depth,
    "vpd-referring": convert_vpd_referring,
    "vpd-segmentation": convert_vpd_segmentation,
}
"""The converters by the name that ``diffsight convert`` takes."""
