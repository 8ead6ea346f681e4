"""Evaluation protocols of semantic segmentation, with one confusion matrix per data set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from diffsight.errors import InputError
from diffsight.label_maps import CITYSCAPES_CATEGORIES
from diffsight.metrics.few_shot import ClassIoU
from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class ClassProtocol(AbstractProtocol):
    """Rules for scoring predicted classes with ``miou``, ``macc`` and ``aacc``, see ``ClassIoU``.

    Attributes:
        classes: required number of classes, or None for any number.
        resolution: size at which prediction and label are compared.
        averaging: ``dataset``: intersections and unions are summed over all images before they are
            divided.
        false_positive_classes: how ``miou`` counts a class that is predicted but never occurs, see
            ``ClassIoU``; ``zero`` as in mmsegmentation, whose figures the papers report.
    """

    classes: int | None
    resolution: Literal["ground-truth"] = "ground-truth"
    averaging: Literal["dataset"] = "dataset"
    false_positive_classes: Literal["skip", "zero"] = "zero"
    kind: ClassVar[str] = "classes"
    scores: ClassVar[str] = "classes"
    _published_names: ClassVar[Mapping[str, str]] = {"false_positive_classes": "invented"}

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        parts = (
            self.title(),
            f"{'all' if self.classes is None else self.classes} classes",
            "pixels without a label left out",
            f"at {self.resolution} resolution",
            f"areas of the whole {self.averaging}",
        )
        return ", ".join(parts)

    def metric(self, task: AbstractTask) -> ClassIoU:
        """Return a new metric with an empty confusion matrix.

        Raises:
            InputError: if the task has no classes, or not as many as the protocol requires.
        """
        count = len(task.class_names)
        if not count:
            raise InputError(
                f"{self.name} scores classes, but a {type(task).__name__} task has none: choose "
                "another protocol"
            )
        if self.classes not in (None, count):
            raise InputError(
                f"{self.name} is made for {self.classes} classes, the model has {count}: choose "
                "a protocol for any number of classes, such as classes-v1"
            )
        return ClassIoU(count, false_positive_classes=self.false_positive_classes)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image to the metric; its label is a map of class ids, ``1 h w``.

        Raises:
            InputError: if the prediction has no classes, or an id is not a class of the task.
        """
        self.require_kind(prediction)
        ids = prediction.to_label().to(target.label.device)
        metric.update(ids[None, None], target.label[None], target.valid)
        return bool(target.valid.any())

    def per_class(self, metric: Any, names: Sequence[str]) -> dict[str, float]:
        """Return the IoU of every class that counts, by name."""
        pairs = zip(names, metric.per_class().tolist(), strict=True)
        return {name: iou for name, iou in pairs if not math.isnan(iou)}


@dataclass(frozen=True)
class CategoryProtocol(ClassProtocol):
    """Rules for scoring predicted classes and groups of classes (categories), as on Cityscapes.

    The metrics are those of ``ClassProtocol`` and ``category_miou``.

    Attributes:
        categories: ids of the classes in each category.
    """

    categories: tuple[tuple[int, ...], ...] = ()

    def metric(self, task: AbstractTask) -> ClassIoU:
        """Return a new metric with the categories.

        Raises:
            InputError: if the task has no classes, or not as many as the protocol requires.
        """
        metric = super().metric(task)
        metric.categories = self.categories
        return metric


ADE20K_SS_V1 = ClassProtocol(
    name="ade20k-ss-v1",
    split="ADE20K validation, 2,000 images",
    classes=150,
    plan="short side 512 px, long side at most 2048 px, windows of 512 px every 341 px (VPD)",
)
ADE20K_MS_V1 = ClassProtocol(
    name="ade20k-ms-v1",
    split="ADE20K validation, 2,000 images",
    classes=150,
    plan="as ade20k-ss-v1 at 1, 1.125, 1.25, 1.375 and 1.5 times the size, each with its mirror "
    "image, mean of the probabilities (VPD)",
)
ADE20K_MS7_V1 = ClassProtocol(
    name="ade20k-ms7-v1",
    split="ADE20K validation, 2,000 images",
    classes=150,
    plan="as ade20k-ss-v1 at 0.5, 0.75, 1, 1.25, 1.5, 1.75 and 2 times the size, each with its "
    "mirror image, mean of the probabilities (Meta Prompts)",
)
CITYSCAPES_SS_V1 = CategoryProtocol(
    name="cityscapes-ss-v1",
    split="Cityscapes validation, 500 images",
    classes=19,
    categories=CITYSCAPES_CATEGORIES,
    plan="2048 x 1024 px, windows of 1024 px every 512 px (Meta Prompts)",
)
CITYSCAPES_MS_V1 = CategoryProtocol(
    name="cityscapes-ms-v1",
    split="Cityscapes validation, 500 images",
    classes=19,
    categories=CITYSCAPES_CATEGORIES,
    plan="as cityscapes-ss-v1 at 0.5, 0.75, 1, 1.25, 1.5, 1.75 and 2 times the size, each with its "
    "mirror image, mean of the probabilities (Meta Prompts)",
)
CLASSES_V1 = ClassProtocol(
    name="classes-v1", split="any", classes=None, plan="the whole image, one pass"
)
