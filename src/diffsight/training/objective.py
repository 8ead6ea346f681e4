"""Objectives: the losses of a training, and the scores of its validation."""

import abc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric

from diffsight.datasets.base import Batch, Sample, collate
from diffsight.errors import InputError, suggest
from diffsight.inference import Plan, Predictor
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.protocols import AbstractProtocol
from diffsight.training.data import TrainingBatch


class AbstractObjective(nn.Module, abc.ABC):
    """Losses of a training batch and scores of a validation set."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Prefixes of the names of frozen parameters and buffers, which checkpoints leave out."""
        return ()

    def expect(self, stored: Collection[str]) -> None:
        """Prepare for the tensors of a checkpoint, which may contain frozen ones.

        Args:
            stored: names of the tensors in the checkpoint.
        """

    @property
    @abc.abstractmethod
    def trained(self) -> nn.Module:
        """The module whose parameters are trained."""

    @abc.abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return scalar losses of a training batch by name; ``loss`` is the one to minimise."""

    @abc.abstractmethod
    def after_step(self) -> None:
        """Update what depends on the weights after a step, such as their moving average."""

    @abc.abstractmethod
    def score(self, batch: Any) -> Sequence[Any]:
        """Add a validation batch to the scores; return its predictions, which may be drawn."""

    @abc.abstractmethod
    def scores(self) -> Mapping[str, Tensor]:
        """Return the scores of all batches since the last call, over all devices, by name."""


class Supervised(AbstractObjective):
    """Supervised training of a model on labels.

    Args:
        model: model to train, with the loss of its task.
        protocol: evaluation protocol of the validation; None computes the loss alone.
        plan: how the model is run on validation images; None runs it on a batch in one pass, and
            computes the loss too.
    """

    def __init__(
        self, model: DenseModel, protocol: AbstractProtocol | None, plan: Plan | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.protocol = protocol
        self.plan = plan
        self.metric = None if protocol is None else protocol.metric(model.task)
        self.mean_loss = MeanMetric()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Prefixes of the frozen parts that can be loaded again from where they came from."""
        parts = self.model.method.frozen()
        return tuple(_prefix(path) for path, part in parts.items() if part.source)

    def expect(self, stored: Collection[str]) -> None:
        """Mark the frozen parts in a checkpoint as changed, so that they are saved as well."""
        for path, part in self.model.method.frozen().items():
            if any(name.startswith(_prefix(path)) for name in stored):
                part.source = part.revision = None

    @property
    def trained(self) -> DenseModel:
        """The model."""
        return self.model

    @property
    def has_loss(self) -> bool:
        """Whether validation computes a loss, which needs predictions from a single pass."""
        return self.plan is None and not self.model.task.has_regions

    def require_score(self, name: str, sample: Sample) -> None:
        """Check that validation computes a score of this name.

        The names of the protocol's scores are those of a sample whose label is the prediction. If
        no pixel of the sample counts, they are not known yet.

        Args:
            name: name of the score.
            sample: sample of the validation set.

        Raises:
            InputError: if there is no such score.
        """
        names = ["loss"] if self.has_loss else []
        if self.protocol is not None:
            metric = self.protocol.metric(self.model.task)
            (one, *_) = sample.split_by_sentence()
            target = collate([one], self.model.task.label).target
            (truth,) = self.model.task.truth(target)
            if not self.protocol.measure(metric, truth, target):
                return
            names += metric.compute()
        if name not in names:
            raise InputError(f"monitor: validation has no score {name!r}: {suggest(name, names)}")

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the losses of the task."""
        inputs, target = batch.batch.inputs, batch.batch.target
        return self.model.losses(inputs, target, draws=batch.draws)

    def after_step(self) -> None:
        """Do nothing."""

    def score(self, batch: Batch) -> Sequence[Any]:
        """Add a batch to the metrics and, if ``has_loss``, to the mean loss; return predictions."""
        uses_prompt = self.protocol is not None and self.protocol.uses_prompt
        uses_prompt = uses_prompt or self.model.requires_prompt
        inputs = batch.inputs if uses_prompt else replace(batch.inputs, prompts=None)
        if self.has_loss:
            with float32_products(tf32=False):  # as in prediction and evaluation
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
        """Return the metrics of the protocol and, if ``has_loss``, the mean ``loss``."""
        scores = {}
        if self.has_loss:
            scores["loss"] = self.mean_loss.compute()
            self.mean_loss.reset()
        if self.metric is not None:
            scores |= self.metric.compute()
            self.metric.reset()
        return scores


def _prefix(path: str) -> str:
    """Return the beginning of the names of a frozen part's tensors."""
    return f"model.method.{path}."
