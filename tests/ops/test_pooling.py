"""Adaptive pooling gives the same means in an exported graph, for sizes that were not traced."""

from typing import Any

import pytest
import torch
from tests.support import images
from torch import Tensor, nn
from torch.nn import functional

from diffsight.ops.pooling import mean_of_cells


class Pool(nn.Module):
    """Pool maps to six cells per side."""

    def forward(self, maps: Tensor) -> Tensor:
        return mean_of_cells(maps, 6)


@pytest.mark.parametrize("hw", [(1, 2), (4, 6), (7, 5), (13, 20)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_the_matrices_of_a_graph_pool_as_torch(
    monkeypatch: pytest.MonkeyPatch, hw: tuple[int, int], cells: int
) -> None:
    maps = images(2, *hw)
    expected = functional.adaptive_avg_pool2d(maps, cells)
    assert torch.equal(mean_of_cells(maps, cells), expected)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(mean_of_cells(maps, cells), expected)


def test_a_graph_pools_maps_of_a_size_that_was_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    axes = {2: torch.export.Dim("rows"), 3: torch.export.Dim("columns")}
    program = torch.export.export(Pool(), (images(2, 9, 14),), dynamic_shapes=(axes,))
    graph: Any = program.module()
    maps = images(2, 20, 7)
    torch.testing.assert_close(graph(maps), functional.adaptive_avg_pool2d(maps, 6))
