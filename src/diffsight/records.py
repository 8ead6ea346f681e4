"""A base class for dataclasses of tensors."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """Base of dataclasses whose tensors are moved and copied together.

    Tensors may also be in tuples and in other records. All other values stay as they are.
    """

    def to(self, device: torch.device | str) -> Self:
        """Return a record with all tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def copied(self) -> Self:
        """Return a record whose tensors are copies."""
        return self._map(torch.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return a record with ``change`` applied to every tensor."""
        values = {field.name: _changed(getattr(self, field.name), change) for field in fields(self)}
        return replace(self, **values)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(_changed(one, change) for one in value)
    if isinstance(value, Record):
        return value._map(change)
    return change(value) if isinstance(value, Tensor) else value
