"""What every evaluation protocol is: data that says which pixels count and how they are averaged.

A protocol is printed with every result. Its fingerprint changes with any of its fields, so that
two numbers with the same fingerprint were measured in the same way.
"""

import abc
import dataclasses
import hashlib
import json
from typing import Any, ClassVar

from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric

from diffsight.errors import InputError


@dataclasses.dataclass(frozen=True)
class AbstractProtocol(abc.ABC):
    """How a kind of prediction is scored.

    Attributes:
        name: name with version; a published protocol never changes, it gets a new version.
        split: the images that it is meant for.
        plan: the passes behind the papers' figures, for reading; the plan that really ran is
            printed beside the protocol.
        unit: what is counted, in the plural.
    """

    name: str
    split: str
    plan: str
    unit: ClassVar[str] = "images"

    @property
    @abc.abstractmethod
    def told(self) -> bool:
        """Whether the model is given the prompt that comes with a sample."""

    @abc.abstractmethod
    def describe(self) -> str:
        """One line for a table's caption."""

    @abc.abstractmethod
    def metric(self, outputs: int) -> Metric:
        """A fresh metric for ``measure``; ``outputs`` is the task's number of outputs."""

    @abc.abstractmethod
    def measure(
        self, metric: Metric, prediction: Any, label: Tensor, valid: Bool[Tensor, "h w"]
    ) -> bool:
        """Add one image; False if none of its pixels counts.

        Args:
            metric: of ``metric``.
            prediction: of the task, at the size of the label.
            label: ``c h w`` of numbers or ``h w`` of ids, as in ``Sample.labels``.
            valid: where the label means something.

        Raises:
            InputError: for a prediction of another kind, or a label that the protocol is not made
                for.
        """

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every field."""
        data = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Every field and the fingerprint as plain data for a JSON report."""
        return dataclasses.asdict(self) | {"fingerprint": self.fingerprint}

    def title(self) -> str:
        """Name and the beginning of the fingerprint."""
        return f"{self.name} [{self.fingerprint[:12]}]"

    def refuse(self, prediction: Any, wanted: str) -> InputError:
        """The error for a prediction of another kind."""
        return InputError(f"{self.name} scores {wanted}, not {type(prediction).__name__}")
