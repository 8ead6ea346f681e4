"""What a training will need, measured on a real step or two before it starts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from diffsight.ops.precision import has_tf32, training_products
from diffsight.training.objective import AbstractObjective
from diffsight.training.stream import AbstractStream

LONG_STEP_S = 10.0  # a second measurement is not worth waiting for


@dataclass(frozen=True)
class Forecast:
    """Cost of a training per device.

    Attributes:
        parameters: numbers in the model.
        trainable: those that learn.
        weights_bytes: weights and buffers.
        training_bytes: gradients and the two moments of AdamW.
        activations_bytes: what the backward pass keeps, for one batch.
        seconds_per_step: forward, backward and reading the data, over all batches of a step. The
            optimiser's own time and the exchange between devices are not in it.
        steps: to do.
        uses_tf32: whether products of 32-bit numbers are made in TF32.
    """

    parameters: int
    trainable: int
    weights_bytes: int
    training_bytes: int
    activations_bytes: int
    seconds_per_step: float
    steps: int
    uses_tf32: bool = False

    def describe(self) -> str:
        """Return three lines."""
        products = ", products of 32-bit numbers in TF32" if self.uses_tf32 else ""
        memory = self.weights_bytes + self.training_bytes + self.activations_bytes
        return (
            f"{self.parameters:,} parameters, {self.trainable:,} of them learn\n"
            f"about {_gib(memory)} of memory per device: weights {_gib(self.weights_bytes)}, "
            f"gradients and moments {_gib(self.training_bytes)}, "
            f"activations {_gib(self.activations_bytes)}\n"
            f"{self.steps:,} steps of {self.seconds_per_step:.3g} s: about "
            f"{_duration(self.steps * self.seconds_per_step)}{products}"
        )


def forecast(
    objective: AbstractObjective,
    stream: AbstractStream,
    *,
    steps: int,
    accumulate: int = 1,
    world: int = 1,
    autocast: torch.dtype | None = None,
) -> Forecast:
    """Measure one or two forward and backward passes on the first batch, leaving no trace.

    Weights are not touched; buffers (running means), gradients and random states are put back. It
    needs the memory of a training step, but not of the optimiser's moments.
    """
    began = time.perf_counter()
    batch = next(replace(stream, workers=0).batches(world=world))
    reading_s = time.perf_counter() - began
    with _untouched(objective), training_products(next(objective.parameters()).device):
        computing_s, sizes = _timed(objective, batch, autocast)
        if computing_s < LONG_STEP_S:
            computing_s, _ = _timed(objective, batch, autocast)
    weights = [*objective.parameters(), *objective.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in weights}
    trainable = [p for p in objective.parameters() if p.requires_grad]
    batch_s = (
        max(computing_s, reading_s / stream.workers) if stream.workers else computing_s + reading_s
    )
    return Forecast(
        parameters=sum(p.numel() for p in objective.parameters()),
        trainable=sum(p.numel() for p in trainable),
        weights_bytes=sum(t.nbytes for t in weights),
        training_bytes=3 * sum(p.nbytes for p in trainable),
        activations_bytes=sum(size for pointer, size in sizes.items() if pointer not in own),
        seconds_per_step=batch_s * accumulate,
        steps=steps,
        uses_tf32=has_tf32(trainable[0].device) and autocast is None,
    )


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with isolate_rng():
            yield
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _timed(
    objective: AbstractObjective, batch: Any, autocast: torch.dtype | None
) -> tuple[float, dict[int, int]]:
    """Return the seconds of one pass, and the bytes of every storage kept for the backward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(objective.parameters()).device
    began = time.perf_counter()
    moved = batch.to(device)
    mixed = torch.autocast(device.type, autocast) if autocast else nullcontext()
    with mixed, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective.losses(moved)["loss"]
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, sizes


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
