"""Codecs in files."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffsight.codecs.base import AbstractCodec
from diffsight.codecs.discrete import Discrete
from diffsight.codecs.scalar import ScalarBins
from diffsight.codecs.vector import VectorWords
from diffsight.errors import InputError

KINDS: Mapping[str, type[AbstractCodec]] = {c.kind: c for c in (Discrete, ScalarBins, VectorWords)}


def from_state(
    kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> AbstractCodec:
    """The codec whose ``kind`` and ``state`` these are.

    Raises:
        InputError: if there is no such kind, or something is missing or superfluous.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of labels {kind!r}: this version has {', '.join(KINDS)}")
    try:
        return KINDS[kind](**settings, **tensors)
    except TypeError as error:
        raise InputError(f"labels of kind {kind!r} are not whole: {error}") from None
