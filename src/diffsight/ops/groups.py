"""Runs of neighbouring items."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def neighbours(items: Iterable[T], size: int, key: Callable[[T], Any]) -> Iterator[list[T]]:
    """Yield neighbouring items of one key, at most ``size`` together."""
    for _, group in itertools.groupby(items, key):
        while batch := list(itertools.islice(group, size)):
            yield batch
