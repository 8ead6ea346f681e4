"""``OutputSpec``: the specification of an output that a task has a loss for."""

from dataclasses import dataclass
from typing import Literal

from diffsight.outputs.codec import LabelCodec

Kind = Literal["values", "classes", "masks", "distribution", "heatmaps"]
"""Kind of an output, see ``OutputSpec``."""


@dataclass(frozen=True)
class OutputSpec:
    """One kind of output that a task has a loss for.

    Attributes:
        kind: ``values`` (one map per channel of the label), ``classes`` (logits or probabilities of
            mutually exclusive classes; in referring segmentation they are background and object),
            ``masks`` (the same for classes that may overlap), ``distribution`` (over the classes of
            ``codec``), or ``heatmaps`` (one per joint).
        channels: number of maps: channels of the label, classes, or joints.
        bounds: smallest and largest value; a head for values limits its output to them.
        codec: label codec of a distribution. For values without bounds it has the mean and the
            standard deviation of the labels, by which a head shifts and scales its output.
        grid: height and width of an output that is not aligned with the image, such as a
            bird's-eye-view map; None: the output has the size of the image.
        stride: image pixels per pixel of the output; 1 except for heatmaps.
    """

    kind: Kind
    channels: int
    bounds: tuple[float, float] | None = None
    codec: LabelCodec | None = None
    stride: int = 1
    grid: tuple[int, int] | None = None

    def describe(self) -> str:
        """Return a short description for messages, such as ``a distribution over 50 classes``."""
        if self.kind == "values":
            return f"{self.channels} map{'s' if self.channels > 1 else ''} of values"
        if self.kind in ("heatmaps", "masks"):
            return f"{self.channels} {self.kind}"
        noun = "a distribution over" if self.kind == "distribution" else "logits of"
        return f"{noun} {self.channels} classes"
