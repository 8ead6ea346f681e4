"""Forecast of memory and time of a training, measured on its first batch before it starts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from diffsight.formats.durations import format_duration
from diffsight.ops.precision import has_tf32, training_products
from diffsight.training.objective import AbstractObjective
from diffsight.training.stream import AbstractStream

DAY_S = 24 * 3600
FORWARD_FRACTION = 1 / 3  # time of a forward pass relative to forward and backward
LONG_STEP_S = 10.0  # longer steps are measured only once


@dataclass(frozen=True)
class Forecast:
    """The cost of a training in memory (per device) and time.

    Attributes:
        parameters: number of parameters of the model.
        trainable: number of trainable parameters.
        weights_bytes: memory of weights and buffers.
        training_bytes: memory of gradients and of AdamW's two moments.
        activations_bytes: memory that the backward pass of one batch keeps.
        seconds_per_step: time for reading, forward and backward passes of all batches of a step,
            without the optimiser and the communication between devices.
        steps: remaining steps.
        validations: remaining validations, including the final evaluation.
        seconds_per_validation: time for reading and forward passes, estimated from a training step.
        uses_tf32: whether the training computes matrix products and convolutions in TF32.
    """

    parameters: int
    trainable: int
    weights_bytes: int
    training_bytes: int
    activations_bytes: int
    seconds_per_step: float
    steps: int
    validations: int = 0
    seconds_per_validation: float = 0.0
    uses_tf32: bool = False

    @property
    def seconds(self) -> float:
        """Time of all remaining steps and validations in seconds."""
        scoring_s = self.validations * self.seconds_per_validation
        return self.steps * self.seconds_per_step + scoring_s

    def describe(self) -> str:
        """Return three lines on parameters, memory and time."""
        products = ", float32 products in TF32" if self.uses_tf32 else ""
        memory = self.weights_bytes + self.training_bytes + self.activations_bytes
        scoring = ""
        if self.validations:
            scoring = (
                f" and {self.validations} validations of {self.seconds_per_validation:.3g} s, the "
                "final evaluation included"
            )
        return (
            f"{self.parameters:,} parameters, {self.trainable:,} of them trainable\n"
            f"about {_gib(memory)} of memory per device: weights {_gib(self.weights_bytes)}, "
            f"gradients and moments {_gib(self.training_bytes)}, "
            f"activations {_gib(self.activations_bytes)}\n"
            f"{self.steps:,} steps of {self.seconds_per_step:.3g} s{scoring}: about "
            f"{format_duration(self.seconds)}{products}"
        )


def forecast(
    objective: AbstractObjective,
    stream: AbstractStream,
    *,
    steps: int,
    accumulate: int = 1,
    world: int = 1,
    dtype: torch.dtype | None = None,
    validations: int = 0,
    scored_images: float = 0.0,
) -> Forecast:
    """Return the cost of a training, measured on one or two passes over its first batch.

    A pass is forward and backward. Weights do not change; buffers (such as running means) and
    random states are restored, and gradients are cleared. The measurement needs the memory of a
    training step without the optimiser's moments.

    Args:
        objective: objective of the training.
        stream: training batches.
        steps: remaining steps.
        accumulate: batches per step.
        world: number of devices.
        dtype: dtype of mixed precision; None trains in float32.
        validations: remaining validations, including the final evaluation.
        scored_images: number of images of a validation; an image of another size than the training
            images counts in proportion to its pixels.
    """
    began = time.perf_counter()
    batch = next(replace(stream, workers=0).batches(world=world))
    reading_s = time.perf_counter() - began
    with _untouched(objective), training_products(next(objective.parameters()).device):
        computing_s, sizes = _timed(objective, batch, dtype)
        if computing_s < LONG_STEP_S:
            computing_s, _ = _timed(objective, batch, dtype)
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
        validations=validations,
        seconds_per_validation=scored_images
        / (len(batch) * world)
        * (FORWARD_FRACTION * computing_s + reading_s),
        uses_tf32=has_tf32(trainable[0].device) and dtype is None,
    )


def validations_left(step: int, steps: int, every: int) -> int:
    """Return the number of validations after a step, including the final evaluation.

    Args:
        step: finished steps.
        steps: steps of the whole training.
        every: steps between validations.
    """
    return steps // every - step // every + 1


@dataclass
class TimeLeft:
    """Estimates the remaining time of a training from its steps and validations so far.

    Attributes:
        step: finished steps when the clock was started.
        steps: steps of the whole training.
        every: steps between validations.
        began: time at which the clock was started, as ``time.monotonic`` returns it.
        scoring_s: seconds spent on validations so far.
        scored: number of validations so far.
    """

    step: int
    steps: int
    every: int
    began: float = field(default_factory=time.monotonic)
    scoring_s: float = 0.0
    scored: int = 0
    _scoring_since: float = 0.0

    def begin_scoring(self) -> None:
        """Start the clock of a validation."""
        self._scoring_since = time.monotonic()

    def end_scoring(self) -> None:
        """Stop the clock of a validation."""
        self.scoring_s += time.monotonic() - self._scoring_since
        self.scored += 1

    def seconds(self, step: int) -> float | None:
        """Return the remaining seconds after ``step`` steps; None before the first one."""
        if step <= self.step:
            return None
        step_s = (time.monotonic() - self.began - self.scoring_s) / (step - self.step)
        validation_s = self.scoring_s / max(1, self.scored)
        scorings = validations_left(step, self.steps, self.every)
        return (self.steps - step) * step_s + scorings * validation_s

    def describe(self, step: int) -> str:
        """Return the remaining time as text after ``step`` steps; empty before the first one."""
        seconds = self.seconds(step)
        return "" if seconds is None else f"about {format_duration(seconds)} left"


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Return a context that restores buffers and random states, and clears all gradients."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with isolate_rng():
            yield
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _timed(
    objective: AbstractObjective, batch: Any, dtype: torch.dtype | None
) -> tuple[float, dict[int, int]]:
    """Return the seconds of a forward and backward pass, and the memory that it keeps in between.

    The memory is in bytes, by the address of each storage.
    """
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(objective.parameters()).device
    began = time.perf_counter()
    moved = batch.to(device)
    mixed = torch.autocast(device.type, dtype) if dtype else nullcontext()
    with mixed, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective.losses(moved)["loss"]
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, sizes


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
