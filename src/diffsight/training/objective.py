"""Objectives: the losses that a training minimises, and the scores of its validation."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric

from diffsight.datasets.base import Batch
from diffsight.inference import Plan, Predictor
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.protocols import AbstractProtocol
from diffsight.training.data import TrainingBatch


class AbstractObjective(nn.Module, abc.ABC):
    """Losses of a training batch and scores of a validation set."""

    frozen: tuple[str, ...] = ()  # paths of frozen parts, which checkpoints leave out

    @property
    @abc.abstractmethod
    def trained(self) -> nn.Module:
        """The module whose parameters are trained."""

    @abc.abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return scalars by name for a batch of the stream; ``loss`` is the one to minimise."""

    @abc.abstractmethod
    def after_step(self) -> None:
        """Update after an optimiser step, for example a running mean of the weights."""

    @abc.abstractmethod
    def score(self, batch: Any) -> Sequence[Any]:
        """Add one validation batch to the scores; return its predictions for the pictures."""

    @abc.abstractmethod
    def scores(self) -> Mapping[str, Tensor]:
        """Return the scores of everything since the last call, over all devices."""


class Supervised(AbstractObjective):
    """Supervised training of a model on labels.

    Args:
        model: model to train, with the loss of its task.
        protocol: protocol of the validation; None scores the loss alone.
        plan: how validation images are run; None runs a batch in one pass, and scores its loss too.
    """

    def __init__(
        self, model: DenseModel, protocol: AbstractProtocol | None, plan: Plan | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.protocol = protocol
        self.plan = plan
        self.frozen = tuple(f"model.method.{path}." for path in model.method.frozen())
        self.metric = None if protocol is None else protocol.metric(model.task)
        self.mean_loss = MeanMetric()

    @property
    def trained(self) -> DenseModel:
        """The model."""
        return self.model

    @property
    def has_loss(self) -> bool:
        """Whether validation computes a loss, which needs predictions from a single pass."""
        return self.plan is None and not self.model.task.has_regions

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the losses of the task."""
        inputs, target = batch.batch.inputs, batch.batch.target
        return self.model.losses(inputs, target, draws=batch.draws)

    def after_step(self) -> None:
        """Do nothing."""

    def score(self, batch: Batch) -> Sequence[Any]:
        """Add the measures, and in a single pass the loss; return the predictions."""
        uses_prompt = self.protocol is not None and self.protocol.uses_prompt
        uses_prompt = uses_prompt or self.model.requires_prompt
        inputs = batch.inputs if uses_prompt else replace(batch.inputs, prompts=None)
        if self.has_loss:
            with float32_products(tf32=False):  # as predictions and evaluations
                output = self.model(inputs)
            loss = self.model.task.loss(output, batch.target)["loss"]
            self.mean_loss.update(loss, len(batch.ids))
            predictions = self.model.task.decode(output)
        else:
            plan = replace(self.plan or Plan(), batch_size=len(batch.ids))
            predictor = Predictor(self.model, plan)
            rigs = None if inputs.rig is None else inputs.rig.each()
            predictions = list(predictor(inputs.image, inputs.prompts, inputs.people, rigs))
        if self.protocol is not None and self.metric is not None:
            for i, prediction in enumerate(predictions):
                self.protocol.measure(self.metric, prediction, batch.target.row(i))
        return predictions

    def scores(self) -> Mapping[str, Tensor]:
        """Return the protocol's measures, and ``loss`` for single passes."""
        scores = {}
        if self.has_loss:
            scores["loss"] = self.mean_loss.compute()
            self.mean_loss.reset()
        if self.metric is not None:
            scores |= self.metric.compute()
            self.metric.reset()
        return scores
