"""Contract tests fail for heads and layers that violate the contract."""

import pytest
import torch
from torch import Tensor, nn

from diffsight.heads.base import require_maps
from diffsight.outputs import Classes, OutputSpec
from diffsight.types import Pyramid
from tests.contracts import HeadContract, assert_declared, assert_gradients_reach
from tests.support import noise, pyramid_of


class Leaky(nn.Module):
    """A head whose output can depend on its batch, and which can have an unused weight."""

    def __init__(self, channels: int, output: OutputSpec, *, leak: float, has_unused: bool) -> None:
        super().__init__()
        require_maps("Leaky", output)
        self.leak = leak
        self.conv = nn.Conv2d(channels, 2, 1)
        self.unused = nn.Parameter(torch.ones(1)) if has_unused else None

    def forward(self, pyramid: Pyramid) -> Classes:
        maps: Tensor = self.conv(pyramid.features[0])
        maps = maps + self.leak * maps.mean(dim=0, keepdim=True)
        return Classes(nn.functional.interpolate(maps, scale_factor=8))


class Contract(HeadContract):
    pyramids = (((4,), (8,)),)

    def __init__(self, *, leak: float = 0.0, has_unused: bool = False) -> None:
        self.options = {"leak": leak, "has_unused": has_unused}

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
        return Leaky(*in_channels, self.output, **self.options)


def test_a_correct_head_passes() -> None:
    contract = Contract()
    contract.test_one_map_per_output_at_the_size_of_the_image()
    contract.test_row_does_not_depend_on_its_batch()
    contract.test_gradients_reach_every_weight()
    contract.test_a_distribution_over_a_codec_is_refused()


def test_an_output_that_depends_on_the_batch_fails() -> None:
    with pytest.raises(AssertionError, match="row 0 depends on its batch"):
        Contract(leak=1e-3).test_row_does_not_depend_on_its_batch()


def test_a_weight_without_gradient_fails() -> None:
    with pytest.raises(AssertionError, match="unused is trainable but has no gradient"):
        Contract(has_unused=True).test_gradients_reach_every_weight()


def test_a_frozen_weight_with_a_gradient_fails() -> None:
    layer = nn.Linear(2, 1)
    layer(noise(1, 2)).sum().backward()
    layer.weight.requires_grad_(False)
    layer.bias.grad = None
    with pytest.raises(AssertionError, match="weight is frozen and has a gradient"):
        assert_gradients_reach(layer, layer(noise(1, 2)).sum())


def test_a_wrong_declaration_of_channels_strides_or_size_fails() -> None:
    pyramid = pyramid_of((3, 5), (8, 16), 1, 32, 64)
    assert_declared(pyramid, (3, 5), (8, 16), (32, 64))
    for channels, strides, size in (
        ((3, 6), (8, 16), (32, 64)),
        ((3, 5), (8, 32), (32, 64)),
        ((3, 5), (8, 16), (64, 64)),
    ):
        with pytest.raises(AssertionError):
            assert_declared(pyramid, channels, strides, size)
