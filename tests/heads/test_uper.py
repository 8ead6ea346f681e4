"""UPerHead: levels, auxiliary head, and number of parameters."""

from dataclasses import replace

import torch
from tests.contracts import HeadContract

from diffsight.heads import UPerHead
from diffsight.outputs import Classes, OutputSpec
from diffsight.types import Pyramid


def build(**options) -> UPerHead:
    torch.manual_seed(0)
    return UPerHead(
        in_channels=(5,) * 4,
        strides=(4, 8, 16, 32),
        output=OutputSpec("classes", 3),
        **{"width": 8, **options},
    )


def make_pyramid(batch: int = 2) -> Pyramid:
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    features = tuple(torch.randn(batch, 5, *hw) for hw in sizes)
    return Pyramid(features, (4, 8, 16, 32), (61, 93), (64, 96))


def test_the_number_of_parameters_is_that_of_meta_prompts() -> None:
    """Head and auxiliary head together; running statistics of norms are not parameters."""
    head = UPerHead(
        in_channels=(150,) * 4, strides=(4, 8, 16, 32), output=OutputSpec("classes", 150)
    )
    first, pooled = 512 * 150, 512 * (150 + 4 * 512) * 9
    norms = 2 * 512 * (4 + 1 + 3 + 3 + 1)
    expected = 4 * first + pooled + 3 * first + 3 * 512 * 512 * 9 + 512 * 2048 * 9 + norms
    expected += 150 * 512 + 150
    auxiliary = 512 * 150 * 9 + 2 * 512 + 150 * 512 + 150
    assert sum(p.numel() for p in head.parameters()) == expected + auxiliary


def test_the_auxiliary_head_runs_only_in_training() -> None:
    head, pyramid = build(auxiliary_level=1), make_pyramid()
    output = head.train()(pyramid)
    assert isinstance(output, Classes)
    assert output.auxiliary is not None
    assert output.auxiliary.shape == output.maps.shape == (2, 3, 64, 96)
    assert head.eval()(pyramid).auxiliary is None
    # auxiliary logits are not mirrored: only training losses use them
    assert output.mirrored().auxiliary is None
    assert build(auxiliary_level=None).train()(pyramid).auxiliary is None


def test_every_level_changes_the_output() -> None:
    head, pyramid = build().eval(), make_pyramid(1)
    before = head(pyramid).stack
    for level in range(4):
        features = [*pyramid.features]
        features[level] = features[level] + 1
        changed = replace(pyramid, features=tuple(features))
        assert not torch.allclose(head(changed).stack, before), level


class TestUPerHead(HeadContract):
    pyramids = (((4, 5, 3, 6), (4, 8, 16, 32)), ((7, 4), (4, 8)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> UPerHead:
        return UPerHead(
            in_channels=in_channels,
            strides=strides,
            output=self.output,
            width=8,
            auxiliary_level=None,
        )
