"""The contract of evaluation protocols: which pixels count, and how they are averaged, as data.

A protocol is printed with every result. Its fingerprint changes with any of its fields, so that
two numbers with the same fingerprint were measured in the same way.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from torchmetrics import Metric

from diffsight.errors import InputError
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Masks, Target

PromptRule = Literal["mean", "oracle-scene", "caption"]
# what the names stand for: the number of images, and their height and width where all have one
OWN_IMAGES: Mapping[str, tuple[int, tuple[int, int] | None]] = {
    "nyu-eigen-v1": (654, (480, 640)),
    "kitti-garg-v1": (652, (352, 1216)),
    "sun-rgbd-v1": (5050, None),
    "ade20k-ss-v1": (2000, None),
    "ade20k-ms-v1": (2000, None),
    "coco-pose-v1": (5000, None),
    "nuscenes-map-v1": (6019, None),
}


@dataclasses.dataclass(frozen=True)
class AbstractProtocol(abc.ABC):
    """How a kind of prediction is scored.

    Attributes:
        name: name with version; a published protocol never changes, it gets a new version.
        split: the images that it is meant for.
        plan: the passes behind the papers' figures, for reading; the plan that really ran is
            printed beside the protocol.
        unit: what is counted, in the plural.
        kind: of the predictions that it scores (``Prediction.kind``); empty: any.
        scores: the same in words.
    """

    name: str
    split: str
    plan: str
    unit: ClassVar[str] = "images"
    kind: ClassVar[str] = ""
    scores: ClassVar[str] = "predictions"

    @property
    def uses_prompt(self) -> bool:
        """Whether the model is given the prompt that comes with a sample; default: it is not."""
        return False

    @abc.abstractmethod
    def describe(self) -> str:
        """Return one line for a table's caption."""

    @abc.abstractmethod
    def metric(self, task: AbstractTask) -> Metric:
        """Return a fresh metric for ``measure`` and predictions of this task."""

    @abc.abstractmethod
    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image to a metric; return False if none of its pixels counts.

        Args:
            metric: of ``metric``.
            prediction: of the task, at the size of the label.
            target: labels of this image, a batch of one.

        Raises:
            InputError: for a prediction of another kind, or a label that the protocol is not made
                for.
        """

    def counted(self, target: Target) -> Masks:
        """Return the pixels that count; default: those with a label."""
        return target.valid

    def applied_to(self, images: int, sizes: Collection[tuple[int, int]]) -> Self:
        """Return the protocol under a name that says how these images differ from its own.

        Args:
            images: that were scored.
            sizes: heights and widths that occur.
        """
        own, own_hw = OWN_IMAGES.get(self.name, (None, None))
        changes = []
        if own not in (None, images):
            changes.append(f"{images} of {own} images")
        if own_hw is not None and (others := sorted({*sizes} - {own_hw})):
            height, width = others[0]
            changes.append(f"images of {height} x {width}, not {own_hw[0]} x {own_hw[1]}")
        if not changes:
            return self
        return dataclasses.replace(self, name=f"part of {self.name} ({', '.join(changes)})")

    def per_class(self, metric: Metric, names: Sequence[str]) -> dict[str, float]:
        """Return the score of every class that counts, by name; default: nothing."""
        return {}

    def with_prompt(self, rule: PromptRule) -> Self:
        """Return the protocol with a rule for prompts.

        Raises:
            InputError: for another rule than ``mean`` where the protocol has none.
        """
        if rule != "mean":
            raise InputError(f"{self.name}: only protocols of depth use a scene type: leave it out")
        return self

    def with_captions(self) -> Self:
        """Return the protocol for a model that reads a caption of every image."""
        return self

    def require_kind(self, prediction: Prediction) -> None:
        """Refuse a prediction that the protocol does not score.

        Raises:
            InputError: if it is of another kind.
        """
        if prediction.kind != self.kind:
            raise InputError(f"{self.name} scores {self.scores}, not {type(prediction).__name__}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every field."""
        data = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return every field and the fingerprint as plain data for a JSON report."""
        return dataclasses.asdict(self) | {"fingerprint": self.fingerprint}

    def title(self) -> str:
        """Return the name and the beginning of the fingerprint."""
        return f"{self.name} [{self.fingerprint[:12]}]"
