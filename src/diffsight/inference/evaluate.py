"""Evaluation: a model under a protocol, beside predictors that never look at the image."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

import diffsight
from diffsight import protocols
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.hub.folder import BASELINES
from diffsight.inference.pipeline import sentence_prompts
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.metrics.few_shot import ClassIoU
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol, DepthProtocol
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.semantic import Semantic
from diffsight.types import Target

COUNTS = ("images", "skipped")


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and everything that it depends on.

    Attributes:
        protocol: which pixels counted, and how they were averaged.
        plan: how the images were run.
        data: name of the data set.
        images: how many counted, one for each sentence where sentences are asked.
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
        """Plain data for a report, and for ``hub.record``."""
        return {
            "protocol": self.protocol.as_dict(),
            "plan": self.plan.describe(),
            "data": self.data,
            "images": self.images,
            "skipped": self.skipped,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "metrics": dict(self.scores["model"]),
            **({"classes": dict(self.classes)} if self.classes else {}),
            "rivals": {name: dict(row) for name, row in self.scores.items() if name != "model"},
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
        """Number of samples."""
        return min(self._count, len(self._dataset))

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``."""
        return self._dataset[index]


def evaluate(
    predictor: Predictor,
    dataset: AbstractDataset,
    protocol: AbstractProtocol,
    *,
    beside: Mapping[str, Tensor] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a model, and maps that are the same for every image, on a data set.

    Samples are read one after another and may differ in size; of one with sentences, each is asked.

    Args:
        predictor: the model and its plan.
        dataset: samples with the label that the model's task learns.
        protocol: which pixels count; its prompt rule decides whether the model is told the sample's
            scene.
        beside: label maps by name (metres or ids), each resized to the image (1 x 1 is a constant).
        advance: called when a sample was read.

    Raises:
        InputError: if a sample lacks its label, or its prompt where it must be told; or if the
            classes of data set and model differ.
    """
    beside = beside or {}
    task = predictor.model.task
    check_classes(task, dataset)
    metrics = {name: protocol.metric(task.num_outputs) for name in ("model", *beside)}
    waiting: deque[Sample] = deque()
    told = protocol.told or reads_sentences(predictor.model)

    def samples() -> Iterator[Sample]:
        for index in range(len(dataset)):
            sample = dataset[index]
            for one in sample.asked():
                _check(one, task.label, told)
                waiting.append(one)
                yield one
            advance()

    for_image, for_prompt = itertools.tee(samples())
    prompts = (sample.prompt if told else None for sample in for_prompt)
    counted = skipped = 0
    start = time.perf_counter()
    for prediction in predictor((sample.image for sample in for_image), prompts):
        sample = waiting.popleft()
        label, valid = sample.labels[task.label], sample.valid[task.label]
        counts = protocol.measure(metrics["model"], prediction, label, valid)
        counted, skipped = counted + counts, skipped + (not counts)
        for name, rival in beside.items():
            protocol.measure(metrics[name], _as_prediction(task, rival, valid), label, valid)
    seconds = time.perf_counter() - start
    try:
        rows = {name: {k: float(v) for k, v in m.compute().items()} for name, m in metrics.items()}
    except ValueError as error:
        raise InputError(f"{dataset.name} under {protocol.name}: {error}") from None
    return Evaluation(
        protocol=protocol,
        plan=predictor.plan,
        data=dataset.name,
        images=counted,
        skipped=skipped,
        seconds_per_image=seconds / (counted + skipped),
        scores={n: {k: v for k, v in r.items() if k not in COUNTS} for n, r in rows.items()},
        classes=_per_class(task, metrics["model"]),
    )


def _per_class(task: AbstractTask, metric: Metric) -> dict[str, float]:
    if not isinstance(task, Semantic) or not isinstance(metric, ClassIoU):
        return {}
    found = zip(task.names.values(), metric.per_class().tolist(), strict=True)
    return {name: iou for name, iou in found if not math.isnan(iou)}


def protocol_for(name: str, model: DenseModel, *, oracle_scene: bool = False) -> AbstractProtocol:
    """A protocol by name, with the prompt rule that the model needs.

    Args:
        name: as for ``protocols.get``.
        model: one that reads sentences is told the caption of an image (EVP).
        oracle_scene: tell it the scene type that the sample names.

    Raises:
        InputError: as ``protocols.get``, or for a scene type where sentences are read.
    """
    protocol = protocols.get(name, prompt="oracle-scene" if oracle_scene else "mean")
    if not isinstance(protocol, DepthProtocol) or not reads_sentences(model):
        return protocol
    if oracle_scene:
        raise InputError("the model reads captions, not scene types: leave oracle-scene out")
    return replace(protocol, prompt="caption")


def reads_sentences(model: DenseModel) -> bool:
    """Whether the model needs a sentence about every image: a task's question, or a caption."""
    return model.task.asks or sentence_prompts(model) is not None


def read_rivals(folder: Path) -> dict[str, Tensor]:
    """Label maps of the training set that are the same for every image, as ``fit`` left them.

    Returns:
        As ``evaluate`` takes them; empty if the folder has none.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / BASELINES
    if not path.is_file():
        return {}
    try:
        maps = dict(sorted(load_file(path).items()))
        if any(one.ndim != 2 for one in maps.values()):
            raise SafetensorError("not maps of height and width")
        return maps
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}): delete it, or copy the model again") from None


def check_classes(task: AbstractTask, dataset: AbstractDataset) -> None:
    """Ids mean the same in both: the names agree, in order.

    Raises:
        InputError: naming the first class that differs.
    """
    theirs = dataset.class_names.get(task.label)
    if not isinstance(task, Semantic) or theirs is None:
        return
    ours = tuple(task.names.values())
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


def _check(sample: Sample, label: str, told: bool) -> None:
    if label not in sample.labels:
        known = ", ".join(sorted(sample.labels)) or "none"
        raise InputError(f"sample {sample.id} has no label {label!r} (it has: {known})")
    if told and sample.prompt is None:
        raise InputError(f"sample {sample.id} names no scene or sentence, which is asked for here")


def _as_prediction(task: AbstractTask, rival: Tensor, valid: Tensor) -> Any:
    """A label map as the task's perfect prediction, at the size of the image."""
    hw = tuple(valid.shape)
    if rival.is_floating_point():
        label = functional.interpolate(rival[None, None], hw, mode="bilinear", align_corners=False)
    else:
        label = functional.interpolate(rival[None, None].double(), hw)[0].long()
    return task.truth(Target(label, torch.ones_like(valid)[None]))[0]
