"""What the few-shot benchmark asks of a data set: tasks, images to learn from, images to score."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Scoring = Literal["values", "depth", "angles", "binary", "classes"]
PRIMARY: Mapping[Scoring, str] = {
    "values": "rmse_valid",
    "depth": "rmse",
    "angles": "merr_true",
    "binary": "iou",
    "classes": "miou",
}


@dataclass(frozen=True)
class SourceTask:
    """A dense task as the benchmark sees it.

    Attributes:
        name: such as ``depth_euclidean``.
        kind: of its labels, as ``LabelFormat`` has it.
        scoring: which measures compare its predictions.
        bins: classes (the paper's number).
        unit: of the values; empty for none.
        classes: names of the classes of a segmentation, in the order of their numbers.
        curve: channels of a scalar, for labels of several channels that are all functions of one
            number (Few-shot under VTM's protocol): ``n`` numbers become ``n d``. The labels' words
            are its values at the centres of ``bins`` bins between ``limits``.
        limits: of that number.
        clip: predictions are cut to this range before they are scored.
        primary: the measure that the benchmark compares; empty is that of ``PRIMARY``.
    """

    name: str
    kind: str
    scoring: Scoring
    bins: int = 0
    unit: str = ""
    classes: tuple[str, ...] = ()
    curve: Callable[[Float[Tensor, " n"]], Float[Tensor, "n d"]] | None = None
    limits: tuple[float, float] = (0.0, 1.0)
    clip: tuple[float, float] | None = None
    primary: str = ""

    @property
    def measure(self) -> str:
        """The name of the measure that the benchmark compares."""
        return self.primary or PRIMARY[self.scoring]

    @property
    def higher_is_better(self) -> bool:
        """What its order means."""
        return self.scoring in ("binary", "classes")


@dataclass(frozen=True)
class Labelled:
    """An image with one task's label, to learn from and to be scored by.

    Attributes:
        id: its name in the data set; the same on every machine.
        image: RGB.
        value: label in the unit of the task; class numbers for a segmentation.
        valid: where there is a label.
        truth: what a prediction is scored by, if that is another map than ``value``: predictions
            are brought to its size.
        truth_valid: where it is scored.
    """

    id: str
    image: UInt8[Tensor, "3 h w"]
    value: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    truth: Float[Tensor, "d th tw"] | None = None
    truth_valid: Bool[Tensor, "th tw"] | None = None

    @property
    def scored(self) -> tuple[Float[Tensor, "d th tw"], Bool[Tensor, "th tw"]]:
        """The map that predictions are scored by, and where."""
        if self.truth is None:
            return self.value, self.valid
        everywhere = torch.ones(self.truth.shape[-2:], dtype=torch.bool)
        return self.truth, everywhere if self.truth_valid is None else self.truth_valid


class AbstractSource(abc.ABC):
    """A data set with several tasks over the same images.

    Attributes:
        name: of the data set and of what was chosen of it; part of every result.
        tasks: by name.
        skipped: files that cannot be read, with the reason; filled while reading.
    """

    name: str
    tasks: Mapping[str, SourceTask]
    skipped: dict[str, str]

    @abc.abstractmethod
    def pool(self, task: str) -> Sequence[str]:
        """Ids of the images that a support is drawn from, in an order that no machine changes."""

    @abc.abstractmethod
    def queries(self, task: str) -> Sequence[str]:
        """Ids of the images that are scored, in an order that no machine changes."""

    @abc.abstractmethod
    def read(self, task: str, id: str) -> Labelled | None:
        """One image with its label; None, and a note in ``skipped``, if a file is damaged."""
