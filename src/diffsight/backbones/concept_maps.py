"""Concept maps from Stable Diffusion's attention layers (few_shot, section 3.3).

A concept is a trainable vector that replaces a text token. Its map is M_attn = M_sa^T M_ca: the
self-attention M_sa propagates the concept's cross-attention M_ca from pixel to pixel. Layers are
numbered as in SLiMe.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.backbones.attention_maps import AbstractRecorder, Record, UNetPart, average_heads
from diffsight.errors import InputError
from diffsight.ops.transposed_attention import forward_attention, transposed_attention

# numbers of the 16 attention layers in the order in which they run, from 1 on (the middle is 7)
CROSS_LAYERS = (8, 9, 10, 11, 12)
SELF_LAYERS = (14, 15, 16)
LAYERS = 16
Combine = Literal["per_layer", "slime"]


@dataclass(frozen=True)
class ConceptRequest:
    """Options of concept maps: how attention layers are combined.

    Attributes:
        combine: ``per_layer`` multiplies self- and cross-attention of the same layer, for each of
            the eight layers (as the paper states). ``slime`` multiplies the mean cross-attention of
            layers 8 to 12 with the self-attention of layers 14 to 16 (SLiMe, from which the paper
            takes its layers).
        self_attention: False uses the cross-attention alone (Table 3).
        transposed: a pixel receives from the pixels that attend to it (M_sa^T, as in the paper);
            False: from those that it attends to (M_sa).
        detach: let gradients pass only through the keys of the concepts, not through the UNet's
            features. This is faster, but it is not the gradient of the loss.
    """

    combine: Combine = "per_layer"
    self_attention: bool = True
    transposed: bool = True
    detach: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown value of ``combine``."""
        if self.combine not in get_args(Combine):
            choices = " or ".join(get_args(Combine))
            raise InputError(f"concept maps: unknown combine {self.combine!r}: give {choices}")

    @property
    def cross_layers(self) -> tuple[int, ...]:
        """Numbers of the layers whose cross-attention is read."""
        return CROSS_LAYERS if self.combine == "slime" else CROSS_LAYERS + SELF_LAYERS

    @property
    def last_layer(self) -> int:
        """Number of the last layer that is read."""
        return max(SELF_LAYERS if self.self_attention else self.cross_layers)


@dataclass
class ConceptRecorder(AbstractRecorder):
    """Computes concept maps in one pass of the UNet, without storing a pixels x pixels matrix.

    Attributes:
        request: how layers are combined.
    """

    request: ConceptRequest
    _maps: list[Float[Tensor, "b n _ _"]] = field(default_factory=list)
    _open: bool = True
    _layer: int = 0
    _self_attention: tuple[Tensor, Tensor] | None = None  # query and key of the layer
    _cross: list[Float[Tensor, "b n _ _"]] = field(default_factory=list)

    @property
    def is_satisfied(self) -> bool:
        """Whether the last layer that is read has run."""
        return self._layer >= self.request.last_layer

    def begin_layer(self, level: int, unet_part: UNetPart, hw: tuple[int, int]) -> Record:
        """Return the function that adds the maps of the next layer, if they are used."""
        self._layer += 1
        layer = self._layer

        def record(query: Tensor, key: Tensor, cross: bool) -> None:
            request = self.request
            if request.detach:
                query, key = query.detach(), (key if cross else key.detach())
            if cross and layer in request.cross_layers:
                maps = average_heads(query, key, detach=False).mT.unflatten(2, hw)
                if not request.self_attention:
                    self._store(self._maps, maps)
                elif request.combine == "per_layer":
                    assert self._self_attention is not None  # it comes first in every layer
                    maps = self._propagate(*self._self_attention, maps)
                    self._store(self._maps, maps)
                else:
                    self._store(self._cross, maps)
            elif not cross and request.self_attention:
                if request.combine == "per_layer":
                    self._self_attention = query, key
                elif layer in SELF_LAYERS:
                    resized = [resize_contiguous(one, hw) for one in self._cross]
                    mean = torch.stack(resized).mean(dim=0)
                    self._store(self._maps, self._propagate(query, key, mean))

        return record

    def close(self) -> tuple[Float[Tensor, "b n _ _"], ...]:
        """Return the maps, each at the size of its layer; later ones are ignored.

        The mean of the maps, resized to one size, is M_attn.

        Raises:
            InputError: if the UNet has fewer attention layers than the maps need.
        """
        if self._layer < self.request.last_layer:
            raise InputError(
                f"the UNet has {self._layer} layers with attention, but concept maps need "
                f"{LAYERS}: use Stable Diffusion 1.x or 2.x (two layers per block)"
            )
        self._open = False
        return tuple(self._maps)

    def _store(self, layers: list[Tensor], maps: Tensor) -> None:
        if self._open:  # not a recomputation for the backward pass
            layers.append(maps)

    def _propagate(
        self, query: Tensor, key: Tensor, maps: Float[Tensor, "b n h w"]
    ) -> Float[Tensor, "b n h w"]:
        """Return the maps, propagated by the self-attention of these queries and keys."""
        multiply = transposed_attention if self.request.transposed else forward_attention
        return multiply(query, key, maps.flatten(2).mT).mT.unflatten(2, maps.shape[-2:])


def resize_contiguous(
    maps: Float[Tensor, "b n _ _"], hw: tuple[int, int]
) -> Float[Tensor, "b n h w"]:
    """Return maps resized to ``hw`` (bilinear), from a contiguous copy if they are transposed."""
    return functional.interpolate(maps.contiguous(), hw, mode="bilinear")
