"""Maps of a network as outputs: logits, bounded values, or values in units of the labels."""

import torch
from tests.support import noise

from diffsight.codecs import ScalarBins
from diffsight.heads.base import to_output
from diffsight.outputs import Classes, OutputSpec, Values

MAPS = noise(1, 2, 3, 4)


def test_outputs_for_classes_are_logits() -> None:
    output = to_output(OutputSpec("classes", 2), MAPS)
    assert isinstance(output, Classes)
    assert output.space == "logits"
    assert torch.equal(output.maps, MAPS)


def test_bounded_values_are_a_scaled_sigmoid() -> None:
    output = to_output(OutputSpec("values", 2, bounds=(-1.0, 3.0)), MAPS)
    assert isinstance(output, Values)
    torch.testing.assert_close(output.maps, 4 * MAPS.sigmoid() - 1)
    depth = to_output(OutputSpec("values", 2, bounds=(0.0, 10.0)), MAPS)
    assert torch.equal(depth.stack, MAPS.sigmoid() * 10.0)  # bit-identical


def test_unbounded_values_are_scaled_by_mean_and_deviation_of_the_labels() -> None:
    assert torch.equal(to_output(OutputSpec("values", 2), MAPS).stack, MAPS)
    codec = ScalarBins(4).with_statistics(torch.tensor([[290.0], [310.0]]))
    output = to_output(OutputSpec("values", 1, codec=codec), MAPS[:, :1])
    torch.testing.assert_close(output.stack, 300 + MAPS[:, :1] * 200**0.5)
    # a task with bounds keeps them, even if it has bins
    bounded = OutputSpec("values", 1, bounds=(0.0, 1.0), codec=codec)
    assert float(to_output(bounded, MAPS[:, :1]).stack.max()) < 1
