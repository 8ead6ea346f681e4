"""Evaluation of a model, and of baselines that predict the same map for every image."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import diffsight
from diffsight import protocols
from diffsight.datasets.base import AbstractDataset, Sample, collate
from diffsight.errors import InputError
from diffsight.inference.predictor import Predictor
from diffsight.inference.sample_predictions import (
    PredictSamples,
    check_prompt_source,
    predict_samples,
    validate_sample,
)
from diffsight.inference.stored import AbstractStored
from diffsight.metrics.uncertainty import UncertaintyMetrics
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol, TaskProtocol
from diffsight.tasks import AbstractTask, Prediction

COUNTS = ("images", "skipped")
MAX_COLUMNS = 8  # of a table of scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of baselines, with the protocol, the plan and the data set.

    Attributes:
        protocol: evaluation protocol; its name says if the images differ from its official split.
        plan: description of how the model was run on an image, in one line.
        data: name of the data set.
        images: number of scored images, or of scored sentences for referring segmentation.
        skipped: number of images without a pixel that the protocol counts.
        seconds_per_image: time per image, including the time to read it.
        scores: metrics by name for the model (first) and for each baseline.
        classes: IoU of each class that counts in the mean, by name; empty for other tasks.
        name: name of the scored predictions in ``scores``: ``model``, or ``predictions`` for those
            of another program.
        uncertainty: metrics of ``UncertaintyMetrics``; empty if they were not requested.
    """

    protocol: AbstractProtocol
    plan: str
    data: str
    images: int
    skipped: int
    seconds_per_image: float
    scores: Mapping[str, Mapping[str, float]]
    classes: Mapping[str, float] = field(default_factory=dict)
    name: str = "model"
    uncertainty: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a report, and for ``hub.record``."""
        return {
            "protocol": self.protocol.as_dict(),
            "plan": self.plan,
            "data": self.data,
            "images": self.images,
            "skipped": self.skipped,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "metrics": dict(self.scores[self.name]),
            **({"classes": dict(self.classes)} if self.classes else {}),
            **({"uncertainty": dict(self.uncertainty)} if self.uncertainty else {}),
            "baselines": {
                name: dict(row) for name, row in self.scores.items() if name != self.name
            },
            "diffsight_version": diffsight.__version__,
        }

    def rows(self) -> list[list[str]]:
        """Return the table of scores; more than ``MAX_COLUMNS`` metrics are its rows."""
        names = list(self.scores[self.name])
        rows = [[name, *(f"{row[n]:.4f}" for n in names)] for name, row in self.scores.items()]
        rows.insert(0, ["", *names])
        return rows if len(names) <= MAX_COLUMNS else [list(c) for c in zip(*rows, strict=True)]

    def __str__(self) -> str:
        """Return the table of ``rows``, and the notes below it."""
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        return "\n".join((*lines, *self.notes()))

    def notes(self) -> list[str]:
        """Return lines about the protocol, the plan, the data, the classes and the uncertainty."""
        skipped = f", {self.skipped} skipped (no pixel counts)" if self.skipped else ""
        lines = [
            f"protocol  {self.protocol.describe()}",
            f"plan      {self.plan}",
            f"data      {self.data}: {self.images} {self.protocol.unit}{skipped}, "
            f"{self.seconds_per_image:.3g} s each",
        ]
        ious = ", ".join(f"{name} {iou:.3f}" for name, iou in self.classes.items())
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.uncertainty.items())
        lines += [f"IoU       {ious}"] if ious else []
        lines += [f"uncertainty  {figures}"] if figures else []
        if any("oracle" in name for name in self.scores):
            reason = ": the model stores no baselines" if self.name == "model" else ""
            lines.append(f"(oracle)  computed from the evaluated labels{reason}")
        return lines


class FirstSamples(AbstractDataset):
    """The first samples of a data set.

    Args:
        dataset: data set.
        count: maximum number of samples.
    """

    def __init__(self, dataset: AbstractDataset, count: int) -> None:
        self.name = f"{dataset.name}, first {count}"
        self.describe_like(dataset)
        self._dataset = dataset
        self._count = count

    def __len__(self) -> int:
        """Return the number of samples."""
        return min(self._count, len(self._dataset))

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``."""
        return self._dataset[index]


def evaluate(
    predictor: Predictor,
    dataset: AbstractDataset,
    protocol: AbstractProtocol | None = None,
    *,
    baselines: Mapping[str, Tensor] | None = None,
    uncertainty: bool = False,
    advance: Callable[[], None] = lambda: None,
    on_prediction: Callable[[str, Prediction], None] = lambda sample_id, prediction: None,
    predict: PredictSamples = predict_samples,
) -> Evaluation:
    """Return the scores of a model and of baselines on a data set.

    Samples are read one after another and may differ in size. A sample with several sentences is
    evaluated with each of them.

    Args:
        predictor: predictor with the model and its plan.
        dataset: samples with labels of the model's task.
        protocol: evaluation protocol. Its prompt rule decides whether the model gets the prompt of
            the sample. None: the task's own metric over all labelled pixels.
        baselines: label maps by name (metres or class ids); each is resized to the image, and 1 x 1
            is a constant.
        uncertainty: whether to score the uncertainty of the predictions too
            (``UncertaintyMetrics``).
        advance: function that is called after each sample is read.
        on_prediction: function that is called with the id and the prediction of each sample.
        predict: function that yields the samples in order with their predictions, such as a
            ``ClusterPredictor``.

    Raises:
        InputError: if a sample has no label, or no prompt although one is needed; if the prompts
            are of another source than the model should get; if the classes of data set and model
            differ; if no image has a pixel that counts; or if the uncertainty should be scored but
            the predictions have none.
    """
    task = predictor.model.task
    check_classes(task, dataset)
    protocol = protocol or TaskProtocol.of(task)
    check_prompt_source(predictor.model, dataset, protocol)
    scores = _Scores(task, protocol, baselines or {})
    if uncertainty:
        if task.error_kind is None:
            raise InputError(
                f"{type(task).__name__} predictions have no uncertainty per pixel: leave "
                "uncertainty out"
            )
        scores.uncertainty = UncertaintyMetrics(task.error_kind)
    uses_prompt = protocol.uses_prompt or predictor.model.requires_prompt
    for sample, prediction in predict(predictor, dataset, uses_prompt, advance):
        scores.add(sample, prediction)
        on_prediction(sample.id, prediction)
    return scores.result(dataset.name, predictor.plan.describe())


def evaluate_stored(
    stored: AbstractStored,
    dataset: AbstractDataset,
    protocol: AbstractProtocol,
    *,
    unit: str | None = None,
    baselines: Mapping[str, Tensor] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Return the scores of predictions that another program wrote, and of baselines.

    Each prediction has the size of its label. Depth is in metres (NPY) or in counts of a unit
    (16-bit PNG), classes are ids from 0 on, and a mask is not 0 at the pixels of the object. A file
    has the id of its sample as its name. If a sample has several sentences, the names are ``ID-0``,
    ``ID-1`` and so on.

    Args:
        stored: predictions.
        dataset: samples with labels.
        protocol: evaluation protocol.
        unit: unit of one count of depth in PNG files, see ``read_depth``.
        baselines: label maps by name, see ``evaluate``.
        advance: function that is called after each sample is read.

    Raises:
        InputError: if a file is missing or cannot be used, or if no image has a pixel that counts.
    """
    task = stored.task
    scores = _Scores(task, protocol, baselines or {}, name="predictions")
    count = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        has_several = len(sample.sentences) > 1
        for number, one in enumerate(sample.split_by_sentence()):
            validate_sample(one, task.label, uses_prompt=False)
            count += 1
            name = f"{sample.id}-{number}" if has_several else sample.id
            height, width = one.valid[task.label].shape
            prediction = stored.prediction(name, (height, width), unit)
            if prediction is not None:
                scores.add(one, prediction)
        advance()
    stored.require_all(count)
    return scores.result(dataset.name, f"predictions in {stored.path}")


class _Scores:
    """Accumulates the metrics of predictions and of baselines, image by image.

    Args:
        task: task of the predictions.
        protocol: evaluation protocol.
        baselines: label maps by name.
        name: name of the predictions in tables.
    """

    def __init__(
        self,
        task: AbstractTask,
        protocol: AbstractProtocol,
        baselines: Mapping[str, Tensor],
        name: str = "model",
    ) -> None:
        self.task = task
        self.protocol = protocol
        self.baselines = baselines
        self.name = name
        self.metrics = {one: protocol.metric(task) for one in (name, *baselines)}
        self.uncertainty: UncertaintyMetrics | None = None
        self.scored = self.skipped = 0
        self.sizes: set[tuple[int, int]] = set()
        self.start = time.perf_counter()

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Add the prediction of one image, and all baselines at its size.

        Raises:
            InputError: if the uncertainty should be scored but the prediction has none.
        """
        target = collate([sample], self.task.label).target
        self.sizes.add((target.valid.shape[-2], target.valid.shape[-1]))
        has_pixels = self.protocol.measure(self.metrics[self.name], prediction, target)
        self.scored, self.skipped = self.scored + has_pixels, self.skipped + (not has_pixels)
        if self.uncertainty is not None:
            errors = self.task.pixel_errors(prediction, target)
            if errors is None:
                raise InputError(
                    "the predictions have no uncertainty: use a method that predicts one, or "
                    "average several views (--flip)"
                )
            self.uncertainty.update(errors, self.protocol.scored_pixels(target)[0])
        for name, label_map in self.baselines.items():
            constant = self.task.from_baseline(label_map, target)
            self.protocol.measure(self.metrics[name], constant, target)

    def result(self, data: str, plan: str) -> Evaluation:
        """Return the scores of all images.

        Args:
            data: name of the data set.
            plan: description of how the model was run.

        Raises:
            InputError: if no image had a pixel that counts.
        """
        seconds = time.perf_counter() - self.start
        if not self.scored:
            raise InputError(
                f"{data} under {self.protocol.name}: no image with a valid pixel was seen: check "
                "the labels, their unit, and which pixels the protocol counts"
            )
        rows = {
            name: {k: float(v) for k, v in metric.compute().items() if k not in COUNTS}
            for name, metric in self.metrics.items()
        }
        return Evaluation(
            protocol=self.protocol.applied_to(self.scored + self.skipped, self.sizes),
            plan=plan,
            data=data,
            images=self.scored,
            skipped=self.skipped,
            seconds_per_image=seconds / (self.scored + self.skipped),
            scores=rows,
            classes=self.protocol.per_class(self.metrics[self.name], self.task.class_names),
            name=self.name,
            uncertainty=self._uncertainty(),
        )

    def _uncertainty(self) -> dict[str, float]:
        if self.uncertainty is None:
            return {}
        return {name: float(value) for name, value in self.uncertainty.compute().items()}


def resolve_protocol(
    name: str, model: DenseModel, *, oracle_scene: bool = False
) -> AbstractProtocol:
    """Return a protocol by name, with the rule for prompts that a model needs.

    Args:
        name: name of the protocol.
        model: model to evaluate. If it requires a prompt (EVP), it gets the caption of the image.
        oracle_scene: whether the model gets the labelled scene type of the image.

    Raises:
        InputError: if there is no such protocol, or ``oracle_scene`` is set for a protocol without
            scene types, or for a model that reads captions or no text at all.
    """
    if oracle_scene and not model.reads_text:
        raise InputError("the model reads no scene types: leave --oracle-scene out")
    protocol = protocols.get(name, prompt="oracle-scene" if oracle_scene else "mean")
    if not model.requires_prompt:
        return protocol
    if oracle_scene:
        raise InputError("the model reads captions, not scene types: leave --oracle-scene out")
    return protocol.with_captions()


def check_classes(task: AbstractTask, dataset: AbstractDataset) -> None:
    """Check that a data set has the classes and map cells of a task.

    Args:
        task: task of the model.
        dataset: data set of the training or evaluation.

    Raises:
        InputError: if the classes or their order differ (the message has the first difference), or
            the map cells do.
    """
    if None not in (task.map_cells, dataset.map_cells) and task.map_cells != dataset.map_cells:
        theirs, ours = (
            "{} cells of {:g} m".format(*one.map_cells or ()) for one in (dataset, task)
        )
        raise InputError(
            f"data set {dataset.name!r} has maps of {theirs}, the task of {ours}: give both the "
            "same cells"
        )
    ours, theirs = task.class_names, dataset.class_names.get(task.label)
    if not ours or theirs is None:
        return
    if len(ours) != len(theirs):
        raise InputError(
            f"data set {dataset.name!r} has {len(theirs)} classes, the task {len(ours)}: give both "
            "the same list"
        )
    for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own != other:
            raise InputError(
                f"class {index} is {other!r} in data set {dataset.name!r} and {own!r} in the task: "
                "give both the same list in the same order"
            )
