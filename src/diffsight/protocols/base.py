"""The base class of evaluation protocols: which pixels count, and how they are averaged.

A protocol is printed with every result. Its fingerprint changes with any of its fields, so two
results with the same fingerprint were measured in the same way.
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
# number of images in the official split, and their height and width if it is the same for all
OFFICIAL_IMAGES: Mapping[str, tuple[int, tuple[int, int] | None]] = {
    "nyu-eigen-v1": (654, (480, 640)),
    "kitti-garg-v1": (652, (352, 1216)),
    "sun-rgbd-v1": (5050, None),
    "ade20k-ss-v1": (2000, None),
    "ade20k-ms-v1": (2000, None),
    "ade20k-ms7-v1": (2000, None),
    "cityscapes-ss-v1": (500, (1024, 2048)),
    "cityscapes-ms-v1": (500, (1024, 2048)),
    "coco-pose-v1": (5000, None),
    "nuscenes-map-v1": (6019, None),
}


@dataclasses.dataclass(frozen=True)
class AbstractProtocol(abc.ABC):
    """Base class of evaluation protocols: rules for scoring one kind of prediction.

    Attributes:
        name: name with version. A published protocol never changes; a change gets a new version.
        split: data set and split that the protocol is made for.
        plan: inference of the papers (windows, scales, mirror images, number of passes), for
            information only. Each result states the inference that was used.
        unit: noun for the scored samples in messages, in the plural.
        kind: kind of the predictions that it scores (``Prediction.kind``); empty: any kind.
        scores: noun for these predictions in messages.
    """

    name: str
    split: str
    plan: str
    unit: ClassVar[str] = "images"
    kind: ClassVar[str] = ""
    scores: ClassVar[str] = "predictions"
    # present name of each renamed field -> its first published name, which reports and fingerprints
    # keep
    _published_names: ClassVar[Mapping[str, str]] = {}

    @property
    def uses_prompt(self) -> bool:
        """Whether the model gets the prompt of each sample; default: False."""
        return False

    @property
    def prompt_source(self) -> PromptRule | None:
        """Required source of the prompts (``AbstractDataset.prompt_source``); default: any."""
        return None

    @abc.abstractmethod
    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""

    @abc.abstractmethod
    def metric(self, task: AbstractTask) -> Metric:
        """Return a new metric for predictions of a task, to be used with ``measure``."""

    @abc.abstractmethod
    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image to a metric; return whether any of its pixels counts.

        Args:
            metric: metric returned by ``metric``.
            prediction: prediction of the task at the size of the label.
            target: label of this image, a batch of one.

        Raises:
            InputError: for a prediction of another kind, or a label that the protocol cannot score.
        """

    def scored_pixels(self, target: Target) -> Masks:
        """Return the mask of the pixels that count; default: the pixels with a label."""
        return target.valid

    def applied_to(self, images: int, sizes: Collection[tuple[int, int]]) -> Self:
        """Return the protocol, renamed if the scored images are not its official split.

        The new name states the difference, such as ``part of nyu-eigen-v1 (8 of 654 images)``.

        Args:
            images: number of images that were scored.
            sizes: heights and widths of these images.
        """
        official, official_hw = OFFICIAL_IMAGES.get(self.name, (None, None))
        changes = []
        if official not in (None, images):
            changes.append(f"{images} of {official} images")
        if official_hw is not None and (others := sorted({*sizes} - {official_hw})):
            height, width = others[0]
            changes.append(f"images of {height} x {width}, not {official_hw[0]} x {official_hw[1]}")
        if not changes:
            return self
        return dataclasses.replace(self, name=f"part of {self.name} ({', '.join(changes)})")

    def per_class(self, metric: Metric, names: Sequence[str]) -> dict[str, float]:
        """Return the score of every class that counts, by name; default: no classes.

        Args:
            metric: metric after ``measure`` of all images.
            names: names of the classes, in the order of their ids.
        """
        return {}

    def with_prompt(self, rule: PromptRule) -> Self:
        """Return the protocol with this rule for the prompt of the model.

        Raises:
            InputError: if the protocol has no prompt rule and ``rule`` is not ``mean``.
        """
        if rule != "mean":
            raise InputError(
                f"{self.name}: only protocols of depth use a scene type or a caption: leave out "
                f"{rule}"
            )
        return self

    def with_captions(self) -> Self:
        """Return the protocol for a model that needs a caption of every image; default: itself."""
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
        """SHA-256 over every field, as 64 hexadecimal digits."""
        data = json.dumps(self._published_fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return every field and the fingerprint as plain data for a JSON report."""
        return self._published_fields() | {"fingerprint": self.fingerprint}

    def _published_fields(self) -> dict[str, Any]:
        """Return every field under its name in reports and fingerprints."""
        fields = dataclasses.asdict(self)
        return {self._published_names.get(name, name): value for name, value in fields.items()}

    def title(self) -> str:
        """Return the name and the first 12 digits of the fingerprint."""
        return f"{self.name} [{self.fingerprint[:12]}]"
