"""Evaluation protocols of human pose: average precision over object keypoint similarity."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torchmetrics import Metric

from diffsight.errors import InputError
from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class PoseProtocol(AbstractProtocol):
    """Rules for scoring joints with ``ap`` and ``ar`` over OKS 0.5 to 0.95, see ``KeypointAP``.

    Attributes:
        joints: required number of joints, or None for any number.
        most_people: number of predicted people per image that count: those with the highest scores.
    """

    joints: int | None
    most_people: int = 20
    kind: ClassVar[str] = "pose"
    scores: ClassVar[str] = "joints of people"

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        joints = "all" if self.joints is None else self.joints
        return (
            f"{self.title()}, {joints} joints, at most {self.most_people} people of an image, "
            "crowds and people without a labelled joint left out"
        )

    def metric(self, task: AbstractTask) -> Metric:
        """Return a new metric for joints.

        Raises:
            InputError: if the task has no joints, or not as many as the protocol requires.
        """
        # imported here because it imports COCO's evaluation code
        from diffsight.metrics.keypoint_ap import KeypointAP

        if not task.sigmas:
            raise InputError(
                f"{self.name} scores {self.scores}, but a {type(task).__name__} task has none: "
                "choose another protocol"
            )
        if self.joints not in (None, len(task.sigmas)):
            raise InputError(
                f"{self.name} is made for {self.joints} joints, the model has {len(task.sigmas)}: "
                "choose pose-v1"
            )
        return KeypointAP(task.sigmas)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image with its people to the metric.

        Raises:
            InputError: if the prediction is not a pose, or the data set has no people.
        """
        self.require_kind(prediction)
        people = target.people and target.people[0]
        if people is None:
            raise InputError(
                f"{self.name} needs a data set with labelled people, such as CocoKeypoints"
            )
        metric.update(prediction.to_people(), people)
        return True


COCO_POSE_V1 = PoseProtocol(
    name="coco-pose-v1",
    split="COCO 2017 validation, 5,000 images, person boxes of a detector",
    joints=17,
    plan="a view of every box, and its mirror image",
)
POSE_V1 = PoseProtocol(name="pose-v1", split="any", joints=None, plan="a view of every box")
