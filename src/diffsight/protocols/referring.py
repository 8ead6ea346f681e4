"""Evaluation protocols of referring segmentation, which scores a mask for every sentence."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffsight.errors import InputError
from diffsight.metrics.referring import MaskMetrics
from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class ReferringProtocol(AbstractProtocol):
    """Rules for scoring the mask of the object that a sentence describes, see ``MaskMetrics``.

    Attributes:
        size: side in pixels of the square that image and label are stretched to before masks are
            compared; None for the size of the label.
        sentences: ``every``: each sentence of each object is a sample.
    """

    size: int | None
    sentences: str = "every"
    unit: ClassVar[str] = "sentences"
    kind: ClassVar[str] = "mask"
    scores: ClassVar[str] = "masks of sentences"

    @property
    def uses_prompt(self) -> bool:
        """True: the model gets the sentence of each sample."""
        return True

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        size = "ground-truth resolution" if self.size is None else f"{self.size} x {self.size} px"
        return f"{self.title()}, {self.sentences} sentence, at {size}"

    def metric(self, task: AbstractTask) -> MaskMetrics:
        """Return a new metric for masks."""
        return MaskMetrics()

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one sentence; its label is a map ``1 h w`` with 1 at the pixels of the object.

        Raises:
            InputError: if the prediction is not a mask, or the label does not have the size of the
                protocol.
        """
        self.require_kind(prediction)
        height, width = target.label.shape[-2:]
        if self.size is not None and (height, width) != (self.size, self.size):
            raise InputError(
                f"{self.name} compares at {self.size} x {self.size} px, these masks have "
                f"{width} x {height}: read the data set with size={self.size}"
            )
        mask = prediction.to_label().to(target.label.device) == 1
        metric.update(mask[None], target.label == 1, target.valid)
        return bool(target.valid.any())


def _refcoco(variant: str, split: str) -> ReferringProtocol:
    return ReferringProtocol(
        name=f"{variant}-v1",
        split=split,
        size=512,
        plan="the image stretched to 512 x 512 px, one pass (VPD, EVP)",
    )


REFCOCO_V1 = _refcoco("refcoco", "RefCOCO val, testA or testB, split by UNC")
REFCOCO_PLUS_V1 = _refcoco("refcoco+", "RefCOCO+ val, testA or testB, split by UNC")
REFCOCOG_V1 = _refcoco("refcocog", "RefCOCOg val or test, split by UMD")
SENTENCES_V1 = ReferringProtocol(
    name="sentences-v1", split="any", size=None, plan="the whole image, one pass"
)
