"""The one LightningModule: wiring of steps, optimiser, schedule, scores and checkpoints."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from diffsight.config import Plain
from diffsight.datasets.base import AbstractDataset, Batch
from diffsight.model import DenseModel
from diffsight.protocols import DepthProtocol
from diffsight.training.checkpoints import KEY, versions
from diffsight.training.data import TrainingBatch, TrainingStream, ValidationBatches
from diffsight.training.optim import AdamW
from diffsight.training.rng import restore_rng, rng_state
from diffsight.training.schedules import AbstractSchedule, Clock


class Learner(LightningModule):
    """Trains a model on a stream of batches and scores it under a protocol.

    Args:
        model: what learns; loss, decoding and meaning are its task's.
        stream: training batches.
        optim: builder of parameter groups and optimiser.
        schedule: learning rate over the training.
        steps: optimiser steps of the whole training.
        accumulate: batches per optimiser step.
        validation: what is scored.
        protocol: how it is scored; None gives the loss alone.
        recipe: the resolved recipe, stored in every checkpoint.
    """

    def __init__(
        self,
        model: DenseModel,
        *,
        stream: TrainingStream,
        optim: AdamW,
        schedule: AbstractSchedule,
        steps: int,
        accumulate: int,
        validation: AbstractDataset,
        protocol: DepthProtocol | None,
        recipe: dict[str, Plain],
    ) -> None:
        super().__init__()
        self.model = model
        self.stream = stream
        self.optim = optim
        self.schedule = schedule
        self.steps = steps
        self.accumulate = accumulate
        self.validation = validation
        self.protocol = protocol
        self.recipe = recipe
        self.groups = optim.groups(model)
        self.metric = None if protocol is None else protocol.metric()
        self.mean_loss = MeanMetric()
        self.scores: dict[str, float] = {}
        self.scored_step = -1
        self._start = 0
        self._resumed_rng: list[dict[str, Any]] = []
        self._rng_before_validation: dict[str, Any] = {}

    @property
    def clock(self) -> Clock:
        """Where the training stands."""
        per_epoch = self.stream.batches_per_epoch / self.accumulate
        return Clock(self.global_step, self.steps, per_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser; the rates are set step by step in ``on_before_optimizer_step``."""
        return self.optim.build(self.groups)

    def train_dataloader(self) -> "_Batches":
        """This device's part of the stream, from where the training stands."""
        return _Batches(self.stream, self._start, self.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> ValidationBatches:
        """This device's part of the validation set."""
        world = self.trainer.world_size
        return ValidationBatches(
            self.validation,
            label=self.model.task.label,
            batch_size=max(1, self.stream.batch_size // world),
            workers=self.stream.workers,
            rank=self.global_rank,
            world=world,
        )

    def transfer_batch_to_device(
        self, batch: TrainingBatch | Batch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch | Batch:
        """Images and labels move, seeds stay."""
        if isinstance(batch, TrainingBatch):
            return batch._replace(batch=batch.batch.to(device))
        return batch.to(device)

    def training_step(self, batch: TrainingBatch, index: int) -> Tensor:
        """The loss of one batch."""
        inputs, target = batch.batch.inputs, batch.batch.target
        losses = self.model.losses(inputs, target, draws=batch.draws)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch.batch.ids))
        return losses["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate of every group for this step."""
        lr = self.schedule.lr(self.optim.lr, self.clock)
        for group, ours in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] = lr * ours.lr_scale
        self.log_dict({"train/lr": lr, "train/epoch": self.clock.epoch}, batch_size=1)

    def on_validation_start(self) -> None:
        """Remember the random state: a training is the same with and without validation."""
        self._rng_before_validation = rng_state()

    def validation_step(self, batch: Batch, index: int) -> dict[str, Any]:
        """Score one batch, and give its predictions to the callbacks."""
        oracle = self.protocol is not None and self.protocol.prompt == "oracle-scene"
        raw = self.model(batch.inputs if oracle else replace(batch.inputs, prompts=None))
        loss = self.model.task.loss(raw, batch.target)["loss"]
        self.mean_loss.update(loss, len(batch.ids))
        if self.protocol is not None and self.metric is not None:
            truth_m = batch.target.label[:, 0]
            prediction_m = self.protocol.prepare(raw.maps[:, 0].float())
            self.metric.update(
                prediction_m, truth_m, self.protocol.mask(truth_m, batch.target.valid)
            )
        return {"predictions": self.model.task.decode(raw)}

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all devices together."""
        scores = {"loss": self.mean_loss.compute()}
        self.mean_loss.reset()
        if self.metric is not None:
            scores |= self.metric.compute()
            self.metric.reset()
        self.scores = {name: float(value) for name, value in scores.items()}
        self.scored_step = self.global_step
        # the same on every device already; Lightning asks for sync_dist all the same
        logged = {f"val/{name}": value for name, value in self.scores.items()}
        self.log_dict(logged, batch_size=1, sync_dist=self.trainer.world_size > 1)

    def on_validation_end(self) -> None:
        """Put the random state back."""
        restore_rng(self._rng_before_validation)

    def on_train_start(self) -> None:
        """Continue the random numbers of the interrupted run."""
        if len(self._resumed_rng) == self.trainer.world_size:
            restore_rng(self._resumed_rng[self.global_rank])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know: position in the data, random states, recipe."""
        states: list[Any] = [rng_state()]
        if self.trainer.world_size > 1:
            states *= self.trainer.world_size
            torch.distributed.all_gather_object(states, states[0])
        checkpoint[KEY] = {
            "loader": self.stream.state(self.global_step * self.accumulate),
            "schedule": {"step": self.global_step, "steps": self.steps},
            "rng": states,
            "recipe": self.recipe,
            "versions": versions(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the position in the data and the random states.

        Raises:
            InputError: if the checkpoint was trained on another stream.
        """
        self._start = self.stream.batches_seen(checkpoint[KEY]["loader"])
        self._resumed_rng = checkpoint[KEY]["rng"]


class _Batches:
    """Iterable for Lightning, which knows neither length nor epochs: the stream has no end."""

    def __init__(self, stream: TrainingStream, start: int, rank: int, world: int) -> None:
        self.stream, self.start, self.rank, self.world = stream, start, rank, world

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self.stream.batches(self.start, rank=self.rank, world=self.world)
