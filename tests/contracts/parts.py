"""Contract tests of heads, necks and backbones."""

import abc
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from diffsight.errors import InputError
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Pyramid
from tests.contracts.checks import (
    assert_declared,
    assert_gradients_reach,
    assert_in_32_bit,
    assert_rows_independent,
)
from tests.support import images, pyramid_of, randomise_weights, take_row, weighted_sum


class HeadContract(abc.ABC):
    """Tests of a head: one output at the size of the padded image.

    Attributes:
        pyramids: channels and strides of the pyramids for which the head is built.
        output: specification of the output.
        size: height and width of the image; not square, and multiples of the strides.
    """

    pyramids: ClassVar[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]
    output: ClassVar[OutputSpec] = OutputSpec("classes", 2)
    size: ClassVar[tuple[int, int]] = (64, 128)

    @abc.abstractmethod
    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
        """Return a tiny head for the output ``self.output``."""

    def test_one_map_per_output_at_the_size_of_the_image(self) -> None:
        for channels, strides in self.pyramids:
            output = self.build(channels, strides)(pyramid_of(channels, strides, 2, *self.size))
            assert isinstance(output, Output)
            hw = [side // self.output.stride for side in self.size]
            assert output.stack.shape == (2, self.output.channels, *hw)
            assert output.stack.isfinite().all()

    def test_row_does_not_depend_on_its_batch(self) -> None:
        channels, strides = self.pyramids[0]
        head = randomise_weights(self.build(channels, strides)).eval()
        pyramid = pyramid_of(channels, strides, 3, *self.size)
        assert_rows_independent(
            lambda i: head(pyramid if i is None else take_row(pyramid, i)).stack, 3
        )

    def test_the_head_does_not_run_in_mixed_precision(self) -> None:
        channels, strides = self.pyramids[0]
        head = randomise_weights(self.build(channels, strides)).eval()
        pyramid = pyramid_of(channels, strides, 2, *self.size)
        half = replace(pyramid, features=tuple(f.bfloat16() for f in pyramid.features))
        rounded = replace(half, features=tuple(f.float() for f in half.features))
        with torch.no_grad():
            expected, expected_of_half = head(pyramid), head(rounded)
            with torch.autocast("cpu", torch.bfloat16):
                mixed, mixed_of_half = head(pyramid), head(half)
        for ours, theirs in ((mixed, expected), (mixed_of_half, expected_of_half)):
            assert_in_32_bit(ours)
            assert torch.equal(ours.stack, theirs.stack)

    def test_gradients_reach_every_weight(self) -> None:
        for channels, strides in self.pyramids:
            head = self.build(channels, strides).train()
            maps = head(pyramid_of(channels, strides, 2, *self.size)).stack
            assert_gradients_reach(head, weighted_sum(maps))

    def test_a_distribution_over_a_codec_is_refused(self) -> None:
        original, self.output = self.output, OutputSpec("distribution", 2)  # type: ignore[misc]
        try:
            with pytest.raises(InputError, match="not a distribution over 2 classes"):
                self.build(*self.pyramids[0])
        finally:
            self.output = original  # type: ignore[misc]


class NeckContract(abc.ABC):
    """Tests of a neck: channels and strides of its output.

    The attributes are those of ``HeadContract``.
    """

    pyramids: ClassVar[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]
    size: ClassVar[tuple[int, int]] = (64, 128)

    @abc.abstractmethod
    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """Return a tiny neck."""

    def test_channels_and_strides_are_as_declared(self) -> None:
        for channels, strides in self.pyramids:
            neck = self.build(channels, strides)
            assert_declared(
                neck(pyramid_of(channels, strides, 2, *self.size)),
                neck.out_channels,
                neck.out_strides,
                self.size,
            )

    def test_row_does_not_depend_on_its_batch(self) -> None:
        channels, strides = self.pyramids[0]
        neck = randomise_weights(self.build(channels, strides)).eval()
        pyramid = pyramid_of(channels, strides, 3, *self.size)
        for level in range(len(neck.out_channels)):
            assert_rows_independent(
                lambda i, level=level: neck(
                    pyramid if i is None else take_row(pyramid, i)
                ).features[level],
                3,
            )

    def test_gradients_reach_every_weight(self) -> None:
        for channels, strides in self.pyramids:
            neck = self.build(channels, strides).train()
            out = neck(pyramid_of(channels, strides, 2, *self.size))
            assert_gradients_reach(neck, weighted_sum(*out.features))


class BackboneContract(abc.ABC):
    """Tests of a backbone: channels, strides, sizes and gradients.

    Attributes:
        without_gradient: as in ``MethodContract``.
    """

    without_gradient: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def build(self) -> Any:
        """Return a tiny backbone."""

    def run(self, backbone: Any, image: Tensor) -> Pyramid:
        """Return the pyramid of one pass; override it if the backbone needs a condition."""
        return backbone(image)

    def size(self, backbone: Any) -> tuple[int, int]:
        """Return height and width of the smallest image that is not square."""
        return backbone.size_multiple, 2 * backbone.size_multiple

    def test_channels_and_strides_are_as_declared(self) -> None:
        backbone = self.build()
        size = self.size(backbone)
        pyramid = self.run(backbone, images(2, *size))
        assert_declared(pyramid, backbone.channels, backbone.strides, size)

    def test_row_does_not_depend_on_its_batch(self) -> None:
        backbone = randomise_weights(self.build()).eval()
        batch = images(3, *self.size(backbone))
        for level in range(len(backbone.channels)):
            assert_rows_independent(
                lambda i, level=level: self.run(
                    backbone, batch if i is None else batch[i : i + 1]
                ).features[level],
                3,
            )

    def test_gradients_reach_trainable_parameters(self) -> None:
        backbone = self.build().train()
        pyramid = self.run(backbone, images(2, *self.size(backbone)))
        assert_gradients_reach(backbone, weighted_sum(*pyramid.features), self.without_gradient)

    def test_sides_that_are_not_multiples_are_refused(self) -> None:
        backbone = self.build()
        if backbone.size_multiple == 1:
            return
        height, width = self.size(backbone)
        with pytest.raises(InputError, match=str(backbone.size_multiple)):
            self.run(backbone, images(1, height, width + 1))
