"""Sparse convolutions and their gradients, compared with dense convolutions."""

import math
from collections.abc import Callable

import pytest
import torch
from tests.support import noise
from torch import Tensor
from torch.nn import functional

from diffsight.ops.sparse import (
    Cells,
    Rules,
    Sites,
    SparseConv3d,
    convolve,
    strided_rules,
    strided_shape,
    submanifold_rules,
    to_dense,
)

SHAPE: Cells = (6, 5, 4)
STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 0)),
    ((1, 1, 3), (1, 1, 2), (0, 0, 0)),
    ((2, 3, 1), (3, 1, 2), (1, 2, 0)),
]


def random_sites(number: int, count: int = 2, seed: int = 0) -> Sites:
    """Return different cells in random order."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(count * math.prod(SHAPE), generator=generator)[:number]
    return Sites(torch.stack(torch.unravel_index(cells, (count, *SHAPE)), dim=1), SHAPE, count)


def read_sites(grid: Tensor, sites: Sites) -> Tensor:
    """Return the features of a dense grid ``b c x y z`` at the cells of ``sites``."""
    image, x, y, z = sites.coordinates.unbind(dim=1)
    return grid[image, :, x, y, z]


def convolve_dense(
    features: Tensor, weight: Tensor, sites: Sites, stride: Cells, padding: Cells
) -> Callable[[Sites], Tensor]:
    """Compute the dense convolution; return a function that reads its values at given sites."""
    grid = torch.zeros(sites.count, features.shape[1], *sites.shape, dtype=features.dtype)
    image, x, y, z = sites.coordinates.unbind(dim=1)
    grid = grid.movedim(1, -1).index_put((image, x, y, z), features).movedim(-1, 1)
    kernel = weight.permute(4, 3, 0, 1, 2)
    result = functional.conv3d(grid, kernel, stride=stride, padding=padding)
    return lambda written: read_sites(result, written)


def assert_agrees(rules: Rules, sites: Sites, kernel: Cells, stride: Cells, padding: Cells) -> None:
    """Compare features and both gradients with those of the dense convolution."""
    values = noise(len(sites), 3, seed=1).double()
    weights = noise(*kernel, 3, 4, seed=2).double()
    above = noise(len(rules.sites), 4, seed=3).double()
    results = []
    for is_sparse in (True, False):
        features, weight = values.clone().requires_grad_(), weights.clone().requires_grad_()
        if is_sparse:
            result = convolve(features, weight, rules)
        else:
            result = convolve_dense(features, weight, sites, stride, padding)(rules.sites)
        (result * above).sum().backward()
        results.append((result, features.grad, weight.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 3), (5, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("number", [1, 30, 240])
def test_a_submanifold_convolution_equals_a_dense_one_at_its_sites(
    kernel: Cells, number: int
) -> None:
    sites = random_sites(number)
    rules = submanifold_rules(sites, kernel)
    assert rules.sites is sites
    x, y, z = (size // 2 for size in kernel)
    assert_agrees(rules, sites, kernel, (1, 1, 1), (x, y, z))


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
@pytest.mark.parametrize("number", [1, 30, 240])
def test_a_strided_convolution_equals_a_dense_one_at_its_output_cells(
    kernel: Cells, stride: Cells, padding: Cells, number: int
) -> None:
    sites = random_sites(number)
    rules = strided_rules(sites, kernel, stride, padding)
    assert rules.sites.shape == strided_shape(SHAPE, kernel, stride, padding)
    assert_agrees(rules, sites, kernel, stride, padding)
    # in 64 bit: oneDNN's convolution of one channel reads outside its memory (PyTorch 2.13)
    mask, ones = to_dense(torch.ones(len(sites), 1).double(), sites), torch.ones(1, 1, *kernel)
    reached = functional.conv3d(mask, ones.double(), stride=stride, padding=padding)
    marked = to_dense(torch.ones(len(rules.sites), 1), rules.sites)
    assert (reached > 0).equal(marked > 0)
    for _, written in rules.pairs:
        assert len(written) == len(written.unique())


def test_submanifold_and_strided_layers_in_sequence_equal_dense_layers() -> None:
    """A submanifold layer, a strided layer, and a submanifold layer on its output cells."""
    sites = random_sites(40)
    features = noise(40, 2)
    torch.manual_seed(0)
    same, smaller, last = SparseConv3d(2, 3), SparseConv3d(3, 4), SparseConv3d(4, 2)
    rules = submanifold_rules(sites)
    below = same(features, rules)
    mask = to_dense(torch.ones(40, 1), sites)
    grid = functional.conv3d(to_dense(features, sites), kernel_of(same), padding=1) * mask
    torch.testing.assert_close(to_dense(below, sites), grid)
    strided = strided_rules(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    below = smaller(below, strided)
    result = last(below, submanifold_rules(strided.sites))
    grid = functional.conv3d(grid, kernel_of(smaller), stride=2, padding=1)
    mask = to_dense(torch.ones(len(strided.sites), 1), strided.sites)
    grid = functional.conv3d(grid, kernel_of(last), padding=1) * mask
    torch.testing.assert_close(to_dense(result, strided.sites), grid)


def kernel_of(conv: SparseConv3d) -> Tensor:
    return conv.weight.permute(4, 3, 0, 1, 2)


def test_a_row_does_not_depend_on_its_batch() -> None:
    sites = random_sites(60)
    features = noise(60, 3)
    conv = SparseConv3d(3, 4)

    def run(features: Tensor, sites: Sites) -> Tensor:
        rules = strided_rules(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1))
        both = conv(features, submanifold_rules(sites))[:, :3], conv(features, rules)
        return torch.cat(
            [to_dense(both[0], sites).flatten(1), to_dense(both[1], rules.sites).flatten(1)], 1
        )

    alone = []
    for image in range(2):
        rows = sites.coordinates[:, 0] == image
        coordinates = sites.coordinates[rows] * torch.tensor([0, 1, 1, 1])
        alone.append(run(features[rows], Sites(coordinates, SHAPE, 1)))
    torch.testing.assert_close(run(features, sites), torch.cat(alone))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_equal_finite_differences(check: Callable[..., bool]) -> None:
    sites = random_sites(12)
    features = noise(12, 2).double().requires_grad_()
    weight = noise(3, 3, 3, 2, 2).double().requires_grad_()
    for rules in (
        submanifold_rules(sites),
        strided_rules(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ):
        assert check(lambda f, w, rules=rules: convolve(f, w, rules), (features, weight))


def test_in_mixed_precision_products_are_rounded_and_sums_have_32_bits() -> None:
    sites = random_sites(200)
    rules = submanifold_rules(sites)
    features, conv = noise(200, 8).requires_grad_(), SparseConv3d(8, 8)
    exact = conv(features, rules)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = conv(features, rules)
    assert mixed.dtype == torch.float32
    error = (mixed - exact).abs().max() / exact.abs().max()
    assert 0 < float(error.detach()) < 0.01
    mixed.square().sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.float32
    assert torch.equal(mixed, mixed.bfloat16().float()) is False


def test_without_sites_the_outputs_are_empty() -> None:
    nothing = Sites(torch.empty(0, 4, dtype=torch.long), SHAPE, 2)
    conv = SparseConv3d(3, 4)
    rules = strided_rules(nothing, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert conv(torch.empty(0, 3), submanifold_rules(nothing)).shape == (0, 4)
    assert conv(torch.empty(0, 3), rules).shape == (0, 4)
    assert to_dense(torch.empty(0, 4), rules.sites).shape == (2, 4, 3, 3, 2)


def test_duplicate_sites_are_an_error() -> None:
    with pytest.raises(AssertionError, match="two sites are equal"):
        submanifold_rules(Sites(torch.zeros(2, 4, dtype=torch.long), SHAPE, 1))
