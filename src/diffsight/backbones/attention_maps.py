"""Cross-attention maps of the UNet, averaged over the heads without storing a map per head.

All attention of the UNet runs through scaled dot-product attention. A recorder gets the queries and
keys of the layers that it selects, and computes their maps itself.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffsight.ops.precision import without_autocast

UNetPart = Literal["down", "mid", "up"]
"""Part of the UNet to which a layer belongs."""
Record = Callable[[Tensor, Tensor, bool], None]
"""Function that gets the queries and keys (``b heads p d`` and ``b heads n d``) of one attention
layer, and whether it is a cross-attention layer."""


@dataclass(frozen=True)
class MapRequest:
    """Request for the cross-attention maps that a backbone returns.

    Attributes:
        levels: pyramid levels (0 is the finest).
        unet_parts: parts of the UNet whose layers are averaged. The authors of VPD use ``up`` and
            ``down``.
        detach: let no gradient pass through the maps. The authors' released training code does so
            (their checkpointing runs the forward pass without gradients); the papers do not state
            it.
    """

    levels: tuple[int, ...]
    unet_parts: tuple[UNetPart, ...] = ("up", "down")
    detach: bool = True


class AbstractRecorder(abc.ABC):
    """Base class of objects that read the attention layers of one pass of the UNet."""

    @abc.abstractmethod
    def begin_layer(self, level: int, unet_part: UNetPart, hw: tuple[int, int]) -> Record | None:
        """Return the function that records the next layer; None if it is not recorded.

        The UNet calls this method once for each attention layer, in the order in which they run.

        Args:
            level: level of the pyramid.
            unet_part: part of the UNet to which the layer belongs.
            hw: height and width of the layer's feature map.
        """

    @property
    @abc.abstractmethod
    def is_satisfied(self) -> bool:
        """Whether no further layer is needed."""


class SilentRecorder(AbstractRecorder):
    """Records nothing; the pass runs to its end."""

    @property
    def is_satisfied(self) -> bool:
        """False: the features of all layers are needed."""
        return False

    def begin_layer(self, level: int, unet_part: UNetPart, hw: tuple[int, int]) -> None:
        """Return None: no layer is recorded."""


@dataclass
class MapRecorder(AbstractRecorder):
    """Averages the cross-attention maps of one forward pass for each level.

    Gradient checkpointing runs layers again in the backward pass. Their maps are ignored, because
    ``close`` has been called by then.

    Attributes:
        request: which maps are recorded.
    """

    request: MapRequest
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)
    _open: bool = True

    @property
    def is_satisfied(self) -> bool:
        """False: the features of all layers are needed besides the maps."""
        return False

    def begin_layer(self, level: int, unet_part: UNetPart, hw: tuple[int, int]) -> Record | None:
        """Return a function that adds the maps of a layer, if the layer is requested."""
        if level not in self.request.levels or unet_part not in self.request.unet_parts:
            return None

        def record(query: Tensor, key: Tensor, cross: bool) -> None:
            if not cross or (self.request.detach and not self._open):
                return
            maps = average_heads(query, key, self.request.detach)
            if not self._open:  # a recomputation: it must save the same tensors as the first pass
                return
            maps = rearrange(maps, "b (h w) n -> b n h w", h=hw[0], w=hw[1])
            self._sums[level] = self._sums[level] + maps if level in self._sums else maps
            self._counts[level] = self._counts.get(level, 0) + 1

        return record

    def close(self) -> dict[int, Float[Tensor, "b n h w"]]:
        """Return the mean map of each level; further maps are ignored."""
        self._open = False
        return {level: total / self._counts[level] for level, total in self._sums.items()}


def average_heads(
    query: Float[Tensor, "b heads p d"], key: Float[Tensor, "b heads n d"], detach: bool
) -> Float[Tensor, "b p n"]:
    """Return attention probabilities (softmax over the tokens, in 32 bit), averaged over the heads.

    With gradients, they are computed again in the backward pass, so that no map of a single head is
    stored.

    Args:
        query: queries of ``p`` pixels.
        key: keys of ``n`` tokens.
        detach: let no gradient pass.
    """
    if detach or not torch.is_grad_enabled():
        with torch.no_grad():
            return _average_heads(query, key)
    result = checkpoint(_average_heads, query, key, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result


def _average_heads(query: Tensor, key: Tensor) -> Tensor:
    scale = query.shape[-1] ** -0.5
    total = None
    with without_autocast(query):
        for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):
            probability = torch.softmax((q * scale) @ k.mT, dim=-1)
            total = probability if total is None else total + probability
    assert total is not None
    return total / query.shape[1]


class SDPAProcessor:
    """Attention processor of diffusers: scaled dot-product attention that can be recorded.

    It supports the attention layers (``attn``) of Stable Diffusion's transformer blocks: no mask,
    no spatial norm, no added tokens.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b p c"],
        encoder_hidden_states: Float[Tensor, "b n e"] | None = None,
        attention_mask: None = None,
        record: Record | None = None,
    ) -> Float[Tensor, "b p c"]:
        """Return the output of the attention layer; ``record`` gets its queries and keys."""
        assert attention_mask is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        layers = ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        query, key, value = (
            rearrange(layer(x), "b p (heads d) -> b heads p d", heads=attn.heads)
            for layer, x in layers
        )
        if record is not None:
            record(query, key, encoder_hidden_states is not None)
        if key.shape[-2] == 1:
            out = value.expand_as(query)  # a softmax over one token is 1
            if torch.is_grad_enabled():
                out = out + 0 * key + 0 * query  # their gradient is 0, not None
        else:
            out = functional.scaled_dot_product_attention(query, key, value)
        out = rearrange(out, "b heads p d -> b p (heads d)")
        return attn.to_out[1](attn.to_out[0](out))
