"""Assertions that several contracts share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffsight.outputs import Output
from diffsight.types import Pyramid

ROW_TOLERANCE = 1e-5


def assert_rows_independent(run: Callable[[int | None], Tensor], batch: int) -> None:
    """Compare every row of the batch output ``run(None)`` with ``run(i)`` of image ``i`` alone."""
    with torch.no_grad():
        together = run(None)
        for i in range(batch):
            alone = run(i)[0]
            worst = (together[i] - alone).abs().max() / alone.abs().max().clamp(min=1e-30)
            assert worst <= ROW_TOLERANCE, f"row {i} depends on its batch: {worst:.2e} relative"


def assert_gradients_reach(
    module: nn.Module, loss: Tensor, without_gradient: Sequence[str] = ()
) -> None:
    """Check that trainable parameters get finite, non-zero gradients, and frozen ones none.

    Args:
        module: module whose parameters are checked.
        loss: scalar that depends on the parameters.
        without_gradient: parameters are not checked if their name contains one of these.
    """
    loss.backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
            continue
        if any(part in name for part in without_gradient):
            continue
        assert parameter.grad is not None, f"{name} is trainable but has no gradient"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert parameter.grad.any(), f"{name} is trainable but its gradient is zero"


def assert_declared(
    pyramid: Pyramid, channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]
) -> None:
    """Check channels and strides of a pyramid; ``size`` is height and width of its image."""
    assert tuple(pyramid.strides) == tuple(strides) == tuple(sorted(strides))
    assert tuple(f.shape[1] for f in pyramid.features) == tuple(channels)
    expected = [(size[0] // stride, size[1] // stride) for stride in strides]
    assert [tuple(f.shape[-2:]) for f in pyramid.features] == expected
    assert pyramid.valid_hw == size


def assert_in_32_bit(output: Output) -> None:
    """Check that all tensors are float32 and that the maps were not computed in bfloat16."""
    tensors = [value for value in vars(output).values() if isinstance(value, Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    for maps in (tensor for tensor in tensors if tensor.ndim == 4):
        needs_more_bits = (maps.bfloat16().float() != maps).float().mean()
        assert needs_more_bits > 0.5, f"{needs_more_bits:.0%} of the numbers need more than 8 bits"
