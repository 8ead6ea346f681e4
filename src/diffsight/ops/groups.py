"""Batches of consecutive items with equal properties."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def group_consecutive(items: Iterable[T], size: int, key: Callable[[T], Any]) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` consecutive items with equal keys.

    Args:
        items: items in order.
        size: largest length of a list.
        key: function that returns the key of an item.
    """
    for _, group in itertools.groupby(items, key):
        while batch := list(itertools.islice(group, size)):
            yield batch
