"""Backbones: networks that turn an image into a pyramid of features."""

from diffsight.backbones.base import AbstractBackbone, AbstractDiffusionBackbone, PretrainedPart
from diffsight.backbones.bev import CameraLidarMap, CameraMap, LidarMap
from diffsight.backbones.clip import ClipVision
from diffsight.backbones.concept_maps import ConceptRequest
from diffsight.backbones.efficientnet import EfficientNetLite0
from diffsight.backbones.side_by_side import SideBySide
from diffsight.backbones.source import BackboneSource
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.backbones.vision import ClipTokens, VisionBackbone

__all__ = [
    "AbstractBackbone",
    "AbstractDiffusionBackbone",
    "BackboneSource",
    "CameraLidarMap",
    "CameraMap",
    "ClipTokens",
    "ClipVision",
    "ConceptRequest",
    "EfficientNetLite0",
    "LidarMap",
    "PretrainedPart",
    "SideBySide",
    "StableDiffusion",
    "VisionBackbone",
]
