"""Sparse 3D convolutions: only few cells of the grid hold features (Graham et al., 2018).

Every offset of a kernel is one product of matrices: the features of the cells that lie there are
gathered, multiplied, and added to the cells that see them. Which cells these are is found once for
all layers on the same cells.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

Cells = tuple[int, int, int]
Rows = Int64[Tensor, " _"]


@dataclass(frozen=True)
class Sites:
    """The cells of a batch of grids that hold features.

    Attributes:
        coordinates: row of the batch, and cell along the three axes; no two are equal.
        shape: cells along the axes.
        count: rows of the batch.
    """

    coordinates: Int64[Tensor, "m 4"]
    shape: Cells
    count: int

    def __len__(self) -> int:
        """Return the number of cells that hold features."""
        return len(self.coordinates)


@dataclass(frozen=True)
class Rules:
    """The rulebook of a sparse convolution: which rows every offset of the kernel reads and writes.

    Attributes:
        pairs: rows that are read and rows that are written, for every offset; within one offset
            no row is written twice.
        sites: that are written.
    """

    pairs: tuple[tuple[Rows, Rows], ...]
    sites: Sites


def submanifold_rules(sites: Sites, kernel: Cells = (3, 3, 3)) -> Rules:
    """Return the rules of a convolution that writes the same cells as it reads.

    Args:
        sites: that are read.
        kernel: odd numbers of cells.
    """
    assert all(size % 2 for size in kernel)
    # wider than the grid by what a kernel reaches, so that no key runs over into the next row
    sizes = [n + k // 2 for n, k in zip(sites.shape, kernel, strict=True)]
    keys, order = _keys(sites.coordinates, sizes).sort()
    assert not (keys[1:] == keys[:-1]).any(), "two sites are equal"
    offsets = list(itertools.product(*(range(-(k // 2), k // 2 + 1) for k in kernel)))
    before = []
    for x, y, z in offsets[: len(offsets) // 2]:
        wanted = keys + ((x * sizes[1] + y) * sizes[2] + z)
        index = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = (keys[index] == wanted).nonzero()[:, 0]
        before.append((order[index[there]], order[there]))
    every = torch.arange(len(sites), device=keys.device)
    after = [(written, read) for read, written in reversed(before)]  # the opposite offsets
    return Rules((*before, (every, every), *after), sites)


def strided_shape(shape: Cells, kernel: Cells, stride: Cells, padding: Cells) -> Cells:
    """Return the cells along the axes after a convolution with strides."""
    sizes = zip(shape, kernel, stride, padding, strict=True)
    x, y, z = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
    return (x, y, z)


def strided_rules(sites: Sites, kernel: Cells, stride: Cells, padding: Cells) -> Rules:
    """Return the rules of a convolution that writes every cell which sees one that it reads."""
    shape = strided_shape(sites.shape, kernel, stride, padding)
    batch, cells = sites.coordinates[:, :1], sites.coordinates[:, 1:]
    step, last = cells.new_tensor(stride), cells.new_tensor(shape)
    shifted = cells + cells.new_tensor(padding)
    read, keys = [], []
    for offset in itertools.product(*map(range, kernel)):
        moved = shifted - cells.new_tensor(offset)
        cell = moved.div(step, rounding_mode="floor")
        is_seen = (cell * step == moved) & (cell >= 0) & (cell < last)
        rows = is_seen.all(dim=1).nonzero()[:, 0]
        read.append(rows)
        keys.append(_keys(torch.cat([batch[rows], cell[rows]], dim=1), shape))
    reached, rows = torch.cat(keys).unique(return_inverse=True)
    written = rows.split([len(one) for one in read])
    coordinates = torch.stack(torch.unravel_index(reached, (sites.count, *shape)), dim=1)
    pairs = tuple(zip(read, written, strict=True))
    return Rules(pairs, Sites(coordinates, shape, sites.count))


def convolve(
    features: Float[Tensor, "m i"], weight: Float[Tensor, "kx ky kz i o"], rules: Rules
) -> Float[Tensor, "n o"]:
    """Return the features of the cells that are written.

    Under autocast the products have its dtype; their sums have the dtype of the weight.
    """
    kind = features.device.type
    mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    sums: Tensor = _Convolution.apply(features, weight, rules, mixed)
    return sums


class _Convolution(torch.autograd.Function):
    """A sparse convolution that gathers its rows again in the backward pass.

    Kept for all offsets, they would fill the memory.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, rules: Rules, mixed: torch.dtype
    ) -> Tensor:
        rows, matrices = features.to(mixed), weight.flatten(0, 2).to(mixed)
        ctx.save_for_backward(features, weight)
        ctx.rules, ctx.mixed = rules, mixed
        sums = weight.new_zeros(len(rules.sites), weight.shape[-1])
        for (read, written), matrix in zip(rules.pairs, matrices, strict=True):
            sums.index_add_(0, written, (rows.index_select(0, read) @ matrix).to(sums.dtype))
        return sums

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        rows, above = features.to(ctx.mixed), grad_outputs[0].to(ctx.mixed)
        below = weight.new_zeros(rows.shape)
        matrices = []
        offsets = zip(ctx.rules.pairs, weight.flatten(0, 2).to(ctx.mixed), strict=True)
        for (read, written), matrix in offsets:
            gradient = above.index_select(0, written)
            if ctx.needs_input_grad[0]:
                below.index_add_(0, read, (gradient @ matrix.T).to(below.dtype))
            if ctx.needs_input_grad[1]:
                matrices.append((rows.index_select(0, read).T @ gradient).to(weight.dtype))
        of_features = below.to(features.dtype) if ctx.needs_input_grad[0] else None
        of_weight = torch.stack(matrices).reshape(weight.shape) if matrices else None
        return of_features, of_weight, None, None


def dense(features: Float[Tensor, "m c"], sites: Sites) -> Float[Tensor, "b c x y z"]:
    """Return the whole grids, with zeros in the cells that hold no features."""
    rows = features.new_zeros(sites.count * math.prod(sites.shape), features.shape[1])
    rows = rows.index_copy(0, _keys(sites.coordinates, sites.shape), features)
    return rows.reshape(sites.count, *sites.shape, -1).movedim(-1, 1)


class SparseConv3d(nn.Module):
    """A convolution without a bias, on the cells that rules name.

    Args:
        channels: that come in.
        width: channels that go out.
        kernel: cells along the axes.
    """

    def __init__(self, channels: int, width: int, kernel: Cells = (3, 3, 3)) -> None:
        super().__init__()
        bound = (math.prod(kernel) * channels) ** -0.5  # as a dense convolution begins
        self.weight = nn.Parameter(torch.empty(*kernel, channels, width).uniform_(-bound, bound))

    def forward(self, features: Float[Tensor, "m i"], rules: Rules) -> Float[Tensor, "n o"]:
        """Return the features of the cells that the rules write."""
        return convolve(features, self.weight, rules)


def _keys(coordinates: Int64[Tensor, "m 4"], sizes: Sequence[int]) -> Rows:
    """Return one number for each cell, in the order of rows and axes."""
    row, x, y, z = coordinates.unbind(dim=1)
    return ((row * sizes[0] + x) * sizes[1] + y) * sizes[2] + z
