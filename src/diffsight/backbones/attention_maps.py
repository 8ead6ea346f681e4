"""Cross-attention maps: averaged over heads without keeping a map per head, recorded only for the
levels and places of a request.

Every attention of the UNet runs through scaled dot-product attention. Where a recorder listens, it
is given queries and keys, and computes beside it what it wants to know.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffsight.ops.precision import without_autocast

Place = Literal["down", "mid", "up"]
# queries and keys "b heads p d" of one attention, and whether it is a cross-attention
Record = Callable[[Tensor, Tensor, bool], None]


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


class AbstractRecorder(abc.ABC):
    """Listens to the attentions of one pass; layers are announced in the order of their run."""

    @abc.abstractmethod
    def at(self, level: int, place: Place, hw: tuple[int, int]) -> Record | None:
        """What the next layer, of ``hw`` pixels at a level of the pyramid, shall call."""

    @property
    @abc.abstractmethod
    def satisfied(self) -> bool:
        """Nothing that still runs is of interest."""


class SilentRecorder(AbstractRecorder):
    """Records nothing; the pass runs to its end."""

    @property
    def satisfied(self) -> bool:
        """Never."""
        return False

    def at(self, level: int, place: Place, hw: tuple[int, int]) -> None:
        """No layer records anything."""


@dataclass
class MapRecorder(AbstractRecorder):
    """Sums the maps of one forward pass by level; deaf after ``close`` (for recomputation)."""

    request: MapRequest
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)
    _open: bool = True

    @property
    def satisfied(self) -> bool:
        """Never: the pyramid is wanted as well."""
        return False

    def at(self, level: int, place: Place, hw: tuple[int, int]) -> Record | None:
        """Return a function that adds the maps of a layer, if its level and place are requested."""
        if level not in self.request.levels or place not in self.request.places:
            return None

        def record(query: Tensor, key: Tensor, cross: bool) -> None:
            if not cross or (self.request.detach and not self._open):
                return
            maps = head_mean(query, key, self.request.detach)
            if not self._open:  # a recomputation: it must save the same tensors as the first pass
                return
            maps = rearrange(maps, "b (h w) n -> b n h w", h=hw[0], w=hw[1])
            self._sums[level] = self._sums[level] + maps if level in self._sums else maps
            self._counts[level] = self._counts.get(level, 0) + 1

        return record

    def close(self) -> dict[int, Float[Tensor, "b n h w"]]:
        """The mean map of each level; further maps are ignored."""
        self._open = False
        return {level: total / self._counts[level] for level, total in self._sums.items()}


def head_mean(
    query: Float[Tensor, "b heads p d"], key: Float[Tensor, "b heads n d"], detach: bool
) -> Float[Tensor, "b p n"]:
    """Attention probabilities (softmax over the tokens, in float32), averaged over the heads.

    With gradient (not ``detach``) they are computed again in the backward pass, so that no map of a
    single head is kept.
    """
    if detach or not torch.is_grad_enabled():
        with torch.no_grad():
            return _head_mean(query, key)
    result = checkpoint(_head_mean, query, key, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result


def _head_mean(query: Tensor, key: Tensor) -> Tensor:
    scale = query.shape[-1] ** -0.5
    total = None
    with without_autocast(query):
        for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):
            probability = torch.softmax((q * scale) @ k.mT, dim=-1)
            total = probability if total is None else total + probability
    assert total is not None
    return total / query.shape[1]


class SDPAProcessor:
    """diffusers' attention through scaled dot-product attention, with an optional listener.

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
    ) -> Float[Tensor, "b p c"]:
        """Attend; ``record`` receives queries and keys."""
        assert attention_mask is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        layers: Any = ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        query, key, value = (
            rearrange(layer(x), "b p (heads d) -> b heads p d", heads=attn.heads)
            for layer, x in layers
        )
        if record is not None:
            record(query, key, encoder_hidden_states is not None)
        if key.shape[-2] == 1:
            out = value.expand_as(query)  # a softmax over one token is 1
            if torch.is_grad_enabled():
                out = out + 0 * key + 0 * query  # with a gradient of exactly 0, not none
        else:
            out = functional.scaled_dot_product_attention(query, key, value)
        out = rearrange(out, "b heads p d -> b p (heads d)")
        project: Any = attn.to_out
        return project[1](project[0](out))
