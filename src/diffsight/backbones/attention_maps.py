"""Cross-attention maps: averaged over heads without keeping a map per head, recorded only where
asked.

Every attention of the UNet runs through scaled dot-product attention. Where a map is asked for, its
probabilities are computed beside it, one head at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Place = Literal["down", "mid", "up"]
Record = Callable[[Tensor], None]


@dataclass(frozen=True)
class MapRequest:
    """Which cross-attention maps a backbone shall return.

    Attributes:
        levels: pyramid levels (0 is the finest).
        places: parts of the UNet whose layers are averaged. The authors of VPD use ``up`` and
            ``down``.
        detach: cut the gradient. The authors' released training code does so (their checkpointing
            runs the forward pass without gradients); the papers do not say.
    """

    levels: tuple[int, ...]
    places: tuple[Place, ...] = ("up", "down")
    detach: bool = True


@dataclass
class MapRecorder:
    """Sums the maps of one forward pass by level; deaf after ``close`` (for recomputation)."""

    request: MapRequest
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)
    _open: bool = True

    def at(self, level: int, place: Place, hw: tuple[int, int]) -> Mapping[str, object] | None:
        """The attention arguments for a layer at ``level``, or None where no map is wanted."""
        if level not in self.request.levels or place not in self.request.places:
            return None

        def record(maps: Tensor) -> None:
            if not self._open:
                return
            maps = rearrange(maps, "b (h w) n -> b n h w", h=hw[0], w=hw[1])
            self._sums[level] = self._sums[level] + maps if level in self._sums else maps
            self._counts[level] = self._counts.get(level, 0) + 1

        return {"record": record, "detach": self.request.detach}

    def close(self) -> dict[int, Float[Tensor, "b n h w"]]:
        """The mean map of each level; further maps are ignored."""
        self._open = False
        return {level: total / self._counts[level] for level, total in self._sums.items()}


def mean_attention(
    query: Float[Tensor, "b heads p d"], key: Float[Tensor, "b heads n d"]
) -> Float[Tensor, "b p n"]:
    """Attention probabilities (softmax over the tokens, in float32), averaged over the heads."""
    scale = query.shape[-1] ** -0.5
    total = None
    with torch.autocast(query.device.type, enabled=False):
        for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):
            probability = torch.softmax((q * scale) @ k.mT, dim=-1)
            total = probability if total is None else total + probability
    assert total is not None
    return total / query.shape[1]


class SDPAProcessor:
    """diffusers' attention through scaled dot-product attention, with an optional recorded map.

    Covers what the transformer blocks of Stable Diffusion use: no mask, no spatial norm, no added
    tokens.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "b p c"],
        encoder_hidden_states: Float[Tensor, "b n e"] | None = None,
        attention_mask: None = None,
        record: Record | None = None,
        detach: bool = True,
    ) -> Float[Tensor, "b p c"]:
        """Attend; ``record`` receives the head-averaged map if this is a cross-attention."""
        assert attention_mask is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        layers: Any = ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        query, key, value = (
            rearrange(layer(x), "b p (heads d) -> b heads p d", heads=attn.heads)
            for layer, x in layers
        )
        if record is not None and encoder_hidden_states is not None:
            record(_map(query, key, detach))
        if key.shape[-2] == 1:
            out = value.expand_as(query)  # a softmax over one token is 1
            if torch.is_grad_enabled():
                out = out + 0 * key + 0 * query  # with a gradient of exactly 0, not none
        else:
            out = functional.scaled_dot_product_attention(query, key, value)
        out = rearrange(out, "b heads p d -> b p (heads d)")
        project: Any = attn.to_out
        return project[1](project[0](out))


def _map(query: Tensor, key: Tensor, detach: bool) -> Tensor:
    if detach or not torch.is_grad_enabled():
        with torch.no_grad():
            return mean_attention(query, key)
    # recomputed in the backward pass, so that no per-head map is kept
    result = checkpoint(mean_attention, query, key, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result
