"""Sparse 3D convolutions, for grids in which few cells have features (Graham et al., 2018).

Every offset of a kernel is one matrix product: the features of the input cells at this offset are
gathered, multiplied, and added to the output cells. The pairs of input and output cells (the rules)
are computed once for all layers on the same cells.
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
"""Numbers of cells along x, y and z."""
Rows = Int64[Tensor, " _"]
"""Indices of rows of a feature matrix, which has one row per cell."""


@dataclass(frozen=True)
class Sites:
    """The cells that have features, in a batch of grids.

    Attributes:
        coordinates: row of the batch, and index of the cell along x, y and z; all cells are
            different.
        shape: size of a grid in cells.
        count: number of rows of the batch.
    """

    coordinates: Int64[Tensor, "m 4"]
    shape: Cells
    count: int

    def __len__(self) -> int:
        """Return the number of cells with features."""
        return len(self.coordinates)


@dataclass(frozen=True)
class Rules:
    """The rulebook of a sparse convolution: the input and output rows of every kernel offset.

    Attributes:
        pairs: for every offset, the rows of the input features and the rows of the output features
            to which they contribute; the output rows of one offset are all different.
        sites: the output cells.
    """

    pairs: tuple[tuple[Rows, Rows], ...]
    sites: Sites


def submanifold_rules(sites: Sites, kernel: Cells = (3, 3, 3)) -> Rules:
    """Return the rules of a convolution whose output cells are its input cells.

    Args:
        sites: the input cells.
        kernel: size of the kernel in cells; all sizes are odd.
    """
    assert all(size % 2 for size in kernel)
    # wider than the grid by half a kernel, so that no key overflows into the next row
    sizes = [n + k // 2 for n, k in zip(sites.shape, kernel, strict=True)]
    keys, order = _keys(sites.coordinates, sizes).sort()
    assert not (keys[1:] == keys[:-1]).any(), "two sites are equal"
    offsets = list(itertools.product(*(range(-(k // 2), k // 2 + 1) for k in kernel)))
    before = []
    for x, y, z in offsets[: len(offsets) // 2]:
        shifted = keys + ((x * sizes[1] + y) * sizes[2] + z)
        index = torch.searchsorted(keys, shifted).clamp(max=len(keys) - 1)
        matches = (keys[index] == shifted).nonzero()[:, 0]
        before.append((order[index[matches]], order[matches]))
    rows = torch.arange(len(sites), device=keys.device)
    after = [(written, read) for read, written in reversed(before)]  # the opposite offsets
    return Rules((*before, (rows, rows), *after), sites)


def strided_shape(shape: Cells, kernel: Cells, stride: Cells, padding: Cells) -> Cells:
    """Return the size of a grid after a strided convolution, in cells along x, y and z.

    Args:
        shape: size of the input grid.
        kernel: size of the kernel.
        stride: strides along the axes.
        padding: cells of padding at both ends of each axis.
    """
    sizes = zip(shape, kernel, stride, padding, strict=True)
    x, y, z = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
    return (x, y, z)


def strided_rules(sites: Sites, kernel: Cells, stride: Cells, padding: Cells) -> Rules:
    """Return the rulebook of a strided sparse convolution.

    An output cell exists if at least one input cell lies under its kernel.

    Args:
        sites: the input cells.
        kernel: size of the kernel.
        stride: strides along the axes.
        padding: cells of padding at both ends of each axis.
    """
    shape = strided_shape(sites.shape, kernel, stride, padding)
    batch, cells = sites.coordinates[:, :1], sites.coordinates[:, 1:]
    step, last = cells.new_tensor(stride), cells.new_tensor(shape)
    shifted = cells + cells.new_tensor(padding)
    read, keys = [], []
    for offset in itertools.product(*map(range, kernel)):
        moved = shifted - cells.new_tensor(offset)
        cell = moved.div(step, rounding_mode="floor")
        is_output = (cell * step == moved) & (cell >= 0) & (cell < last)
        rows = is_output.all(dim=1).nonzero()[:, 0]
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
    """Return the features of the output cells of a sparse convolution.

    Under autocast, products are computed in its dtype. Their sums have the dtype of the weight.

    Args:
        features: features of the input cells.
        weight: kernel.
        rules: pairs of input and output cells, for a kernel of this size.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    sums: Tensor = _Convolution.apply(features, weight, rules, dtype)
    return sums


class _Convolution(torch.autograd.Function):
    """A sparse convolution that gathers its input rows again in the backward pass.

    Storing them for all offsets would fill the memory.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, rules: Rules, dtype: torch.dtype
    ) -> Tensor:
        rows, matrices = features.to(dtype), weight.flatten(0, 2).to(dtype)
        ctx.save_for_backward(features, weight)
        ctx.rules, ctx.dtype = rules, dtype
        sums = weight.new_zeros(len(rules.sites), weight.shape[-1])
        for (read, written), matrix in zip(rules.pairs, matrices, strict=True):
            sums.index_add_(0, written, (rows.index_select(0, read) @ matrix).to(sums.dtype))
        return sums

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        rows, above = features.to(ctx.dtype), grad_outputs[0].to(ctx.dtype)
        below = weight.new_zeros(rows.shape)
        matrices = []
        offsets = zip(ctx.rules.pairs, weight.flatten(0, 2).to(ctx.dtype), strict=True)
        for (read, written), matrix in offsets:
            gradient = above.index_select(0, written)
            if ctx.needs_input_grad[0]:
                below.index_add_(0, read, (gradient @ matrix.T).to(below.dtype))
            if ctx.needs_input_grad[1]:
                matrices.append((rows.index_select(0, read).T @ gradient).to(weight.dtype))
        of_features = below.to(features.dtype) if ctx.needs_input_grad[0] else None
        of_weight = torch.stack(matrices).reshape(weight.shape) if matrices else None
        return of_features, of_weight, None, None


def to_dense(features: Float[Tensor, "m c"], sites: Sites) -> Float[Tensor, "b c x y z"]:
    """Return a batch of dense grids, with zeros in the cells that have no features.

    Args:
        features: features of the cells.
        sites: the cells.
    """
    rows = features.new_zeros(sites.count * math.prod(sites.shape), features.shape[1])
    rows = rows.index_copy(0, _keys(sites.coordinates, sites.shape), features)
    return rows.reshape(sites.count, *sites.shape, -1).movedim(-1, 1)


class SparseConv3d(nn.Module):
    """A sparse convolution without a bias.

    Args:
        channels: channels of the input.
        width: channels of the output.
        kernel: size of the kernel in cells along x, y and z.
    """

    def __init__(self, channels: int, width: int, kernel: Cells = (3, 3, 3)) -> None:
        super().__init__()
        bound = (math.prod(kernel) * channels) ** -0.5  # the initialisation of a dense convolution
        self.weight = nn.Parameter(torch.empty(*kernel, channels, width).uniform_(-bound, bound))

    def forward(self, features: Float[Tensor, "m i"], rules: Rules) -> Float[Tensor, "n o"]:
        """Return the features of the output cells, see ``convolve``."""
        return convolve(features, self.weight, rules)


def _keys(coordinates: Int64[Tensor, "m 4"], sizes: Sequence[int]) -> Rows:
    """Return a number for each cell, its index in a batch of grids of these sizes."""
    row, x, y, z = coordinates.unbind(dim=1)
    return ((row * sizes[0] + x) * sizes[1] + y) * sizes[2] + z
