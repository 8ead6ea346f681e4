"""Class ids stay what they are."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from diffsight.codecs.base import AbstractCodec, Codes


@dataclass(frozen=True)
class Discrete(AbstractCodec):
    """For segmentation.

    Attributes:
        classes: labels are whole numbers below it.
    """

    kind: ClassVar[str] = "discrete"
    classes: int

    @property
    def num_classes(self) -> int:
        """As given."""
        return self.classes

    @property
    def centres(self) -> None:
        """Ids mean no number."""

    def encode(self, label: Float[Tensor, "b 1 h w"]) -> Codes:
        """The ids."""
        return Codes.hard(label[:, 0].long())

    def state(self) -> tuple[dict[str, int | str | bool], dict[str, Tensor]]:
        """The number of classes."""
        return {"classes": self.classes}, {}
