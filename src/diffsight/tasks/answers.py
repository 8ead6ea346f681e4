"""Answering with some of the classes alone."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError

Task = TypeVar("Task", bound="Answering")


class Answering:
    """Part of a task of classes.

    Attributes:
        names: of the classes by id, in the order of the maps.
    """

    names: Mapping[int, str]
    _answers: Tensor | None = None

    def only(self: Task, names: Sequence[str]) -> Task:
        """The same task that answers with these classes alone; ids stay.

        Raises:
            InputError: for an unknown name (naming the nearest), a repeated one, or none.
        """
        known = list(self.names.values())
        for name in names:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
                raise InputError(
                    f"unknown class {name!r}: did you mean {nearest!r}? (known: {', '.join(known)})"
                )
        if len(set(names)) < len(names) or not names:
            raise InputError(f"classes {', '.join(names)}: give different names, at least one")
        task = copy.copy(self)
        task._answers = torch.tensor([name in names for name in known])
        return task

    def among_answers(self, maps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Probabilities, given that it is one of the classes that may be answered."""
        if self._answers is None:
            return maps
        maps = maps * self._answers.to(maps.device)[:, None, None]
        return maps / maps.sum(dim=1, keepdim=True).clamp(min=1e-30)
