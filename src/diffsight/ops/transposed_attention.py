"""Transposed attention: the sum that every key receives from all queries, in linear memory.

Few-shot, section 3.3: M_attn = M_sa^T M_ca. With self-attention weights A (a row per query, each a
distribution over keys) and a map C with a value per query, Y_j = sum_i A_ij C_i.

Axes: ``p`` pixels, each of which is a query and a key; ``d`` channels of a head; ``n`` maps.
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
CHUNK = 256  # queries of a chunk


def transposed_attention(
    query: Heads, key: Heads, maps: Rows, *, implementation: Implementation = "sdpa"
) -> Rows:
    """Return the mean over heads of ``A^T maps``, with A = softmax(query key^T / sqrt(d)).

    All three implementations give the same values and gradients; ``sdpa`` cannot be differentiated
    twice. An exported graph has no gradients, and always uses ``dense``.

    Args:
        query: queries of all pixels.
        key: keys of all pixels.
        maps: maps C, with a value per pixel.
        implementation: ``sdpa`` uses torch's fused attention and never stores a p x p matrix.
            ``chunk`` stores some of its rows at a time, and computes them again for the gradient.
            ``dense`` stores the whole matrix.

    Returns:
        The products, in the dtype of ``maps``.
    """
    # autocast would round queries and keys in the forward pass but not in the backward pass
    with without_autocast(query):
        if torch.compiler.is_exporting():
            return _dense(query, key, maps)
        if implementation == "sdpa":
            return _Transposed.apply(query, key, maps.to(query.dtype)).to(maps.dtype)  # type: ignore[union-attr]
        if implementation == "chunk":
            return _chunked(query, key, maps)
        return _dense(query, key, maps)


def forward_attention(query: Heads, key: Heads, maps: Rows) -> Rows:
    """Return the mean over heads of ``A maps``, as in plain attention, in linear memory."""
    with without_autocast(query):
        parts = [
            functional.scaled_dot_product_attention(query, key, values).mean(dim=1)
            for values in _as_values(maps, query)
        ]
    return torch.cat(parts, dim=-1)[..., : maps.shape[-1]].to(maps.dtype)


class _Transposed(torch.autograd.Function):
    """A^T C is the gradient of <A V, C> with respect to V; its own gradients are those of <A G, C>.

    One fused attention and its backward pass therefore compute both.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, maps)
        parts = []
        with torch.inference_mode(False), torch.enable_grad():
            query, key, maps = (_detach(x) for x in (query, key, maps))
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
        needs_qk = any(ctx.needs_input_grad[:2])
        query, key = (x.detach().contiguous().requires_grad_(needs_qk) for x in (query, key))
        sums, parts = [torch.zeros_like(query), torch.zeros_like(key)], []
        heads = query.shape[1]
        pairs = zip(_as_values(gradient / heads, query), _as_values(maps, query), strict=True)
        for values, columns in pairs:
            with torch.set_grad_enabled(needs_qk):
                attended = functional.scaled_dot_product_attention(query, key, values)
            parts.append(attended.detach().sum(dim=1))
            if needs_qk:
                gradients_qk = torch.autograd.grad(attended, (query, key), columns)
                for total, part in zip(sums, gradients_qk, strict=True):
                    total += part
        to_maps = torch.cat(parts, dim=-1)[..., : maps.shape[-1]]
        return (*sums, to_maps) if needs_qk else (None, None, to_maps)


def _detach(x: Tensor) -> Tensor:
    """Return a tensor without history; tensors of inference mode are copied for gradients."""
    return (x.clone() if x.is_inference() else x.detach()).contiguous()


def _as_values(maps: Rows, query: Heads) -> list[Tensor]:
    """Return maps in parts of ``d`` channels, repeated for every head, as values of attention.

    The last part is padded with zeros, because fused kernels need values as wide as a head.
    """
    heads, width = query.shape[1], query.shape[-1]
    padded = functional.pad(maps.to(query.dtype), (0, -maps.shape[-1] % width))
    return [
        part[:, None].expand(-1, heads, -1, -1).contiguous() for part in padded.split(width, dim=-1)
    ]


def _chunked(query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
    """Return the mean over heads of ``A^T maps``, computed and differentiated in query chunks."""
    total = torch.zeros_like(maps)
    for q, c in zip(query.split(CHUNK, dim=2), maps.split(CHUNK, dim=1), strict=True):
        part = checkpoint(_dense, q, key, c, use_reentrant=False)
        assert isinstance(part, Tensor)
        total = total + part
    return total


def _dense(query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
    """Return the mean over heads of ``A^T maps`` for some or all queries, from the matrix A."""
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1).mean(dim=1)
    return weights.to(maps.dtype).mT @ maps
