"""The ``LightningModule`` of ``fit`` and ``pretrain``: training steps, scores and checkpoints."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from torch import Tensor

from diffsight.config import Plain
from diffsight.errors import InputError
from diffsight.training.checkpoints import KEY, versions
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.rng import restore_rng, rng_state
from diffsight.training.schedules import AbstractSchedule
from diffsight.training.state import outside
from diffsight.training.step import TrainingStep
from diffsight.training.stream import AbstractStream

Validation = Callable[[int, int], Iterable[Any]]
"""A function from the rank of a device and the number of devices to its validation batches."""
ClipNorm = float | dict[str, float] | None


class Learner(LightningModule):
    """Trains an objective on a stream of batches, and scores it.

    Args:
        objective: module to train, with its losses and scores.
        stream: training batches.
        optim: builder of parameter groups and optimiser.
        schedule: learning rate over the training.
        steps: optimiser steps of the whole training.
        accumulate: batches per optimiser step.
        validation: function that returns the validation batches of a device.
        recipe: the recipe with all defaults; it is stored in every checkpoint.
        clip_norm: largest norm of the gradient, or one for each prefix of parameter names; None
            does not clip.
    """

    def __init__(
        self,
        objective: AbstractObjective,
        *,
        stream: AbstractStream,
        optim: AdamW,
        schedule: AbstractSchedule,
        steps: int,
        validation: Validation,
        recipe: dict[str, Plain],
        accumulate: int = 1,
        clip_norm: ClipNorm = None,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.stream = stream
        self.steps = steps
        self.accumulate = accumulate
        self.validation = validation
        self.recipe = recipe
        self.step = TrainingStep(
            objective.trained,
            objective.losses,
            optim=optim,
            steps=steps,
            schedule=schedule,
            steps_per_epoch=stream.batches_per_epoch / accumulate,
            clip_norms=clip_norm if isinstance(clip_norm, dict) else _clip_together(clip_norm),
        )
        self.strict_loading = False  # checkpoints leave frozen parts out
        self.scores: dict[str, float] = {}
        self.scored_step = -1
        self._start = 0
        self._resumed_rng: list[dict[str, Any]] = []
        self._rng_before_validation: dict[str, Any] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; ``on_before_optimizer_step`` sets its learning rates.

        On a CPU in float32 it is fused, which takes a fifth of the time. In mixed precision
        Lightning refuses to clip the gradients of a fused optimiser.
        """
        is_fused = self.trainer.precision == "32-true" and self.device.type == "cpu"
        return self.step.optimiser(fused=is_fused)

    def train_dataloader(self) -> "_Batches":
        """Return the training batches of this device; a resumed run continues where it stopped."""
        device = {"rank": self.global_rank, "world": self.trainer.world_size}
        return _Batches(lambda: self.stream.batches(self._start, **device))

    def val_dataloader(self) -> "_Batches":
        """Return the validation batches of this device."""
        return _Batches(lambda: self.validation(self.global_rank, self.trainer.world_size))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Copy a batch to a device."""
        return batch.to(device)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the loss of one batch, and log all its terms."""
        losses = self.step.losses(batch)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch))
        return losses["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of every parameter group for this step, and log it."""
        lr = self.step.set_rates(optimizer, self.global_step)
        epoch = self.step.clock(self.global_step).epoch
        self.log_dict({"train/lr": lr, "train/epoch": epoch}, batch_size=1)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradients with ``TrainingStep.clip``."""
        self.step.clip()

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Call ``after_step`` of the objective, because the previous step is complete now."""
        if self.global_step:
            self.objective.after_step()

    def on_validation_start(self) -> None:
        """Remember the random state, so that a validation does not change the training."""
        self._rng_before_validation = rng_state()

    def validation_step(self, batch: Any, index: int) -> dict[str, Any]:
        """Score one batch, and pass its predictions to the callbacks."""
        return {"predictions": self.objective.score(batch)}

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all devices together."""
        self.scores = {name: float(value) for name, value in self.objective.scores().items()}
        self.scored_step = self.global_step
        # equal on all devices already, but Lightning requires sync_dist
        logged = {f"val/{name}": value for name, value in self.scores.items()}
        self.log_dict(logged, batch_size=1, sync_dist=self.trainer.world_size > 1)
        restore_rng(self._rng_before_validation)  # callbacks may save a checkpoint next

    def on_validation_end(self) -> None:
        """Restore the random state from before the validation, which callbacks may have changed."""
        restore_rng(self._rng_before_validation)

    def on_train_start(self) -> None:
        """Restore the random state of the interrupted run, if it had as many devices."""
        if len(self._resumed_rng) == self.trainer.world_size:
            restore_rng(self._resumed_rng[self.global_rank])

    def _outside_frozen(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict without the objective's frozen parts."""
        return outside(state, (f"objective.{path}" for path in self.objective.frozen))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove frozen parts from a checkpoint; add data position, random states and recipe."""
        states: list[Any] = [rng_state()]
        if self.trainer.world_size > 1:
            states *= self.trainer.world_size
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["state_dict"] = self._outside_frozen(checkpoint["state_dict"])
        checkpoint[KEY] = {
            "loader": self.stream.state(self.global_step * self.accumulate),
            "schedule": {"step": self.global_step, "steps": self.steps},
            "rng": states,
            "recipe": self.recipe,
            "versions": versions(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position in the data and the random states.

        Raises:
            InputError: if the checkpoint belongs to another stream or another model.
        """
        stored = checkpoint["state_dict"].keys()
        self.objective.expect([name.removeprefix("objective.") for name in stored])
        ours = self._outside_frozen(self.state_dict())
        if different := ours.keys() ^ stored:
            raise InputError(
                f"the checkpoint belongs to another model ({len(different)} tensors differ, first "
                f"{min(different)}): resume with the recipe of the run"
            )
        self._start = self.stream.batches_seen(checkpoint[KEY]["loader"])
        self._resumed_rng = checkpoint[KEY]["rng"]


class _Batches:
    """An iterable of batches without a length, so that Lightning counts no epochs."""

    def __init__(self, begin: Callable[[], Iterable[Any]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Any]:
        return iter(self.begin())


def _clip_together(clip_norm: float | None) -> dict[str, float]:
    """Return ``clip_norms`` of a ``TrainingStep`` that clips all gradients to one norm."""
    return {} if clip_norm is None else {"": clip_norm}
