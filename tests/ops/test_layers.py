"""Batch normalisation of a single value per channel."""

import torch
from torch import nn

from diffsight.ops.layers import BatchNorm


def test_a_single_value_is_normalised_with_the_running_statistics() -> None:
    norm = BatchNorm(2).train()
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    image = torch.tensor([5.0, 2.0])[None, :, None, None].requires_grad_()
    normalised = norm(image)
    torch.testing.assert_close(normalised[0, :, 0, 0], torch.tensor([2.0, 0.0]), rtol=0, atol=1e-4)
    normalised.sum().backward()
    assert image.grad is not None
    assert (image.grad > 0).all()
    assert norm.running_mean.tolist() == [1, 2]
    assert norm.running_var.tolist() == [4, 9]
    assert int(norm.num_batches_tracked) == 0


def test_several_values_are_normalised_as_in_torch() -> None:
    ours, theirs = BatchNorm(3).train(), nn.BatchNorm2d(3).train()
    for shape in ((2, 3, 1, 1), (1, 3, 2, 1), (2, 3, 4, 4)):
        maps = torch.rand(shape)
        assert torch.equal(ours(maps), theirs(maps))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
