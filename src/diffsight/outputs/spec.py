"""What a task asks a method for."""

from dataclasses import dataclass
from typing import Literal

from diffsight.outputs.codec import LabelCodec

Kind = Literal["values", "classes", "masks", "distribution", "heatmaps"]


@dataclass(frozen=True)
class OutputSpec:
    """One form of output that a task has a loss for.

    Attributes:
        kind: ``values`` (one channel per number), ``classes`` (logits or probabilities; the mask of
            a sentence is two classes), ``masks`` (the same of classes that may overlap),
            ``distribution`` (over the classes of ``codec``), or ``heatmaps`` (one per joint, with a
            peak where it is).
        channels: maps that the method gives: numbers per pixel, classes, or joints.
        bounds: least and largest value; a head for values squashes its output to them.
        codec: classes of a distribution and their values; for values without bounds the mean and
            the standard deviation of the labels, which a head shifts and scales its output by.
        grid: height and width of a map that is not the image, such as one seen from above.
        stride: image pixels for each pixel of the output; heatmaps alone have another than 1.
    """

    kind: Kind
    channels: int
    bounds: tuple[float, float] | None = None
    codec: LabelCodec | None = None
    stride: int = 1
    grid: tuple[int, int] | None = None

    def describe(self) -> str:
        """Return a few words for messages, such as ``a distribution over 50 classes``."""
        if self.kind == "values":
            return f"{self.channels} map{'s' if self.channels > 1 else ''} of values"
        if self.kind in ("heatmaps", "masks"):
            return f"{self.channels} {self.kind}"
        what = "a distribution over" if self.kind == "distribution" else "logits of"
        return f"{what} {self.channels} classes"
