"""Named evaluation protocols: ``get("nyu-eigen-v1")``."""

import dataclasses
import difflib

from diffsight.protocols.depth import (
    KITTI_GARG_V1,
    NYU_EIGEN_V1,
    ROOMS_V1,
    DepthProtocol,
    PromptRule,
)
from diffsight.types import InputError

__all__ = ["DepthProtocol", "PromptRule", "get", "names"]

_PROTOCOLS = {protocol.name: protocol for protocol in (NYU_EIGEN_V1, KITTI_GARG_V1, ROOMS_V1)}


def names() -> tuple[str, ...]:
    """The names that ``get`` knows."""
    return tuple(_PROTOCOLS)


def get(name: str, *, prompt: PromptRule = "mean") -> DepthProtocol:
    """A protocol by name, with the prompt rule that the evaluation wants.

    Raises:
        InputError: naming the nearest protocol, if there is none of this name.
    """
    if name not in _PROTOCOLS:
        nearest = difflib.get_close_matches(name, names(), n=1, cutoff=0)[0]
        raise InputError(
            f"unknown protocol {name!r}: did you mean {nearest!r}? (known: {', '.join(names())})"
        )
    return dataclasses.replace(_PROTOCOLS[name], prompt=prompt)
