"""Methods: one module per paper, which connects a backbone, prompts, a neck and a head."""

from diffsight.methods.base import AbstractMethod
from diffsight.methods.conditioned import Conditioned
from diffsight.methods.ddp import DDP
from diffsight.methods.evp import EVP
from diffsight.methods.feature_head import FeatureHead
from diffsight.methods.few_shot import FewShot
from diffsight.methods.linear_probe import LinearProbe
from diffsight.methods.meta_prompts import MetaPrompts
from diffsight.methods.small_unet import SmallUNet
from diffsight.methods.vpd import VPD

__all__ = [
    "DDP",
    "EVP",
    "VPD",
    "AbstractMethod",
    "Conditioned",
    "FeatureHead",
    "FewShot",
    "LinearProbe",
    "MetaPrompts",
    "SmallUNet",
]
