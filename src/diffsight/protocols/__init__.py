"""Named evaluation protocols, such as ``get("nyu-eigen-v1")``."""

from diffsight.errors import InputError, suggest
from diffsight.protocols.base import AbstractProtocol, PromptRule
from diffsight.protocols.classes import (
    ADE20K_MS7_V1,
    ADE20K_MS_V1,
    ADE20K_SS_V1,
    CITYSCAPES_MS_V1,
    CITYSCAPES_SS_V1,
    CLASSES_V1,
    ClassProtocol,
)
from diffsight.protocols.depth import (
    KITTI_GARG_V1,
    NYU_EIGEN_V1,
    ROOMS_V1,
    SUN_RGBD_V1,
    DepthProtocol,
)
from diffsight.protocols.maps import MAPS_V1, NUSCENES_MAP_V1, MapProtocol
from diffsight.protocols.pose import COCO_POSE_V1, POSE_V1, PoseProtocol
from diffsight.protocols.referring import (
    REFCOCO_PLUS_V1,
    REFCOCO_V1,
    REFCOCOG_V1,
    SENTENCES_V1,
    ReferringProtocol,
)
from diffsight.protocols.task import TaskProtocol

__all__ = [
    "AbstractProtocol",
    "ClassProtocol",
    "DepthProtocol",
    "MapProtocol",
    "PoseProtocol",
    "PromptRule",
    "ReferringProtocol",
    "TaskProtocol",
    "get",
    "names",
]

_ALL = (
    NYU_EIGEN_V1,
    KITTI_GARG_V1,
    SUN_RGBD_V1,
    ROOMS_V1,
    ADE20K_SS_V1,
    ADE20K_MS_V1,
    ADE20K_MS7_V1,
    CITYSCAPES_SS_V1,
    CITYSCAPES_MS_V1,
    CLASSES_V1,
    REFCOCO_V1,
    REFCOCO_PLUS_V1,
    REFCOCOG_V1,
    SENTENCES_V1,
    COCO_POSE_V1,
    POSE_V1,
    NUSCENES_MAP_V1,
    MAPS_V1,
)
_PROTOCOLS: dict[str, AbstractProtocol] = {protocol.name: protocol for protocol in _ALL}


def names() -> tuple[str, ...]:
    """Return the names of all protocols."""
    return tuple(_PROTOCOLS)


def get(name: str, *, prompt: PromptRule = "mean") -> AbstractProtocol:
    """Return a protocol by name.

    Args:
        name: one of ``names()``.
        prompt: which prompt the model gets: ``mean`` (none), ``oracle-scene`` (the true scene type
            of the image) or ``caption`` (a caption of the image).

    Raises:
        InputError: if there is no protocol of this name (the message suggests similar names), or
            if ``prompt`` is not ``mean`` and the protocol does not score depth.
    """
    if name not in _PROTOCOLS:
        near = suggest(name, names(), listing="`diffsight show protocols`")
        raise InputError(f"unknown protocol {name!r}: {near}")
    return _PROTOCOLS[name].with_prompt(prompt)
