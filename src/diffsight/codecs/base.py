"""The contract of codecs: a label map becomes classes; a distribution over classes, a value.

Few-shot, section 3.2: every dense task is turned into classification, and the expected value of the
class centres turns the answer back.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffsight.errors import InputError


@dataclass(frozen=True)
class Codes:
    """Classes of a label map: one per pixel, or a few that share it.

    Attributes:
        ids: classes from 0 on; ``s`` of them per pixel.
        weights: their shares, which sum to 1 over ``s``.
    """

    ids: Int[Tensor, "b s h w"]
    weights: Float[Tensor, "b s h w"]

    @classmethod
    def hard(cls, ids: Int[Tensor, "b h w"]) -> "Codes":
        """One class per pixel."""
        return cls(ids[:, None], torch.ones(ids[:, None].shape, device=ids.device))

    def distribution(self, classes: int) -> Float[Tensor, "b n h w"]:
        """The same as a probability of every class."""
        b, _, h, w = self.ids.shape
        return self.weights.new_zeros(b, classes, h, w).scatter_add_(1, self.ids, self.weights)


class AbstractCodec(abc.ABC):
    """Fitted to the labels of a support set.

    Attributes:
        kind: its name in a file.
    """

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    @abc.abstractmethod
    def centres(self) -> Float[Tensor, "n d"] | None:
        """Value of each class; None where classes mean no number."""

    @abc.abstractmethod
    def encode(self, label: Float[Tensor, "b d h w"]) -> Codes:
        """Classes of finite labels in the unit of the task."""

    @abc.abstractmethod
    def state(self) -> tuple[dict[str, int | str | bool], dict[str, Tensor]]:
        """Settings and tensors, from which ``from_state`` makes the same codec."""


def expectation(
    probability: Float[Tensor, "b n h w"], centres: Float[Tensor, "#b n d"]
) -> Float[Tensor, "b d h w"]:
    """The expected value: probabilities of the classes times their values.

    In 32 bit at least, in mixed precision too: eight bits of a value would be its steps.
    """
    dtype = torch.promote_types(torch.promote_types(probability.dtype, centres.dtype), torch.float)
    values = centres.expand(len(probability), -1, -1).to(dtype)
    with torch.autocast(probability.device.type, enabled=False):
        return torch.einsum("bnhw,bnd->bdhw", probability.to(dtype), values)


def need_finite(values: Float[Tensor, "m d"]) -> None:
    """Labels to fit to must be numbers, and there must be some.

    Raises:
        InputError: if they are not.
    """
    if not len(values):
        raise InputError("no valid label pixel at all: check the label files and --invalid")
    if not bool(values.isfinite().all()):
        raise InputError("labels that are marked valid hold NaN or infinity: mark them invalid")


def need_distinct(values: Float[Tensor, "m d"], classes: int, what: str) -> None:
    """As many classes as there are different labels, at most.

    Raises:
        InputError: if there are more.
    """
    found = len(values.unique(dim=0))
    if found == 1:
        numbers = ", ".join(f"{x:g}" for x in values[0].tolist())
        raise InputError(f"every label is {numbers}: there is nothing to learn, check the labels")
    if found < classes:
        raise InputError(
            f"{classes} {what}, but the labels have only {found} different values: "
            f"ask for at most {found}"
        )
