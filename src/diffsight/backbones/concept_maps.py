"""Maps of concepts from Stable Diffusion's attentions (few_shot, section 3.3; numbering of SLiMe).

M_attn = M_sa^T M_ca: where a token is attended to, spread over pixels that attend to one another.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.backbones.attention_maps import AbstractRecorder, Place, Record, head_mean
from diffsight.errors import InputError
from diffsight.ops.transposed_attention import attention_to, transposed_attention

# places among the 16 attention layers in the order of their run, from 1 on (the middle one is 7)
CROSS_LAYERS = (8, 9, 10, 11, 12)
SELF_LAYERS = (14, 15, 16)
LAYERS = 16
Combine = Literal["per_layer", "slime"]


@dataclass(frozen=True)
class ConceptRequest:
    """How the maps of concepts are made.

    Attributes:
        combine: ``per_layer`` multiplies self- and cross-attention of the same layer, for each of
            the eight layers (the paper's words); ``slime`` spreads the mean cross-attention of
            layers 8 to 12 by the self-attention of layers 14 to 16 (SLiMe, from which the paper
            takes its layers).
        self_attention: False leaves the spreading out (Table 3).
        transposed: a pixel receives from the pixels that attend to it (M_sa^T, as written); False:
            from those that it attends to (M_sa).
        detach: cut the gradient through the UNet's features; only the keys of the concepts learn.
            Faster, and not the gradient of the loss.
    """

    combine: Combine = "per_layer"
    self_attention: bool = True
    transposed: bool = True
    detach: bool = False

    def __post_init__(self) -> None:
        """Refuse another way to combine, which would be neither."""
        if self.combine not in get_args(Combine):
            known = " or ".join(get_args(Combine))
            raise InputError(f"combine {self.combine!r} of the concepts' maps: give {known}")

    @property
    def cross_layers(self) -> tuple[int, ...]:
        """Layers whose cross-attention is read."""
        return CROSS_LAYERS if self.combine == "slime" else CROSS_LAYERS + SELF_LAYERS

    @property
    def last_layer(self) -> int:
        """Nothing after it matters."""
        return max(SELF_LAYERS if self.self_attention else self.cross_layers)


@dataclass
class ConceptRecorder(AbstractRecorder):
    """Computes maps beside one pass; nothing of a pixel-by-pixel matrix is kept.

    Attributes:
        request: what to compute.
    """

    request: ConceptRequest
    _maps: list[Float[Tensor, "b n _ _"]] = field(default_factory=list)
    _open: bool = True
    _layer: int = 0
    _own: tuple[Tensor, Tensor] | None = None
    _cross: list[Float[Tensor, "b n _ _"]] = field(default_factory=list)

    @property
    def satisfied(self) -> bool:
        """After the last layer that is read."""
        return self._layer >= self.request.last_layer

    def at(self, level: int, place: Place, hw: tuple[int, int]) -> Record:
        """The next layer's part."""
        self._layer += 1
        layer = self._layer

        def record(query: Tensor, key: Tensor, cross: bool) -> None:
            request = self.request
            if request.detach:
                query, key = query.detach(), (key if cross else key.detach())
            if cross and layer in request.cross_layers:
                seen = head_mean(query, key, detach=False).mT.unflatten(2, hw)
                if not request.self_attention:
                    self._keep(self._maps, seen)
                elif request.combine == "per_layer":
                    assert self._own is not None  # self-attention comes first in every layer
                    self._keep(self._maps, self._spread(*self._own, seen))
                else:
                    self._keep(self._cross, seen)
            elif not cross and request.self_attention:
                if request.combine == "per_layer":
                    self._own = query, key
                elif layer in SELF_LAYERS:
                    seen = torch.stack([resized(some, hw) for some in self._cross]).mean(dim=0)
                    self._keep(self._maps, self._spread(query, key, seen))

        return record

    def close(self) -> tuple[Float[Tensor, "b n _ _"], ...]:
        """The maps, each at the size of its layer; their mean, brought to one size, is M_attn.

        Raises:
            InputError: if the UNet does not have the layers.
        """
        if self._layer < self.request.last_layer:
            raise InputError(
                f"the UNet has {self._layer} layers with attention, the maps of concepts need "
                f"{LAYERS}: take a Stable Diffusion 1.x or 2.x (two layers per block)"
            )
        self._open = False
        return tuple(self._maps)

    def _keep(self, place: list[Tensor], maps: Tensor) -> None:
        if self._open:  # not a recomputation for the backward pass
            place.append(maps)

    def _spread(
        self, query: Tensor, key: Tensor, seen: Float[Tensor, "b n h w"]
    ) -> Float[Tensor, "b n h w"]:
        spread = transposed_attention if self.request.transposed else attention_to
        return spread(query, key, seen.flatten(2).mT).mT.unflatten(2, seen.shape[-2:])


def resized(maps: Float[Tensor, "b n _ _"], hw: tuple[int, int]) -> Float[Tensor, "b n h w"]:
    """Bilinear; its backward pass needs memory in order."""
    return functional.interpolate(maps.contiguous(), hw, mode="bilinear")
