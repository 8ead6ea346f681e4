"""Attention read backwards: what every key receives from all queries, in memory linear in pixels.

Few-shot, section 3.3: M_attn = M_sa^T M_ca. With self-attention weights A (a row per query, each a
distribution over keys) and a map C per query, Y_j = sum_i A_ij C_i.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffsight.ops.precision import without_autocast

Heads = Float[Tensor, "b heads p d"]
Rows = Float[Tensor, "b p n"]
Implementation = Literal["sdpa", "chunk", "dense"]
CHUNK = 256  # queries of the chunked form


def transposed_attention(
    query: Heads, key: Heads, maps: Rows, *, implementation: Implementation = "sdpa"
) -> Rows:
    """``A^T maps``, the mean over heads, with A = softmax(query key^T / sqrt(d)).

    All three forms give the same values and gradients (not twice differentiable: ``sdpa``).

    Args:
        query: of every pixel.
        key: of every pixel.
        maps: of every pixel as a query, any number of channels.
        implementation: ``sdpa`` runs torch's fused attention and never holds a p x p matrix;
            ``chunk`` holds a few rows of it and computes them again for the gradient; ``dense``
            holds all of it.

    Returns:
        In the precision of ``maps``.
    """
    # autocast would round queries and keys in the forward pass but not in the backward pass
    with without_autocast(query):
        if implementation == "sdpa":
            return _Transposed.apply(query, key, maps.to(query.dtype)).to(maps.dtype)  # type: ignore[union-attr]
        if implementation == "chunk":
            return _chunked(query, key, maps)
        return _rows(query, key, maps)


def attention_to(query: Heads, key: Heads, maps: Rows) -> Rows:
    """``A maps``, the mean over heads: what every query gathers from all keys, in linear memory."""
    with without_autocast(query):
        parts = [
            functional.scaled_dot_product_attention(query, key, values).mean(dim=1)
            for values in _as_values(maps, query)
        ]
    return torch.cat(parts, dim=-1)[..., : maps.shape[-1]].to(maps.dtype)


class _Transposed(torch.autograd.Function):
    """A^T C is the gradient of <A V, C> with respect to V; its own gradients are those of <A G, C>.

    So one fused attention and its backward pass give either of them.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, maps)
        parts = []
        with torch.inference_mode(False), torch.enable_grad():
            query, key, maps = (_plain(x) for x in (query, key, maps))
            for columns in _as_values(maps, query):
                values = torch.zeros_like(columns, requires_grad=True)
                attended = functional.scaled_dot_product_attention(query, key, values)
                (received,) = torch.autograd.grad(attended, values, columns)
                parts.append(received.mean(dim=1))
        return torch.cat(parts, dim=-1)[..., : maps.shape[-1]]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, maps = ctx.saved_tensors
        wants_qk = any(ctx.needs_input_grad[:2])
        query, key = (x.detach().contiguous().requires_grad_(wants_qk) for x in (query, key))
        sums, parts = [torch.zeros_like(query), torch.zeros_like(key)], []
        heads = query.shape[1]
        pairs = zip(_as_values(gradient / heads, query), _as_values(maps, query), strict=True)
        for values, columns in pairs:
            with torch.set_grad_enabled(wants_qk):
                attended = functional.scaled_dot_product_attention(query, key, values)
            parts.append(attended.detach().sum(dim=1))
            if wants_qk:
                gradients_qk = torch.autograd.grad(attended, (query, key), columns)
                for total, part in zip(sums, gradients_qk, strict=True):
                    total += part
        to_maps = torch.cat(parts, dim=-1)[..., : maps.shape[-1]]
        return (*sums, to_maps) if wants_qk else (None, None, to_maps)


def _plain(x: Tensor) -> Tensor:
    """Without history; a tensor of inference mode cannot take part in a gradient, a copy can."""
    return (x.clone() if x.is_inference() else x.detach()).contiguous()


def _as_values(maps: Rows, query: Heads) -> list[Tensor]:
    """Parts as wide as a head, filled up with zeros: fused kernels want values like the keys."""
    heads, width = query.shape[1], query.shape[-1]
    filled = functional.pad(maps.to(query.dtype), (0, -maps.shape[-1] % width))
    return [
        part[:, None].expand(-1, heads, -1, -1).contiguous() for part in filled.split(width, dim=-1)
    ]


def _chunked(query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
    total = torch.zeros_like(maps)
    for q, c in zip(query.split(CHUNK, dim=2), maps.split(CHUNK, dim=1), strict=True):
        part = checkpoint(_rows, q, key, c, use_reentrant=False)
        assert isinstance(part, Tensor)
        total = total + part
    return total


def _rows(query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
    """What some of the queries contribute."""
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1).mean(dim=1)
    return weights.to(maps.dtype).mT @ maps
