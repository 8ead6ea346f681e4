"""Evaluation of a model, and of baselines that never look at the image."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import diffsight
from diffsight import protocols
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol, TaskProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.tasks.base import resize_map
from diffsight.types import Target

COUNTS = ("images", "skipped")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of baselines, and everything that they depend on.

    Attributes:
        protocol: which pixels counted, and how they were averaged; its name says if the images are
            others than its own.
        plan: how the images were run.
        data: name of the data set.
        images: how many counted; one for each sentence where sentences are evaluated.
        skipped: how many had no pixel that counts.
        seconds_per_image: of the model, reading included.
        scores: by predictor, then by measure; ``model`` comes first.
        classes: intersection / union of the model's classes by name, those that count in the mean;
            empty where no classes are scored.
    """

    protocol: AbstractProtocol
    plan: Plan
    data: str
    images: int
    skipped: int
    seconds_per_image: float
    scores: Mapping[str, Mapping[str, float]]
    classes: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a report, and for ``hub.record``."""
        return {
            "protocol": self.protocol.as_dict(),
            "plan": self.plan.describe(),
            "data": self.data,
            "images": self.images,
            "skipped": self.skipped,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "metrics": dict(self.scores["model"]),
            **({"classes": dict(self.classes)} if self.classes else {}),
            "baselines": {name: dict(row) for name, row in self.scores.items() if name != "model"},
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
        self.class_names = dataset.class_names
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
    advance: Callable[[], None] = lambda: None,
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
        advance: called when a sample was read.

    Raises:
        InputError: if a sample lacks its label, or a prompt that is used; if the classes of data
            set and model differ; or if no image counts.
    """
    baselines = baselines or {}
    task = predictor.model.task
    check_classes(task, dataset)
    protocol = protocol or TaskProtocol.of(task)
    metrics = {name: protocol.metric(task) for name in ("model", *baselines)}
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

    for_image, for_prompt = itertools.tee(samples())
    prompts = (sample.prompt if uses_prompt else None for sample in for_prompt)
    counted = skipped = 0
    sizes: set[tuple[int, int]] = set()
    start = time.perf_counter()
    for prediction in predictor((sample.image for sample in for_image), prompts):
        sample = waiting.popleft()
        label, valid = sample.labels[task.label], sample.valid[task.label]
        sizes.add((valid.shape[0], valid.shape[1]))
        counts = protocol.measure(metrics["model"], prediction, label, valid)
        counted, skipped = counted + counts, skipped + (not counts)
        for name, label_map in baselines.items():
            constant = _as_prediction(task, label_map, valid)
            protocol.measure(metrics[name], constant, label, valid)
    seconds = time.perf_counter() - start
    _require_counted(counted, f"{dataset.name} under {protocol.name}")
    rows = {name: {k: float(v) for k, v in m.compute().items()} for name, m in metrics.items()}
    return Evaluation(
        protocol=protocol.applied_to(counted + skipped, sizes),
        plan=predictor.plan,
        data=dataset.name,
        images=counted,
        skipped=skipped,
        seconds_per_image=seconds / (counted + skipped),
        scores={n: {k: v for k, v in r.items() if k not in COUNTS} for n, r in rows.items()},
        classes=protocol.per_class(metrics["model"], task.class_names),
    )


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
    """Refuse a data set whose classes are not those of the task, in the same order.

    Raises:
        InputError: naming the first class that differs.
    """
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


def _require_counted(counted: int, what: str) -> None:
    if not counted:
        raise InputError(
            f"{what}: no image with a valid pixel was seen: check the labels, their unit, and "
            "which pixels the protocol counts"
        )


def _as_prediction(task: AbstractTask, label_map: Tensor, valid: Tensor) -> Prediction:
    """Return a label map as a prediction at the size of the image."""
    height, width = valid.shape
    label = resize_map(label_map, (height, width))
    return task.truth(Target(label, torch.ones_like(valid)[None]))[0]
