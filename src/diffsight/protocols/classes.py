"""Evaluation protocols of semantic segmentation: one confusion matrix over a data set."""

import math
from collections.abc import Sequence
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
    """How classes are scored: ``miou``, ``macc`` and ``aacc``.

    Attributes:
        classes: how many there must be, or None for any number.
        resolution: where prediction and truth meet.
        averaging: ``dataset``: the areas of all images are added up before anything is divided.
        invented: what a class counts that is predicted and never occurs; ``zero`` as in
            mmsegmentation, whose figures the papers give.
    """

    classes: int | None
    resolution: Literal["ground-truth"] = "ground-truth"
    averaging: Literal["dataset"] = "dataset"
    invented: Literal["skip", "zero"] = "zero"
    kind: ClassVar[str] = "classes"
    scores: ClassVar[str] = "classes"

    def describe(self) -> str:
        """Return one line for a table's caption."""
        parts = (
            self.title(),
            f"{'all' if self.classes is None else self.classes} classes",
            "pixels without a label left out",
            f"at {self.resolution} resolution",
            f"areas of the whole {self.averaging}",
        )
        return ", ".join(parts)

    def metric(self, task: AbstractTask) -> ClassIoU:
        """Return a fresh confusion matrix.

        Raises:
            InputError: for another number of classes than the protocol's.
        """
        count = len(task.class_names)
        if not count:
            raise InputError(
                f"{self.name} scores classes, and a {type(task).__name__} task has none: choose "
                "another protocol"
            )
        if self.classes not in (None, count):
            raise InputError(
                f"{self.name} is made for {self.classes} classes, the model has {count}: choose "
                "a protocol without a number of classes, such as classes-v1"
            )
        return ClassIoU(count, invented=self.invented)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image; the label is ``1 h w`` of ids.

        Raises:
            InputError: if the prediction has no classes, or an id is unknown.
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
    """How classes and their categories are scored: ``category_miou`` too, as on Cityscapes.

    Attributes:
        categories: classes of each category.
    """

    categories: tuple[tuple[int, ...], ...] = ()

    def metric(self, task: AbstractTask) -> ClassIoU:
        """Return a fresh confusion matrix that knows the categories.

        Raises:
            InputError: for another number of classes than the protocol's.
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
