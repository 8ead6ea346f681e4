"""Evaluation of a model, and of baselines that never look at the image."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import diffsight
from diffsight import protocols
from diffsight.datasets.base import AbstractDataset, Sample, collate
from diffsight.errors import InputError
from diffsight.inference.predictor import Predictor
from diffsight.inference.stored import AbstractStored
from diffsight.metrics.uncertainty import UncertaintyMetrics
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol, TaskProtocol
from diffsight.tasks import AbstractTask, Prediction

COUNTS = ("images", "skipped")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of baselines, and everything that they depend on.

    Attributes:
        protocol: which pixels counted, and how they were averaged; its name says if the images are
            others than its own.
        plan: how the images were run, in a line.
        data: name of the data set.
        images: how many counted; one for each sentence where sentences are evaluated.
        skipped: how many had no pixel that counts.
        seconds_per_image: of the model, reading included.
        scores: by predictor, then by measure; the model, or what else was scored, comes first.
        classes: intersection / union of the model's classes by name, those that count in the mean;
            empty where no classes are scored.
        name: of what was scored: ``model``, or ``predictions`` of another program.
        uncertainty: figures of ``UncertaintyMetrics``; empty without ``uncertainty``.
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


class First(AbstractDataset):
    """The first samples of a data set.

    Args:
        dataset: what to take them from.
        count: how many, at most.
    """

    def __init__(self, dataset: AbstractDataset, count: int) -> None:
        self.name = f"{dataset.name}, first {count}"
        self.class_names, self.map_cells = dataset.class_names, dataset.map_cells
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
    take: Callable[[str, Prediction], None] = lambda sample_id, prediction: None,
) -> Evaluation:
    """Score a model, and maps that are the same for every image, on a data set.

    Samples are read one after another and may differ in size. A sample with several sentences is
    evaluated with each of them.

    Args:
        predictor: the model and its plan.
        dataset: samples with the label that the model's task learns.
        protocol: which pixels count; its prompt rule decides whether the model is given the
            sample's scene. Without one, the task's own metric over all labelled pixels.
        baselines: label maps by name (metres or ids), each resized to the image (1 x 1 is a
            constant).
        uncertainty: also score the uncertainty of the predictions (``UncertaintyMetrics``).
        advance: called when a sample was read.
        take: called with the id of every sample and its prediction.

    Raises:
        InputError: if a sample lacks its label, or a prompt that is used; if the classes of data
            set and model differ; if no image counts; or if there is no uncertainty to score.
    """
    task = predictor.model.task
    check_classes(task, dataset)
    protocol = protocol or TaskProtocol.of(task)
    scores = _Scores(task, protocol, baselines or {})
    if uncertainty:
        if task.error_kind is None:
            raise InputError(
                f"{type(task).__name__} predictions have no uncertainty of pixels: leave "
                "uncertainty out"
            )
        scores.uncertainty = UncertaintyMetrics(task.error_kind)
    waiting: deque[Sample] = deque()
    uses_prompt = protocol.uses_prompt or predictor.model.requires_prompt

    def samples() -> Iterator[Sample]:
        for index in range(len(dataset)):
            sample = dataset[index]
            for one in sample.per_sentence():
                _check(one, task.label, uses_prompt)
                waiting.append(one)
                yield one
            advance()

    for_image, for_prompt, for_people, for_rig = itertools.tee(samples(), 4)
    images = (sample.image for sample in for_image)
    prompts = (sample.prompt if uses_prompt else None for sample in for_prompt)
    people = (sample.queries() for sample in for_people)
    rigs = (sample.rig for sample in for_rig)
    for prediction in predictor(images, prompts, people, rigs):
        sample = waiting.popleft()
        scores.add(sample, prediction)
        take(sample.id, prediction)
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
    """Score predictions that another program wrote, and maps that are the same for every image.

    Depth is metres in NPY files or counts in 16-bit PNG, classes are their numbers from 0, a mask
    is not 0 where the thing is; all at the size of the label. The file of a sample is named by its
    id, that of its n-th sentence ``ID-n`` (counted from 0) where it has several.

    Args:
        stored: the predictions.
        dataset: samples with their labels.
        protocol: which pixels count.
        unit: of one count of depth in PNG files, as ``read_depth`` takes it.
        baselines: as for ``evaluate``.
        advance: called when a sample was read.

    Raises:
        InputError: if a file is missing or cannot be used, or if no image counts.
    """
    task = stored.task
    scores = _Scores(task, protocol, baselines or {}, name="predictions")
    count = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        several = len(sample.sentences) > 1
        for number, one in enumerate(sample.per_sentence()):
            _check(one, task.label, uses_prompt=False)
            count += 1
            name = f"{sample.id}-{number}" if several else sample.id
            height, width = one.valid[task.label].shape
            prediction = stored.prediction(name, (height, width), unit)
            if prediction is not None:
                scores.add(one, prediction)
        advance()
    stored.require_all(count)
    return scores.result(dataset.name, f"predictions in {stored.path}")


class _Scores:
    """The metrics of predictions and of baselines, image by image.

    Args:
        task: of the predictions.
        protocol: which pixels count.
        baselines: label maps by name.
        name: of the predictions in tables.
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
        self.counted = self.skipped = 0
        self.sizes: set[tuple[int, int]] = set()
        self.start = time.perf_counter()

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Add one image."""
        target = collate([sample], self.task.label).target
        self.sizes.add((target.valid.shape[-2], target.valid.shape[-1]))
        counts = self.protocol.measure(self.metrics[self.name], prediction, target)
        self.counted, self.skipped = self.counted + counts, self.skipped + (not counts)
        if self.uncertainty is not None:
            errors = self.task.pixel_errors(prediction, target)
            if errors is None:
                raise InputError(
                    "the predictions have no uncertainty: use a method that gives one, or average "
                    "several views (--flip)"
                )
            self.uncertainty.update(errors, self.protocol.counted(target)[0])
        for name, label_map in self.baselines.items():
            constant = self.task.from_baseline(label_map, target)
            self.protocol.measure(self.metrics[name], constant, target)

    def result(self, data: str, plan: str) -> Evaluation:
        """Return the scores of all images.

        Raises:
            InputError: if no image counted.
        """
        seconds = time.perf_counter() - self.start
        if not self.counted:
            raise InputError(
                f"{data} under {self.protocol.name}: no image with a valid pixel was seen: check "
                "the labels, their unit, and which pixels the protocol counts"
            )
        rows = {
            name: {k: float(v) for k, v in metric.compute().items() if k not in COUNTS}
            for name, metric in self.metrics.items()
        }
        return Evaluation(
            protocol=self.protocol.applied_to(self.counted + self.skipped, self.sizes),
            plan=plan,
            data=data,
            images=self.counted,
            skipped=self.skipped,
            seconds_per_image=seconds / (self.counted + self.skipped),
            scores=rows,
            classes=self.protocol.per_class(self.metrics[self.name], self.task.class_names),
            name=self.name,
            uncertainty=self._uncertainty(),
        )

    def _uncertainty(self) -> dict[str, float]:
        if self.uncertainty is None:
            return {}
        return {name: float(value) for name, value in self.uncertainty.compute().items()}


def protocol_for(name: str, model: DenseModel, *, oracle_scene: bool = False) -> AbstractProtocol:
    """Return a protocol by name, with the prompt rule that the model needs.

    Args:
        name: as for ``protocols.get``.
        model: one that reads sentences is given the caption of an image (EVP).
        oracle_scene: give it the scene type that the sample names.

    Raises:
        InputError: as ``protocols.get``, or for a scene type where sentences are read.
    """
    protocol = protocols.get(name, prompt="oracle-scene" if oracle_scene else "mean")
    if not model.requires_prompt:
        return protocol
    if oracle_scene:
        raise InputError("the model reads captions, not scene types: leave oracle-scene out")
    return protocol.with_captions()


def check_classes(task: AbstractTask, dataset: AbstractDataset) -> None:
    """Refuse a data set whose classes or cells are not those of the task, in the same order.

    Raises:
        InputError: naming the first class that differs.
    """
    if None not in (task.map_cells, dataset.map_cells) and task.map_cells != dataset.map_cells:
        theirs, ours = (
            "{} cells of {:g} m".format(*one.map_cells or ()) for one in (dataset, task)
        )
        raise InputError(
            f"data set {dataset.name!r} has maps of {theirs}, the task of {ours}: make them equal"
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
                "give both the same list, in one order"
            )


def _check(sample: Sample, label: str, uses_prompt: bool) -> None:
    if label not in sample.labels:
        labels = ", ".join(sorted(sample.labels)) or "none"
        raise InputError(f"sample {sample.id} has no label {label!r} (it has: {labels})")
    if uses_prompt and sample.prompt is None:
        raise InputError(f"sample {sample.id} names no scene or sentence, which is needed here")
